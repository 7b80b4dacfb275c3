import { errorText } from '../../src/model/errors.ts';
import { parseSpiffeId } from '../../src/model/identity.ts';
import { parseStrictJson } from '../../src/jose/strict-json.ts';
import { parseBundle } from '../bundle/bundle-format.ts';
import type { JwtAuthority } from '../bundle/trust-state.ts';
import { CertsError } from '../errors.ts';
import { checkRoot } from '../svid/peer-verifier.ts';
import { splitCertificates } from '../x509/certificate-sequence.ts';
import { badMessage } from './spire-error.ts';

const MAX_JSON_DEPTH = 16;
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Reads the bundles of a FetchX509Bundles message. Another trust domain chooses what is in its bundle: what cannot be a root there is left out, and
 * so not trusted, for it must not keep changes of our own bundle from us.
 * @returns by trust domain: DER certificates
 * @throws CertsError WEFT_CERTS_SPIRE_MESSAGE when anything in our own is wrong: then nothing of the message is used
 */
export function readX509Bundles(bundles: ReadonlyMap<string, Uint8Array>, ownTrustDomain: string): Map<string, readonly Uint8Array[]> {
  return readEach(bundles, ownTrustDomain, (bytes, trustDomain) => {
    const roots = splitCertificates(bytes);
    if (trustDomain !== ownTrustDomain) return roots.filter(canBeRoot);
    for (const der of roots) checkRoot(der);
    return roots;
  });
}

function canBeRoot(der: Uint8Array): boolean {
  try {
    checkRoot(der);
    return true;
  } catch {
    return false;
  }
}

/**
 * Reads the bundles of a FetchJWTBundles message. One of another trust domain that cannot be used is empty: see readX509Bundles.
 * @returns by trust domain: keys that sign JWT-SVIDs
 * @throws CertsError WEFT_CERTS_SPIRE_MESSAGE when anything in our own is wrong: then nothing of the message is used
 */
export function readJwtBundles(bundles: ReadonlyMap<string, Uint8Array>, ownTrustDomain: string): Map<string, readonly JwtAuthority[]> {
  return readEach(bundles, ownTrustDomain, (bytes, trustDomain) => {
    const document = parseStrictJson(utf8.decode(bytes), MAX_JSON_DEPTH) as { readonly keys?: unknown } | null;
    if (!Array.isArray(document?.keys)) throw badMessage('a JWT bundle has no list of keys');
    // A plain JWK Set (SPIFFE_Workload_API.md section 6.2.2): SPIRE leaves `use` out, for which the SPIFFE bundle format has no default.
    const keys = document.keys.map((key: unknown) => (typeof key === 'object' ? Object.assign({ use: 'jwt-svid' }, key) : key));
    return parseBundle(JSON.stringify({ keys }), trustDomain).jwtAuthorities;
  });
}

function readEach<Item>(
  bundles: ReadonlyMap<string, Uint8Array>,
  ownTrustDomain: string,
  read: (bytes: Uint8Array, trustDomain: string) => readonly Item[],
): Map<string, readonly Item[]> {
  const found = new Map<string, readonly Item[]>();
  for (const [key, bytes] of bundles) {
    const trustDomain = trustDomainOf(key);
    try {
      found.set(trustDomain, read(bytes, trustDomain));
    } catch (error) {
      if (trustDomain === ownTrustDomain) throw asBadMessage(error);
      found.set(trustDomain, []);
    }
  }
  if (!found.has(ownTrustDomain)) throw badMessage(`there is no bundle of the trust domain ${ownTrustDomain} in it`);
  return found;
}

function trustDomainOf(key: string): string {
  try {
    const { trustDomain, path } = parseSpiffeId(key);
    if (path !== '') throw badMessage(`a bundle is said to be of ${key}, which is no trust domain`);
    return trustDomain;
  } catch (error) {
    throw asBadMessage(error);
  }
}

function asBadMessage(error: unknown): CertsError {
  return error instanceof CertsError && error.code === 'WEFT_CERTS_SPIRE_MESSAGE' ? error : badMessage(errorText(error), error);
}
