import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { errorText } from '../../src/model/errors.ts';
import { CertsError } from '../errors.ts';
import { sameBytes } from './certificate-fields.ts';
import { DerError, DerReader, TAG } from './der-reader.ts';
import { isStrongKey } from './public-key.ts';
import { SIGNATURE_ALGORITHMS } from './signature-algorithms.ts';

/** Larger requests are refused unread. One with an RSA key of 8192 bits and the longest SPIFFE ID has less than 5 KiB. */
const MAX_CSR_BYTES = 16 * 1024;

interface ReadRequest {
  /** CertificationRequestInfo: what is signed. */
  readonly content: Uint8Array;
  readonly subjectPublicKeyInfo: Uint8Array;
  readonly algorithm: string;
  readonly signature: Uint8Array;
}

/**
 * The SubjectPublicKeyInfo (DER) of a PKCS#10 request (RFC 2986) whose signature proves that its sender has the private key. Nothing else of
 * the request is looked at: subject, names and extensions that it asks for mean nothing here.
 * @throws CertsError WEFT_CERTS_CSR when it is not strict DER, no request, or not signed by its own key; WEFT_CERTS_WEAK_KEY
 */
export async function provenKey(csr: Uint8Array): Promise<Uint8Array> {
  const request = readRequest(csr);
  const key = readKey(request.subjectPublicKeyInfo);
  const algorithm = SIGNATURE_ALGORITHMS.get(request.algorithm);
  const proven =
    algorithm !== undefined &&
    algorithm.keyType === key.asymmetricKeyType &&
    (await verifyInPool(algorithm.hash, request.content, key, request.signature));
  if (!proven) {
    throw new CertsError('WEFT_CERTS_CSR', 'the signing request is not signed by its own key', {
      nextStep: 'sign the request with the key it carries, with ECDSA, RSA (PKCS#1 v1.5) or Ed25519 and SHA-2',
    });
  }
  return request.subjectPublicKeyInfo;
}

function readRequest(csr: Uint8Array): ReadRequest {
  if (csr.length > MAX_CSR_BYTES) throw new CertsError('WEFT_CERTS_CSR', `the signing request has more than ${MAX_CSR_BYTES} bytes`);
  try {
    const outer = new DerReader(csr);
    const request = outer.enter(TAG.sequence, 'the request');
    outer.finish('the request');
    const contentStart = request.position;
    const body = request.enter(TAG.sequence, 'certificationRequestInfo');
    const content = csr.subarray(contentStart, request.position);
    const identifier = request.enter(TAG.sequence, 'signatureAlgorithm');
    const algorithm = identifier.objectIdentifier('signatureAlgorithm');
    // RFC 4055 section 5 has a NULL for RSA; the others have nothing there.
    if (!identifier.atEnd) identifier.enter(TAG.null, 'the parameters of signatureAlgorithm').finish('NULL');
    identifier.finish('signatureAlgorithm');
    const signature = request.bitString('signature');
    request.finish('the request');

    if (body.smallInteger('version') !== 0) throw new DerError('not a version 1 request');
    body.enter(TAG.sequence, 'subject');
    const keyStart = body.position;
    body.enter(TAG.sequence, 'subjectPKInfo');
    const subjectPublicKeyInfo = csr.subarray(keyStart, body.position);
    // Not optional in RFC 2986, though it may be empty.
    body.enter(0xa0, 'attributes');
    body.finish('certificationRequestInfo');
    return { content, subjectPublicKeyInfo, algorithm, signature };
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw unreadable(error);
  }
}

function readKey(subjectPublicKeyInfo: Uint8Array): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: Buffer.from(subjectPublicKeyInfo), format: 'der', type: 'spki' });
  } catch (error) {
    throw unreadable(error);
  }
  if (!isStrongKey(key)) {
    throw new CertsError('WEFT_CERTS_WEAK_KEY', `the request has a key of type ${key.asymmetricKeyType} that is too weak or unknown`, {
      nextStep: 'use ECDSA P-256, or RSA with 2048 bits or more',
    });
  }
  // These bytes go into the certificate as they are. Whatever OpenSSL was lenient about, another reader may not be.
  if (!sameBytes(key.export({ format: 'der', type: 'spki' }), subjectPublicKeyInfo)) throw unreadable('its key is not in its one DER form');
  return key;
}

function verifyInPool(hash: string | null, content: Uint8Array, key: KeyObject, signature: Uint8Array): Promise<boolean> {
  return new Promise((resolve) => {
    verify(hash, content, key, signature, (error, verified) => {
      // An error is a signature that is none: as good as a wrong one.
      resolve(error === null && verified);
    });
  });
}

function unreadable(why: unknown): CertsError {
  return new CertsError('WEFT_CERTS_CSR', `the signing request cannot be read: ${errorText(why)}`, {
    nextStep: 'send a PKCS#10 request in DER',
    cause: why,
  });
}
