import { isIPv4, isIPv6 } from 'node:net';
import { LibbpfError } from './errors.ts';

/** Address families, as Linux numbers them. */
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;

/** An IPv4 or IPv6 socket address. */
export interface SocketAddress {
  readonly family: typeof AF_INET | typeof AF_INET6;
  /** Text form. An IPv6 address is in its canonical short form (RFC 5952) when it comes from the kernel. */
  readonly address: string;
  readonly port: number;
  /** IPv6 scope: the interface index of a link-local address. 0 when there is none. */
  readonly scopeId?: number;
}

const IPV4_SIZE = 16;
const IPV6_SIZE = 28;

/**
 * `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)). The family is the address's own when it is not given.
 * Throws LIBBPF_SOCKET_ADDRESS for an address or a port that is none.
 */
export function encodeSocketAddress(address: Omit<SocketAddress, 'family'> & { readonly family?: number }): Uint8Array<ArrayBuffer> {
  const { port } = address;
  if (!Number.isInteger(port) || port < 0 || port > 65535) throw new LibbpfError('LIBBPF_SOCKET_ADDRESS', `${port} is not a port`);
  const bytes = isIPv4(address.address) ? encodeIPv4(address.address, port) : encodeIPv6(address.address, port, address.scopeId ?? 0);
  const family = bytes.length === IPV4_SIZE ? AF_INET : AF_INET6;
  if (address.family !== undefined && address.family !== family) {
    throw new LibbpfError('LIBBPF_SOCKET_ADDRESS', `${address.address} is not an address of family ${address.family}`);
  }
  return bytes;
}

function encodeIPv4(text: string, port: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(new ArrayBuffer(IPV4_SIZE));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port, false);
  let index = 4;
  for (const part of text.split('.')) bytes[index++] = Number(part);
  return bytes;
}

function encodeIPv6(text: string, port: number, scopeId: number): Uint8Array<ArrayBuffer> {
  if (!isIPv6(text) || text.includes('%')) throw new LibbpfError('LIBBPF_SOCKET_ADDRESS', `${JSON.stringify(text)} is not an IP address`);
  if (!Number.isInteger(scopeId) || scopeId < 0 || scopeId > 0xffffffff) {
    throw new LibbpfError('LIBBPF_SOCKET_ADDRESS', `${scopeId} is not an IPv6 scope`);
  }
  const bytes = new Uint8Array(new ArrayBuffer(IPV6_SIZE));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET6, true);
  view.setUint16(2, port, false);
  bytes.set(parseIPv6(text), 8);
  view.setUint32(24, scopeId, true);
  return bytes;
}

/** The 16 bytes of an IPv6 address that `isIPv6` has accepted. */
function parseIPv6(text: string): Uint8Array {
  let groups = text;
  const lastColon = text.lastIndexOf(':');
  const tail = text.slice(lastColon + 1);
  if (tail.includes('.')) {
    const [a = 0, b = 0, c = 0, d = 0] = tail.split('.').map(Number);
    groups = `${text.slice(0, lastColon + 1)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  }
  const [before = '', after] = groups.split('::');
  const head = before === '' ? [] : before.split(':');
  const end = after === undefined || after === '' ? [] : after.split(':');
  const view = new DataView(new ArrayBuffer(16));
  head.forEach((group, index) => {
    view.setUint16(index * 2, Number.parseInt(group, 16), false);
  });
  end.forEach((group, index) => {
    view.setUint16(16 - (end.length - index) * 2, Number.parseInt(group, 16), false);
  });
  return new Uint8Array(view.buffer);
}

/** The inverse of {@link encodeSocketAddress}. Throws LIBBPF_SOCKET_ADDRESS for another family or too few bytes. */
export function decodeSocketAddress(bytes: Uint8Array): SocketAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = bytes.length >= 2 ? view.getUint16(0, true) : 0;
  if (family === AF_INET && bytes.length >= 8) {
    return { family, address: bytes.subarray(4, 8).join('.'), port: view.getUint16(2, false) };
  }
  if (family === AF_INET6 && bytes.length >= IPV6_SIZE) {
    const scopeId = view.getUint32(24, true);
    return { family, address: formatIPv6(bytes.subarray(8, 24)), port: view.getUint16(2, false), scopeId };
  }
  throw new LibbpfError('LIBBPF_SOCKET_ADDRESS', `${bytes.length} bytes of family ${family} are not an IP socket address`);
}

/** RFC 5952: lower case, no leading zeros, the longest run of two or more zero groups as `::`, IPv4-mapped in dotted form. */
function formatIPv6(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  const groups = Array.from({ length: 8 }, (_, index) => view.getUint16(index * 2, false));
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) return `::ffff:${bytes.subarray(12, 16).join('.')}`;
  let bestStart = -1;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > bestLength) {
      bestStart = start;
      bestLength = length;
    }
  }
  if (bestStart < 0) return groupText(groups);
  return `${groupText(groups.slice(0, bestStart))}::${groupText(groups.slice(bestStart + bestLength))}`;
}

function groupText(groups: readonly number[]): string {
  return groups.map((group) => group.toString(16)).join(':');
}
