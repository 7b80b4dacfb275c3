import type { RequestAttributes } from '../../src/model/policy.ts';
import type { OpenOperation } from './compiled-rule.ts';
import { compareFromStart, floor } from './text-matcher.ts';

/** An operation and its place in the order that decides. */
interface Ordered {
  readonly order: number;
  readonly operation: OpenOperation;
}

function addTo(lists: Map<string, Ordered[]>, key: string, operation: Ordered): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [operation]);
  else list.push(operation);
}

const NO_OPERATIONS: readonly Ordered[] = [];
const NO_PARENT = -1;
/** Up to this many operations are faster tried than found. */
const FEW = 4;

/** Prefixes in order, each with the longest other one that it starts with: the ones that a text starts with are a chain of these. */
class PrefixTable {
  readonly #prefixes: readonly string[];
  readonly #parents: Int32Array;
  readonly #operations: readonly (readonly Ordered[])[];

  constructor(byPrefix: ReadonlyMap<string, readonly Ordered[]>) {
    const prefixes = [...byPrefix.keys()].toSorted(compareFromStart);
    const parents = new Int32Array(prefixes.length);
    const open: number[] = [];
    for (const [i, prefix] of prefixes.entries()) {
      while (open.length > 0 && !prefix.startsWith(prefixes[open.at(-1) as number] as string)) open.pop();
      parents[i] = open.at(-1) ?? NO_PARENT;
      open.push(i);
    }
    this.#prefixes = prefixes;
    this.#parents = parents;
    this.#operations = prefixes.map((prefix) => byPrefix.get(prefix) ?? NO_OPERATIONS);
  }

  /** The longest prefix that the text starts with, or -1. */
  longest(text: string): number {
    let at = this.#prefixes.length === 0 ? NO_PARENT : floor(this.#prefixes, text, compareFromStart);
    while (at !== NO_PARENT && !text.startsWith(this.#prefixes[at] as string)) at = this.#parents[at] as number;
    return at;
  }

  /** The next shorter one, or -1. */
  shorter(at: number): number {
    return this.#parents[at] as number;
  }

  operations(at: number): readonly Ordered[] {
    return this.#operations[at] as readonly Ordered[];
  }
}

function conditionsHold(operation: OpenOperation, request: RequestAttributes): boolean {
  return operation.conditions === null || operation.conditions.hold(request);
}

/**
 * Finds the first operation that a request matches, without a decision table: where the operations do not fit in one. Those whose paths are
 * exact or prefixes are found by these, the others are tried one after the other.
 */
export class OperationIndex {
  readonly #byPath = new Map<string, Ordered[]>();
  readonly #byPrefix: PrefixTable;
  readonly #scan: readonly Ordered[];

  /** @param operations in the order that decides */
  constructor(operations: readonly OpenOperation[]) {
    const byPrefix = new Map<string, Ordered[]>();
    const scan: Ordered[] = [];
    for (const [order, operation] of operations.entries()) {
      const ordered = { order, operation };
      const beginnings = operations.length <= FEW || operation.matcher === null ? null : operation.matcher.pathBeginnings;
      if (beginnings === null) {
        scan.push(ordered);
        continue;
      }
      for (const path of beginnings.exact) addTo(this.#byPath, path, ordered);
      for (const prefix of beginnings.prefixes) addTo(byPrefix, prefix, ordered);
    }
    this.#byPrefix = new PrefixTable(byPrefix);
    this.#scan = scan;
  }

  /** The first operation, in order, that the request matches; null when none does. Allocates nothing. */
  find(request: RequestAttributes): OpenOperation | null {
    let found: Ordered | null = null;
    const candidates = this.#byPath.get(request.path);
    if (candidates !== undefined) found = firstOf(candidates, request, null);
    const prefixes = this.#byPrefix;
    for (let at = prefixes.longest(request.path); at !== NO_PARENT; at = prefixes.shorter(at)) {
      found = firstOf(prefixes.operations(at), request, found);
    }
    const scan = this.#scan;
    for (let i = 0; i < scan.length; i++) {
      const candidate = scan[i] as Ordered;
      if (found !== null && candidate.order > found.order) break;
      const { operation } = candidate;
      if ((operation.matcher === null || operation.matcher.matchesRequest(request)) && conditionsHold(operation, request)) return operation;
    }
    return found === null ? null : found.operation;
  }
}

/** The first one whose path is known to match, if it comes before `found`; else `found`. */
function firstOf(candidates: readonly Ordered[], request: RequestAttributes, found: Ordered | null): Ordered | null {
  for (let i = 0; i < candidates.length; i++) {
    const candidate = candidates[i] as Ordered;
    if (found !== null && candidate.order >= found.order) return found;
    const { operation } = candidate;
    if (operation.matcher?.matchesBesidesPaths(request) && conditionsHold(operation, request)) return candidate;
  }
  return found;
}
