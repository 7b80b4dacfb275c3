import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { CertsError } from '../errors.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { readCertificateFields } from '../x509/certificate-fields.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import { createSigningRequest, type SigningRequest } from '../x509/signing-request.ts';
import { keyObject, shareKey, wipeKey } from './private-key.ts';

/** What an authority is asked for. */
export interface SvidRequest {
  /** PKCS#10, DER. */
  readonly csr: Uint8Array;
  readonly identity: string;
  readonly ttlSeconds: number;
}

/** Turns a request into a PEM chain, leaf first: an authority in this process, or a remote one. Rejects when it cannot. */
export type SvidIssuer = (request: SvidRequest) => Promise<string>;

/**
 * Makes a new key and has it certified. That the chain is valid, and for this identity, is checked by SvidManager, whoever it comes from.
 * @param createRequest makes key and request; default: P-256
 * @throws CertsError WEFT_CERTS_ISSUED_WRONG when the certificate is for another key; what `issue` rejects with
 */
export async function certifiedKey(
  identity: string,
  ttlSeconds: number,
  issue: SvidIssuer,
  createRequest: (identity: string) => Promise<SigningRequest> = createSigningRequest,
): Promise<SvidMaterial> {
  const { csr, privateKey } = await createRequest(identity);
  try {
    const certificateChain = await issue({ csr, identity, ttlSeconds });
    const chain = certificatesFromPem(certificateChain);
    const [leaf] = chain;
    if (leaf === undefined) throw wrong(`the authority sent no certificate for ${identity}`);
    if (!derCertificate(leaf).checkPrivateKey(keyObject(privateKey))) {
      throw wrong(`the authority certified another key than that of ${identity}`);
    }
    const notAfter = Math.min(...chain.map((der) => readCertificateFields(der).notAfter));
    return { identity, certificateChain, privateKey: shareKey(privateKey), notAfter };
  } catch (error) {
    wipeKey(privateKey);
    throw error;
  }
}

function wrong(message: string): CertsError {
  return new CertsError('WEFT_CERTS_ISSUED_WRONG', message, { nextStep: 'check the certificate authority' });
}
