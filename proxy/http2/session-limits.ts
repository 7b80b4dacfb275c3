/** What one HTTP/2 connection of a client, and the one it has towards the application, may make the proxy keep or wait for. */
export interface Http2SessionLimits {
  /** Requests that a client may have open at once. */
  readonly concurrentStreams: number;
  /** Bytes that wait for the reader of one stream, at most, in each direction. */
  readonly streamWindow: number;
  /** The same for all streams of one connection together. While it is full, streams whose readers are quick wait too. */
  readonly connectionWindow: number;
  /** The largest frame taken: no other stream gets a turn inside of one. */
  readonly frameBytes: number;
  /** Names, values and 32 bytes for each field of a header list. Past it: 431, or 502 for a response. */
  readonly headBytes: number;
  /** Fields of a header list. */
  readonly fields: number;
  /** `:path` in bytes. Past it: 414. */
  readonly targetBytes: number;
  /** How long the gate may take to answer for a request, in milliseconds. Past it: 503. A last resort: authorisers have their own deadlines. */
  readonly authorisationMillis: number;
  /** How long the upstream may take to show that it speaks HTTP/2, in milliseconds. */
  readonly upstreamReadyMillis: number;
  /** How long the streams of a connection that is going away may go on, in milliseconds. */
  readonly drainMillis: number;
  /** Streams that a client may abandon before an answer, or lose to its own errors: at once, and a second. */
  readonly resetBurst: number;
  readonly resetsPerSecond: number;
  /** Idle time after which a client gets a PING, in milliseconds. The application gets none: gRPC servers count them as abuse. */
  readonly keepAliveMillis: number;
}

export const DEFAULT_HTTP2_SESSION_LIMITS: Http2SessionLimits = {
  concurrentStreams: 200,
  streamWindow: 262_144,
  connectionWindow: 16 << 20,
  frameBytes: 65_536,
  headBytes: 32_768,
  fields: 128,
  targetBytes: 8192,
  authorisationMillis: 60_000,
  upstreamReadyMillis: 10_000,
  drainMillis: 3_600_000,
  resetBurst: 400,
  resetsPerSecond: 200,
  keepAliveMillis: 60_000,
};
