import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { HeaderChange, Refusal, RequestHead } from '../../src/model/request-gate.ts';
import type { ExtensionProvider } from '../../src/model/resources.ts';

/** What an external authoriser said about a request. */
export interface Authorisation {
  readonly allow: boolean;
  /** True when the provider could not be asked, or its answer made no sense; `allow` is then the provider's failOpen. */
  readonly failed: boolean;
  /** A short fixed phrase. */
  readonly reason: string;
  /** What changes in the request when it is allowed; null: nothing. */
  readonly change: HeaderChange | null;
  /** The provider's own answer to the client when it denies; null: the codec's words. */
  readonly refusal: Refusal | null;
}

/** Asks the external authorisers that CUSTOM policies name. */
export interface ExternalAuthorisers {
  /** Never rejects. Closed on failure, unless the provider says failOpen. */
  check(provider: ExtensionProvider, head: RequestHead, connection: ConnectionAttributes): Promise<Authorisation>;
}
