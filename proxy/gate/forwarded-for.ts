import { isIPv4, isIPv6, SocketAddress } from 'node:net';
import { canonicalAddress } from '../../src/model/address.ts';

/**
 * The client's address as proxies in front of us wrote it: entry number `hops` from the right of X-Forwarded-For, where several fields count as
 * one list. That is Envoy's xff_num_trusted_hops: each trusted proxy appended the peer it saw, so what is further left is hearsay.
 * Null when there are fewer entries, or that one is not a plain address: the direct peer is then all that is known.
 *
 * @param hops at least 1
 */
export function forwardedClient(values: readonly string[], hops: number): string | null {
  let left = hops;
  for (let i = values.length - 1; i >= 0; i--) {
    const value = values[i] as string;
    let end = value.length;
    for (;;) {
      const comma = end === 0 ? -1 : value.lastIndexOf(',', end - 1);
      left--;
      if (left === 0) return plainAddress(value.slice(comma + 1, end).trim());
      if (comma === -1) break;
      end = comma;
    }
  }
  return null;
}

/** Canonical text of one address, or null: no port, no brackets, no zone, no name. */
function plainAddress(text: string): string | null {
  if (isIPv4(text)) return text;
  if (text.includes('%') || !isIPv6(text)) return null;
  return canonicalAddress(new SocketAddress({ address: text, family: 'ipv6' }).address);
}
