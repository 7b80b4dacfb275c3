// @peculiar/x509 throws at import unless this has been loaded before it.
import 'reflect-metadata';
import { createPrivateKey, createPublicKey, type KeyObject, randomBytes, X509Certificate as NodeCertificate } from 'node:crypto';
import { join } from 'node:path';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { errorText } from '../../src/model/errors.ts';
import { checkTrustDomain, parseSpiffeId } from '../../src/model/identity.ts';
import { type CertificateFields, KEY_USAGE, readCertificateFields, sameBytes } from '../x509/certificate-fields.ts';
import { CertsError } from '../errors.ts';
import { isStrongKey } from '../svid/peer-verifier.ts';
import { certificatesFromPem, toPem } from '../x509/pem.ts';
import { createPrivateFile, readPrivateFile } from '../private-file.ts';
import { KEY_ALGORITHM, SIGNING_ALGORITHM } from '../x509/signing-request.ts';

export interface LoadOrCreateOptions {
  /** Holds `ca.pem`: the key and the certificate in one file, so that they can never be a mismatched pair. */
  readonly directory: string;
  readonly trustDomain: string;
  /** Life of a root that is created, in seconds. Default: ten years. */
  readonly rootTtlSeconds?: number;
  /** Milliseconds since the epoch. Default: Date.now. */
  readonly now?: () => number;
}

export interface GivenAuthority {
  /** PEM: the signing certificate first, then the intermediates above it, then the root. */
  readonly certificate: string;
  /** PEM: the unencrypted EC key of the signing certificate. */
  readonly key: string;
  /** Needed when the signing certificate has no SPIFFE ID of its own. */
  readonly trustDomain?: string;
  /** Milliseconds since the epoch. Default: Date.now. */
  readonly now?: () => number;
}

export interface IssueRequest {
  /** SPIFFE ID of a workload in this authority's trust domain. */
  readonly identity: string;
  /** Life of the SVID; never longer than the authority's own certificates. */
  readonly ttlSeconds: number;
  /** DNS names to add. Default: none. */
  readonly dns?: readonly string[];
}

export interface IssuedSvid {
  /** PEM, leaf first, then the intermediates. */
  readonly certificateChain: string;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hexadecimal. */
  readonly serialNumber: string;
}

/** SVIDs are valid from this long before their issue, because the clocks of two nodes differ. */
export const BACKDATE_SECONDS = 30;
/** Longest life of an SVID: 90 days. */
export const MAX_SVID_TTL_SECONDS: number = 90 * 24 * 3600;
const DEFAULT_ROOT_TTL_SECONDS = 10 * 365 * 24 * 3600;
const MAX_CSR_BYTES = 16 * 1024;
const MAX_DNS_NAMES = 16;
const DNS_NAME = /^(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/;
const CA_FILE = 'ca.pem';
const PRIVATE_KEY_BLOCK = /-----BEGIN (?:EC )?PRIVATE KEY-----[^-]+-----END (?:EC )?PRIVATE KEY-----\r?\n?/;

/** What webcrypto must be told of each curve a CA key may have. */
const CA_CURVES: Readonly<Record<string, { readonly namedCurve: string; readonly hash: string }>> = {
  prime256v1: { namedCurve: 'P-256', hash: 'SHA-256' },
  secp384r1: { namedCurve: 'P-384', hash: 'SHA-384' },
  secp521r1: { namedCurve: 'P-521', hash: 'SHA-512' },
};

interface Parts {
  readonly trustDomain: string;
  readonly certificate: X509Certificate;
  readonly signingKey: CryptoKey;
  readonly hash: string;
  readonly intermediates: string;
  readonly roots: string;
  readonly notAfter: number;
  readonly now: () => number;
}

/** The certificate authority of one trust domain: signs X.509-SVIDs by the rules of X509-SVID.md. Its key stays inside. */
export class CertificateAuthority {
  readonly #parts: Parts;

  private constructor(parts: Parts) {
    this.#parts = parts;
  }

  get trustDomain(): string {
    return this.#parts.trustDomain;
  }

  /** PEM of the roots that verifiers of this trust domain need. */
  get roots(): string {
    return this.#parts.roots;
  }

  /** When the first of its certificates expires, in milliseconds since the epoch. No SVID outlives it. */
  get notAfter(): number {
    return this.#parts.notAfter;
  }

  /**
   * Loads the authority of a directory, or creates it on the first start. Several agents that start at once on one directory end
   * with one authority.
   * @throws CertsError WEFT_CERTS_KEY_FILE, WEFT_CERTS_DIRECTORY, WEFT_CERTS_CA_INVALID, WEFT_CERTS_CA_EXPIRED, WEFT_CERTS_CA_TRUST_DOMAIN
   * @throws IdentityError WEFT_IDENTITY_INVALID for a bad trust domain
   */
  static async loadOrCreate(options: LoadOrCreateOptions): Promise<CertificateAuthority> {
    const { directory, trustDomain } = options;
    const now = options.now ?? Date.now;
    checkTrustDomain(trustDomain);
    const path = join(directory, CA_FILE);
    let content = await readPrivateFile(path);
    if (content === null) {
      await createPrivateFile(path, await createRoot(trustDomain, options.rootTtlSeconds ?? DEFAULT_ROOT_TTL_SECONDS, now()));
      // Read back even what we wrote: another agent may have been first, and this way there is one path to test.
      content = await readPrivateFile(path);
      if (content === null) throw new CertsError('WEFT_CERTS_KEY_FILE', `${path} vanished while it was created`);
    }
    const key = PRIVATE_KEY_BLOCK.exec(content)?.[0];
    if (key === undefined) throw invalid(`${path} has no private key`);
    return CertificateAuthority.fromPem({ certificate: content, key, trustDomain, now });
  }

  /**
   * Uses a given certificate authority.
   * @throws CertsError WEFT_CERTS_CA_INVALID, WEFT_CERTS_CA_EXPIRED or WEFT_CERTS_CA_TRUST_DOMAIN, saying what is wrong
   */
  static async fromPem(given: GivenAuthority): Promise<CertificateAuthority> {
    const now = given.now ?? Date.now;
    const chain = readChain(given.certificate);
    const [signer] = chain;
    if (signer === undefined) throw invalid('there is no certificate in the PEM text');
    const key = readKey(given.key);
    if (!signer.certificate.checkPrivateKey(key)) throw invalid('the key does not belong to the first certificate');
    const curve = CA_CURVES[key.asymmetricKeyDetails?.namedCurve ?? ''];
    if (curve === undefined) throw invalid(`the key is on the curve ${key.asymmetricKeyDetails?.namedCurve}: use P-256, P-384 or P-521`);
    checkAuthorityChain(chain, now());

    const root = chain.at(-1) as ChainCertificate;
    return new CertificateAuthority({
      trustDomain: authorityTrustDomain(signer.fields, given.trustDomain),
      certificate: new X509Certificate(new Uint8Array(signer.fields.der)),
      signingKey: await crypto.subtle.importKey(
        'pkcs8',
        new Uint8Array(key.export({ type: 'pkcs8', format: 'der' })),
        { name: 'ECDSA', namedCurve: curve.namedCurve },
        false,
        ['sign'],
      ),
      hash: curve.hash,
      intermediates: chain
        .slice(0, -1)
        .map((one) => toPem('CERTIFICATE', one.fields.der))
        .join(''),
      roots: toPem('CERTIFICATE', root.fields.der),
      notAfter: Math.min(...chain.map((one) => one.fields.notAfter)),
      now,
    });
  }

  /**
   * Issues an X.509-SVID for the key of a PKCS#10 request (DER). The request must be signed by that key; everything else in it is ignored.
   * @throws CertsError WEFT_CERTS_CSR, WEFT_CERTS_WEAK_KEY, WEFT_CERTS_IDENTITY_REFUSED, WEFT_CERTS_TTL, WEFT_CERTS_DNS_NAME, WEFT_CERTS_CA_EXPIRED
   * @throws IdentityError WEFT_IDENTITY_INVALID
   */
  async issue(csr: Uint8Array, request: IssueRequest): Promise<IssuedSvid> {
    const { trustDomain, certificate, signingKey, hash, intermediates, notAfter: caNotAfter } = this.#parts;
    const identity = parseSpiffeId(request.identity);
    if (identity.trustDomain !== trustDomain) {
      throw new CertsError('WEFT_CERTS_IDENTITY_REFUSED', `${identity.text} is outside of the trust domain ${trustDomain}`, {
        nextStep: 'ask the authority of that trust domain',
      });
    }
    if (identity.path === '') {
      throw new CertsError('WEFT_CERTS_IDENTITY_REFUSED', `${identity.text} names the trust domain itself, not a workload`, {
        nextStep: 'ask for spiffe://<trust domain>/ns/<namespace>/sa/<service account>',
      });
    }
    if (!Number.isFinite(request.ttlSeconds) || request.ttlSeconds < 1 || request.ttlSeconds > MAX_SVID_TTL_SECONDS) {
      throw new CertsError('WEFT_CERTS_TTL', `an SVID cannot live for ${request.ttlSeconds} s`, {
        nextStep: `ask for 1 to ${MAX_SVID_TTL_SECONDS} seconds`,
      });
    }
    const dns = request.dns ?? [];
    if (dns.length > MAX_DNS_NAMES) throw new CertsError('WEFT_CERTS_DNS_NAME', `more than ${MAX_DNS_NAMES} DNS names`);
    for (const name of dns) {
      if (!DNS_NAME.test(name)) {
        throw new CertsError('WEFT_CERTS_DNS_NAME', `not a DNS name: ${JSON.stringify(name.slice(0, 260))}`, {
          nextStep: 'use a lower-case host name',
        });
      }
    }
    const publicKey = await provenKey(csr);

    const now = this.#parts.now();
    if (now >= caNotAfter) throw expired(caNotAfter);
    // Certificates hold whole seconds. Rounding down at both ends keeps the SVID within its authority's life.
    const notBefore = Math.floor(now / 1000 - BACKDATE_SECONDS) * 1000;
    const notAfter = Math.min(Math.floor(now / 1000 + request.ttlSeconds) * 1000, caNotAfter);
    const serialNumber = randomSerialNumber();
    const extensions: Extension[] = [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      // Critical because the subject is empty (RFC 5280 section 4.2.1.6).
      new SubjectAlternativeNameExtension(
        [{ type: 'url', value: identity.text }, ...dns.map((name) => ({ type: 'dns' as const, value: name }))],
        true,
      ),
    ];
    const authorityKeyId = certificate.getExtension(SubjectKeyIdentifierExtension);
    if (authorityKeyId !== null) extensions.push(new AuthorityKeyIdentifierExtension(authorityKeyId.keyId));
    const leaf = await X509CertificateGenerator.create({
      serialNumber,
      issuer: certificate.subjectName,
      notBefore: new Date(notBefore),
      notAfter: new Date(notAfter),
      publicKey,
      signingKey,
      signingAlgorithm: { name: 'ECDSA', hash },
      extensions,
    });
    return { certificateChain: toPem('CERTIFICATE', new Uint8Array(leaf.rawData)) + intermediates, notBefore, notAfter, serialNumber };
  }
}

/** The public key of a request whose signature proves that its sender has the private key. */
async function provenKey(csr: Uint8Array): Promise<Pkcs10CertificateRequest['publicKey']> {
  if (csr.length > MAX_CSR_BYTES) throw new CertsError('WEFT_CERTS_CSR', `the signing request has more than ${MAX_CSR_BYTES} bytes`);
  let request: Pkcs10CertificateRequest;
  let key: KeyObject;
  try {
    request = new Pkcs10CertificateRequest(new Uint8Array(csr));
    key = createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: 'der', type: 'spki' });
  } catch (error) {
    throw new CertsError('WEFT_CERTS_CSR', `the signing request cannot be read: ${errorText(error)}`, {
      nextStep: 'send a PKCS#10 request in DER',
      cause: error,
    });
  }
  if (!isStrongKey(key)) {
    throw new CertsError('WEFT_CERTS_WEAK_KEY', `the request has a key of type ${key.asymmetricKeyType} that is too weak or unknown`, {
      nextStep: 'use ECDSA P-256, or RSA with 2048 bits or more',
    });
  }
  let proven = false;
  try {
    proven = await request.verify();
  } catch {
    // A signature algorithm that does not fit the key: as good as a wrong signature.
  }
  if (!proven) {
    throw new CertsError('WEFT_CERTS_CSR', 'the signing request is not signed by its own key', {
      nextStep: 'sign the request with the key it carries',
    });
  }
  return request.publicKey;
}

interface ChainCertificate {
  readonly fields: CertificateFields;
  readonly certificate: NodeCertificate;
}

function readChain(pem: string): ChainCertificate[] {
  try {
    return certificatesFromPem(pem).map((der) => ({ fields: readCertificateFields(der), certificate: new NodeCertificate(der) }));
  } catch (error) {
    throw invalid(`a certificate cannot be read: ${errorText(error)}`);
  }
}

function readKey(pem: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch (error) {
    throw invalid(`the key cannot be read: ${errorText(error)}`);
  }
  if (key.asymmetricKeyType !== 'ec') throw invalid(`the key is of type ${key.asymmetricKeyType}, not EC`);
  return key;
}

function checkAuthorityChain(chain: readonly ChainCertificate[], now: number): void {
  for (const [index, { fields, certificate }] of chain.entries()) {
    const what = index === 0 ? 'the certificate' : `certificate ${index + 1} of the chain`;
    if (!fields.isCa) throw invalid(`${what} is not a CA (basicConstraints lacks cA)`);
    if (fields.keyUsage === null || (fields.keyUsage & KEY_USAGE.keyCertSign) === 0)
      throw invalid(`${what} may not sign certificates (keyUsage lacks keyCertSign)`);
    if (fields.unhandled.length > 0) throw invalid(`${what} has extensions that Weft does not evaluate: ${fields.unhandled.join(', ')}`);
    if (now > fields.notAfter) throw expired(fields.notAfter);
    if (now < fields.notBefore) throw invalid(`${what} is not valid before ${new Date(fields.notBefore).toISOString()}`);
    if (fields.pathLength !== null && fields.pathLength < index) throw invalid(`${what} allows fewer intermediates than there are`);
    // The last one must be self-signed: it is the root that others will trust.
    const above = chain[index + 1];
    const issuer = above ?? (chain[index] as ChainCertificate);
    if (!sameBytes(fields.issuer, issuer.fields.subject) || !certificate.verify(issuer.certificate.publicKey)) {
      throw invalid(
        above === undefined ? `${what} is not self-signed, and its issuer is missing` : `${what} is not signed by the next one`,
      );
    }
  }
}

/** The trust domain of a signing certificate: that of its own SPIFFE ID, if it has one, else the configured one. */
function authorityTrustDomain(fields: CertificateFields, configured: string | undefined): string {
  if (configured !== undefined) checkTrustDomain(configured);
  if (fields.uris.length > 1) throw invalid('the certificate has several URI SANs');
  const uri = fields.uris[0];
  if (uri === undefined) {
    if (configured === undefined) {
      throw new CertsError('WEFT_CERTS_CA_TRUST_DOMAIN', 'the certificate names no trust domain', {
        nextStep: 'say which trust domain it is for',
      });
    }
    return configured;
  }
  let id: ReturnType<typeof parseSpiffeId>;
  try {
    id = parseSpiffeId(Buffer.from(uri).toString('latin1'));
  } catch (error) {
    throw invalid(`its URI SAN is ${errorText(error)}`);
  }
  if (id.path !== '') throw invalid(`its SPIFFE ID ${id.text} has a path, a signing certificate's must not`);
  if (configured !== undefined && configured !== id.trustDomain) {
    throw new CertsError('WEFT_CERTS_CA_TRUST_DOMAIN', `the certificate is for the trust domain ${id.trustDomain}, not ${configured}`, {
      nextStep: 'use the trust domain of the certificate, or another directory for the other trust domain',
    });
  }
  return id.trustDomain;
}

/** A new self-signed root as PEM: key, then certificate. */
async function createRoot(trustDomain: string, ttlSeconds: number, now: number): Promise<string> {
  const keys = await crypto.subtle.generateKey(KEY_ALGORITHM, true, ['sign', 'verify']);
  const serialNumber = randomSerialNumber();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber,
    // Different for every root: two roots of one name would have to be told apart by trying both.
    name: `O=Weft, CN=Weft root ${serialNumber.slice(0, 12)}`,
    notBefore: new Date(Math.floor(now / 1000 - BACKDATE_SECONDS) * 1000),
    notAfter: new Date(Math.floor(now / 1000 + ttlSeconds) * 1000),
    keys,
    signingAlgorithm: SIGNING_ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(true, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      new SubjectAlternativeNameExtension([{ type: 'url', value: `spiffe://${trustDomain}` }]),
    ],
  });
  const key = await crypto.subtle.exportKey('pkcs8', keys.privateKey);
  return toPem('PRIVATE KEY', new Uint8Array(key)) + toPem('CERTIFICATE', new Uint8Array(certificate.rawData));
}

/** 128 bits, of which 126 are random: a positive INTEGER of exactly 16 bytes (RFC 5280 section 4.1.2.2). */
function randomSerialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] as number) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

function invalid(why: string): CertsError {
  return new CertsError('WEFT_CERTS_CA_INVALID', `cannot use the certificate authority: ${why}`, {
    nextStep: 'give a PEM CA certificate with its unencrypted EC key, and the certificates above it up to the root',
  });
}

function expired(notAfter: number): CertsError {
  return new CertsError('WEFT_CERTS_CA_EXPIRED', `the certificate authority expired at ${new Date(notAfter).toISOString()}`, {
    nextStep: 'replace it; workloads have no identity until then',
  });
}
