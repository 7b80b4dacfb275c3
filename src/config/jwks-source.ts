import { isIP } from 'node:net';
import { canonicalIp } from './ip-address.ts';

/** Host names under which clouds serve instance credentials. */
const METADATA_NAMES: ReadonlySet<string> = new Set([
  'metadata.google.internal',
  'metadata.goog',
  'metadata',
  'instance-data',
  'instance-data.ec2.internal',
]);
/** The same by address where it is not link-local: AWS over IPv6, Alibaba, Oracle, Azure's wire server. */
const METADATA_ADDRESSES: ReadonlySet<string> = new Set(['fd00:ec2::254', '100.100.100.200', '192.0.0.192', '168.63.129.16']);

/**
 * Why keys are not fetched from this place, as the end of a sentence about the URL; null when they may be. A node's agent fetches them, so a URL that leads to
 * the credentials of the machine would be read with the node's rights (GHSA-fgw5-hp8f-xfhc). A name can still resolve to such an
 * address: who connects checks `refusedAddress` again.
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
  return METADATA_NAMES.has(host) ? 'leads to the metadata of the machine' : null;
}

/** The same for an address that a connection is about to go to. */
export function refusedAddress(text: string): string | null {
  const address = embeddedIpv4(canonicalIp(text) ?? text);
  if (address.startsWith('169.254.') || /^fe[89ab][0-9a-f]:/.test(address))
    return 'leads to a link-local address, where machines keep their credentials';
  if (METADATA_ADDRESSES.has(address)) return 'leads to the metadata of the machine';
  if (/^(0\.|22[4-9]\.|23\d\.|24\d\.|25[0-5]\.|ff[0-9a-f]{2}:)/.test(address) || address === '::') return 'leads to an address of no host';
  return null;
}

/** The IPv4 address inside of a NAT64 or IPv4-compatible one: both can lead to it. */
function embeddedIpv4(address: string): string {
  const match = /^(?:64:ff9b::|::)(?:(\d+\.\d+\.\d+\.\d+)|([0-9a-f]{1,4}):([0-9a-f]{1,4}))$/.exec(address);
  if (match === null) return address;
  const [, dotted, high, low] = match;
  if (dotted !== undefined) return dotted;
  const [a, b] = [Number.parseInt(high ?? '', 16), Number.parseInt(low ?? '', 16)];
  return `${a >> 8}.${a & 255}.${b >> 8}.${b & 255}`;
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
