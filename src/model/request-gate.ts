import type { Decision, ShadowDecision } from './policy.ts';

/**
 * What stands between the head of an HTTP request and the application, the same for every HTTP version: authentication by JWT, external
 * authorisation, policy, and what happens to headers that must not be believed. A codec asks once per request, when the head is complete
 * and its path normalised, and forwards nothing before the answer.
 */
export interface RequestGate {
  /** The answer, at once where that is possible (the usual case: no allocation), or a promise that never rejects. */
  ask(head: RequestHead): GateAnswer | Promise<GateAnswer>;
  /**
   * What answers stand on: while this returns the same object, a head with the same bytes would get the same answer again, so that a codec
   * that remembers heads need not ask. null, or no such method: ask each time (tokens expire, external authorisers change their mind).
   */
  basis?(): object | null;
}

/** A request's head as its codec knows it. Valid until the answer is there. */
export interface RequestHead {
  readonly method: string;
  /** Normalised, without query. */
  readonly path: string;
  /** Without the question mark; '' when there is none. */
  readonly query: string;
  /** Lower-cased Host or :authority. */
  readonly host: string;
  readonly scheme: 'http' | 'https';
  /** Values of a header in order, one for each time it was sent; name in lower case. */
  header(name: string): readonly string[];
  /** All headers in order, names in lower case, without pseudo-headers. */
  headers(): Iterable<readonly [name: string, value: string]>;
  /**
   * False when the codec knows, from its own pass over the names, that none begins with `x-forwarded-` or `x-weft-` (in any case): nothing has
   * to be looked for then. Not there: unknown, which costs a pass over all headers for each request.
   */
  readonly hasTrustHeaders?: boolean;
}

/** Headers of the request as the application shall get it. */
export interface HeaderChange {
  /** Lower-case names: every field of that name goes. */
  readonly remove: readonly string[];
  /** Fields to add, after removal. */
  readonly set: readonly (readonly [name: string, value: string])[];
}

/** The answer that the client gets in place of the application's. */
export interface Refusal {
  readonly status: number;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

export interface GateAnswer {
  /** The request goes on exactly when its verdict is 'allow'. */
  readonly decision: Decision;
  /** How to refuse; null: the codec's own words for the decision (403, or gRPC PERMISSION_DENIED). */
  readonly refusal: Refusal | null;
  /** null: headers go as they came, which costs nothing. */
  readonly change: HeaderChange | null;
  /** What would have been refused by dry-run policies, and what AUDIT rules matched. Usually empty. */
  readonly shadow: readonly ShadowDecision[];
}
