import { createPrivateKey } from 'node:crypto';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import { parseSpiffeId } from '../../src/model/identity.ts';
import { CertsError } from '../errors.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import type { X509Svid, X509SvidResponse } from '../workload-api/messages.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { readCertificateFields } from '../x509/certificate-fields.ts';
import { splitCertificates } from '../x509/certificate-sequence.ts';
import { certificatesToPem } from '../x509/pem.ts';
import { badMessage } from './spire-error.ts';

/** SPIFFE_Workload_API.md section 5.2.1. */
const MAX_HINT_BYTES = 1024;

/**
 * Reads the SVIDs of a FetchX509SVID or SubscribeToX509SVID message: the first is the default identity. The keys in the message are
 * overwritten with zeros, and the receiver does so with the copies when it is done with them. Each `notAfter` is that of the first
 * certificate of the chain to expire. Of SVIDs with the same hint, or for the same identity, the first counts.
 * @throws CertsError WEFT_CERTS_SPIRE_MESSAGE when anything in it is wrong: then nothing of it is used
 */
export function readSvids(response: X509SvidResponse, trustDomain: string, now: number): SvidMaterial[] {
  const read: SvidMaterial[] = [];
  try {
    const hints = new Set<string>();
    for (const svid of response.svids) {
      const received = readSvid(svid, trustDomain, now);
      const repeated = (svid.hint !== '' && hints.has(svid.hint)) || read.some(({ identity }) => identity === received.identity);
      hints.add(svid.hint);
      if (repeated) received.privateKey.fill(0);
      else read.push(received);
    }
    return read;
  } catch (error) {
    for (const { privateKey } of read) privateKey.fill(0);
    throw error;
  } finally {
    for (const { x509SvidKey } of response.svids) x509SvidKey.fill(0);
  }
}

function readSvid(svid: X509Svid, trustDomain: string, now: number): SvidMaterial {
  for (const field of ['spiffeId', 'x509Svid', 'x509SvidKey', 'bundle'] as const) {
    if (svid[field].length === 0) throw badMessage(`an SVID has no ${field}`);
  }
  if (Buffer.byteLength(svid.hint) > MAX_HINT_BYTES) throw badMessage(`a hint is longer than ${MAX_HINT_BYTES} bytes`);
  try {
    const id = parseSpiffeId(svid.spiffeId);
    if (id.trustDomain !== trustDomain) throw badMessage(`the SVID of ${id.text} is not of the trust domain ${trustDomain}`);
    const chain = splitCertificates(svid.x509Svid);
    const certified = verifierOf(svid.bundle, trustDomain, now).verify(chain).text;
    if (certified !== id.text) throw badMessage(`the SVID of ${id.text} certifies ${certified}`);
    if (!certifies(chain[0] as Uint8Array, svid.x509SvidKey))
      throw badMessage(`the key of ${id.text} is not the one that its SVID certifies`);
    return {
      identity: id.text,
      certificateChain: certificatesToPem(chain),
      privateKey: svid.x509SvidKey.slice(),
      notAfter: Math.min(...chain.map((der) => readCertificateFields(der).notAfter)),
    };
  } catch (error) {
    throw error instanceof CertsError ? error : badMessage(errorText(error), error);
  }
}

/** What peers would refuse is refused here, with the reason. */
function verifierOf(bundle: Uint8Array, trustDomain: string, now: number): SvidVerifier {
  const roots = splitCertificates(bundle);
  return new SvidVerifier({ bundle: () => ({ trustDomain, roots, revokedKeys: [], sequence: 0 }) }, { now: () => now, cacheSize: 0 });
}

function certifies(leaf: Uint8Array, pkcs8: Uint8Array): boolean {
  const key = createPrivateKey({ key: Buffer.from(pkcs8.buffer, pkcs8.byteOffset, pkcs8.length), format: 'der', type: 'pkcs8' });
  return derCertificate(leaf).checkPrivateKey(key);
}
