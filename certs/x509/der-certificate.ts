import { X509Certificate } from 'node:crypto';
import { sameBytes } from './certificate-fields.ts';

/**
 * What Node makes of a DER certificate. Node looks for PEM first, anywhere in the bytes, and would find a valid certificate in an extension of
 * a forged one: its key and its signature, while the fields are read from the other.
 * @throws Error when it is no certificate, or Node has read something else than these bytes
 */
export function derCertificate(der: Uint8Array): X509Certificate {
  const certificate = new X509Certificate(der);
  if (!sameBytes(certificate.raw, der)) throw new Error('it holds another certificate, or is not DER');
  return certificate;
}
