/** What one HTTP/1.1 connection may make the proxy keep or wait for. */
export interface Http1Limits {
  /** Request or response head, start line to empty line, in bytes. Past it: 431, or 502 for a response. */
  readonly headBytes: number;
  /** Field lines in a head, and in trailers. */
  readonly fields: number;
  /** Request target in bytes. Past it: 414. */
  readonly targetBytes: number;
  /** From the first byte of a head to its last, in milliseconds. Past it: 408. */
  readonly headTimeoutMillis: number;
  /** How long the gate may take to answer for a request, in milliseconds. Past it: 503. A last resort: authorisers have their own deadlines. */
  readonly authorisationMillis: number;
  /** A denied request's short body must be here in this time, in milliseconds. Past it, the connection ends. */
  readonly drainMillis: number;
  /** A denied request's body up to this many bytes is read and dropped so that the connection can go on; past it, it is closed. */
  readonly drainBytes: number;
  /** Chunk extensions in one chunk line, in bytes. */
  readonly chunkExtensionBytes: number;
  /** Chunk extensions in one body, in bytes. */
  readonly chunkExtensionTotalBytes: number;
  /** Trailers of one body, in bytes. */
  readonly trailerBytes: number;
  /** After a refusal: how long the client may take to close before it is cut, in milliseconds. */
  readonly lingerMillis: number;
  /** After a complete exchange: how long both ends may take to close before they are cut, in milliseconds. Covers a slow reader. */
  readonly closeMillis: number;
}

export const DEFAULT_HTTP1_LIMITS: Http1Limits = {
  headBytes: 32_768,
  fields: 100,
  targetBytes: 8192,
  headTimeoutMillis: 20_000,
  authorisationMillis: 60_000,
  drainMillis: 20_000,
  drainBytes: 65_536,
  chunkExtensionBytes: 256,
  chunkExtensionTotalBytes: 16_384,
  trailerBytes: 8192,
  lingerMillis: 5000,
  closeMillis: 60_000,
};
