import { foldedName, isRemoved } from '../gate/header-fields.ts';
import type { HeaderChange } from '../../src/model/request-gate.ts';
import { IS_HOST } from '../http1/bytes.ts';
import { isForbiddenTrailer } from '../http1/trailer-names.ts';
import type { HeaderList } from '../../src/transport/http2/hpack.ts';
import { withoutOuterSpace } from '../../src/transport/http2/message.ts';

/** What one pass over a request's fields tells. Filled again for each request. */
export interface RequestFieldFacts {
  /** '' when there is none. */
  contentType: string;
  /** Bytes of names and values. */
  size: number;
  /** Index of `:path`, or -1. */
  pathAt: number;
  /** The value of `host`; '' when there is none. */
  host: string;
  /** A name begins with `x-forwarded-` or `x-weft-`. */
  hasTrustFields: boolean;
  /** There is a field that is for this proxy, not for the application. */
  hasHopFields: boolean;
  /** A name that a sloppy server would read as one that frames the message, or begins with `x-forwarded-` or `x-weft-`. */
  isAmbiguous: boolean;
}

const facts: RequestFieldFacts = {
  contentType: '',
  size: 0,
  pathAt: -1,
  host: '',
  hasTrustFields: false,
  hasHopFields: false,
  isAmbiguous: false,
};

const LETTER_X = 0x78;
const HOP_PREFIX = 'proxy-';
/** RFC 9110 section 11.7: credentials for a proxy, and what comes of them. The fields of RFC 9113 section 8.2.2 were refused before. */
const HOP_FIELDS: ReadonlySet<string> = new Set([
  'http2-settings',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-authentication-info',
]);
const FRAMING_FIELDS: ReadonlySet<string> = new Set(['content-length', 'transfer-encoding']);

/** The result is good until the next call. */
export function readRequestFields(fields: HeaderList): RequestFieldFacts {
  facts.contentType = '';
  facts.size = 0;
  facts.pathAt = -1;
  facts.host = '';
  facts.hasTrustFields = false;
  facts.hasHopFields = false;
  facts.isAmbiguous = false;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i] as string;
    const value = fields[i + 1] as string;
    facts.size += name.length + value.length;
    if (name === ':path') facts.pathAt = i;
    else if (name === 'content-type') {
      // Two of them: the first decides how a refusal looks, and nothing else.
      if (facts.contentType === '') facts.contentType = value;
    } else if (name === 'host') facts.host = value;
    else if (name.includes('_')) {
      if (isAmbiguousName(foldedName(name))) facts.isAmbiguous = true;
    } else if (name.charCodeAt(0) === LETTER_X) {
      if (isTrustName(name)) facts.hasTrustFields = true;
    } else if ((name.startsWith(HOP_PREFIX) || name === 'http2-settings') && HOP_FIELDS.has(name)) facts.hasHopFields = true;
  }
  return facts;
}

function isTrustName(name: string): boolean {
  return name.startsWith('x-forwarded-') || name.startsWith('x-weft-');
}

/** @param folded as servers that turn names into variables read a name with an underscore */
function isAmbiguousName(folded: string): boolean {
  return FRAMING_FIELDS.has(folded) || isTrustName(folded);
}

/** True for `host`, `host:port`, `[IPv6]` or `[IPv6]:port` of the characters that real ones have: no user information, no escapes. */
export function isAuthority(text: string): boolean {
  const { length } = text;
  if (length === 0 || length > 512) return false;
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i);
    if (code > 0x7f || IS_HOST[code] === 0) return false;
  }
  let end: number;
  if (text.charCodeAt(0) === 0x5b) {
    const close = text.indexOf(']');
    if (close < 3) return false;
    for (let i = 1; i < close; i++) {
      const code = text.charCodeAt(i);
      const lower = code | 0x20;
      const isHex = (code >= 0x30 && code <= 0x39) || (lower >= 0x61 && lower <= 0x66);
      if (!isHex && code !== 0x3a && code !== 0x2e) return false;
    }
    end = close + 1;
  } else {
    if (text.includes('[') || text.includes(']')) return false;
    const colon = text.indexOf(':');
    end = colon === -1 ? length : colon;
    if (end === 0) return false;
  }
  return end === length || isPort(text, end);
}

function isPort(text: string, colon: number): boolean {
  const start = colon + 1;
  if (text.charCodeAt(colon) !== 0x3a || start === text.length || text.length - start > 5) return false;
  let port = 0;
  for (let i = start; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9) return false;
    port = port * 10 + digit;
  }
  return port <= 65_535;
}

/**
 * The fields as the application gets them: those for this proxy are left out, and the gate's change is made. Pseudo-headers always stay.
 * The list itself is returned when there is nothing to do.
 */
export function forwardedFields(fields: HeaderList, change: HeaderChange | null, hasHopFields: boolean): HeaderList {
  if (change === null && !hasHopFields) return fields;
  const forwarded: HeaderList = [];
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i] as string;
    if (name.charCodeAt(0) !== 0x3a) {
      if (hasHopFields && HOP_FIELDS.has(name)) continue;
      if (change !== null && isRemoved(name, change)) continue;
    }
    forwarded.push(name, fields[i + 1] as string);
  }
  if (change !== null) for (const [name, value] of change.set) forwarded.push(name, withoutOuterSpace(value));
  return forwarded;
}

/** Trailers as the application gets them: what must not be believed in a head, or has no business there, is not believed in trailers. */
export function forwardedTrailers(fields: HeaderList, change: HeaderChange | null): HeaderList {
  const forwarded: HeaderList = [];
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i] as string;
    if (isForbiddenTrailer(foldedName(name)) || (change !== null && isRemoved(name, change))) continue;
    forwarded.push(name, fields[i + 1] as string);
  }
  return forwarded;
}
