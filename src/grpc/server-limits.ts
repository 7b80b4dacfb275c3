/** What a server's peers may use of it. Bytes and milliseconds. */
export interface GrpcServerLimits {
  /** Of one message, either way. */
  readonly maxMessageBytes: number;
  /** Of messages of one session that have begun and are not complete, and of the metadata of its open calls, together. */
  readonly maxHeldBytes: number;
  readonly maxSessions: number;
  readonly maxSessionsPerPeer: number;
  readonly maxStreamsPerSession: number;
  readonly maxHeaderListBytes: number;
  /** Until the client's first SETTINGS. */
  readonly handshakeTimeoutMs: number;
  /** Until the request of a method that takes one is complete. */
  readonly requestTimeoutMs: number;
  /** Until a client that does not read takes a message. */
  readonly sendTimeoutMs: number;
  /** A session without a stream is closed after this. */
  readonly idleTimeoutMs: number;
  /** On TCP, a peer that was silent for this is asked whether it is there (PING). */
  readonly keepaliveIntervalMs: number;
  /** And has this long to answer. */
  readonly keepaliveTimeoutMs: number;
  /** Calls that a client may cancel at once, and per second afterwards (HTTP/2 rapid reset). */
  readonly resetBurst: number;
  readonly resetsPerSecond: number;
}

export const DEFAULT_GRPC_SERVER_LIMITS: GrpcServerLimits = {
  maxMessageBytes: 256 * 1024,
  maxHeldBytes: 1024 * 1024,
  maxSessions: 1024,
  maxSessionsPerPeer: 32,
  maxStreamsPerSession: 100,
  maxHeaderListBytes: 16 * 1024,
  handshakeTimeoutMs: 10_000,
  requestTimeoutMs: 10_000,
  sendTimeoutMs: 30_000,
  idleTimeoutMs: 5 * 60_000,
  keepaliveIntervalMs: 60_000,
  keepaliveTimeoutMs: 20_000,
  resetBurst: 200,
  resetsPerSecond: 50,
};
