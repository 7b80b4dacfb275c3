import type { Decision, ShadowDecision } from '../src/model/policy.ts';

/** One HTTP request and what became of it, whatever the version. A codec may fill one object again and again: copy what is kept. */
export interface HttpExchange {
  /** '' when the head could not be read. */
  readonly method: string;
  /** Normalised, without query; '' when the head could not be read. */
  readonly path: string;
  /** Lower-cased Host or :authority. */
  readonly host: string;
  /** What the client was answered, by the upstream or by us; 0 when the exchange was cut. For gRPC this is HTTP's, so usually 200. */
  readonly status: number;
  /** Not there: not gRPC. null: gRPC, but the exchange ended without a grpc-status. */
  readonly grpcStatus?: number | null;
  /** Head and body bytes received from the client for this request. For HTTP/2: names and values as they are without compression. */
  readonly requestBytes: number;
  /** Bytes sent to the client in answer, interim responses included. */
  readonly responseBytes: number;
  /** `clock()` when the head was complete (for a refused head: when it was refused). */
  readonly startedAt: number;
  readonly durationMicros: number;
  /** For requests that never came to policy: a denial without a policy that says so. */
  readonly decision: Decision;
  /** What dry-run policies would have done, and AUDIT rules that matched. */
  readonly shadow: readonly ShadowDecision[];
  /** Why the upstream's own answer did not reach the client whole, by a fixed name; null when it did. */
  readonly refusal: string | null;
  /** More about the refusal, for a log line; null when its name says all. */
  readonly detail: string | null;
}

/** The decision about a request that never came to policy. */
export const NOT_DECIDED: Decision = { verdict: 'deny', policy: null, rule: null, reason: 'refused before policy' };
