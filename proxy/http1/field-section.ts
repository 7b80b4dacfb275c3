import { COLON, CR, FOLD_NAME, IS_FIELD_VALUE, IS_HOST, IS_TOKEN, LF, SPACE, TAB } from './bytes.ts';
import type { RefusalReason } from './refusal.ts';

/** Result of a parse that needs more bytes. */
export const INCOMPLETE = 0;
/** Result of a parse that found an error: `refusal` says which. */
export const REFUSED = -1;

/**
 * What the proxy has to know of a head's field lines. Filled by `parseFieldSection`, made once per connection and used again: a head
 * allocates nothing. The bytes themselves are forwarded as they came, so no other field is kept.
 */
export class FieldSection {
  refusal: RefusalReason | null = null;
  /** Number of field lines. */
  count = 0;
  /** Host value, as offsets into the parsed buffer; -1 when there is none. */
  hostStart = -1;
  hostEnd = -1;
  hostHasUpperCase = false;
  /** -1 when there is none. */
  contentLength = -1;
  chunked = false;
  connectionClose = false;
  connectionKeepAlive = false;
  connectionUpgrade = false;
  /** There is an Upgrade field. */
  upgrade = false;
  /** An Upgrade field names a protocol that carries HTTP requests of its own (HTTP/2, TLS): policy would never see them. */
  upgradeHidesRequests = false;
  expect = false;
  /** A TE field says that trailers are welcome. */
  teTrailers = false;
  /** There is a field that was for this hop only and must not be forwarded (RFC 9110 section 7.6.1), Upgrade aside: see `hop-by-hop.ts`. */
  hasHopFields = false;
  /** Fields that Connection names beyond the usual, in lower case; null: none. They are for this hop only too. */
  connectionNames: string[] | null = null;
  /** A name begins with `x-forwarded-` or `x-weft-`, in any letter case. Written with `_` it is refused. */
  hasTrustFields = false;

  reset(): void {
    this.refusal = null;
    this.count = 0;
    this.hostStart = -1;
    this.hostEnd = -1;
    this.hostHasUpperCase = false;
    this.contentLength = -1;
    this.chunked = false;
    this.connectionClose = false;
    this.connectionKeepAlive = false;
    this.connectionUpgrade = false;
    this.upgrade = false;
    this.upgradeHidesRequests = false;
    this.expect = false;
    this.teTrailers = false;
    this.hasHopFields = false;
    this.connectionNames = null;
    this.hasTrustFields = false;
  }
}

const HOST = Buffer.from('host');
const EXPECT = Buffer.from('expect');
const UPGRADE = Buffer.from('upgrade');
const CONNECTION = Buffer.from('connection');
const CONTENT_LENGTH = Buffer.from('content-length');
const TRANSFER_ENCODING = Buffer.from('transfer-encoding');
const CHUNKED = Buffer.from('chunked');
const CLOSE = Buffer.from('close');
const KEEP_ALIVE = Buffer.from('keep-alive');
const TE = Buffer.from('te');
const TRAILERS = Buffer.from('trailers');
const PROXY_FIELDS: readonly Buffer[] = ['proxy-connection', 'proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info'].map(
  (name) => Buffer.from(name),
);
/** Beginnings of the names of protocols that carry HTTP requests: h2, h2c, HTTP/2.0, TLS/1.0 (RFC 2817), … */
const HTTP_CARRIERS: readonly Buffer[] = ['h2', 'h3', 'http', 'tls'].map((name) => Buffer.from(name));
const FORWARDED_PREFIX = Buffer.from('x-forwarded-');
const WEFT_PREFIX = Buffer.from('x-weft-');

/** Lengths of the names that matter; all others are only checked. */
const IS_KNOWN_LENGTH = new Uint8Array(32);
for (const name of [HOST, EXPECT, UPGRADE, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, TE, ...PROXY_FIELDS])
  IS_KNOWN_LENGTH[name.length] = 1;

/** How many unusual names Connection may have: each is looked for among all fields. */
const MAX_CONNECTION_NAMES = 16;
const LETTER_X = 0x78;
const UNDERSCORE = 0x5f;
const DASH = 0x2d;
const COMMA = 0x2c;
const MAX_CONTENT_LENGTH_DIGITS = 16;

/**
 * Parses field lines from `start` to the empty line that ends them: RFC 9112 section 5, without any of its leniencies. Lines end in CRLF;
 * there is no folding, no space before a colon, no control character. Content-Length and Transfer-Encoding may come once, with nothing
 * around their value but spaces. Errors are found in the order of the bytes, so that a head refused in pieces is refused for the same reason.
 *
 * @returns the offset after the empty line, INCOMPLETE, or REFUSED with `section.refusal` set
 */
export function parseFieldSection(bytes: Buffer, start: number, end: number, section: FieldSection, maxFields: number): number {
  let at = start;
  for (;;) {
    if (at >= end) return INCOMPLETE;
    let byte = bytes[at] as number;
    if (byte === CR) {
      if (at + 1 >= end) return INCOMPLETE;
      return bytes[at + 1] === LF ? at + 2 : refuse(section, 'bare-carriage-return');
    }

    const nameStart = at;
    while (at < end && IS_TOKEN[(byte = bytes[at] as number)] === 1) at++;
    if (at === end) return INCOMPLETE;
    if (byte !== COLON || at === nameStart) return refuse(section, nameRefusal(byte, at === nameStart));
    const nameEnd = at;
    if (++section.count > maxFields) return refuse(section, 'too-many-fields');

    const rawValueStart = nameEnd + 1;
    at = rawValueStart;
    while (at < end && IS_FIELD_VALUE[(byte = bytes[at] as number)] === 1) at++;
    if (at === end) return INCOMPLETE;
    if (byte !== CR) return refuse(section, byte === LF ? 'bare-line-feed' : 'control-character');
    if (at + 1 >= end) return INCOMPLETE;
    if (bytes[at + 1] !== LF) return refuse(section, 'bare-carriage-return');

    const length = nameEnd - nameStart;
    if (length < 32 && IS_KNOWN_LENGTH[length] === 1) {
      const refusal = recognise(bytes, nameStart, length, rawValueStart, at, section);
      if (refusal !== null) return refuse(section, refusal);
    }
    if (((bytes[nameStart] as number) | 0x20) === LETTER_X && isTrustName(bytes, nameStart, nameEnd)) {
      // To a CGI-like application X_Forwarded_For is X-Forwarded-For, which is not the client's to say.
      if (bytes.subarray(nameStart, nameEnd).includes(UNDERSCORE)) return refuse(section, 'ambiguous-field-name');
      section.hasTrustFields = true;
    }
    at += 2;
  }
}

function refuse(section: FieldSection, reason: RefusalReason): number {
  section.refusal = reason;
  return REFUSED;
}

function nameRefusal(byte: number, atLineStart: boolean): RefusalReason {
  if (byte === SPACE || byte === TAB) return atLineStart ? 'obsolete-folding' : 'whitespace-before-colon';
  if (byte === LF) return 'bare-line-feed';
  if (byte === CR) return 'bad-field-name';
  if (byte < SPACE || byte === 0x7f) return 'control-character';
  return 'bad-field-name';
}

/** Reads a field whose name has the length of one that matters. */
function recognise(
  bytes: Buffer,
  nameStart: number,
  nameLength: number,
  rawStart: number,
  rawEnd: number,
  section: FieldSection,
): RefusalReason | null {
  switch (nameLength) {
    case 2:
      if (equalsFolded(bytes, nameStart, TE)) readTe(bytes, rawStart, rawEnd, section);
      break;
    case 4:
      if (equalsFolded(bytes, nameStart, HOST)) return readHost(bytes, rawStart, rawEnd, section);
      break;
    case 6:
      if (equalsFolded(bytes, nameStart, EXPECT)) section.expect = true;
      break;
    case 7:
      if (equalsFolded(bytes, nameStart, UPGRADE)) {
        section.upgrade = true;
        if (namesHttpCarrier(bytes, rawStart, rawEnd)) section.upgradeHidesRequests = true;
      }
      break;
    case 10:
      if (equalsFolded(bytes, nameStart, CONNECTION)) return readConnection(bytes, rawStart, rawEnd, section);
      break;
    case 14:
      if (equalsFolded(bytes, nameStart, CONTENT_LENGTH)) {
        if (bytes[nameStart + 7] !== DASH) return 'ambiguous-field-name';
        return readContentLength(bytes, rawStart, rawEnd, section);
      }
      break;
    case 17:
      if (equalsFolded(bytes, nameStart, TRANSFER_ENCODING)) {
        if (bytes[nameStart + 8] !== DASH) return 'ambiguous-field-name';
        return readTransferEncoding(bytes, rawStart, rawEnd, section);
      }
      break;
    default:
      if (PROXY_FIELDS.some((name) => name.length === nameLength && equalsFolded(bytes, nameStart, name))) section.hasHopFields = true;
  }
  return null;
}

function isTrustName(bytes: Buffer, start: number, end: number): boolean {
  return startsFolded(bytes, start, end, FORWARDED_PREFIX) || startsFolded(bytes, start, end, WEFT_PREFIX);
}

/** True when the bytes of [start, end) begin with `expected`, folded as for `equalsFolded`. */
function startsFolded(bytes: Buffer, start: number, end: number, expected: Buffer): boolean {
  return end - start >= expected.length && equalsFolded(bytes, start, expected);
}

/** True when the bytes from `start` are `expected` (lower-case), letter case and `_` for `-` aside. */
function equalsFolded(bytes: Buffer, start: number, expected: Buffer): boolean {
  for (let i = 0; i < expected.length; i++) if (FOLD_NAME[bytes[start + i] as number] !== expected[i]) return false;
  return true;
}

function skipSpaces(bytes: Buffer, start: number, end: number): number {
  let at = start;
  while (at < end && (bytes[at] === SPACE || bytes[at] === TAB)) at++;
  return at;
}

function trimSpaces(bytes: Buffer, start: number, end: number): number {
  let at = end;
  while (at > start && (bytes[at - 1] === SPACE || bytes[at - 1] === TAB)) at--;
  return at;
}

/** RFC 9110 section 7.2, RFC 9112 section 3.2. An empty Host is refused too: no policy could say what it means. */
function readHost(bytes: Buffer, rawStart: number, rawEnd: number, section: FieldSection): RefusalReason | null {
  if (section.hostStart !== -1) return 'duplicate-host';
  const start = skipSpaces(bytes, rawStart, rawEnd);
  const end = trimSpaces(bytes, start, rawEnd);
  let upperCase = false;
  for (let at = start; at < end; at++) {
    const byte = bytes[at] as number;
    if (IS_HOST[byte] === 0) return 'bad-host';
    if (byte >= 0x41 && byte <= 0x5a) upperCase = true;
  }
  if (!isAuthority(bytes, start, end)) return 'bad-host';
  section.hostStart = start;
  section.hostEnd = end;
  section.hostHasUpperCase = upperCase;
  return null;
}

const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const DOT = 0x2e;

/** `host`, `host:port`, `[IPv6]` or `[IPv6]:port`, of bytes that are all IS_HOST. */
function isAuthority(bytes: Buffer, start: number, end: number): boolean {
  if (start === end) return false;
  let at = start;
  if (bytes[at] === OPEN_BRACKET) {
    at++;
    while (at < end && bytes[at] !== CLOSE_BRACKET) {
      const byte = bytes[at] as number;
      const lower = byte | 0x20;
      const isHex = (byte >= 0x30 && byte <= 0x39) || (lower >= 0x61 && lower <= 0x66);
      if (!isHex && byte !== COLON && byte !== DOT) return false;
      at++;
    }
    if (at === end || at - start < 3) return false;
    at++;
  } else {
    while (at < end && bytes[at] !== COLON) {
      if (bytes[at] === OPEN_BRACKET || bytes[at] === CLOSE_BRACKET) return false;
      at++;
    }
    if (at === start) return false;
  }
  if (at === end) return true;
  if (bytes[at] !== COLON) return false;
  let port = 0;
  const portStart = at + 1;
  if (portStart === end || end - portStart > 5) return false;
  for (at = portStart; at < end; at++) {
    const digit = (bytes[at] as number) - 0x30;
    if (digit < 0 || digit > 9) return false;
    port = port * 10 + digit;
  }
  return port <= 65_535;
}

/** RFC 9112 section 6.2: one field, digits only. A list is refused even when its members agree. */
function readContentLength(bytes: Buffer, rawStart: number, rawEnd: number, section: FieldSection): RefusalReason | null {
  if (section.contentLength !== -1) return 'duplicate-content-length';
  const [start, end] = [skipPlainSpaces(bytes, rawStart, rawEnd), trimPlainSpaces(bytes, rawStart, rawEnd)];
  if (start >= end || end - start > MAX_CONTENT_LENGTH_DIGITS) return 'bad-content-length';
  let length = 0;
  for (let at = start; at < end; at++) {
    const digit = (bytes[at] as number) - 0x30;
    if (digit < 0 || digit > 9) return 'bad-content-length';
    length = length * 10 + digit;
  }
  if (length > Number.MAX_SAFE_INTEGER) return 'bad-content-length';
  section.contentLength = length;
  return null;
}

/** RFC 9112 section 6.1. Exactly `chunked`: other codings are for endpoints to use, and an intermediary cannot frame them. */
function readTransferEncoding(bytes: Buffer, rawStart: number, rawEnd: number, section: FieldSection): RefusalReason | null {
  if (section.chunked) return 'duplicate-transfer-encoding';
  const start = skipPlainSpaces(bytes, rawStart, rawEnd);
  const end = trimPlainSpaces(bytes, rawStart, rawEnd);
  if (end - start !== CHUNKED.length || !equalsFolded(bytes, start, CHUNKED)) return 'bad-transfer-encoding';
  section.chunked = true;
  return null;
}

/** Around framing values only SP may stand: a tab is legal, but a server that does not trim it would frame the message differently. */
function skipPlainSpaces(bytes: Buffer, start: number, end: number): number {
  let at = start;
  while (at < end && bytes[at] === SPACE) at++;
  return at;
}

function trimPlainSpaces(bytes: Buffer, start: number, end: number): number {
  let at = end;
  while (at > start && bytes[at - 1] === SPACE) at--;
  return at;
}

/** RFC 9110 section 10.1.4. Transfer codings are not forwarded, so they must not be asked for; trailers are. */
function readTe(bytes: Buffer, rawStart: number, rawEnd: number, section: FieldSection): void {
  const start = skipSpaces(bytes, rawStart, rawEnd);
  const end = trimSpaces(bytes, start, rawEnd);
  const isPlain = end - start === TRAILERS.length && equalsFolded(bytes, start, TRAILERS);
  if (!isPlain) section.hasHopFields = true;
  if (isPlain || hasListItem(bytes, rawStart, rawEnd, TRAILERS)) section.teTrailers = true;
}

/**
 * RFC 9110 section 7.6.1. A Connection option that names a framing field or Host asks the next server to drop it, which would change
 * what the message means: refused.
 */
function readConnection(bytes: Buffer, rawStart: number, rawEnd: number, section: FieldSection): RefusalReason | null {
  let at = rawStart;
  while (at < rawEnd) {
    let itemEnd = at;
    while (itemEnd < rawEnd && bytes[itemEnd] !== COMMA) itemEnd++;
    const start = skipSpaces(bytes, at, itemEnd);
    const end = trimSpaces(bytes, start, itemEnd);
    let isUsual = start === end;
    switch (end - start) {
      case 2:
        isUsual = equalsFolded(bytes, start, TE);
        break;
      case 4:
        if (equalsFolded(bytes, start, HOST)) return 'framing-field-in-connection';
        break;
      case 5:
        if ((isUsual = equalsFolded(bytes, start, CLOSE))) section.connectionClose = true;
        break;
      case 7:
        if ((isUsual = equalsFolded(bytes, start, UPGRADE))) section.connectionUpgrade = true;
        break;
      case 10:
        if ((isUsual = equalsFolded(bytes, start, KEEP_ALIVE))) section.connectionKeepAlive = true;
        break;
      case 14:
        if (equalsFolded(bytes, start, CONTENT_LENGTH)) return 'framing-field-in-connection';
        break;
      case 17:
        if (equalsFolded(bytes, start, TRANSFER_ENCODING)) return 'framing-field-in-connection';
        break;
    }
    if (!isUsual) {
      section.connectionNames ??= [];
      if (section.connectionNames.length === MAX_CONNECTION_NAMES) return 'too-many-connection-options';
      section.connectionNames.push(bytes.latin1Slice(start, end).toLowerCase());
      section.hasHopFields = true;
    }
    at = itemEnd + 1;
  }
  return null;
}

function hasListItem(bytes: Buffer, rawStart: number, rawEnd: number, expected: Buffer): boolean {
  return someListItem(bytes, rawStart, rawEnd, (start, end) => end - start === expected.length && equalsFolded(bytes, start, expected));
}

function namesHttpCarrier(bytes: Buffer, rawStart: number, rawEnd: number): boolean {
  return someListItem(bytes, rawStart, rawEnd, (start, end) => HTTP_CARRIERS.some((name) => startsFolded(bytes, start, end, name)));
}

/** True when `matches` is for an item of a comma-separated list. */
function someListItem(bytes: Buffer, rawStart: number, rawEnd: number, matches: (start: number, end: number) => boolean): boolean {
  let at = rawStart;
  while (at < rawEnd) {
    let itemEnd = at;
    while (itemEnd < rawEnd && bytes[itemEnd] !== COMMA) itemEnd++;
    const start = skipSpaces(bytes, at, itemEnd);
    if (matches(start, trimSpaces(bytes, start, itemEnd))) return true;
    at = itemEnd + 1;
  }
  return false;
}
