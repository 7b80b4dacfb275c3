import type { TLSSocket } from 'node:tls';

/** More than any honest chain has; the verifier refuses it by number. */
const MOST_CERTIFICATES = 16;

/** The certificates that the peer of a TLS connection showed, as DER, leaf first. Empty when it showed none. */
export function peerChain(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let certificate = socket.getPeerX509Certificate();
  while (certificate !== undefined && chain.length < MOST_CERTIFICATES) {
    chain.push(certificate.raw);
    const issuer = certificate.issuerCertificate;
    // A root is its own issuer.
    if (issuer === certificate) break;
    certificate = issuer;
  }
  return chain;
}
