import type { Decision, RequestAttributes } from '../../src/model/policy.ts';
import type { OpenOperation } from './compiled-rule.ts';
import { type DecisionTable, ENTRY_CONDITIONAL } from './decision-table.ts';
import { compileDecisionTable, type TableEntry } from './decision-table-compiler.ts';
import { OperationIndex } from './operation-index.ts';
import { PolicyError } from './policy-error.ts';
import type { TextPattern } from './text-pattern.ts';

/** A table, with its results in the words of the evaluator. */
interface BoundTable {
  readonly table: DecisionTable;
  /** For each result: the decision, if no conditions have to be asked (undefined); null: no operation matches. */
  readonly direct: readonly (Decision | null | undefined)[];
  /** Place of each entry's operation in the order that decides. */
  readonly orders: readonly number[];
}

/** Paths of one kind of an operation: an operation with several kinds is in several tables. */
interface Part {
  readonly entries: TableEntry[];
  readonly orders: number[];
}

function isSuffix({ kind }: TextPattern): boolean {
  return kind === 'suffix';
}

function isTemplate({ kind }: TextPattern): boolean {
  return kind === 'template';
}

/**
 * Finds the first of the open operations that a request matches: by decision tables, or by the index where these do not fit or are not
 * wanted. Made when the first request asks.
 */
export class RequestMatcher {
  readonly #operations: readonly OpenOperation[];
  readonly #generation: number;
  #wantsTables: boolean;
  #tables: readonly BoundTable[] | null = null;
  #index: OperationIndex | null = null;

  /** @param operations in the order that decides, at least one */
  constructor(operations: readonly OpenOperation[], generation: number, wantsTables: boolean) {
    this.#operations = operations;
    this.#generation = generation;
    this.#wantsTables = wantsTables;
  }

  get size(): number {
    return this.#operations.length;
  }

  /** The tables, compiled if they were not; empty where the operations do not fit in them. */
  tables(): readonly DecisionTable[] {
    if (this.#tables === null && this.#index === null) this.#prepare();
    return this.#tables === null ? [] : this.#tables.map(({ table }) => table);
  }

  /** The decision of the first operation, in order, that the request matches; null when none does. Allocates nothing after the first call. */
  find(request: RequestAttributes): Decision | null {
    const tables = this.#tables;
    if (tables === null) {
      if (this.#index === null) {
        this.#prepare();
        return this.find(request);
      }
      const found = this.#index.find(request);
      return found === null ? null : found.decision;
    }
    const first = tables[0] as BoundTable;
    const result = first.table.run(request.method, request.path, request.host);
    const direct = first.direct[result];
    if (tables.length === 1 && direct !== undefined) return direct;
    return this.#findAmong(tables, result, request);
  }

  #findAmong(tables: readonly BoundTable[], firstResult: number, request: RequestAttributes): Decision | null {
    let found = this.#operations.length;
    for (let t = 0; t < tables.length; t++) {
      const { table, orders } = tables[t] as BoundTable;
      const { resultOffsets, results } = table.data;
      const result = t === 0 ? firstResult : table.run(request.method, request.path, request.host);
      const end = resultOffsets[result + 1] as number;
      for (let at = resultOffsets[result] as number; at < end; at++) {
        const entry = results[at] as number;
        const order = orders[entry & ~ENTRY_CONDITIONAL] as number;
        if (order >= found) break;
        const { conditions } = this.#operations[order] as OpenOperation;
        if (conditions === null || conditions.hold(request)) {
          found = order;
          break;
        }
      }
    }
    return found === this.#operations.length ? null : (this.#operations[found] as OpenOperation).decision;
  }

  #prepare(): void {
    if (this.#wantsTables) {
      try {
        this.#tables = this.#compileTables();
        return;
      } catch (error) {
        if (!(error instanceof PolicyError)) throw error;
        this.#wantsTables = false;
      }
    }
    this.#index = new OperationIndex(this.#operations);
  }

  #compileTables(): BoundTable[] {
    let suffixes = false;
    let templates = false;
    let others = false;
    for (const { matcher } of this.#operations) {
      const paths = matcher === null ? null : matcher.patterns.paths;
      others ||= paths === null;
      for (const path of paths ?? []) {
        if (isSuffix(path)) suffixes = true;
        else if (isTemplate(path)) templates = true;
        else others = true;
      }
    }
    const made: BoundTable[] = [];
    if (others || templates) {
      const forward = templates && others ? this.#tryTable((paths) => paths.filter((path) => !isSuffix(path))) : null;
      if (forward !== null) made.push(forward);
      else {
        if (others) made.push(this.#compileTable((paths) => paths.filter((path) => !isSuffix(path) && !isTemplate(path)), true, false));
        if (templates) made.push(this.#compileTable((paths) => paths.filter(isTemplate), false, false));
      }
    }
    // Read backward, suffixes are prefixes; forward, they would have to be looked for at every byte, beside every other path.
    if (suffixes) made.push(this.#compileTable((paths) => paths.filter(isSuffix), false, true));
    return made;
  }

  /** Null where one table is not enough. */
  #tryTable(select: (paths: readonly TextPattern[]) => readonly TextPattern[]): BoundTable | null {
    try {
      return this.#compileTable(select, true, false);
    } catch (error) {
      if (error instanceof PolicyError) return null;
      throw error;
    }
  }

  /** A table of the operations that have paths of a kind, with these. */
  #compileTable(select: (paths: readonly TextPattern[]) => readonly TextPattern[], withoutPaths: boolean, reversed: boolean): BoundTable {
    const part: Part = { entries: [], orders: [] };
    for (const [order, { matcher, conditions }] of this.#operations.entries()) {
      const patterns = matcher === null ? null : matcher.patterns;
      const paths = patterns === null ? null : patterns.paths;
      const selected = paths === null ? null : select(paths);
      if (selected === null ? !withoutPaths : selected.length === 0) continue;
      part.entries.push({ patterns: patterns === null ? null : { ...patterns, paths: selected }, conditional: conditions !== null });
      part.orders.push(order);
    }
    const table = compileDecisionTable(part.entries, { generation: this.#generation, pathReversed: reversed });
    const { resultOffsets, results, sinks } = table.data;
    const direct = Array.from({ length: sinks }, (_, result) => {
      const at = resultOffsets[result] as number;
      if (at === resultOffsets[result + 1]) return null;
      const entry = results[at] as number;
      return (entry & ENTRY_CONDITIONAL) === 0 ? (this.#operations[part.orders[entry] as number] as OpenOperation).decision : undefined;
    });
    return { table, direct, orders: part.orders };
  }
}
