import { createCipheriv, pbkdf2, randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { nullValue, objectIdentifier, octetString, sequence, smallInteger } from './der-writer.ts';

/** Bytes encrypted with a passphrase: PBES2 of RFC 8018 with PBKDF2, HMAC-SHA-256 and AES-256-CBC. */
export interface Pbes2 {
  /** AlgorithmIdentifier, DER, with salt and count. */
  readonly algorithm: Uint8Array;
  readonly encrypted: Uint8Array;
}

/** More than OpenSSL's 2048, which would be quick to try; little enough to be read within some 50 ms. Java and OpenSSL read any count. */
const KEY_ITERATIONS = 100_000;
const KEY_BYTES = 32;
const OID = {
  pbes2: '1.2.840.113549.1.5.13',
  pbkdf2: '1.2.840.113549.1.5.12',
  hmacWithSha256: '1.2.840.113549.2.9',
  aes256Cbc: '2.16.840.1.101.3.4.1.42',
} as const;
const derive = promisify(pbkdf2);

export async function encryptPbes2(content: Uint8Array, passphrase: string, iterations: number): Promise<Pbes2> {
  const salt = randomBytes(16);
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-cbc', await derive(passphrase, salt, iterations, KEY_BYTES, 'sha256'), iv);
  const encrypted = Buffer.concat([cipher.update(content), cipher.final()]);
  const prf = sequence(objectIdentifier(OID.hmacWithSha256), nullValue());
  const derivation = sequence(objectIdentifier(OID.pbkdf2), sequence(octetString(salt), smallInteger(iterations), prf));
  const encryption = sequence(objectIdentifier(OID.aes256Cbc), octetString(iv));
  return { algorithm: sequence(objectIdentifier(OID.pbes2), sequence(derivation, encryption)), encrypted };
}

/** EncryptedPrivateKeyInfo (RFC 5958 section 3), DER, of a PKCS#8 key in DER. */
export async function encryptPrivateKey(pkcs8: Uint8Array, passphrase: string, iterations: number = KEY_ITERATIONS): Promise<Uint8Array> {
  const { algorithm, encrypted } = await encryptPbes2(pkcs8, passphrase, iterations);
  return sequence(algorithm, octetString(encrypted));
}
