import { ASTERISK, COLON, CR, IS_METHOD, IS_TARGET, LF, SLASH, SPACE } from './bytes.ts';
import { FieldSection, INCOMPLETE, parseFieldSection, REFUSED } from './field-section.ts';
import type { Http1Limits } from './limits.ts';
import type { RefusalReason } from './refusal.ts';

/** `bodyLength` of a request or response whose body is chunked. */
export const CHUNKED_BODY = -1;

/** One parsed request head. Made once per connection and filled again for each request. */
export class RequestHead {
  readonly fields: FieldSection = new FieldSection();
  refusal: RefusalReason | null = null;
  method = '';
  /** Origin-form, or `*`: what follows the authority when the request came in absolute-form. As received, not normalised. */
  target = '';
  /** The request came in absolute-form. */
  absoluteForm = false;
  /** Lower-cased Host; '' for an HTTP/1.0 request without. */
  host = '';
  /** Offset of the first field line, from the head's start. */
  fieldsOffset = 0;
  minorVersion: 0 | 1 = 1;
  /** Bytes of body, or CHUNKED_BODY. RFC 9112 section 6.3. */
  bodyLength = 0;
  /** The client means to go on after this exchange. RFC 9112 section 9.3. */
  keepAlive = true;
  /** The request asks to upgrade, in the way it has to, to what may hide no HTTP requests: a 101 is a possible answer. */
  upgrade = false;
  /** Fields must go before it is forwarded: see `rewriteForNextHop`. */
  needsRewrite = false;
}

const MAX_METHOD_BYTES = 32;
const METHODS: readonly (readonly string[])[] = [[], [], [], ['GET', 'PUT'], ['POST', 'HEAD'], ['PATCH'], ['DELETE'], ['OPTIONS']];
const VERSION = Buffer.from('HTTP/1.', 'latin1');
const ABSOLUTE_PREFIX = Buffer.from('http://', 'latin1');
const QUESTION_MARK = 0x3f;

/**
 * Parses a request head at `start`: RFC 9112 sections 3, 5 and 6, strict. What two parsers could read differently is refused. The refusal
 * for a prefix of a head is the refusal of the whole.
 *
 * @returns the offset after the head, INCOMPLETE when all of [start, end) is a possible beginning, or REFUSED with `head.refusal` set
 */
export function parseRequestHead(bytes: Buffer, start: number, end: number, head: RequestHead, limits: Http1Limits): number {
  const limit = start + limits.headBytes;
  const result = parse(bytes, start, end < limit ? end : limit, head, limits);
  return result === INCOMPLETE && end >= limit ? refuse(head, 'head-too-large') : result;
}

function refuse(head: RequestHead, reason: RefusalReason): number {
  head.refusal = reason;
  return REFUSED;
}

function parse(bytes: Buffer, start: number, end: number, head: RequestHead, limits: Http1Limits): number {
  const fields = head.fields;
  fields.reset();
  head.refusal = null;
  head.method = '';
  head.target = '';
  head.host = '';

  let at = start;
  let byte = 0;
  while (at < end && IS_METHOD[(byte = bytes[at] as number)] === 1) at++;
  if (at - start > MAX_METHOD_BYTES) return refuse(head, 'bad-method');
  if (at === end) return INCOMPLETE;
  if (byte !== SPACE || at === start) return refuse(head, methodRefusal(byte, at === start));
  const methodEnd = at;

  const targetStart = methodEnd + 1;
  at = targetStart;
  while (at < end && IS_TARGET[(byte = bytes[at] as number)] === 1) at++;
  if (at - targetStart > limits.targetBytes) return refuse(head, 'target-too-long');
  if (at === end) return INCOMPLETE;
  if (byte !== SPACE || at === targetStart) return refuse(head, targetRefusal(byte));
  const targetEnd = at;

  const versionStart = targetEnd + 1;
  for (let i = 0; i < VERSION.length; i++) {
    at = versionStart + i;
    if (at >= end) return INCOMPLETE;
    if (bytes[at] !== VERSION[i]) return refuse(head, versionRefusal(bytes, i, at));
  }
  at = versionStart + VERSION.length;
  if (at >= end) return INCOMPLETE;
  byte = bytes[at] as number;
  if (byte !== 0x31 && byte !== 0x30) return refuse(head, byte > 0x31 && byte <= 0x39 ? 'unsupported-version' : 'bad-version');
  const minorVersion = byte === 0x31 ? 1 : 0;
  at++;
  if (at >= end) return INCOMPLETE;
  if (bytes[at] !== CR) return refuse(head, bytes[at] === LF ? 'bare-line-feed' : 'bad-version');
  at++;
  if (at >= end) return INCOMPLETE;
  if (bytes[at] !== LF) return refuse(head, 'bare-carriage-return');

  const method = methodText(bytes, start, methodEnd);
  if (method === 'CONNECT') return refuse(head, 'connect-refused');
  // It would show the client what the mesh adds to its requests (RFC 9110 section 9.3.8 warns of such data), and no service needs it.
  if (method === 'TRACE') return refuse(head, 'trace-refused');
  head.method = method;
  head.minorVersion = minorVersion;
  head.fieldsOffset = at + 1 - start;

  // The path's first byte: after the authority, if there is one.
  let pathStart = targetStart;
  head.absoluteForm = false;
  const first = bytes[targetStart] as number;
  if (first === ASTERISK) {
    if (targetEnd !== targetStart + 1 || method !== 'OPTIONS') return refuse(head, 'bad-target');
  } else if (first !== SLASH) {
    pathStart = authorityEnd(bytes, targetStart, targetEnd);
    if (pathStart === -1) return refuse(head, 'bad-target');
    head.absoluteForm = true;
  }

  const headEnd = parseFieldSection(bytes, at + 1, end, fields, limits.fields);
  if (headEnd === INCOMPLETE) return INCOMPLETE;
  if (headEnd === REFUSED) return refuse(head, fields.refusal as RefusalReason);

  if (fields.hostStart === -1) {
    if (minorVersion === 1) return refuse(head, 'missing-host');
  } else {
    const host = bytes.latin1Slice(fields.hostStart, fields.hostEnd);
    head.host = fields.hostHasUpperCase ? host.toLowerCase() : host;
  }
  const target = bytes.latin1Slice(pathStart, targetEnd);
  if (head.absoluteForm) {
    if (bytes.latin1Slice(targetStart + ABSOLUTE_PREFIX.length, pathStart).toLowerCase() !== head.host) {
      return refuse(head, 'host-mismatch');
    }
    head.target = bytes[pathStart] === SLASH ? target : `/${target}`;
  } else {
    head.target = target;
  }

  if (fields.chunked) {
    if (minorVersion === 0) return refuse(head, 'transfer-encoding-in-http-1.0');
    if (fields.contentLength !== -1) return refuse(head, 'length-and-transfer-encoding');
    head.bodyLength = CHUNKED_BODY;
  } else {
    head.bodyLength = fields.contentLength === -1 ? 0 : fields.contentLength;
  }
  head.keepAlive = !fields.connectionClose && (minorVersion === 1 || fields.connectionKeepAlive);
  head.upgrade = fields.upgrade && fields.connectionUpgrade && minorVersion === 1 && !fields.upgradeHidesRequests;
  head.needsRewrite = fields.hasHopFields || (fields.upgrade && !head.upgrade);
  return headEnd;
}

function methodRefusal(byte: number, empty: boolean): RefusalReason {
  if (!empty) return 'bad-method';
  return byte === CR || byte === LF ? 'empty-line-before-request' : 'bad-method';
}

function targetRefusal(byte: number): RefusalReason {
  // A line that ends after the target is HTTP/0.9.
  if (byte === CR) return 'bad-version';
  return byte === LF ? 'bare-line-feed' : 'bad-target';
}

/** The version's bytes up to `matched` are right; the next is not. */
function versionRefusal(bytes: Buffer, matched: number, at: number): RefusalReason {
  const byte = bytes[at] as number;
  if (byte === SPACE && matched === 0) return 'bad-target';
  return matched === 5 && byte >= 0x30 && byte <= 0x39 ? 'unsupported-version' : 'bad-version';
}

/** The method's text; for the usual ones without making a string. */
function methodText(bytes: Buffer, start: number, end: number): string {
  const candidates = METHODS[end - start];
  if (candidates !== undefined) {
    for (let i = 0; i < candidates.length; i++) {
      const candidate = candidates[i] as string;
      let at = 0;
      while (at < candidate.length && bytes[start + at] === candidate.charCodeAt(at)) at++;
      if (at === candidate.length) return candidate;
    }
  }
  return bytes.latin1Slice(start, end);
}

/** End of `http://authority` in an absolute-form target, or -1 when it is another form or scheme. */
function authorityEnd(bytes: Buffer, start: number, end: number): number {
  for (let i = 0; i < ABSOLUTE_PREFIX.length; i++) {
    if (start + i >= end) return -1;
    const byte = bytes[start + i] as number;
    const expected = ABSOLUTE_PREFIX[i] as number;
    if (expected === SLASH || expected === COLON ? byte !== expected : (byte | 0x20) !== expected) return -1;
  }
  let at = start + ABSOLUTE_PREFIX.length;
  while (at < end && bytes[at] !== SLASH && bytes[at] !== QUESTION_MARK) at++;
  return at === start + ABSOLUTE_PREFIX.length ? -1 : at;
}
