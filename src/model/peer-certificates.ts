import type { TLSSocket } from 'node:tls';

/** More than any honest chain has; the verifier refuses it by number. */
const MOST = 16;

/**
 * The DER certificates a peer showed, leaf first. A resumed session hands over the leaf alone. Empty: the peer showed none.
 */
export function peerChain(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let certificate = socket.getPeerX509Certificate();
  if (certificate !== undefined && socket.isSessionReused()) return [certificate.raw];
  while (certificate !== undefined && chain.length < MOST) {
    chain.push(certificate.raw);
    const issuer = certificate.issuerCertificate;
    if (issuer === certificate) break;
    certificate = issuer;
  }
  return chain;
}
