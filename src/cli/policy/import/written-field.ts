import type { FieldPath } from '../../../config/config-problem.ts';
import { isMapping, type WrittenResource } from '../policy-places.ts';
import type { ImportLog } from './import-log.ts';

/**
 * One value of a foreign resource, with its place. Reading is strict, for a field that is not understood may be what keeps somebody out: what
 * has the wrong form is left out with a remark, and the reader gets null.
 */
export class WrittenField {
  readonly value: unknown;
  readonly path: FieldPath;
  readonly #resource: WrittenResource;
  readonly #log: ImportLog;

  private constructor(resource: WrittenResource, log: ImportLog, path: FieldPath, value: unknown) {
    this.#resource = resource;
    this.#log = log;
    this.path = path;
    this.value = value;
  }

  /** A whole resource. */
  static root(resource: WrittenResource, log: ImportLog): WrittenField {
    return new WrittenField(resource, log, [], resource.value);
  }

  /** `file:line` of the resource. */
  get place(): string {
    return `${this.#resource.file}:${this.#resource.locate([]).line}`;
  }

  /** True if it is not written at all. */
  get isAbsent(): boolean {
    return this.value === undefined;
  }

  leaveOut(message: string): void {
    this.#log.add('left-out', this.#resource, this.path, message);
  }

  note(message: string): void {
    this.#log.add('note', this.#resource, this.path, message);
  }

  field(name: string): WrittenField {
    const value = isMapping(this.value) && Object.hasOwn(this.value, name) ? this.value[name] : undefined;
    return new WrittenField(this.#resource, this.#log, [...this.path, name], value);
  }

  /** The entries of a list; none where it is absent; null where it is no list. */
  items(): WrittenField[] | null {
    if (this.isAbsent) return [];
    if (!Array.isArray(this.value)) {
      this.leaveOut('must be a list');
      return null;
    }
    return (this.value as unknown[]).map((item, index) => new WrittenField(this.#resource, this.#log, [...this.path, index], item));
  }

  text(): string | null {
    if (typeof this.value === 'string' && this.value !== '') return this.value;
    this.leaveOut('must be a text');
    return null;
  }

  /** True for a mapping that has none but these fields. */
  hasOnly(...known: readonly string[]): boolean {
    if (!isMapping(this.value)) {
      this.leaveOut('must be a mapping');
      return false;
    }
    const others = Object.keys(this.value).filter((name) => !known.includes(name));
    for (const name of others)
      this.field(name).leaveOut(`the field ${JSON.stringify(name)} is not understood, and may be what keeps somebody out`);
    return others.length === 0;
  }

  /** A mapping of texts, such as labels. */
  texts(): Record<string, string> | null {
    if (this.isAbsent) return {};
    if (!isMapping(this.value) || !Object.values(this.value).every((value) => typeof value === 'string')) {
      this.leaveOut('must be a mapping of texts');
      return null;
    }
    return { ...(this.value as Record<string, string>) };
  }
}
