import type { Decision, RequestAttributes } from '../../src/model/policy.ts';
import type { OperationMatcher } from './operation-matcher.ts';

/** An operation that a request has to be asked about, and what it decides. */
export interface IndexedOperation {
  /** Position among all operations of the index: the order in which the author wrote them. */
  readonly order: number;
  readonly matcher: OperationMatcher;
  readonly decision: Decision;
}

/**
 * Finds the first operation that a request matches. Operations with exact paths are found by hash; the others are tried one after the other.
 * This is the seam for a decision table: whatever is here needs only find() over the operations that a connection left open.
 */
export class OperationIndex {
  readonly #byPath: ReadonlyMap<string, readonly IndexedOperation[]>;

  /** @param operations in order, `order` counting from 0 */
  constructor(operations: readonly IndexedOperation[]) {
    const byPath = new Map<string, IndexedOperation[]>();
    for (const operation of operations) {
      for (const path of operation.matcher.exactPaths ?? []) {
        const list = byPath.get(path);
        if (list === undefined) byPath.set(path, [operation]);
        else list.push(operation);
      }
    }
    this.#byPath = byPath;
  }

  /** Narrows the index to the operations that a connection left open, in order. */
  select(open: readonly IndexedOperation[]): OperationSelection {
    const scan = open.filter((operation) => operation.matcher.exactPaths === null);
    if (scan.length === open.length) return new OperationSelection(NO_PATHS, NO_MEMBERS, scan);
    const members = new Uint8Array((open.at(-1)?.order ?? -1) + 1);
    for (const operation of open) members[operation.order] = 1;
    return new OperationSelection(this.#byPath, members, scan);
  }
}

const NO_PATHS: ReadonlyMap<string, readonly IndexedOperation[]> = new Map();
const NO_MEMBERS = new Uint8Array(0);

/** The operations of one connection. */
export class OperationSelection {
  readonly #byPath: ReadonlyMap<string, readonly IndexedOperation[]>;
  readonly #members: Uint8Array;
  readonly #scan: readonly IndexedOperation[];

  constructor(byPath: ReadonlyMap<string, readonly IndexedOperation[]>, members: Uint8Array, scan: readonly IndexedOperation[]) {
    this.#byPath = byPath;
    this.#members = members;
    this.#scan = scan;
  }

  /** The decision of the first operation, in the author's order, that the request matches; null when none does. Allocates nothing. */
  find(request: RequestAttributes): Decision | null {
    let found: IndexedOperation | null = null;
    const candidates = this.#members.length === 0 ? undefined : this.#byPath.get(request.path);
    if (candidates !== undefined) {
      for (let i = 0; i < candidates.length; i++) {
        const candidate = candidates[i] as IndexedOperation;
        if (this.#members[candidate.order] === 1 && candidate.matcher.matchesRequest(request)) {
          found = candidate;
          break;
        }
      }
    }
    for (let i = 0; i < this.#scan.length; i++) {
      const candidate = this.#scan[i] as IndexedOperation;
      if (found !== null && candidate.order > found.order) break;
      if (candidate.matcher.matchesRequest(request)) return candidate.decision;
    }
    return found === null ? null : found.decision;
  }
}
