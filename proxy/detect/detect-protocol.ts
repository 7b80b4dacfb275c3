import { IS_TOKEN, LF, SLASH, SPACE } from '../http1/bytes.ts';

/** What a connection carries, told from its first bytes. `incomplete`: more bytes are needed. */
export type DetectedProtocol = 'http1' | 'http2' | 'tls' | 'opaque' | 'incomplete';

/** With this many bytes there is always an answer other than `incomplete`. */
export const DETECT_MAX_BYTES = 1024;

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');
const VERSION_PREFIX = Buffer.from('HTTP/', 'latin1');
const ABSOLUTE_PREFIX = Buffer.from('http://', 'latin1');

/** Methods that, followed by a space and a slash, are HTTP without looking further. */
const KNOWN_METHODS: readonly Buffer[] = ['GET', 'POST', 'PUT', 'HEAD', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE'].map((method) =>
  Buffer.from(`${method} /`, 'latin1'),
);

/** What lenient servers take for the space between the parts of a request line: whatever Python's `str.split` does, which `http.server` uses. */
const SEPARATORS: ReadonlySet<number> = new Set([0x09, 0x0b, 0x0c, 0x0d, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x85, 0xa0]);
const IS_SEPARATOR: Uint8Array = Uint8Array.from({ length: 256 }, (_, byte) => (SEPARATORS.has(byte) ? 1 : 0));
const MAX_LEADING_WHITESPACE = 16;

const TLS_HANDSHAKE = 22;
const TLS_CLIENT_HELLO = 1;
const TLS_MAX_RECORD = 16_384 + 2048;

/**
 * Tells the protocol from the bytes received so far. Pure: the caller keeps the bytes and calls again with more. The answer for a prefix
 * is either `incomplete` or the answer for every continuation of it.
 *
 * It leans to `http1`: a first line that some lenient server would read as HTTP (blank lines or spaces first, lower-case or long method,
 * tabs and the like between the parts) is `http1`, so that the strict parser refuses it; called `opaque`, it would get past per-request policy.
 */
export function detectProtocol(bytes: Buffer): DetectedProtocol {
  const length = Math.min(bytes.length, DETECT_MAX_BYTES);
  if (length === 0) return 'incomplete';
  const first = bytes[0] as number;
  if (first === TLS_HANDSHAKE) return detectTls(bytes, length);
  if (first === PREFACE[0]) {
    const matched = commonPrefix(bytes, 0, length, PREFACE);
    if (matched === PREFACE.length) return 'http2';
    if (matched === length) return 'incomplete';
  }
  return detectHttp1(bytes, length);
}

/** A TLS record that holds the start of a ClientHello: RFC 8446 sections 5.1 and 4. */
function detectTls(bytes: Buffer, length: number): DetectedProtocol {
  if (length >= 2 && bytes[1] !== 3) return 'opaque';
  if (length >= 3 && (bytes[2] as number) > 4) return 'opaque';
  if (length >= 5) {
    const recordLength = bytes.readUInt16BE(3);
    if (recordLength === 0 || recordLength > TLS_MAX_RECORD) return 'opaque';
  }
  if (length < 6) return 'incomplete';
  return bytes[5] === TLS_CLIENT_HELLO ? 'tls' : 'opaque';
}

function detectHttp1(bytes: Buffer, length: number): DetectedProtocol {
  let start = 0;
  while (start < length && isWhitespace(bytes[start] as number)) {
    start++;
    if (start > MAX_LEADING_WHITESPACE) return 'http1';
  }
  if (start === length) return 'incomplete';
  if (IS_TOKEN[bytes[start] as number] === 0) return 'opaque';

  for (const known of KNOWN_METHODS) {
    if (commonPrefix(bytes, start, length, known) === known.length) return 'http1';
  }

  let at = start;
  while (at < length && IS_TOKEN[bytes[at] as number] === 1) at++;
  // So long a word is hardly a method, and may be anybody's data: whoever relays it watches how it ends.
  if (at === length) return length < DETECT_MAX_BYTES ? 'incomplete' : start === 0 ? 'opaque' : 'http1';
  const separator = bytes[at] as number;
  if (IS_SEPARATOR[separator] === 0) return 'opaque';

  const separatorAt = at;
  let previous = separator;
  for (at++; at < length; at++) {
    const byte = bytes[at] as number;
    if (byte === LF) return 'opaque';
    if (byte < SPACE && IS_SEPARATOR[byte] === 0) return 'opaque';
    if (IS_SEPARATOR[previous] === 1 && isVersionLetter(byte)) {
      const matched = commonPrefixIgnoringCase(bytes, at, length, VERSION_PREFIX);
      if (matched === VERSION_PREFIX.length) return 'http1';
      if (at + matched === length && length < DETECT_MAX_BYTES) return 'incomplete';
    }
    previous = byte;
  }
  if (length < DETECT_MAX_BYTES) return 'incomplete';
  // A first line this long is either a request with a huge target, which the parser refuses, or not HTTP.
  let target = separatorAt + 1;
  while (target < length && IS_SEPARATOR[bytes[target] as number] === 1) target++;
  const isAbsolute = commonPrefixIgnoringCase(bytes, target, length, ABSOLUTE_PREFIX) === ABSOLUTE_PREFIX.length;
  return bytes[target] === SLASH || isAbsolute ? 'http1' : 'opaque';
}

/**
 * How a connection goes on that was `opaque` for a first word of DETECT_MAX_BYTES or more: with more of it, with what makes it the method of a
 * request to a lenient server, or otherwise.
 */
export function continueWord(bytes: Buffer): 'word' | 'request' | 'other' {
  let at = 0;
  while (at < bytes.length && IS_TOKEN[bytes[at] as number] === 1) at++;
  if (at === bytes.length) return 'word';
  return IS_SEPARATOR[bytes[at] as number] === 1 ? 'request' : 'other';
}

function isWhitespace(byte: number): boolean {
  return byte === LF || IS_SEPARATOR[byte] === 1;
}

function isVersionLetter(byte: number): boolean {
  return (byte | 0x20) === 0x68;
}

/** How many bytes of `expected` are at `start`. */
function commonPrefix(bytes: Buffer, start: number, end: number, expected: Buffer): number {
  const most = Math.min(end - start, expected.length);
  for (let i = 0; i < most; i++) if (bytes[start + i] !== expected[i]) return i;
  return most;
}

/** As commonPrefix, for letters in either case. */
function commonPrefixIgnoringCase(bytes: Buffer, start: number, end: number, expected: Buffer): number {
  const most = Math.min(end - start, expected.length);
  for (let i = 0; i < most; i++) if (((bytes[start + i] as number) | 0x20) !== ((expected[i] as number) | 0x20)) return i;
  return most;
}
