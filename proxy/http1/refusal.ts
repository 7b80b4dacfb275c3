/**
 * Why a request was not forwarded, or an exchange not finished. Each is a counter label and an access log field: stable, lower-case.
 * The number is the status that the client gets; 0 where no answer is possible any more and the connection is cut.
 */
export const REFUSAL_STATUS = {
  // The request head (RFC 9112 sections 2, 3 and 5).
  'empty-line-before-request': 400,
  'bad-method': 400,
  'bad-target': 400,
  'target-too-long': 414,
  'bad-version': 400,
  'unsupported-version': 505,
  'connect-refused': 405,
  'trace-refused': 405,
  'bare-line-feed': 400,
  'bare-carriage-return': 400,
  'control-character': 400,
  'obsolete-folding': 400,
  'whitespace-before-colon': 400,
  'bad-field-name': 400,
  'too-many-fields': 431,
  'head-too-large': 431,
  'missing-host': 400,
  'duplicate-host': 400,
  'bad-host': 400,
  'host-mismatch': 400,
  'bad-path': 400,
  // Its framing (RFC 9112 section 6).
  'bad-content-length': 400,
  'duplicate-content-length': 400,
  'bad-transfer-encoding': 400,
  'duplicate-transfer-encoding': 400,
  'transfer-encoding-in-http-1.0': 400,
  'length-and-transfer-encoding': 400,
  'ambiguous-field-name': 400,
  'framing-field-in-connection': 400,
  'too-many-connection-options': 400,
  // The request body (RFC 9112 section 7).
  'bad-chunk-size': 400,
  'bad-chunk-extension': 400,
  'chunk-extension-too-long': 400,
  'bad-chunk-data': 400,
  'bad-trailer': 400,
  'trailer-too-large': 431,
  // The client's conduct.
  'head-timeout': 408,
  'truncated-head': 400,
  'truncated-body': 400,
  'downstream-closed': 0,
  // Policy.
  'policy-denied': 403,
  'policy-changed': 0,
  'authorisation-timeout': 503,
  // The upstream's conduct.
  'no-upstream': 503,
  'upstream-closed': 503,
  'upstream-malformed': 502,
  'upstream-unexpected-upgrade': 502,
  'upstream-truncated': 0,
  'session-closed': 0,
} as const;

/** See `REFUSAL_STATUS`. */
export type RefusalReason = keyof typeof REFUSAL_STATUS;
