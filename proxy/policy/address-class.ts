import { type IpBlockSet, parseIpAddress } from './ip-block.ts';

/** The class of what is no address. */
const NO_ADDRESS = -1;

function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : 1;
}

/** Index of the last start that is not greater, or -1. */
function lastNotGreater(starts: readonly bigint[], bits: bigint): number {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((starts[middle] as bigint) <= bits) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * Numbers addresses so that two with one number are in the same blocks: the blocks' ends cut the address space into intervals. Asked in
 * time logarithmic in the number of blocks.
 */
export class AddressClasses {
  readonly #v4: readonly bigint[];
  readonly #v6: readonly bigint[];

  constructor(blocks: Iterable<IpBlockSet>) {
    const v4 = new Set<bigint>();
    const v6 = new Set<bigint>();
    for (const set of blocks) {
      for (const { family, first, last } of set.ranges()) {
        const starts = family === 4 ? v4 : v6;
        starts.add(first);
        starts.add(last + 1n);
      }
    }
    this.#v4 = [...v4].toSorted(ascending);
    this.#v6 = [...v6].toSorted(ascending);
  }

  /** The number of the address's class; without blocks all have one, addresses or not, and nothing is parsed. */
  of(text: string): number {
    if (this.#v4.length === 0 && this.#v6.length === 0) return 0;
    const address = parseIpAddress(text);
    if (address === null) return NO_ADDRESS;
    // Even numbers for IPv4, odd ones for IPv6: a block of one family never holds the other.
    const at = lastNotGreater(address.family === 4 ? this.#v4 : this.#v6, address.bits) + 1;
    return at * 2 + (address.family === 4 ? 0 : 1);
  }
}
