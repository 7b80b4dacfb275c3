import { BlockList, isIP } from 'node:net';
import { canonicalIp } from './ip-address.ts';

/** Host names under which clouds serve instance credentials, and that of the node itself. */
const REFUSED_NAMES: ReadonlySet<string> = new Set([
  'metadata.google.internal',
  'metadata.goog',
  'metadata',
  'instance-data',
  'instance-data.ec2.internal',
  'localhost',
]);

/** Addresses that nothing is fetched from. Private networks are fine. */
const REFUSED_ADDRESSES: readonly (readonly [why: string, blocks: BlockList])[] = [
  ['leads to the node itself', blockList('127.0.0.0/8', '0.0.0.0/8', '::1/128', '::/128')],
  ['leads to a link-local address, where machines keep their credentials', blockList('169.254.0.0/16', 'fe80::/10')],
  // AWS over IPv6, Alibaba, Oracle, Azure's wire server: not link-local.
  ['leads to the metadata of the machine', blockList('fd00:ec2::254/128', '100.100.100.200/32', '192.0.0.192/32', '168.63.129.16/32')],
  ['leads to an address of no host', blockList('224.0.0.0/3', 'ff00::/8')],
  ['hides an IPv4 address in an IPv6 one', blockList('::/96', '64:ff9b::/96', '64:ff9b:1::/48', '2002::/16')],
];

function blockList(...blocks: string[]): BlockList {
  const list = new BlockList();
  for (const block of blocks) {
    const [address = '', prefix = ''] = block.split('/');
    list.addSubnet(address, Number(prefix), address.includes(':') ? 'ipv6' : 'ipv4');
  }
  return list;
}

/**
 * Why the agent fetches nothing from this host, as the end of a sentence about the URL; null when it does. It runs in the node's own network, so a
 * URL that somebody else may write must not lead to the node itself or to the credentials of the machine (GHSA-fgw5-hp8f-xfhc). A name
 * can still resolve to such an address: who connects must check the address again (isFetchable).
 *
 * @param hostname as URL.hostname has it: dotted form whatever was written, IPv6 in brackets
 */
export function refusedHost(hostname: string): string | null {
  const host = hostname.startsWith('[') ? hostname.slice(1, -1) : hostname.replace(/\.$/, '');
  if (isIP(host) !== 0) return refusedAddress(host);
  return REFUSED_NAMES.has(host) || host.endsWith('.localhost') ? 'leads to the node itself or to its metadata' : null;
}

/** Whether the agent may fetch from this address, where somebody else chose it. False for what is no address. */
export function isFetchable(address: string): boolean {
  const plain = address.split('%', 1)[0] as string;
  return isIP(plain) !== 0 && refusedAddress(plain) === null;
}

function refusedAddress(text: string): string | null {
  const address = canonicalIp(text) ?? text;
  const family = address.includes(':') ? 'ipv6' : 'ipv4';
  return REFUSED_ADDRESSES.find(([, blocks]) => blocks.check(address, family))?.[0] ?? null;
}
