import { isIPv4, isIPv6 } from 'node:net';
import { PolicyError } from './policy-error.ts';
import { checkValues } from './text-matcher.ts';

/** An address as a number. An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is the IPv4 address. */
export interface IpAddress {
  readonly family: 4 | 6;
  readonly bits: bigint;
}

const MAPPED_PREFIX = 0xffffn;

function ipv4Bits(text: string): bigint {
  let bits = 0n;
  for (const octet of text.split('.')) bits = (bits << 8n) | BigInt(octet);
  return bits;
}

/** `text` has passed isIPv6 and carries no zone. */
function ipv6Bits(text: string): bigint {
  let groups = text;
  let tail: bigint | null = null;
  const lastColon = text.lastIndexOf(':');
  if (text.includes('.', lastColon)) {
    tail = ipv4Bits(text.slice(lastColon + 1));
    groups = `${text.slice(0, lastColon + 1)}0:0`;
  }
  const gap = groups.indexOf('::');
  const left = gap === -1 ? groups.split(':') : groups.slice(0, gap).split(':').filter(Boolean);
  const right =
    gap === -1
      ? []
      : groups
          .slice(gap + 2)
          .split(':')
          .filter(Boolean);
  let bits = 0n;
  for (const group of left) bits = (bits << 16n) | BigInt(`0x${group}`);
  bits <<= BigInt(16 * (8 - left.length));
  let low = 0n;
  for (const group of right) low = (low << 16n) | BigInt(`0x${group}`);
  return bits | low | (tail ?? 0n);
}

/** Parses an address; a zone (`%eth0`) is left out, since blocks do not name zones. Null when it is not an address. */
export function parseIpAddress(text: string): IpAddress | null {
  if (isIPv4(text)) return { family: 4, bits: ipv4Bits(text) };
  if (!isIPv6(text)) return null;
  const zone = text.indexOf('%');
  const bits = ipv6Bits(zone === -1 ? text : text.slice(0, zone));
  return bits >> 32n === MAPPED_PREFIX ? { family: 4, bits: bits & 0xffff_ffffn } : { family: 6, bits };
}

const PREFIX_LENGTH = /^(?:0|[1-9]\d{0,2})$/;

function badBlock(field: string, text: string): PolicyError {
  return new PolicyError('WEFT_POLICY_ADDRESS', `${field} has a value that is not an address block: ${JSON.stringify(text.slice(0, 80))}`, {
    nextStep: 'write an address or a CIDR such as 10.0.0.0/8 or fd00::/8',
  });
}

/**
 * Address blocks, as one set per family and prefix length: asking takes one look-up per distinct length, however many blocks there are.
 * An IPv4 block never holds an IPv6 address nor the reverse, except that IPv4-mapped addresses and blocks (`::ffff:10.0.0.0/104`) are IPv4.
 */
export class IpBlockSet {
  /** Per family: how far to shift an address, and the blocks at that length. */
  readonly #v4: readonly (readonly [bigint, ReadonlySet<bigint>])[];
  readonly #v6: readonly (readonly [bigint, ReadonlySet<bigint>])[];

  /** @throws PolicyError WEFT_POLICY_ADDRESS, or WEFT_POLICY_VALUE for an empty list: no block is ever left out */
  constructor(field: string, blocks: readonly string[]) {
    checkValues(field, blocks);
    const v4 = new Map<bigint, Set<bigint>>();
    const v6 = new Map<bigint, Set<bigint>>();
    for (const text of blocks) {
      const slash = text.indexOf('/');
      const addressText = slash === -1 ? text : text.slice(0, slash);
      const address = addressText.includes('%') ? null : parseIpAddress(addressText);
      if (address === null) throw badBlock(field, text);
      const isMapped = address.family === 4 && addressText.includes(':');
      const writtenBits = isMapped || address.family === 6 ? 128 : 32;
      let length = writtenBits;
      if (slash !== -1) {
        const lengthText = text.slice(slash + 1);
        if (!PREFIX_LENGTH.test(lengthText)) throw badBlock(field, text);
        length = Number(lengthText);
        if (length > writtenBits) throw badBlock(field, text);
      }
      if (isMapped) {
        // A shorter one would reach beyond the mapped range: neither family, so nobody can have meant it.
        if (length < 96) throw badBlock(field, text);
        length -= 96;
      }
      const sets = address.family === 4 ? v4 : v6;
      const shift = BigInt((address.family === 4 ? 32 : 128) - length);
      let set = sets.get(shift);
      if (set === undefined) {
        set = new Set();
        sets.set(shift, set);
      }
      set.add(address.bits >> shift);
    }
    this.#v4 = [...v4];
    this.#v6 = [...v6];
  }

  /** Every block as the range of addresses it holds: for classes of addresses that no block tells apart. */
  *ranges(): IterableIterator<{ readonly family: 4 | 6; readonly first: bigint; readonly last: bigint }> {
    for (const [family, sets] of [
      [4, this.#v4],
      [6, this.#v6],
    ] as const) {
      for (const [shift, set] of sets) {
        for (const block of set) yield { family, first: block << shift, last: ((block + 1n) << shift) - 1n };
      }
    }
  }

  /** True if any block holds the address. */
  has(address: IpAddress): boolean {
    const sets = address.family === 4 ? this.#v4 : this.#v6;
    for (const [shift, set] of sets) {
      if (set.has(address.bits >> shift)) return true;
    }
    return false;
  }
}
