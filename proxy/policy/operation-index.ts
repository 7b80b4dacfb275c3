import type { Decision, RequestAttributes } from '../../src/model/policy.ts';
import type { OperationMatcher } from './operation-matcher.ts';
import { compareFromStart, floor } from './text-matcher.ts';

/** An operation that a request has to be asked about, and what it decides. */
export interface IndexedOperation {
  /** Position among all operations of the index: the order in which the author wrote them. */
  readonly order: number;
  readonly matcher: OperationMatcher;
  readonly decision: Decision;
}

function addTo(lists: Map<string, IndexedOperation[]>, key: string, operation: IndexedOperation): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [operation]);
  else list.push(operation);
}

const NO_OPERATIONS: readonly IndexedOperation[] = [];
const NO_PARENT = -1;

/** Prefixes in order, each with the longest other one that it starts with: the ones that a text starts with are a chain of these. */
class PrefixTable {
  readonly #prefixes: readonly string[];
  readonly #parents: Int32Array;
  readonly #operations: readonly (readonly IndexedOperation[])[];

  constructor(byPrefix: ReadonlyMap<string, readonly IndexedOperation[]>) {
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

  operations(at: number): readonly IndexedOperation[] {
    return this.#operations[at] as readonly IndexedOperation[];
  }
}

/**
 * Finds the first operation that a request matches. Operations whose paths are exact or prefixes are found by these; the others are
 * tried one after the other. This is the seam for a decision table: whatever is here needs only find() over the operations that a
 * connection left open.
 */
export class OperationIndex {
  readonly #byPath = new Map<string, IndexedOperation[]>();
  readonly #byPrefix: PrefixTable;
  readonly #count: number;
  /** Most connections leave every operation open: they share one selection. */
  #whole: OperationSelection | null = null;

  /** @param operations in order, `order` counting from 0 */
  constructor(operations: readonly IndexedOperation[]) {
    this.#count = operations.length;
    const byPrefix = new Map<string, IndexedOperation[]>();
    for (const operation of operations) {
      const beginnings = operation.matcher.pathBeginnings;
      if (beginnings === null) continue;
      for (const path of beginnings.exact) addTo(this.#byPath, path, operation);
      for (const prefix of beginnings.prefixes) addTo(byPrefix, prefix, operation);
    }
    this.#byPrefix = new PrefixTable(byPrefix);
  }

  /** Narrows the index to the operations that a connection left open, in order. */
  select(open: readonly IndexedOperation[]): OperationSelection {
    if (open.length !== this.#count) return this.#narrow(open);
    this.#whole ??= this.#narrow(open);
    return this.#whole;
  }

  #narrow(open: readonly IndexedOperation[]): OperationSelection {
    const scan = open.filter((operation) => operation.matcher.pathBeginnings === null);
    if (scan.length === open.length || open.length <= FEW) return new OperationSelection(EMPTY_PATHS, EMPTY_PREFIXES, NO_MEMBERS, open);
    const members = new Uint8Array((open.at(-1) as IndexedOperation).order + 1);
    for (const operation of open) members[operation.order] = 1;
    return new OperationSelection(this.#byPath, this.#byPrefix, members, scan);
  }
}

/** Up to this many operations are faster tried than found. */
const FEW = 4;
const EMPTY_PATHS: ReadonlyMap<string, readonly IndexedOperation[]> = new Map();
const EMPTY_PREFIXES = new PrefixTable(EMPTY_PATHS);
const NO_MEMBERS = new Uint8Array(0);

/** The operations of one connection. */
export class OperationSelection {
  readonly #byPath: ReadonlyMap<string, readonly IndexedOperation[]>;
  readonly #byPrefix: PrefixTable;
  /** 1 for the operations of the index that are open. */
  readonly #members: Uint8Array;
  readonly #scan: readonly IndexedOperation[];

  /** Made by OperationIndex.select(). */
  constructor(
    byPath: ReadonlyMap<string, readonly IndexedOperation[]>,
    byPrefix: PrefixTable,
    members: Uint8Array,
    scan: readonly IndexedOperation[],
  ) {
    this.#byPath = byPath;
    this.#byPrefix = byPrefix;
    this.#members = members;
    this.#scan = scan;
  }

  /** The decision of the first operation, in the author's order, that the request matches; null when none does. Allocates nothing. */
  find(request: RequestAttributes): Decision | null {
    let found: IndexedOperation | null = null;
    if (this.#members.length > 0) {
      const candidates = this.#byPath.get(request.path);
      if (candidates !== undefined) found = this.#firstOf(candidates, request, null);
      const prefixes = this.#byPrefix;
      for (let at = prefixes.longest(request.path); at !== NO_PARENT; at = prefixes.shorter(at)) {
        found = this.#firstOf(prefixes.operations(at), request, found);
      }
    }
    const scan = this.#scan;
    for (let i = 0; i < scan.length; i++) {
      const candidate = scan[i] as IndexedOperation;
      if (found !== null && candidate.order > found.order) break;
      if (candidate.matcher.matchesRequest(request)) return candidate.decision;
    }
    return found === null ? null : found.decision;
  }

  /** The first open one whose path is known to match, if it comes before `found`; else `found`. */
  #firstOf(candidates: readonly IndexedOperation[], request: RequestAttributes, found: IndexedOperation | null): IndexedOperation | null {
    for (let i = 0; i < candidates.length; i++) {
      const candidate = candidates[i] as IndexedOperation;
      if (found !== null && candidate.order >= found.order) return found;
      if (this.#members[candidate.order] === 1 && candidate.matcher.matchesBesidesPaths(request)) return candidate;
    }
    return found;
  }
}
