import { X509Certificate } from 'node:crypto';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { CertsError } from '../errors.ts';
import type { SvidVerifier } from '../svid/peer-verifier.ts';
import { keyObject, shareKey } from '../svid/private-key.ts';
import { readCertificateFields } from '../x509/certificate-fields.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import { createSigningRequest } from '../x509/signing-request.ts';

/**
 * Makes a key, has it certified, and checks what comes back as a peer would: what we would refuse from others, others would refuse from us.
 * @param request turns a PKCS#10 request (DER) into a PEM chain, leaf first; certificates of roots at its end are left out
 * @throws CertsError WEFT_CERTS_ISSUED_WRONG, IdentityError WEFT_IDENTITY_PEER_*, or what `request` rejects with
 */
export async function obtainSvid(
  identity: string,
  verifier: SvidVerifier,
  request: (csr: Uint8Array) => Promise<string>,
): Promise<SvidMaterial> {
  const { csr, privateKey } = await createSigningRequest(identity);
  const certificateChain = await request(csr);
  const chain = certificatesFromPem(certificateChain);
  const issuedTo = verifier.verify(chain);
  if (issuedTo.text !== identity) throw wrong(`asked for ${identity}, the authority certified ${issuedTo.text}`);
  if (!new X509Certificate(chain[0] as Uint8Array).checkPrivateKey(keyObject(privateKey))) {
    throw wrong(`the authority certified another key than that of ${identity}`);
  }
  const notAfter = Math.min(...chain.map((der) => readCertificateFields(der).notAfter));
  return { identity, certificateChain, privateKey: shareKey(privateKey), notAfter };
}

function wrong(message: string): CertsError {
  return new CertsError('WEFT_CERTS_ISSUED_WRONG', message, { nextStep: 'check the certificate authority' });
}

/**
 * The root that a chain leads to, DER, or null when none of these has signed it.
 * @param chain DER, leaf first, without the root
 */
export function rootOfChain(chain: readonly Uint8Array[], roots: readonly Uint8Array[]): Uint8Array | null {
  const top = chain.at(-1);
  if (top === undefined) return null;
  const last = new X509Certificate(top);
  for (const der of roots) {
    const root = new X509Certificate(der);
    if (last.checkIssued(root) && last.verify(root.publicKey)) return der;
  }
  return null;
}
