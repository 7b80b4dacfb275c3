/**
 * Why a stream was not forwarded, or an exchange not finished: a counter label and an access log field, named as in proxy/http1/refusal.ts where
 * the two versions have the same reason. The number is the HTTP status that the client gets, which gRPC clients get as a grpc-status; 0
 * where the stream is reset.
 */
export const HTTP2_REFUSAL_STATUS = {
  // The request.
  /** The message breaks RFC 9113 section 8: RST_STREAM with PROTOCOL_ERROR. */
  'malformed-message': 0,
  'head-too-large': 431,
  'connect-refused': 405,
  'trace-refused': 405,
  'bad-method': 400,
  'bad-scheme': 400,
  'missing-host': 400,
  'bad-host': 400,
  'bad-path': 400,
  'target-too-long': 414,
  'ambiguous-field-name': 400,
  // The client's conduct.
  'downstream-closed': 0,
  // The gate.
  'policy-denied': 403,
  'policy-changed': 0,
  'authorisation-timeout': 503,
  // The upstream's conduct.
  'no-upstream': 503,
  'upstream-closed': 503,
  'upstream-not-http2': 503,
  'upstream-malformed': 502,
  /** It takes no more streams; the client may try again elsewhere. */
  'upstream-draining': 0,
  'upstream-reset': 0,
  'upstream-truncated': 0,
  'session-closed': 0,
} as const;

/** See `HTTP2_REFUSAL_STATUS`. */
export type Http2RefusalReason = keyof typeof HTTP2_REFUSAL_STATUS;
