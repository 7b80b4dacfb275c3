import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { CertsError } from '../errors.ts';
import { certifiedKey } from '../svid/certified-key.ts';
import type { SvidVerifier } from '../svid/peer-verifier.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { certificatesFromPem } from '../x509/pem.ts';

/**
 * Makes a key, has it certified, and checks what comes back as a peer would: what we would refuse from others, others would refuse from us.
 * @param issue turns a PKCS#10 request (DER) into a PEM chain, leaf first
 * @throws CertsError WEFT_CERTS_ISSUED_WRONG, IdentityError WEFT_IDENTITY_PEER_*, or what `issue` rejects with
 */
export async function obtainSvid(
  identity: string,
  verifier: SvidVerifier,
  issue: (csr: Uint8Array) => Promise<string>,
): Promise<SvidMaterial> {
  const svid = await certifiedKey(identity, 0, ({ csr }) => issue(csr));
  const issuedTo = verifier.verify(certificatesFromPem(svid.certificateChain));
  if (issuedTo.text === identity) return svid;
  throw new CertsError('WEFT_CERTS_ISSUED_WRONG', `asked for ${identity}, the authority certified ${issuedTo.text}`, {
    nextStep: 'check the certificate authority',
  });
}

/**
 * The root that a chain leads to, DER, or null when none of these has signed it.
 * @param chain DER, leaf first, without the root
 */
export function rootOfChain(chain: readonly Uint8Array[], roots: readonly Uint8Array[]): Uint8Array | null {
  const top = chain.at(-1);
  if (top === undefined) return null;
  const last = derCertificate(top);
  for (const der of roots) {
    const root = derCertificate(der);
    if (last.checkIssued(root) && last.verify(root.publicKey)) return der;
  }
  return null;
}
