import type { PathNormalisation as NormalisationSetting } from '../../src/model/resources.ts';

/**
 * Brings a request target to the one form that policy matches and the upstream receives, by Istio's levels. BASE is RFC 3986
 * sections 5.2.4 (dot segments) and 6.2.2.2 (escapes of unreserved characters, decoded once), and a backslash read as a slash: `%2f`,
 * `%5c`, `//` and `;parameters` stay as they are, and so does the case of letters.
 */

/**
 * How far to normalise. Each level does what the one before does, and more:
 * - base: see above;
 * - merge-slashes: after that, several slashes in a row become one;
 * - decode-and-merge-slashes: before all that, `%2f` and `%5c` become slashes.
 */
export type PathNormalisation = 'base' | 'merge-slashes' | 'decode-and-merge-slashes';

const LEVELS: Readonly<Record<NormalisationSetting, PathNormalisation>> = {
  BASE: 'base',
  MERGE_SLASHES: 'merge-slashes',
  DECODE_AND_MERGE_SLASHES: 'decode-and-merge-slashes',
};

/** The level that a mesh's settings name. */
export function normalisationLevel(setting: NormalisationSetting): PathNormalisation {
  return LEVELS[setting];
}

/** Why a target is refused. Each is answered with 400 before any policy is asked. */
export type PathRefusal =
  /** Neither origin-form (`/…`) nor `*`. Absolute-form and authority-form are the codec's to reduce first. */
  | 'target form'
  /** A `#`: what a server does with it is not agreed upon. */
  | 'fragment in target'
  /** `%00`. */
  | 'escaped NUL in path'
  /** A `%` without two hexadecimal digits. */
  | 'malformed escape in path'
  /** A control character, a space, or (in the path) a byte that is not ASCII. */
  | 'invalid character in target';

/** A target that was brought to its normal form. */
export interface NormalisedPath {
  /** Without the query. The same string as the target where that was normal and had no query. */
  readonly path: string;
  /** With its `?`, byte for byte as sent; empty when there is none. Never part of a match. */
  readonly query: string;
  /** False if the target may be forwarded as it came. */
  readonly changed: boolean;
}

const PERCENT = 0x25;
const ASTERISK = 0x2a;
const DOT = 0x2e;
const SLASH = 0x2f;
const QUESTION_MARK = 0x3f;
const HASH = 0x23;
const BACKSLASH = 0x5c;
const DELETE = 0x7f;

/** The value of a hexadecimal digit, or -1. NaN (past the end) is none. */
function hexDigit(code: number): number {
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  const lower = code | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}

/** RFC 3986 section 2.3. */
function isUnreserved(code: number): boolean {
  const lower = code | 0x20;
  return (
    (lower >= 0x61 && lower <= 0x7a) || (code >= 0x30 && code <= 0x39) || code === 0x2d || code === DOT || code === 0x5f || code === 0x7e
  );
}

/** True if the segment that starts at `at` is `.` or `..`. The codes past `end` are not part of the path. */
function isDotSegment(target: string, at: number, end: number): boolean {
  let next = at;
  if (next < end && target.charCodeAt(next) === DOT) next++;
  else return false;
  if (next < end && target.charCodeAt(next) === DOT) next++;
  return next === end || target.charCodeAt(next) === SLASH;
}

/** Checks what follows the `?`, which is forwarded but not normalised. */
function queryRefusal(target: string, from: number): PathRefusal | null {
  for (let i = from; i < target.length; i++) {
    const code = target.charCodeAt(i);
    if (code === HASH) return 'fragment in target';
    if (code <= 0x20 || code === DELETE) return 'invalid character in target';
  }
  return null;
}

/** Filled anew by each call that finds nothing to change, so that the usual request makes no garbage. */
const unchanged: { path: string; query: string; changed: boolean } = { path: '', query: '', changed: false };

/**
 * Normalises an origin-form target (or `*`), or says why it is refused.
 *
 * The result is good until the next call: take its strings. For a target that is normal already nothing is allocated but the two
 * parts of one with a query. It never decodes twice: `%252e` stays, and normalising a normal path changes nothing.
 * @param target the request-target of an HTTP/1.1 request line or an HTTP/2 `:path`, one code unit per byte
 */
export function normalisePath(target: string, level: PathNormalisation = 'base'): NormalisedPath | PathRefusal {
  const merges = level !== 'base';
  const decodesSlashes = level === 'decode-and-merge-slashes';
  if (target.charCodeAt(0) !== SLASH) {
    if (target.length !== 1 || target.charCodeAt(0) !== ASTERISK) return 'target form';
    unchanged.path = target;
    unchanged.query = '';
    return unchanged;
  }
  let end = target.length;
  let isNormal = true;
  for (let i = 0; i < target.length; i++) {
    const code = target.charCodeAt(i);
    if (code === PERCENT) {
      const high = hexDigit(target.charCodeAt(i + 1));
      const low = hexDigit(target.charCodeAt(i + 2));
      if (high === -1 || low === -1) return 'malformed escape in path';
      const decoded = high * 16 + low;
      if (decoded === 0) return 'escaped NUL in path';
      if (isUnreserved(decoded) || (decodesSlashes && isSlash(decoded))) isNormal = false;
      i += 2;
    } else if (code === SLASH) {
      if (merges && target.charCodeAt(i + 1) === SLASH) isNormal = false;
    } else if (code === BACKSLASH) {
      isNormal = false;
    } else if (code === QUESTION_MARK) {
      end = i;
      break;
    } else if (code === HASH) {
      return 'fragment in target';
    } else if (code <= 0x20 || code >= DELETE) {
      return 'invalid character in target';
    }
  }
  if (end < target.length) {
    const refusal = queryRefusal(target, end + 1);
    if (refusal !== null) return refusal;
  }
  // Where dots end is known only now that the end of the path is.
  for (let i = target.indexOf('/.'); isNormal && i !== -1 && i < end; i = target.indexOf('/.', i + 1)) {
    if (isDotSegment(target, i + 1, end)) isNormal = false;
  }
  const query = end === target.length ? '' : target.slice(end);
  if (isNormal) {
    unchanged.path = query === '' ? target : target.slice(0, end);
    unchanged.query = query;
    return unchanged;
  }
  return { path: resolveSegments(decode(target, end, decodesSlashes), merges), query, changed: true };
}

function isSlash(code: number): boolean {
  return code === SLASH || code === BACKSLASH;
}

/** Decodes once, and turns backslashes. `target` up to `end` has only well-formed escapes. */
function decode(target: string, end: number, decodesSlashes: boolean): string {
  let text = '';
  let kept = 0;
  for (let i = 0; i < end; i++) {
    const code = target.charCodeAt(i);
    if (code === BACKSLASH) {
      text += `${target.slice(kept, i)}/`;
      kept = i + 1;
    } else if (code === PERCENT) {
      const decoded = hexDigit(target.charCodeAt(i + 1)) * 16 + hexDigit(target.charCodeAt(i + 2));
      const isSeparator = decodesSlashes && isSlash(decoded);
      if (isSeparator || isUnreserved(decoded)) {
        text += target.slice(kept, i) + (isSeparator ? '/' : String.fromCharCode(decoded));
        kept = i + 3;
      }
      i += 2;
    }
  }
  return text + target.slice(kept, end);
}

/**
 * RFC 3986 section 5.2.4 on an absolute path: `..` at the root stays at the root. Empty segments count as segments, also for a `..` after
 * one; only then are they taken out, if `merges`. Envoy has the same order.
 */
function resolveSegments(path: string, merges: boolean): string {
  const segments = path.split('/');
  const kept: string[] = [];
  const last = segments.length - 1;
  // The first segment is the empty text before the leading slash.
  for (let i = 1; i <= last; i++) {
    const segment = segments[i] as string;
    if (segment === '..') kept.pop();
    else if (segment !== '.') {
      kept.push(segment);
      continue;
    }
    // A path that ends in a dot segment names a directory: it keeps its slash.
    if (i === last) kept.push('');
  }
  if (!merges) return `/${kept.join('/')}`;
  const isDirectory = kept.at(-1) === '';
  const named = kept.filter((segment) => segment !== '');
  return named.length === 0 ? '/' : `/${named.join('/')}${isDirectory ? '/' : ''}`;
}
