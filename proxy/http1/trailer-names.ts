/**
 * Fields that frame, route, authenticate, or say how content is to be read: never valid in trailers (RFC 9110 section 6.5.1). A server
 * that merges trailers into headers would take them for what policy has seen.
 */
const FORBIDDEN_TRAILERS: ReadonlySet<string> = new Set([
  'authorization',
  'connection',
  'content-encoding',
  'content-length',
  'content-range',
  'content-type',
  'cookie',
  'expect',
  'forwarded',
  'host',
  'http2-settings',
  'keep-alive',
  'max-forwards',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'proxy-connection',
  'set-cookie',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'www-authenticate',
]);
/** Names that say who the client is, by whoever is trusted to say so. */
const FORBIDDEN_TRAILER_PREFIXES: readonly string[] = ['x-forwarded-', 'x-weft-'];

/** @param name in lower case, and with `-` for `_`: the reading of a sloppy server */
export function isForbiddenTrailer(name: string): boolean {
  return FORBIDDEN_TRAILERS.has(name) || FORBIDDEN_TRAILER_PREFIXES.some((prefix) => name.startsWith(prefix));
}
