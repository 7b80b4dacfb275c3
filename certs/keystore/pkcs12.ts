import { createHash, createHmac, createPrivateKey, type KeyObject, randomBytes, type X509Certificate } from 'node:crypto';
import type forgeTypes from 'node-forge';
import { CertsError } from '../errors.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { sameBytes } from '../x509/certificate-fields.ts';
import {
  element,
  explicit,
  implicit,
  nullValue,
  objectIdentifier,
  octetString,
  sequence,
  setOf,
  smallInteger,
} from '../x509/der-writer.ts';
import { encryptPbes2, encryptPrivateKey } from '../x509/pbes2.ts';

/** A key with its certificates for a keystore. */
export interface KeyStoreEntry {
  /** PKCS#8, DER. */
  readonly privateKey: Uint8Array;
  /** DER, leaf first. */
  readonly certificates: readonly Uint8Array[];
  readonly password: string;
  /** The alias in Java. */
  readonly friendlyName: string;
}

export interface TrustStoreContent {
  /** DER. The aliases in Java are the friendly name with a number. */
  readonly certificates: readonly Uint8Array[];
  readonly password: string;
  readonly friendlyName: string;
}

export interface KeyStoreContent {
  /** Null: there is none. */
  readonly privateKey: KeyObject | null;
  /** DER: that of the key first, then each one's issuer, then the rest. */
  readonly certificates: readonly Uint8Array[];
}

/** Larger files are refused unread. */
const MAX_KEY_STORE_BYTES = 256 * 1024;
/** What Java writes, for the MAC and for encryption. */
const ITERATIONS = 10_000;
/** A file may name any count, and the reader would be busy that long. */
const MAX_ITERATIONS = 300_000;
const MAX_DEPTH = 24;

const OID = {
  data: '1.2.840.113549.1.7.1',
  encryptedData: '1.2.840.113549.1.7.6',
  certificateBag: '1.2.840.113549.1.12.10.1.3',
  shroudedKeyBag: '1.2.840.113549.1.12.10.1.2',
  keyBag: '1.2.840.113549.1.12.10.1.1',
  x509Certificate: '1.2.840.113549.1.9.22.1',
  friendlyName: '1.2.840.113549.1.9.20',
  localKeyId: '1.2.840.113549.1.9.21',
  sha256: '2.16.840.1.101.3.4.2.1',
  /** Java takes a certificate for trusted only with this attribute, which Oracle defined. */
  trustedKeyUsage: '2.16.840.1.113894.746875.1.1',
  anyExtendedKeyUsage: '2.5.29.37.0',
} as const;
const BMP_STRING_TAG = 0x1e;

/**
 * A PKCS#12 file (RFC 7292) with one key and its chain, as Java 8u301 and later, and OpenSSL, read it. Encrypted with AES-256, authenticated with
 * HMAC-SHA-256.
 * @throws CertsError WEFT_CERTS_KEY_STORE for a password that is empty or not printable ASCII
 */
export async function createKeyStore({ privateKey, certificates, password, friendlyName }: KeyStoreEntry): Promise<Uint8Array> {
  checkPassword(password);
  const keyId = attribute(
    OID.localKeyId,
    octetString(
      createHash('sha256')
        .update(certificates[0] ?? privateKey)
        .digest(),
    ),
  );
  const name = attribute(OID.friendlyName, bmpString(friendlyName));
  const keyBag = bag(OID.shroudedKeyBag, await encryptPrivateKey(privateKey, password, ITERATIONS), [name, keyId]);
  const certificateBags = certificates.map((der, index) => certificateBag(der, index === 0 ? [name, keyId] : []));
  return keyStore([await encryptedSafe(certificateBags, password), plainSafe([keyBag])], password);
}

/**
 * A PKCS#12 file with certificates that Java trusts.
 * @throws CertsError WEFT_CERTS_KEY_STORE for a password that is empty or not printable ASCII
 */
export async function createTrustStore({ certificates, password, friendlyName }: TrustStoreContent): Promise<Uint8Array> {
  checkPassword(password);
  const trusted = attribute(OID.trustedKeyUsage, objectIdentifier(OID.anyExtendedKeyUsage));
  const bags = certificates.map((der, index) =>
    certificateBag(der, [attribute(OID.friendlyName, bmpString(`${friendlyName}-${index + 1}`)), trusted]),
  );
  return keyStore([await encryptedSafe(bags, password)], password);
}

/**
 * Reads a PKCS#12 file. The container alone: nothing is said about whether the certificates are valid, or belong together.
 * @throws CertsError WEFT_CERTS_KEY_STORE: wrong password, damaged, or no PKCS#12
 */
export async function readKeyStore(file: Uint8Array, password: string): Promise<KeyStoreContent> {
  checkPassword(password);
  if (file.length > MAX_KEY_STORE_BYTES) throw keyStoreError(`it has more than ${MAX_KEY_STORE_BYTES} bytes`);
  // Loaded when it is needed: a node that exports no keystore does without its 5 MiB.
  const { default: forge } = await import('node-forge');
  const keys: Uint8Array[] = [];
  const certificates: Uint8Array[] = [];
  try {
    const container = forge.asn1.fromDer(binary(file), true);
    checkIterations(forge, container, 0);
    for (const { safeBags } of forge.pkcs12.pkcs12FromAsn1(container, true, password).safeContents) {
      for (const each of safeBags) {
        const { type, key, cert, asn1 } = each as unknown as OpenedBag;
        if (type === OID.certificateBag) certificates.push(bytes(forge, cert === null ? asn1 : forge.pki.certificateToAsn1(cert)));
        if (type === OID.shroudedKeyBag || type === OID.keyBag)
          keys.push(bytes(forge, key === null ? asn1 : forge.pki.wrapRsaPrivateKey(forge.pki.privateKeyToAsn1(key))));
      }
    }
  } catch (error) {
    if (error instanceof CertsError) throw error;
    // Forge's texts speak of its inside; they hold nothing that helps, and might hold what must not be shown.
    throw keyStoreError('the password is wrong, or the file is damaged or no PKCS#12');
  }
  if (keys.length > 1) throw keyStoreError(`it has ${keys.length} keys`);
  const [key] = keys;
  return arrange(key === undefined ? null : key, certificates);
}

/** A bag as forge hands it over: what it understands as `key` or `cert`, else (EC, for one) null, with the content as `asn1`. */
interface OpenedBag {
  readonly type: string;
  readonly key: forgeTypes.pki.PrivateKey | null;
  readonly cert: forgeTypes.pki.Certificate | null;
  readonly asn1: forgeTypes.asn1.Asn1;
}

type Forge = typeof forgeTypes;

function arrange(pkcs8: Uint8Array | null, unordered: readonly Uint8Array[]): KeyStoreContent {
  let privateKey: KeyObject | null;
  let left: X509Certificate[];
  try {
    privateKey = pkcs8 === null ? null : createPrivateKey({ key: Buffer.from(pkcs8), format: 'der', type: 'pkcs8' });
    left = unordered.map((der) => derCertificate(der));
  } catch {
    throw keyStoreError('its key or a certificate cannot be read');
  }
  const ordered: X509Certificate[] = [];
  let next = privateKey === null ? undefined : left.find((one) => one.checkPrivateKey(privateKey));
  while (next !== undefined) {
    const current: X509Certificate = next;
    ordered.push(current);
    left = left.filter((one) => !sameBytes(one.raw, current.raw));
    next = left.find((one) => current.checkIssued(one));
  }
  return { privateKey, certificates: [...ordered, ...left].map((one) => new Uint8Array(one.raw)) };
}

/** Wherever RFC 7292 and RFC 8018 have a count, it is an INTEGER right after a salt. */
function checkIterations(forge: Forge, node: forgeTypes.asn1.Asn1, depth: number): void {
  if (depth > MAX_DEPTH) throw keyStoreError('it is nested too deeply');
  if (!Array.isArray(node.value)) {
    if (node.type !== forge.asn1.Type.OCTETSTRING) return;
    let inner: forgeTypes.asn1.Asn1;
    try {
      inner = forge.asn1.fromDer(node.value, true);
    } catch {
      return;
    }
    checkIterations(forge, inner, depth + 1);
    return;
  }
  for (const [index, child] of node.value.entries()) {
    const before = node.value[index - 1];
    if (child.type === forge.asn1.Type.INTEGER && before?.type === forge.asn1.Type.OCTETSTRING && typeof child.value === 'string') {
      if (child.value.length > 4 || Number.parseInt(Buffer.from(child.value, 'latin1').toString('hex'), 16) > MAX_ITERATIONS)
        throw keyStoreError(`its key derivation takes more than ${MAX_ITERATIONS} rounds`);
    }
    checkIterations(forge, child, depth + 1);
  }
}

/** PFX of RFC 7292 section 4. */
function keyStore(safes: readonly Uint8Array[], password: string): Uint8Array {
  const content = sequence(...safes);
  const salt = randomBytes(20);
  const mac = createHmac('sha256', macKey(password, salt)).update(content).digest();
  const digest = sequence(sequence(objectIdentifier(OID.sha256), nullValue()), octetString(mac));
  return sequence(
    smallInteger(3),
    sequence(objectIdentifier(OID.data), explicit(0, octetString(content))),
    sequence(digest, octetString(salt), smallInteger(ITERATIONS)),
  );
}

/** RFC 7292 appendix B for SHA-256 and a key as long as its output: then one round is all there is. */
function macKey(password: string, salt: Uint8Array): Buffer {
  const purpose = Buffer.alloc(64, 3);
  let digest: Buffer = Buffer.concat([purpose, repeated(salt), repeated(Buffer.concat([utf16(password), Buffer.alloc(2)]))]);
  for (let i = 0; i < ITERATIONS; i++) digest = createHash('sha256').update(digest).digest();
  return digest;
}

/** Repeated up to a whole number of blocks of the hash. */
function repeated(part: Uint8Array): Buffer {
  return Buffer.alloc(Math.ceil(part.length / 64) * 64, part);
}

function plainSafe(bags: readonly Uint8Array[]): Uint8Array {
  return sequence(objectIdentifier(OID.data), explicit(0, octetString(sequence(...bags))));
}

async function encryptedSafe(bags: readonly Uint8Array[], password: string): Promise<Uint8Array> {
  const { algorithm, encrypted } = await encryptPbes2(sequence(...bags), password, ITERATIONS);
  const content = sequence(objectIdentifier(OID.data), algorithm, implicit(0, encrypted));
  return sequence(objectIdentifier(OID.encryptedData), explicit(0, sequence(smallInteger(0), content)));
}

function certificateBag(der: Uint8Array, attributes: readonly Uint8Array[]): Uint8Array {
  return bag(OID.certificateBag, sequence(objectIdentifier(OID.x509Certificate), explicit(0, octetString(der))), attributes);
}

function bag(type: string, content: Uint8Array, attributes: readonly Uint8Array[]): Uint8Array {
  const parts = [objectIdentifier(type), explicit(0, content)];
  return attributes.length === 0 ? sequence(...parts) : sequence(...parts, setOf(...attributes));
}

function attribute(type: string, value: Uint8Array): Uint8Array {
  return sequence(objectIdentifier(type), setOf(value));
}

function bmpString(text: string): Uint8Array {
  return element(BMP_STRING_TAG, utf16(text));
}

function utf16(text: string): Buffer {
  return Buffer.from(text, 'utf16le').swap16();
}

/** Programs disagree on how any other password becomes bytes. */
function checkPassword(password: string): void {
  if (!/^[\x20-\x7e]+$/.test(password)) throw keyStoreError('the password is empty, or has characters that are not printable ASCII');
}

function binary(content: Uint8Array): string {
  return Buffer.from(content.buffer, content.byteOffset, content.byteLength).toString('latin1');
}

function bytes(forge: Forge, asn1: forgeTypes.asn1.Asn1): Uint8Array {
  return Buffer.from(forge.asn1.toDer(asn1).getBytes(), 'latin1');
}

function keyStoreError(why: string): CertsError {
  return new CertsError('WEFT_CERTS_KEY_STORE', `cannot use the PKCS#12 keystore: ${why}`, {
    nextStep: 'give a PKCS#12 file with one key and its certificates, and its password',
  });
}
