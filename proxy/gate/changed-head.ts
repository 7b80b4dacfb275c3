import { isRemoved } from './header-fields.ts';
import type { HeaderChange, RequestHead } from '../../src/model/request-gate.ts';

/**
 * A request's head with a change made to its headers: what is decided about is what the application gets. It shows the change as it is when it is
 * asked, and is valid as long as the head.
 */
export class ChangedHead implements RequestHead {
  readonly #head: RequestHead;
  readonly #change: HeaderChange;

  constructor(head: RequestHead, change: HeaderChange) {
    this.#head = head;
    this.#change = change;
  }

  get method(): string {
    return this.#head.method;
  }

  get path(): string {
    return this.#head.path;
  }

  get query(): string {
    return this.#head.query;
  }

  get host(): string {
    return this.#head.host;
  }

  get scheme(): RequestHead['scheme'] {
    return this.#head.scheme;
  }

  header(name: string): readonly string[] {
    const { set } = this.#change;
    const kept = isRemoved(name, this.#change) ? [] : this.#head.header(name);
    return [...kept, ...set.flatMap(([each, value]) => (each === name ? [value] : []))];
  }

  headers(): Iterable<readonly [name: string, value: string]> {
    return [...[...this.#head.headers()].filter(([name]) => !isRemoved(name, this.#change)), ...this.#change.set];
  }
}
