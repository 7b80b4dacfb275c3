import { createHash, createPrivateKey, generateKeyPair, KeyObject, randomBytes, type X509Certificate } from 'node:crypto';
import { promisify } from 'node:util';
import { errorText } from '../../src/model/errors.ts';
import { checkTrustDomain, parseSpiffeId } from '../../src/model/identity.ts';
import { CertsError } from '../errors.ts';
import { readKeyStore } from '../keystore/pkcs12.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { authorityExtensions, distinguishedName, writeCertificate } from '../x509/certificate-writer.ts';
import { type CertificateFields, KEY_USAGE, readCertificateFields, sameBytes } from '../x509/certificate-fields.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import { type SigningKey, signingKeyInProcess } from '../x509/signing-key.ts';

/** A signing certificate with its key and everything above it: made here, or brought by the operator. Checked by `checkMaterial`. */
export interface AuthorityMaterial {
  /** DER: the signing certificate first, then the intermediates above it, then the root. */
  readonly certificates: readonly Uint8Array[];
  readonly privateKey: KeyObject;
}

/** What a signer needs of material: the key may also be one that is kept elsewhere, in a key management service. */
export type SignerMaterial = Omit<AuthorityMaterial, 'privateKey'> & { readonly privateKey: KeyObject | SigningKey };

/** What is known of material once it has been checked. */
export interface CheckedMaterial {
  readonly trustDomain: string;
  readonly signer: CertificateFields;
  readonly signingKey: SigningKey;
  /** DER. What stands between a leaf and the root, the signing certificate included; empty when that is the root itself. */
  readonly intermediates: readonly Uint8Array[];
  /** DER. */
  readonly root: Uint8Array;
  /** When the last of its certificates starts and the first ends to be valid, in milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface PemMaterial {
  /** PEM: the signing certificate first, then the intermediates above it, then the root. */
  readonly certificate: string;
  /** PEM: the key of the signing certificate as PKCS#8, SEC1 or PKCS#1, encrypted or not. */
  readonly key: string;
  /** Of an encrypted key. */
  readonly passphrase?: string;
}

/** Certificates are valid from this long before their issue, because the clocks of two nodes differ. */
export const BACKDATE_SECONDS = 30;
const ENCRYPTED_KEY = /-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED/;
const MAX_CHAIN_CERTIFICATES = 7;
const generate = promisify(generateKeyPair);

/**
 * Reads an authority from PEM.
 * @throws CertsError WEFT_CERTS_CA_INVALID, WEFT_CERTS_PASSPHRASE
 */
export function materialFromPem(pem: PemMaterial): AuthorityMaterial {
  return { certificates: certificatesFromPem(pem.certificate), privateKey: readPrivateKey(pem.key, pem.passphrase) };
}

/**
 * Reads an authority from a PKCS#12 file with one key and its chain.
 * @throws CertsError WEFT_CERTS_KEY_STORE, WEFT_CERTS_CA_INVALID
 */
export async function materialFromKeyStore(file: Uint8Array, password: string): Promise<AuthorityMaterial> {
  const { privateKey, certificates } = await readKeyStore(file, password);
  if (privateKey === null) throw invalid('there is no key in the PKCS#12 file');
  return { certificates, privateKey };
}

/**
 * Reads a private key from PEM. The texts of errors never hold any of it.
 * @throws CertsError WEFT_CERTS_CA_INVALID, WEFT_CERTS_PASSPHRASE
 */
export function readPrivateKey(pem: string, passphrase?: string): KeyObject {
  const encrypted = ENCRYPTED_KEY.test(pem);
  if (encrypted && passphrase === undefined) {
    throw new CertsError('WEFT_CERTS_PASSPHRASE', "the authority's key is encrypted, and there is no passphrase", {
      nextStep: 'give the passphrase of the key',
    });
  }
  try {
    return createPrivateKey({ key: pem, format: 'pem', ...(encrypted ? { passphrase } : {}) });
  } catch (error) {
    if (!encrypted) throw invalid(`the key cannot be read: ${errorText(error)}`);
    throw new CertsError(
      'WEFT_CERTS_PASSPHRASE',
      "the authority's key cannot be decrypted: the passphrase is wrong, or the key is damaged",
      {
        nextStep: 'give the passphrase that the key was encrypted with',
      },
    );
  }
}

/** A new root for a trust domain: P-256, self-signed, with the trust domain's SPIFFE ID. */
export async function createMaterial(trustDomain: string, ttlSeconds: number, now: number): Promise<AuthorityMaterial> {
  const { publicKey, privateKey } = await generate('ec', { namedCurve: 'prime256v1' });
  const subjectPublicKeyInfo = publicKey.export({ type: 'spki', format: 'der' });
  const serialNumber = randomSerialNumber();
  // Different for every root: two roots of one name would have to be told apart by trying both.
  const name = distinguishedName('Weft', `Weft root ${serialNumber.toString('hex').slice(0, 12)}`);
  const certificate = await writeCertificate(
    {
      serialNumber,
      issuer: name,
      subject: name,
      notBefore: Math.floor(now / 1000 - BACKDATE_SECONDS) * 1000,
      notAfter: Math.floor(now / 1000 + ttlSeconds) * 1000,
      subjectPublicKeyInfo,
      // RFC 7093 section 2, method 1.
      extensions: authorityExtensions(
        `spiffe://${trustDomain}`,
        createHash('sha256').update(subjectPublicKeyInfo).digest().subarray(0, 20),
      ),
    },
    signingKeyInProcess(privateKey) as SigningKey,
  );
  return { certificates: [certificate], privateKey };
}

/**
 * Checks that material can sign SVIDs of a trust domain that verifiers will accept: its key, every certificate up to the root, and the
 * rules of X509-SVID.md for signing certificates. Whether it is valid now is another question: `checkValidNow`.
 * @param trustDomain null: that of the certificate's SPIFFE ID, which must then have one
 * @throws CertsError WEFT_CERTS_CA_INVALID or WEFT_CERTS_CA_TRUST_DOMAIN, saying what is wrong
 */
export function checkMaterial(material: SignerMaterial, trustDomain: string | null): CheckedMaterial {
  const chain = readChain(material.certificates);
  const [signer] = chain;
  const root = chain.at(-1);
  if (signer === undefined || root === undefined) throw invalid('there is no certificate in the PEM text');
  if (chain.length > MAX_CHAIN_CERTIFICATES) throw invalid(`there are more than ${MAX_CHAIN_CERTIFICATES} certificates`);
  const signingKey = signingKeyOf(material.privateKey);
  if (!signer.certificate.publicKey.equals(signingKey.publicKey)) throw invalid('the key does not belong to the first certificate');
  checkChain(chain);
  return {
    trustDomain: authorityTrustDomain(signer.fields, trustDomain),
    signer: signer.fields,
    signingKey,
    intermediates: chain.slice(0, -1).map((one) => one.fields.der),
    root: root.fields.der,
    notBefore: Math.max(...chain.map((one) => one.fields.notBefore)),
    notAfter: Math.min(...chain.map((one) => one.fields.notAfter)),
  };
}

function signingKeyOf(key: KeyObject | SigningKey): SigningKey {
  if (!(key instanceof KeyObject)) return key;
  const signingKey = signingKeyInProcess(key);
  if (signingKey !== null) return signingKey;
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  throw invalid(
    `the key is of type ${type} (${details?.namedCurve ?? details?.modulusLength ?? 'no size'}): use P-256, P-384, P-521, or RSA with 2048 bits or more`,
  );
}

/** @throws CertsError WEFT_CERTS_CA_EXPIRED, WEFT_CERTS_CA_INVALID */
export function checkValidNow({ notBefore, notAfter }: CheckedMaterial, now: number): void {
  if (now >= notAfter) throw authorityExpired(notAfter);
  if (now < notBefore) throw invalid(`it is not valid before ${new Date(notBefore).toISOString()}`);
}

/** 128 bits, of which 126 are random: a positive INTEGER of exactly 16 bytes (RFC 5280 section 4.1.2.2). */
export function randomSerialNumber(): Buffer {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] as number) & 0x3f) | 0x40;
  return bytes;
}

export function authorityExpired(notAfter: number): CertsError {
  return new CertsError('WEFT_CERTS_CA_EXPIRED', `the certificate authority expired at ${new Date(notAfter).toISOString()}`, {
    nextStep: 'replace it; workloads have no identity until then',
  });
}

interface ChainCertificate {
  readonly fields: CertificateFields;
  readonly certificate: X509Certificate;
}

function readChain(certificates: readonly Uint8Array[]): ChainCertificate[] {
  try {
    return certificates.map((der) => ({ fields: readCertificateFields(der), certificate: derCertificate(der) }));
  } catch (error) {
    throw invalid(`a certificate cannot be read: ${errorText(error)}`);
  }
}

function checkChain(chain: readonly ChainCertificate[]): void {
  for (const [index, { fields, certificate }] of chain.entries()) {
    const what = index === 0 ? 'the certificate' : `certificate ${index + 1} of the chain`;
    if (!fields.isCa) throw invalid(`${what} is not a CA (basicConstraints lacks cA)`);
    if (fields.keyUsage === null || (fields.keyUsage & KEY_USAGE.keyCertSign) === 0)
      throw invalid(`${what} may not sign certificates (keyUsage lacks keyCertSign)`);
    if (fields.unhandled.length > 0) throw invalid(`${what} has extensions that Weft does not evaluate: ${fields.unhandled.join(', ')}`);
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
function authorityTrustDomain(fields: CertificateFields, configured: string | null): string {
  if (configured !== null) checkTrustDomain(configured);
  if (fields.uris.length > 1) throw invalid('the certificate has several URI SANs');
  const uri = fields.uris[0];
  if (uri === undefined) {
    if (configured === null) {
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
  if (configured !== null && configured !== id.trustDomain) {
    throw new CertsError('WEFT_CERTS_CA_TRUST_DOMAIN', `the certificate is for the trust domain ${id.trustDomain}, not ${configured}`, {
      nextStep: 'use the trust domain of the certificate, or another directory for the other trust domain',
    });
  }
  return id.trustDomain;
}

function invalid(why: string): CertsError {
  return new CertsError('WEFT_CERTS_CA_INVALID', `cannot use the certificate authority: ${why}`, {
    nextStep: 'give a CA certificate with its EC or RSA key, and the certificates above it up to the root',
  });
}
