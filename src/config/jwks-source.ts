import { PRIVATE_JWK_MEMBERS } from '../model/jwk.ts';
import { refusedHost } from './fetchable-address.ts';

/**
 * Why keys are not fetched from this place, as the end of a sentence about the URL; null when they may be. The
 * host is checked as refusedHost says.
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
  return refusedHost(url.hostname);
}

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
    const secret = PRIVATE_JWK_MEMBERS.find((member) => Object.hasOwn(key, member));
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
