import { errorText } from '../../src/model/errors.ts';
import { IdentityError, parseSpiffeId } from '../../src/model/identity.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { splitCertificates } from '../x509/certificate-sequence.ts';
import type { X509SvidResponse } from './messages.ts';

/** An X.509-SVID as a Workload API gave it, taken apart. */
export interface ReceivedSvid {
  readonly id: string;
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
  /** PKCS#8, DER. */
  readonly privateKey: Uint8Array;
  /** Roots of its trust domain, DER. */
  readonly bundle: readonly Uint8Array[];
  /** Trust domain to roots, DER. */
  readonly federated: ReadonlyMap<string, readonly Uint8Array[]>;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hexadecimal. */
  readonly serial: string;
}

/**
 * The default identity of a response (SPIFFE_Workload_API.md section 5.2.1): the first.
 * @throws IdentityError WEFT_IDENTITY_WORKLOAD_API when a mandatory field is missing or cannot be read
 */
export function defaultSvid({ svids, federatedBundles }: X509SvidResponse): ReceivedSvid {
  const [svid] = svids;
  if (svid === undefined) throw unusable('it has no SVID');
  try {
    const { text } = parseSpiffeId(svid.spiffeId);
    const chain = splitCertificates(svid.x509Svid);
    const bundle = splitCertificates(svid.bundle);
    const [leaf] = chain;
    if (leaf === undefined || bundle.length === 0 || svid.x509SvidKey.length === 0) throw unusable('a mandatory field is empty');
    const certificate = derCertificate(leaf);
    const federated = new Map(
      [...federatedBundles].map(([id, roots]) => [parseSpiffeId(id).trustDomain, splitCertificates(roots)] as const),
    );
    return {
      id: text,
      chain,
      privateKey: svid.x509SvidKey,
      bundle,
      federated,
      notBefore: certificate.validFromDate.getTime(),
      notAfter: certificate.validToDate.getTime(),
      serial: certificate.serialNumber.toLowerCase(),
    };
  } catch (error) {
    throw error instanceof IdentityError && error.code === 'WEFT_IDENTITY_WORKLOAD_API' ? error : unusable(errorText(error), error);
  }
}

function unusable(why: string, cause?: unknown): IdentityError {
  return new IdentityError('WEFT_IDENTITY_WORKLOAD_API', `the answer of the Workload API cannot be used: ${why}`, {
    nextStep: 'see what serves on the socket, and its log',
    cause,
  });
}
