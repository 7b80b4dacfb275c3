import { isIPv4, isIPv6 } from 'node:net';

/** Where a CONNECT wants to go. */
export interface Authority {
  /** IPv4, IPv6 without brackets, or a host name as it was written. */
  readonly host: string;
  readonly port: number;
}

const HOST_NAME = /^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$/;
const PORT = /^[1-9][0-9]{0,4}$/;

/**
 * Parses `host:port` of a CONNECT (RFC 9110 section 9.3.6): IPv4, IPv6 in brackets, or a host name. No user information, no zone, no
 * leading zeros, nothing numeric that is not an address.
 * @returns null for anything else
 */
export function parseAuthority(text: string): Authority | null {
  const colon = text.lastIndexOf(':');
  if (colon <= 0 || text.length > 300) return null;
  const digits = text.slice(colon + 1);
  if (!PORT.test(digits)) return null;
  const port = Number(digits);
  if (port > 65_535) return null;
  const host = text.slice(0, colon);
  if (host.startsWith('[')) {
    const inner = host.slice(1, -1);
    return host.endsWith(']') && !inner.includes('%') && isIPv6(inner) ? { host: inner, port } : null;
  }
  if (isIPv4(host)) return { host, port };
  // `10.1` and `0x7f.1` are addresses to some resolvers: a host name must not end in a number (WHATWG URL, "ends in a number").
  const last = host.slice(host.lastIndexOf('.') + 1);
  if (!HOST_NAME.test(host) || host.includes('..') || /^(?:[0-9]+|0[xX][0-9a-fA-F]*)$/.test(last)) return null;
  return { host, port };
}
