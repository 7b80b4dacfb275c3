import { WeftError } from '../../model/errors.ts';
import type { WeftErrorDetail } from '../../model/errors.ts';

/** RFC 9113 section 7. */
export const ErrorCode = {
  noError: 0x0,
  protocolError: 0x1,
  internalError: 0x2,
  flowControlError: 0x3,
  settingsTimeout: 0x4,
  streamClosed: 0x5,
  frameSizeError: 0x6,
  refusedStream: 0x7,
  cancel: 0x8,
  compressionError: 0x9,
  connectError: 0xa,
  enhanceYourCalm: 0xb,
  inadequateSecurity: 0xc,
  http11Required: 0xd,
} as const;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(ErrorCode).map(([name, code]) => [code, name.replace(/[A-Z]|11/g, (part) => `_${part}`).toUpperCase()]),
);

/** The name RFC 9113 gives an error code, for logs. */
export function errorCodeName(code: number): string {
  return NAMES.get(code) ?? `0x${code.toString(16)}`;
}

/**
 * A connection or a stream ended against somebody's will. Codes: WEFT_HTTP2_*.
 * `http2Code` is what went, or came, on the wire.
 */
export class Http2Error extends WeftError {
  override readonly name = 'Http2Error';
  readonly http2Code: number;

  constructor(code: string, http2Code: number, message: string, detail: WeftErrorDetail = {}) {
    super(code, message, detail);
    this.http2Code = http2Code;
  }
}

/** The peer broke RFC 9113 in a way that costs it the whole connection. */
export function connectionError(http2Code: number, message: string): Http2Error {
  const flood = http2Code === ErrorCode.enhanceYourCalm;
  return new Http2Error(
    flood ? 'WEFT_HTTP2_FLOOD' : 'WEFT_HTTP2_PROTOCOL',
    http2Code,
    `HTTP/2 connection closed with ${errorCodeName(http2Code)}: ${message}`,
    {
      nextStep: flood
        ? 'find out why the peer sends so many control frames, or raise the limit'
        : 'check what the peer is: it does not speak HTTP/2 as RFC 9113 has it',
    },
  );
}
