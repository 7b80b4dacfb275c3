import { decodeSocketAddress, encodeSocketAddress } from 'libbpf-ts/sys';
import { canonicalAddress } from '../src/model/address.ts';

const SOCKADDR_IN_SIZE = 16;
const SOCKADDR_IN_ADDRESS = 4;
const SOCKADDR_IN6_SIZE = 28;
const SOCKADDR_IN6_ADDRESS = 8;
const AF_INET6 = 10;

/** An address as bpf/weft.h has it: 16 bytes in network order, IPv4 as IPv4-mapped. */
export function addressBytes(text: string): Uint8Array {
  const encoded = encodeSocketAddress({ address: canonicalAddress(text), port: 0 });
  if (encoded.length !== SOCKADDR_IN_SIZE) return encoded.slice(SOCKADDR_IN6_ADDRESS, SOCKADDR_IN6_ADDRESS + 16);
  const bytes = new Uint8Array(16);
  bytes[10] = 0xff;
  bytes[11] = 0xff;
  bytes.set(encoded.subarray(SOCKADDR_IN_ADDRESS, SOCKADDR_IN_ADDRESS + 4), 12);
  return bytes;
}

/** The canonical text of such an address. */
export function addressText(bytes: Uint8Array): string {
  if (isMapped(bytes)) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}`;
  const encoded = new Uint8Array(SOCKADDR_IN6_SIZE);
  new DataView(encoded.buffer).setUint16(0, AF_INET6, true);
  encoded.set(bytes, SOCKADDR_IN6_ADDRESS);
  return decodeSocketAddress(encoded).address;
}

function isMapped(bytes: Uint8Array): boolean {
  for (let index = 0; index < 10; index++) if (bytes[index] !== 0) return false;
  return bytes[10] === 0xff && bytes[11] === 0xff;
}
