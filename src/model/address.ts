const MAPPED = '::ffff:';

/**
 * The one spelling of an address in Weft: an IPv4-mapped IPv6 address, as a dual-stack socket reports it, is written as IPv4, and a
 * zone (`%eth0`) is left out. Other text is returned as it is.
 */
export function canonicalAddress(text: string): string {
  if (text.startsWith(MAPPED) && text.includes('.')) return text.slice(MAPPED.length);
  const zone = text.indexOf('%');
  return zone === -1 ? text : text.slice(0, zone);
}

/** True for IPv6 text (canonical: IPv4-mapped addresses are IPv4). */
export function isIpv6(address: string): boolean {
  return address.includes(':');
}

/** `host:port` as HTTP authorities and logs write it: IPv6 in brackets. */
export function joinHostPort(address: string, port: number): string {
  return isIpv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}
