import type { HeaderList } from './hpack.ts';

/**
 * What RFC 9113 sections 8.2 and 8.3 ask of a message's fields. Anything malformed is refused: an intermediary that repairs
 * a message is how request smuggling starts.
 */

/** The control data of a request. `scheme` and `path` are empty for CONNECT. */
export interface RequestHead {
  readonly method: string;
  readonly scheme: string;
  readonly authority: string;
  readonly path: string;
  /** From content-length, or -1. */
  readonly contentLength: number;
}

export interface ResponseHead {
  readonly status: number;
  /** From content-length, or -1. */
  readonly contentLength: number;
}

/** Lower-case token characters, RFC 9110 section 5.6.2. */
const NAME_CHARACTER = new Uint8Array(256);
for (const character of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") NAME_CHARACTER[character.charCodeAt(0)] = 1;
const METHOD_CHARACTER = NAME_CHARACTER.slice();
for (const character of 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') METHOD_CHARACTER[character.charCodeAt(0)] = 1;

/** Fields that speak about one HTTP/1.1 connection (RFC 9113 section 8.2.2). */
const CONNECTION_FIELDS: ReadonlySet<string> = new Set(['connection', 'proxy-connection', 'keep-alive', 'transfer-encoding', 'upgrade']);

function onlyOf(text: string, allowed: Uint8Array): boolean {
  if (text.length === 0) return false;
  for (let i = 0; i < text.length; i++) if (allowed[text.charCodeAt(i)] !== 1) return false;
  return true;
}

/** True for a field value that may go on the wire: latin1, no control characters but TAB, no white space around it. */
export function isFieldValue(value: string): boolean {
  const length = value.length;
  for (let i = 0; i < length; i++) {
    const code = value.charCodeAt(i);
    if ((code < 0x20 && code !== 0x09) || code === 0x7f || code > 0xff) return false;
  }
  if (length === 0) return true;
  const first = value.charCodeAt(0);
  const last = value.charCodeAt(length - 1);
  return first !== 0x20 && first !== 0x09 && last !== 0x20 && last !== 0x09;
}

/** A value that HTTP/1.1 takes, as HTTP/2 wants it: no white space around it. */
export function withoutOuterSpace(value: string): string {
  let start = 0;
  let end = value.length;
  while (start < end && (value.charCodeAt(start) === 0x20 || value.charCodeAt(start) === 0x09)) start++;
  while (end > start && (value.charCodeAt(end - 1) === 0x20 || value.charCodeAt(end - 1) === 0x09)) end--;
  return end - start === value.length ? value : value.slice(start, end);
}

/** True for a field name that may go on the wire: a lower-case token. */
export function isFieldName(name: string): boolean {
  return onlyOf(name, NAME_CHARACTER);
}

/** Checks one regular field. Returns what is wrong, or null. */
function checkField(name: string, value: string): string | null {
  if (!isFieldName(name)) return 'a field name that is no lower-case token';
  if (!isFieldValue(value)) return `an illegal value of ${name}`;
  if (CONNECTION_FIELDS.has(name)) return `${name} does not exist in HTTP/2`;
  if (name === 'te' && value !== 'trailers') return 'te other than trailers';
  return null;
}

/** A content-length value, or -1 if it is none. */
function parseLength(value: string): number {
  if (value.length === 0 || value.length > 15) return -1;
  let length = 0;
  for (let i = 0; i < value.length; i++) {
    const digit = value.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9) return -1;
    length = length * 10 + digit;
  }
  return length;
}

/**
 * Checks a request's fields (RFC 9113 section 8.3.1, 8.5). Extended CONNECT (RFC 8441) is refused: nobody was offered it.
 * @returns the control data, or what is wrong
 */
export function readRequestHead(fields: HeaderList): RequestHead | string {
  let method = '';
  let scheme = '';
  let authority = '';
  let path = '';
  let host: string | null = null;
  let contentLength = -1;
  let seen = 0;
  let regular = false;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i] as string;
    const value = fields[i + 1] as string;
    if (name.charCodeAt(0) === 0x3a) {
      if (regular) return 'a pseudo-header after a regular field';
      if (!isFieldValue(value)) return `an illegal value of ${name}`;
      let bit = 0;
      if (name === ':method') {
        bit = 1;
        method = value;
      } else if (name === ':scheme') {
        bit = 2;
        scheme = value;
      } else if (name === ':authority') {
        bit = 4;
        authority = value;
      } else if (name === ':path') {
        bit = 8;
        path = value;
      } else {
        return 'an unknown pseudo-header';
      }
      if ((seen & bit) !== 0) return `two of ${name}`;
      seen |= bit;
      continue;
    }
    regular = true;
    const wrong = checkField(name, value);
    if (wrong !== null) return wrong;
    if (name === 'content-length') {
      if (contentLength !== -1) return 'two content-lengths';
      contentLength = parseLength(value);
      if (contentLength === -1) return 'an illegal content-length';
    } else if (name === 'host') {
      if (host !== null) return 'two hosts';
      host = value;
    }
  }
  if (!onlyOf(method, METHOD_CHARACTER)) return 'no method';
  if (method === 'CONNECT') {
    if ((seen & (2 | 8)) !== 0) return 'CONNECT with a scheme or a path';
    if (authority === '') return 'CONNECT without an authority';
    if (contentLength !== -1) return 'CONNECT with a content-length';
  } else {
    if (scheme === '') return 'no scheme';
    if (path === '') return 'no path';
    if (path.charCodeAt(0) !== 0x2f && !(path === '*' && method === 'OPTIONS')) return 'a path that does not begin with a slash';
  }
  // RFC 9113 section 8.3.1: a Host that says otherwise is how two hops come to disagree.
  if (host !== null && (seen & 4) !== 0 && host.toLowerCase() !== authority.toLowerCase()) return 'a host other than the authority';
  return { method, scheme, authority, path, contentLength };
}

/**
 * Checks a response's fields (RFC 9113 section 8.3.2).
 * @returns the control data, or what is wrong
 */
export function readResponseHead(fields: HeaderList): ResponseHead | string {
  let status = 0;
  let contentLength = -1;
  let regular = false;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i] as string;
    const value = fields[i + 1] as string;
    if (name.charCodeAt(0) === 0x3a) {
      if (regular) return 'a pseudo-header after a regular field';
      if (name !== ':status') return 'an unknown pseudo-header';
      if (status !== 0) return 'two of :status';
      status = value.length === 3 ? parseLength(value) : 0;
      if (status < 100) return 'an illegal status';
      continue;
    }
    regular = true;
    const wrong = checkField(name, value);
    if (wrong !== null) return wrong;
    if (name === 'content-length') {
      if (contentLength !== -1) return 'two content-lengths';
      contentLength = parseLength(value);
      if (contentLength === -1) return 'an illegal content-length';
    }
  }
  if (status === 0) return 'no status';
  if (status === 101) return 'status 101 does not exist in HTTP/2';
  return { status, contentLength };
}

/** Fields that change framing or routing: never valid in trailers (RFC 9110 section 6.5.1). */
const FORBIDDEN_TRAILERS: ReadonlySet<string> = new Set(['content-length', 'host', 'trailer']);

/** Checks trailers: regular fields only (RFC 9113 section 8.1), and none that frames or routes. Returns what is wrong, or null. */
export function checkTrailers(fields: HeaderList): string | null {
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i] as string;
    if (name.charCodeAt(0) === 0x3a) return 'a pseudo-header in trailers';
    if (FORBIDDEN_TRAILERS.has(name)) return `${name} in trailers`;
    const wrong = checkField(name, fields[i + 1] as string);
    if (wrong !== null) return wrong;
  }
  return null;
}

/** The first value of a field, or null. */
export function fieldValue(fields: readonly string[], name: string): string | null {
  for (let i = 0; i + 1 < fields.length; i += 2) if (fields[i] === name) return fields[i + 1] as string;
  return null;
}
