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

/** Addresses that no keys come from. Private networks are fine. */
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
 * Why keys are not fetched from this place, as the end of a sentence about the URL; null when they may be. A node's agent fetches them, so a URL that leads to
 * the credentials of the machine would be read with the node's rights (GHSA-fgw5-hp8f-xfhc). A name can still resolve to such an
 * address: who connects must check the address again.
 */
export function refusedJwksUri(text: string): string | null {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return 'is not a URL';
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'is not an http or https URL';
  // new URL() repairs what it reads: spaces, backslashes, missing slashes. None of that is in an honest URL.
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020\\\u007f-\uffff]/.test(text) || !/^https?:\/\/[^/]/i.test(text)) return 'is not written as a URL should be';
  if (url.username !== '' || url.password !== '') return 'has a user name or password in it';
  if (url.hash !== '') return 'has a fragment, which is never sent';
  // The URL parser has turned 0xa9fea9fe, 2852039166 and other spellings into dotted form.
  const host = url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname.replace(/\.$/, '');
  if (isIP(host) !== 0) return refusedAddress(host);
  return REFUSED_NAMES.has(host) || host.endsWith('.localhost') ? 'leads to the node itself or to its metadata' : null;
}

function refusedAddress(text: string): string | null {
  const address = canonicalIp(text) ?? text;
  const family = address.includes(':') ? 'ipv6' : 'ipv4';
  return REFUSED_ADDRESSES.find(([, blocks]) => blocks.check(address, family))?.[0] ?? null;
}

/** Members of a JWK that only private and symmetric keys have (RFC 7518 section 6). */
const PRIVATE_MEMBERS: readonly string[] = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];
const MAX_KEYS = 256;

/**
 * Why a text is not a JWK Set of public keys (RFC 7517 section 5), as the end of a sentence; null when it is. Keys of unknown types are left in, as
 * the RFC asks: nobody can use them. A private key is refused, since whoever reads the policy could sign tokens with it.
 */
export function refusedKeySet(text: string): string | null {
  let set: unknown;
  try {
    set = JSON.parse(text);
  } catch {
    return 'is not JSON';
  }
  const keys = isObject(set) ? set['keys'] : undefined;
  if (!Array.isArray(keys)) return 'has no list "keys"';
  if (keys.length > MAX_KEYS) return `has more than ${MAX_KEYS} keys`;
  for (const [index, key] of keys.entries()) {
    if (!isObject(key)) return `has a key ${index} that is not an object`;
    const { kty } = key;
    if (typeof kty !== 'string' || kty === '') return `has a key ${index} without a type ("kty")`;
    const secret = PRIVATE_MEMBERS.find((member) => Object.hasOwn(key, member));
    if (secret !== undefined) return `has a private or symmetric key (keys[${index}].${secret})`;
    const missing = (REQUIRED_MEMBERS[kty] ?? []).find((member) => typeof key[member] !== 'string');
    if (missing !== undefined) return `has an ${kty} key without "${missing}" (keys[${index}])`;
  }
  return null;
}

const REQUIRED_MEMBERS: Readonly<Record<string, readonly string[]>> = { RSA: ['n', 'e'], EC: ['crv', 'x', 'y'] };

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
