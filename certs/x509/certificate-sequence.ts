import { DerReader, TAG } from './der-reader.ts';

/**
 * Takes apart DER certificates that follow each other without anything between, as the SPIFFE APIs send them.
 * @throws DerError when it is not a sequence of whole elements
 */
export function splitCertificates(bytes: Uint8Array): Uint8Array[] {
  const reader = new DerReader(bytes);
  const certificates: Uint8Array[] = [];
  while (!reader.atEnd) {
    const start = reader.position;
    reader.enter(TAG.sequence, 'a certificate');
    // A copy: a view would keep the whole message, keys included, in memory.
    certificates.push(bytes.slice(start, reader.position));
  }
  return certificates;
}
