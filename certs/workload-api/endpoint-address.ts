import { isIP } from 'node:net';
import { IdentityError } from '../../src/model/identity.ts';

/** Where a Workload API is. */
export type EndpointAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** The variable that names it (SPIFFE_Workload_Endpoint.md section 4). */
export const ENDPOINT_VARIABLE = 'SPIFFE_ENDPOINT_SOCKET';

/**
 * Reads an endpoint's address by SPIFFE_Workload_Endpoint.md section 4, strictly: `unix:///absolute/path` without authority, or
 * `tcp://IP:port` without path; no query, fragment, user or host name.
 * @throws IdentityError WEFT_IDENTITY_ENDPOINT
 */
export function parseEndpointAddress(text: string): EndpointAddress {
  const [, scheme = '', rest = ''] = /^(unix|tcp):\/\/(.*)$/s.exec(text) ?? [];
  // oxlint-disable-next-line no-control-regex
  if (/[?#\s\u0000-\u001f]/.test(rest)) throw invalid(text);
  if (scheme === 'unix') {
    if (!rest.startsWith('/') || rest.endsWith('/')) throw invalid(text);
    return { kind: 'unix', path: decodePath(text, rest) };
  }
  const [, ipv6, ipv4, port = ''] = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(rest) ?? [];
  const host = ipv6 ?? ipv4 ?? '';
  if (scheme !== 'tcp' || isIP(host) !== (ipv6 === undefined ? 4 : 6) || Number(port) < 1 || Number(port) > 65_535) throw invalid(text);
  return { kind: 'tcp', host, port: Number(port) };
}

/** It is a URI: what a path may not hold is escaped there. */
function decodePath(text: string, path: string): string {
  try {
    const decoded = decodeURIComponent(path);
    if (!decoded.includes('\0')) return decoded;
  } catch {
    // A percent sign that escapes nothing.
  }
  throw invalid(text);
}

function invalid(text: string): IdentityError {
  return new IdentityError('WEFT_IDENTITY_ENDPOINT', `not the address of a Workload API: ${JSON.stringify(text.slice(0, 200))}`, {
    nextStep: 'use unix:///absolute/path or tcp://IP:port',
  });
}
