import type { KindSchema } from './schema/resource-schema.ts';
import type { JsonSchema } from './schema/json-schema.ts';
import type { SchemaFinding } from './validate-schema.ts';
import { SchemaValidator } from './validate-schema.ts';

/** What the schema of a kind says about one resource. */
export interface Admission {
  /** What is wrong with the resource as a whole: with any of these it is not used. */
  readonly findings: readonly SchemaFinding[];
  /** What is wrong with single items of the list that is admitted by item. */
  readonly itemFindings: readonly SchemaFinding[];
  readonly refusedItems: ReadonlySet<number>;
  /** The spec, with `{}` in place of each refused item; empty when there is none. */
  readonly spec: Readonly<Record<string, unknown>>;
}

type Written = Readonly<Record<string, unknown>>;

const NONE: ReadonlySet<number> = new Set();

/** Checks resources of one kind, and its `admittedByItem` list item by item. */
export class Admitter {
  readonly #whole: SchemaValidator;
  readonly #list: string | null;
  readonly #maxItems: number;
  readonly #item: SchemaValidator | null;

  constructor(kind: KindSchema) {
    this.#whole = new SchemaValidator(kind.schema);
    this.#list = kind.admittedByItem ?? null;
    const list: JsonSchema | undefined = kind.schema.properties?.['spec']?.properties?.[this.#list ?? ''];
    this.#item = list?.items === undefined ? null : new SchemaValidator(list.items);
    this.#maxItems = list?.maxItems ?? Infinity;
  }

  /** @param limit about how many findings are of use */
  check(resource: Written, limit: number): Admission {
    const spec = (resource['spec'] ?? {}) as Written;
    const findings = this.#whole.check(resource, limit);
    const items = typeof spec === 'object' && this.#list !== null ? spec[this.#list] : null;
    if (findings.length === 0 || this.#list === null || this.#item === null || !Array.isArray(items) || items.length > this.#maxItems) {
      return { findings, itemFindings: [], refusedItems: NONE, spec };
    }
    const refusedItems = new Set<number>();
    const itemFindings: SchemaFinding[] = [];
    for (const [index, item] of items.entries()) {
      const found = this.#item.check(item, limit);
      if (found.length === 0) continue;
      refusedItems.add(index);
      for (const finding of found) itemFindings.push({ ...finding, path: ['spec', this.#list, index, ...finding.path] });
    }
    const rest = { ...spec, [this.#list]: items.map((item: unknown, index) => (refusedItems.has(index) ? {} : item)) };
    return { findings: this.#whole.check({ ...resource, spec: rest }, limit), itemFindings, refusedItems, spec: rest };
  }
}
