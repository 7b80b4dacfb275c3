import { CR, IS_FIELD_VALUE, LF, SPACE } from './bytes.ts';
import { FieldSection, INCOMPLETE, parseFieldSection, REFUSED } from './field-section.ts';
import type { Http1Limits } from './limits.ts';
import { CHUNKED_BODY } from './request-head.ts';

/** `responseBodyLength` of a body that ends with the connection. */
export const UNTIL_CLOSE = -2;

/** One parsed response head. Made once per connection and filled again for each response. */
export class ResponseHead {
  readonly fields: FieldSection = new FieldSection();
  status = 0;
  minorVersion: 0 | 1 = 1;
  /** The server means to go on after this exchange, as far as its head says. */
  keepAlive = true;
  /** Offset of the first field line, from the head's start. */
  fieldsOffset = 0;
  /** Fields must go before it is forwarded: see `rewriteForNextHop`. */
  needsRewrite = false;
  /** An Upgrade field is part of what this response says. */
  keepsUpgrade = false;
}

const VERSION = Buffer.from('HTTP/1.', 'latin1');

/**
 * Parses a response head at `start`: RFC 9112 section 4, as strict as request heads: a server that sends less is broken, or talks to
 * someone else's parser.
 *
 * @returns the offset after the head, INCOMPLETE, or REFUSED
 */
export function parseResponseHead(bytes: Buffer, start: number, end: number, head: ResponseHead, limits: Http1Limits): number {
  const limit = start + limits.headBytes;
  const result = parse(bytes, start, end < limit ? end : limit, head, limits);
  return result === INCOMPLETE && end >= limit ? REFUSED : result;
}

function parse(bytes: Buffer, start: number, end: number, head: ResponseHead, limits: Http1Limits): number {
  const fields = head.fields;
  fields.reset();
  let at = start;
  for (let i = 0; i < VERSION.length; i++, at++) {
    if (at >= end) return INCOMPLETE;
    if (bytes[at] !== VERSION[i]) return REFUSED;
  }
  if (at >= end) return INCOMPLETE;
  const minor = bytes[at] as number;
  if (minor !== 0x31 && minor !== 0x30) return REFUSED;
  at++;
  if (at >= end) return INCOMPLETE;
  if (bytes[at] !== SPACE) return REFUSED;
  at++;
  let status = 0;
  for (let i = 0; i < 3; i++, at++) {
    if (at >= end) return INCOMPLETE;
    const digit = (bytes[at] as number) - 0x30;
    if (digit < 0 || digit > 9) return REFUSED;
    status = status * 10 + digit;
  }
  if (status < 100 || status > 599) return REFUSED;
  // The space after the code is required even before an empty reason; many servers leave it out, and nothing hangs on it.
  if (at >= end) return INCOMPLETE;
  if (bytes[at] !== SPACE && bytes[at] !== CR) return REFUSED;
  while (at < end && IS_FIELD_VALUE[bytes[at] as number] === 1) at++;
  if (at >= end) return INCOMPLETE;
  if (bytes[at] !== CR) return REFUSED;
  at++;
  if (at >= end) return INCOMPLETE;
  if (bytes[at] !== LF) return REFUSED;

  head.fieldsOffset = at + 1 - start;
  const headEnd = parseFieldSection(bytes, at + 1, end, fields, limits.fields);
  if (headEnd <= 0) return headEnd;
  if (fields.chunked && (minor === 0x30 || fields.contentLength !== -1)) return REFUSED;
  // RFC 9112 section 6.1: no Transfer-Encoding in 1xx and 204. Parsers differ on what follows if there is one.
  if (fields.chunked && (status < 200 || status === 204)) return REFUSED;
  // HTTP/1.0 has no 1xx (RFC 9110 section 15.2), and its connection ends with a response: parsers differ on whether another follows.
  if (status < 200 && minor === 0x30) return REFUSED;
  if (status < 200 && status !== 101) {
    // Section 15.2 of RFC 9110 has no content in 1xx: with a length, parsers differ on what follows.
    if (fields.contentLength !== -1) return REFUSED;
    // Whether the connection stays is the final response's to say; some clients stop reading at a `close` here.
    if (fields.connectionClose) {
      fields.connectionClose = false;
      fields.hasHopFields = true;
    }
  }
  head.status = status;
  head.minorVersion = minor === 0x31 ? 1 : 0;
  head.keepAlive = !fields.connectionClose && (head.minorVersion === 1 || fields.connectionKeepAlive);
  // 426 has to say what it wants; anywhere else Upgrade is an offer of this hop's server, and taking it up would hide requests from policy.
  head.keepsUpgrade = status === 101 || status === 426;
  head.needsRewrite = fields.hasHopFields || (fields.upgrade && !head.keepsUpgrade);
  return headEnd;
}

/** Bytes of body that follow a final response head, CHUNKED_BODY or UNTIL_CLOSE: RFC 9112 section 6.3. */
export function responseBodyLength(head: ResponseHead, requestMethod: string): number {
  if (requestMethod === 'HEAD' || head.status === 204 || head.status === 304) return 0;
  if (head.fields.chunked) return CHUNKED_BODY;
  return head.fields.contentLength === -1 ? UNTIL_CLOSE : head.fields.contentLength;
}
