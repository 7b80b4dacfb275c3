import type { JwtIdentity, RequestAttributes } from '../../src/model/policy.ts';
import type { RequestHead } from '../../src/model/request-gate.ts';

const NO_VALUES: readonly string[] = Object.freeze([]);

/** The attributes that policy asks, read from a request's head. Filled again for each request, so that asking allocates nothing. */
export class RequestFacts implements RequestAttributes {
  remoteAddress = '';
  jwt: JwtIdentity | null = null;
  #head: RequestHead | null = null;

  get method(): string {
    return this.#head?.method ?? '';
  }

  get path(): string {
    return this.#head?.path ?? '';
  }

  get host(): string {
    return this.#head?.host ?? '';
  }

  // A property, as the model has it: made once for each of these objects, not for each request.
  readonly header = (name: string): readonly string[] => this.#head?.header(name) ?? NO_VALUES;

  set(head: RequestHead, remoteAddress: string, jwt: JwtIdentity | null): void {
    this.#head = head;
    this.remoteAddress = remoteAddress;
    this.jwt = jwt;
  }

  /** Lets go of the head, which is its codec's again. */
  clear(): void {
    this.#head = null;
    this.jwt = null;
  }
}
