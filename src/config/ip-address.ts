import { isIPv4, isIPv6, SocketAddress } from 'node:net';

const MAPPED = '::ffff:';

/**
 * The one spelling of an address, which is also how Node names the peers of sockets: RFC 5952 for IPv6, and an IPv4-mapped address as IPv4.
 * Null for anything that is not one plain address: octal or short IPv4, a zone, a prefix length, spaces.
 */
export function canonicalIp(text: string): string | null {
  // inet_pton's rules: no leading zeros, exactly four decimal parts. Readers that take 010.0.0.1 disagree on which address it is.
  if (isIPv4(text)) return text;
  if (text.includes('%') || !isIPv6(text)) return null;
  const { address } = new SocketAddress({ address: text, family: 'ipv6' });
  return address.startsWith(MAPPED) && address.includes('.') ? address.slice(MAPPED.length) : address;
}

/**
 * A CIDR block with its host bits cleared, in canonical spelling; a bare address becomes a block of one. Null when it is neither.
 * A block of IPv4-mapped addresses becomes the IPv4 block; one that holds more than mapped addresses is null.
 */
export function canonicalBlock(text: string): string | null {
  const slash = text.indexOf('/');
  const address = slash === -1 ? text : text.slice(0, slash);
  const canonical = canonicalIp(address);
  if (canonical === null) return null;
  const mapped = address.includes(':') && !canonical.includes(':');
  const width = canonical.includes(':') ? 128 : 32;
  if (slash === -1) return `${canonical}/${width}`;
  const written = text.slice(slash + 1);
  if (!/^(?:0|[1-9]\d{0,2})$/.test(written)) return null;
  const prefix = Number(written) - (mapped ? 96 : 0);
  if (prefix < 0 || prefix > width) return null;
  return width === 32 ? `${maskIpv4(canonical, prefix)}/${prefix}` : `${maskIpv6(canonical, prefix)}/${prefix}`;
}

function maskIpv4(address: string, prefix: number): string {
  const bytes = address.split('.').map(Number);
  return bytes.map((byte, index) => keepHighBits(byte, 8, prefix - index * 8)).join('.');
}

function maskIpv6(address: string, prefix: number): string {
  const groups = ipv6Groups(address).map((group, index) => keepHighBits(group, 16, prefix - index * 16));
  return canonicalIp(groups.map((group) => group.toString(16)).join(':')) ?? address;
}

/** `value` of `width` bits with all but its first `keep` bits cleared. */
function keepHighBits(value: number, width: number, keep: number): number {
  if (keep >= width) return value;
  if (keep <= 0) return 0;
  return (value >>> (width - keep)) << (width - keep);
}

/** The eight 16-bit groups of a canonical IPv6 address. */
function ipv6Groups(address: string): number[] {
  const [head = '', tail] = address.split('::');
  const left = groupsOf(head);
  const right = tail === undefined ? [] : groupsOf(tail);
  const gap = tail === undefined ? 0 : 8 - left.length - right.length;
  return [...left, ...Array.from({ length: gap }, () => 0), ...right];
}

function groupsOf(text: string): number[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (!group.includes('.')) return [Number.parseInt(group, 16)];
    const [a = 0, b = 0, c = 0, d = 0] = group.split('.').map(Number);
    return [a * 256 + b, c * 256 + d];
  });
}
