import { hash, type KeyObject, type X509Certificate } from 'node:crypto';
import type { PeerVerifier } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import { IdentityError, parseSpiffeId, type SpiffeId } from '../../src/model/identity.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { type CertificateFields, EXTENDED_KEY_USAGE, KEY_USAGE, readCertificateFields, sameBytes } from '../x509/certificate-fields.ts';
import type { BundleSource } from './identity-source.ts';
import { isStrongKey, publicKeyDigest } from '../x509/public-key.ts';
import { SIGNATURE_ALGORITHMS } from '../x509/signature-algorithms.ts';

export interface SvidVerifierOptions {
  /** Milliseconds since the epoch. Default: Date.now. */
  readonly now?: () => number;
  /** Verified leaves to remember. Default 4096; 0 remembers none. */
  readonly cacheSize?: number;
}

/**
 * How far the issuer's clock may run ahead of ours. There is no such allowance at the other end: a peer renews at half of its
 * certificate's life, so one that shows an expired certificate has a problem that must be seen.
 */
const CLOCK_SKEW_MS = 10_000;
/** Certificates a peer may send, leaf included. */
export const MAX_CHAIN_CERTIFICATES = 8;
/** Signatures checked for one chain: bounds what a peer with many look-alike intermediates can cost. */
const MAX_SIGNATURE_CHECKS = 16;
const DEFAULT_CACHE_SIZE = 4096;
/** Issuers that are no roots, whose intermediates are remembered: more than all federated trust domains together have at a time. */
const MAX_ISSUERS = 256;

interface ParsedCertificate {
  readonly fields: CertificateFields;
  readonly certificate: X509Certificate;
  readonly key: KeyObject;
}

interface RootSet {
  readonly sequence: number;
  readonly roots: readonly ParsedCertificate[];
  readonly revokedKeys: ReadonlySet<string>;
  /** Why roots of the bundle are not among `roots`. */
  readonly rejected: string | null;
}

interface CachedPeer {
  readonly id: SpiffeId;
  readonly sequence: number;
  /** The span in which every certificate of the path that was found is valid. */
  readonly notBefore: number;
  readonly notAfter: number;
}

interface Path {
  /** DER, from the issuer of the leaf upwards, without the root. */
  readonly intermediates: readonly Uint8Array[];
  readonly notBefore: number;
  readonly notAfter: number;
}

/**
 * Verifies a peer's certificate chain as X509-SVID.md section 5 asks, from its DER. It does not trust that anybody looked before, so it is
 * right on full and on resumed handshakes, with `rejectUnauthorized` on or off. A leaf that has passed is remembered by its SHA-256 until
 * its path expires or its trust domain's bundle changes.
 */
export class SvidVerifier implements PeerVerifier {
  readonly #bundles: BundleSource;
  readonly #now: () => number;
  readonly #cacheSize: number;
  readonly #cache = new Map<string, CachedPeer>();
  /** By trust domain and issuer of a leaf: the way from there to a root, when last one was found. */
  readonly #intermediates = new Map<string, readonly Uint8Array[]>();
  readonly #roots = new Map<string, RootSet>();

  constructor(bundles: BundleSource, options: SvidVerifierOptions = {}) {
    this.#bundles = bundles;
    this.#now = options.now ?? Date.now;
    this.#cacheSize = options.cacheSize ?? DEFAULT_CACHE_SIZE;
  }

  /** Leaves remembered now. */
  get cached(): number {
    return this.#cache.size;
  }

  verify(chain: readonly Uint8Array[], at?: number): SpiffeId {
    const leafDer = chain[0];
    if (leafDer === undefined || leafDer.length === 0) {
      throw refuse('NO_CERTIFICATE', 'the peer showed no certificate', 'check that the peer is enrolled and has an SVID');
    }
    if (chain.length > MAX_CHAIN_CERTIFICATES) throw refuse('CHAIN', `the peer sent more than ${MAX_CHAIN_CERTIFICATES} certificates`);
    const now = at ?? this.#now();
    const digest = hash('sha256', leafDer, 'base64');
    const known = this.#cache.get(digest);
    if (known !== undefined) {
      const current = this.#bundles.bundle(known.id.trustDomain)?.sequence === known.sequence;
      if (current && now + CLOCK_SKEW_MS >= known.notBefore && now <= known.notAfter) return known.id;
      this.#cache.delete(digest);
    }

    const leaf = parse(leafDer, "the peer's certificate");
    const id = checkLeaf(leaf.fields);
    checkValidity(leaf.fields, "the peer's certificate", now);
    const rootSet = this.#rootSet(id.trustDomain);
    const path = findPath(leaf, chain, rootSet, now);
    this.#remember(digest, { id, sequence: rootSet.sequence, notBefore: path.notBefore, notAfter: path.notAfter });
    if (path.intermediates.length > 0) this.#rememberIntermediates(issuerKey(id.trustDomain, leaf.fields), path.intermediates);
    return id;
  }

  complete(leaf: Uint8Array): readonly Uint8Array[] {
    // With roots that sign leaves themselves, this is all there is to it.
    if (this.#intermediates.size === 0) return [leaf];
    try {
      const fields = readCertificateFields(leaf);
      return [leaf, ...(this.#intermediates.get(issuerKey(readSpiffeId(fields.uris).trustDomain, fields)) ?? [])];
    } catch {
      // Whoever verifies it says what is wrong.
      return [leaf];
    }
  }

  #rememberIntermediates(key: string, intermediates: readonly Uint8Array[]): void {
    if (this.#cacheSize === 0) return;
    this.#intermediates.delete(key);
    if (this.#intermediates.size >= MAX_ISSUERS) {
      const oldest = this.#intermediates.keys().next();
      if (oldest.done !== true) this.#intermediates.delete(oldest.value);
    }
    this.#intermediates.set(key, intermediates);
  }

  #remember(digest: string, peer: CachedPeer): void {
    if (this.#cacheSize === 0) return;
    if (this.#cache.size >= this.#cacheSize) {
      const oldest = this.#cache.keys().next();
      if (oldest.done !== true) this.#cache.delete(oldest.value);
    }
    this.#cache.set(digest, peer);
  }

  #rootSet(trustDomain: string): RootSet {
    const bundle = this.#bundles.bundle(trustDomain);
    if (bundle === null) {
      // Forgotten here too, so that the map never outgrows the bundles there are.
      this.#roots.delete(trustDomain);
      throw refuse(
        'TRUST_DOMAIN',
        `no trust bundle for the peer's trust domain ${JSON.stringify(trustDomain)}`,
        'federate with that trust domain, or find out why its workload calls here',
      );
    }
    let set = this.#roots.get(trustDomain);
    if (set === undefined || set.sequence !== bundle.sequence) {
      const roots: ParsedCertificate[] = [];
      let rejected: string | null = null;
      for (const der of bundle.roots) {
        try {
          const root = parse(der, 'a root');
          checkAuthority(root.fields, 'a root');
          roots.push(root);
        } catch (error) {
          rejected = errorText(error);
        }
      }
      set = { sequence: bundle.sequence, roots, revokedKeys: new Set(bundle.revokedKeys), rejected };
      this.#roots.set(trustDomain, set);
    }
    if (set.roots.length === 0) {
      const why = set.rejected === null ? 'is empty, which revokes all of its identities' : `has no usable root: ${set.rejected}`;
      throw refuse('TRUST_DOMAIN', `the trust bundle of ${JSON.stringify(trustDomain)} ${why}`);
    }
    return set;
  }
}

/**
 * Checks that a certificate, DER, can be a root.
 * @throws IdentityError WEFT_IDENTITY_PEER_* with what is wrong
 */
export function checkRoot(der: Uint8Array): void {
  checkAuthority(parse(der, 'a root').fields, 'a root');
}

/** X509-SVID.md sections 2 to 4 on a leaf. Returns its SPIFFE ID. */
function checkLeaf(leaf: CertificateFields): SpiffeId {
  if (leaf.isCa) throw refuse('CA', "the peer's certificate is a CA certificate, which must not authenticate a workload");
  if (leaf.keyUsage === null) throw refuse('KEY_USAGE', "the peer's certificate has no keyUsage");
  if ((leaf.keyUsage & (KEY_USAGE.keyCertSign | KEY_USAGE.crlSign)) !== 0) {
    throw refuse('KEY_USAGE', "the peer's certificate may sign certificates or CRLs");
  }
  if ((leaf.keyUsage & KEY_USAGE.digitalSignature) === 0) throw refuse('KEY_USAGE', "the peer's keyUsage lacks digitalSignature");
  if (leaf.extendedKeyUsage !== null && !mayDoBothRoles(leaf.extendedKeyUsage, false)) {
    throw refuse('KEY_USAGE', "the peer's extKeyUsage lacks serverAuth or clientAuth");
  }
  if (leaf.unhandled.length > 0)
    throw refuse('CHAIN', `the peer's certificate has extensions that are not understood: ${leaf.unhandled.join(', ')}`);
  return readSpiffeId(leaf.uris);
}

/**
 * The SPIFFE ID of a certificate's URI SANs.
 * @throws IdentityError WEFT_IDENTITY_PEER_SAN
 */
function readSpiffeId(uris: readonly Uint8Array[]): SpiffeId {
  const uri = uris[0];
  if (uri === undefined) throw refuse('SAN', 'the peer has no URI SAN');
  if (uris.length > 1) throw refuse('SAN', `the peer has ${uris.length} URI SANs, an SVID has exactly one`);
  for (const byte of uri) {
    if (byte <= 0x20 || byte >= 0x7f) throw refuse('SAN', "the peer's URI SAN has a byte that is not printable ASCII");
  }
  let id: SpiffeId;
  try {
    id = parseSpiffeId(Buffer.from(uri.buffer, uri.byteOffset, uri.byteLength).toString('latin1'));
  } catch (error) {
    throw refuse('SAN', `the peer's URI SAN is ${errorText(error)}`);
  }
  if (id.path === '') throw refuse('SAN', `${id.text} names a trust domain, not a workload`);
  return id;
}

/** Every certificate that signs others: X509-SVID.md section 3.2 and 4.3, RFC 5280 section 6.1.4. */
function checkAuthority(fields: CertificateFields, what: string): void {
  if (!fields.isCa) throw refuse('CHAIN', `${what} is not a CA certificate`);
  if (fields.keyUsage === null || (fields.keyUsage & KEY_USAGE.keyCertSign) === 0) throw refuse('CHAIN', `${what} lacks keyCertSign`);
  if (fields.extendedKeyUsage !== null && !mayDoBothRoles(fields.extendedKeyUsage, true)) {
    throw refuse('CHAIN', `${what} is limited to other extended key usages`);
  }
  if (fields.unhandled.length > 0) throw refuse('CHAIN', `${what} has extensions that are not understood: ${fields.unhandled.join(', ')}`);
}

function mayDoBothRoles(usages: readonly string[], anyCounts: boolean): boolean {
  if (anyCounts && usages.includes(EXTENDED_KEY_USAGE.any)) return true;
  return usages.includes(EXTENDED_KEY_USAGE.serverAuth) && usages.includes(EXTENDED_KEY_USAGE.clientAuth);
}

function checkValidity(fields: CertificateFields, what: string, now: number): void {
  if (now > fields.notAfter) {
    throw refuse(
      'EXPIRED',
      `${what} expired at ${new Date(fields.notAfter).toISOString()}`,
      'check that the peer can reach its issuer, and both clocks',
    );
  }
  if (now + CLOCK_SKEW_MS < fields.notBefore) {
    throw refuse(
      'NOT_YET_VALID',
      `${what} is not valid before ${new Date(fields.notBefore).toISOString()}`,
      'check the clocks of both nodes',
    );
  }
}

function parse(der: Uint8Array, what: string): ParsedCertificate {
  try {
    const fields = readCertificateFields(der);
    if (!SIGNATURE_ALGORITHMS.has(fields.signatureAlgorithm))
      throw refuse('CHAIN', `${what} is signed with ${fields.signatureAlgorithm}, which is not allowed`);
    const certificate = derCertificate(der);
    const key = certificate.publicKey;
    if (!isStrongKey(key)) throw refuse('CHAIN', `${what} has a weak or unknown type of key`);
    return { fields, certificate, key };
  } catch (error) {
    if (error instanceof IdentityError) throw error;
    throw refuse('MALFORMED', `${what} cannot be read: ${errorText(error)}`);
  }
}

/** Issuers may have the same name, as one does before and after it changed its key, and those of other trust domains whatever they like. */
function issuerKey(trustDomain: string, { issuer, authorityKeyIdentifier }: CertificateFields): string {
  const name = Buffer.concat([issuer, authorityKeyIdentifier ?? new Uint8Array()]);
  return `${trustDomain} ${hash('sha256', name, 'base64')}`;
}

/** Depth first from the leaf to a root. Roots come before intermediates, so that a superfluous chain costs nothing. */
function findPath(leaf: ParsedCertificate, chain: readonly Uint8Array[], rootSet: RootSet, now: number): Path {
  const search: Search = { now, rootSet, intermediates: null, chain, signatureChecks: 0, refusal: null };
  const path = extend(leaf, search, new Set(), 0);
  if (path !== null) return path;
  throw (
    search.refusal ??
    refuse('CHAIN', "no root of the peer's trust domain has signed its chain", 'check that both sides have the same trust bundle')
  );
}

interface Search {
  readonly now: number;
  readonly rootSet: RootSet;
  readonly chain: readonly Uint8Array[];
  /** Read only when the leaf is not signed by a root itself. */
  intermediates: ParsedCertificate[] | null;
  signatureChecks: number;
  /** The most telling reason so far: a candidate that had signed, and was refused for something else. */
  refusal: IdentityError | null;
}

function extend(subject: ParsedCertificate, search: Search, used: Set<ParsedCertificate>, below: number): Path | null {
  for (const root of search.rootSet.roots) {
    const path = tryIssuer(subject, root, 'the root', search, below);
    if (path !== null) return path;
  }
  search.intermediates ??= search.chain.slice(1).map((der) => parse(der, 'an intermediate certificate'));
  for (const intermediate of search.intermediates) {
    if (used.has(intermediate)) continue;
    const span = tryIssuer(subject, intermediate, 'an intermediate certificate', search, below);
    if (span === null) continue;
    used.add(intermediate);
    const selfIssued = sameBytes(intermediate.fields.issuer, intermediate.fields.subject);
    const path = extend(intermediate, search, used, below + (selfIssued ? 0 : 1));
    used.delete(intermediate);
    if (path !== null) {
      return {
        intermediates: [intermediate.fields.der, ...path.intermediates],
        notBefore: Math.max(span.notBefore, path.notBefore),
        notAfter: Math.min(span.notAfter, path.notAfter),
      };
    }
  }
  return null;
}

/** Whether `issuer` has signed `subject` and may have: the span in which both are valid, or null. `below`: intermediates under `issuer`. */
function tryIssuer(subject: ParsedCertificate, issuer: ParsedCertificate, what: string, search: Search, below: number): Path | null {
  if (!sameBytes(subject.fields.issuer, issuer.fields.subject)) return null;
  if (++search.signatureChecks > MAX_SIGNATURE_CHECKS) throw refuse('CHAIN', 'the chain has too many look-alike certificates');
  if (!subject.certificate.verify(issuer.key)) return null;
  try {
    checkAuthority(issuer.fields, what);
    checkValidity(issuer.fields, what, search.now);
    if (search.rootSet.revokedKeys.size > 0 && search.rootSet.revokedKeys.has(publicKeyDigest(issuer.key))) {
      throw refuse('REVOKED', `the key of ${what} is revoked`, "wait until the peer has an SVID of its trust domain's new authority");
    }
    if (issuer.fields.pathLength !== null && below > issuer.fields.pathLength) {
      throw refuse('CHAIN', `${what} allows ${issuer.fields.pathLength} intermediates below it, there are ${below}`);
    }
  } catch (error) {
    if (!(error instanceof IdentityError)) throw error;
    search.refusal ??= error;
    return null;
  }
  return {
    intermediates: [],
    notBefore: Math.max(subject.fields.notBefore, issuer.fields.notBefore),
    notAfter: Math.min(subject.fields.notAfter, issuer.fields.notAfter),
  };
}

function refuse(reason: string, message: string, nextStep = "look at the peer's certificate and at who issued it"): IdentityError {
  return new IdentityError(`WEFT_IDENTITY_PEER_${reason}`, message, { nextStep });
}
