import { parseSpiffeId, type SpiffeId } from '../../src/model/identity.ts';
import { CertsError } from '../errors.ts';
import { EMPTY_NAME, leafExtensions, writeCertificate } from '../x509/certificate-writer.ts';
import { toPem } from '../x509/pem.ts';
import { provenKey } from '../x509/proven-key.ts';
import {
  authorityExpired,
  BACKDATE_SECONDS,
  type CheckedMaterial,
  checkMaterial,
  checkValidNow,
  materialFromPem,
  type PemMaterial,
  type SignerMaterial,
  randomSerialNumber,
} from './authority-material.ts';

export interface GivenAuthority extends PemMaterial {
  /** Needed when the signing certificate has no SPIFFE ID of its own. */
  readonly trustDomain?: string;
  /** Milliseconds since the epoch. Default: Date.now. */
  readonly now?: () => number;
}

export interface IssueRequest {
  /** SPIFFE ID of a workload in this authority's trust domain. */
  readonly identity: string;
  /** Life of the SVID; never longer than the authority's own certificates. */
  readonly ttlSeconds: number;
  /** DNS names to add. Default: none. */
  readonly dns?: readonly string[];
}

export interface IssuedSvid {
  /** PEM, leaf first, then the intermediates. */
  readonly certificateChain: string;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hexadecimal. */
  readonly serialNumber: string;
}

/** Longest life of an SVID: 90 days. */
export const MAX_SVID_TTL_SECONDS: number = 90 * 24 * 3600;
const MAX_DNS_NAMES = 16;
const DNS_NAME = /^(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/;

/** One signing certificate of a trust domain: signs X.509-SVIDs by the rules of X509-SVID.md. Its key stays inside. Never changes. */
export class CertificateAuthority {
  readonly #material: CheckedMaterial;
  readonly #intermediates: string;
  readonly #now: () => number;

  /**
   * @param trustDomain null: that of the certificate's own SPIFFE ID
   * @throws CertsError WEFT_CERTS_CA_INVALID or WEFT_CERTS_CA_TRUST_DOMAIN
   */
  constructor(material: SignerMaterial, trustDomain: string | null, now: () => number) {
    this.#material = checkMaterial(material, trustDomain);
    this.#intermediates = this.#material.intermediates.map((der) => toPem('CERTIFICATE', der)).join('');
    this.#now = now;
  }

  /**
   * Uses a given certificate authority, which must be valid now.
   * @throws CertsError WEFT_CERTS_CA_INVALID, WEFT_CERTS_CA_EXPIRED, WEFT_CERTS_CA_TRUST_DOMAIN or WEFT_CERTS_PASSPHRASE
   */
  static async fromPem(given: GivenAuthority): Promise<CertificateAuthority> {
    const authority = new CertificateAuthority(materialFromPem(given), given.trustDomain ?? null, given.now ?? Date.now);
    checkValidNow(authority.#material, authority.#now());
    return authority;
  }

  get trustDomain(): string {
    return this.#material.trustDomain;
  }

  /** PEM of the root that verifiers of this trust domain need. */
  get roots(): string {
    return toPem('CERTIFICATE', this.#material.root);
  }

  /** Everything about its certificates. */
  get material(): CheckedMaterial {
    return this.#material;
  }

  /** When the first of its certificates expires, in milliseconds since the epoch. No SVID outlives it. */
  get notAfter(): number {
    return this.#material.notAfter;
  }

  /**
   * Issues an X.509-SVID for the key of a PKCS#10 request (DER). The request must be signed by that key; everything else in it is ignored.
   * @throws CertsError WEFT_CERTS_CSR, WEFT_CERTS_WEAK_KEY, WEFT_CERTS_IDENTITY_REFUSED, WEFT_CERTS_TTL, WEFT_CERTS_DNS_NAME, WEFT_CERTS_CA_EXPIRED
   * @throws IdentityError WEFT_IDENTITY_INVALID
   */
  async issue(csr: Uint8Array, request: IssueRequest): Promise<IssuedSvid> {
    const { signer, signingKey, notAfter: authorityNotAfter } = this.#material;
    const identity = checkWorkloadIdentity(request.identity, this.trustDomain);
    checkLife(request.ttlSeconds);
    const dns = request.dns ?? [];
    checkDnsNames(dns);
    const subjectPublicKeyInfo = await provenKey(csr);

    const now = this.#now();
    if (now >= authorityNotAfter) throw authorityExpired(authorityNotAfter);
    // Certificates hold whole seconds. Rounding down at both ends keeps the SVID within its authority's life.
    const notBefore = Math.floor(now / 1000 - BACKDATE_SECONDS) * 1000;
    const notAfter = Math.min(Math.floor(now / 1000 + request.ttlSeconds) * 1000, authorityNotAfter);
    const serialNumber = randomSerialNumber();
    const leaf = await writeCertificate(
      {
        serialNumber,
        issuer: signer.subject,
        subject: EMPTY_NAME,
        notBefore,
        notAfter,
        subjectPublicKeyInfo,
        extensions: leafExtensions(identity.text, dns, signer.subjectKeyIdentifier),
      },
      signingKey,
    );
    return {
      certificateChain: toPem('CERTIFICATE', leaf) + this.#intermediates,
      notBefore,
      notAfter,
      serialNumber: serialNumber.toString('hex'),
    };
  }
}

/**
 * An identity that a trust domain's authority may sign for: in the trust domain, and below its root.
 * @throws CertsError WEFT_CERTS_IDENTITY_REFUSED
 * @throws IdentityError WEFT_IDENTITY_INVALID
 */
export function checkWorkloadIdentity(text: string, trustDomain: string): SpiffeId {
  const identity = parseSpiffeId(text);
  if (identity.trustDomain !== trustDomain) {
    throw new CertsError('WEFT_CERTS_IDENTITY_REFUSED', `${identity.text} is outside of the trust domain ${trustDomain}`, {
      nextStep: 'ask the authority of that trust domain',
    });
  }
  if (identity.path === '') {
    throw new CertsError('WEFT_CERTS_IDENTITY_REFUSED', `${identity.text} names the trust domain itself, not a workload`, {
      nextStep: 'ask for spiffe://<trust domain>/ns/<namespace>/sa/<service account>',
    });
  }
  return identity;
}

function checkLife(ttlSeconds: number): void {
  if (Number.isFinite(ttlSeconds) && ttlSeconds >= 1 && ttlSeconds <= MAX_SVID_TTL_SECONDS) return;
  throw new CertsError('WEFT_CERTS_TTL', `an SVID cannot live for ${ttlSeconds} s`, {
    nextStep: `ask for 1 to ${MAX_SVID_TTL_SECONDS} seconds`,
  });
}

function checkDnsNames(dns: readonly string[]): void {
  if (dns.length > MAX_DNS_NAMES) throw new CertsError('WEFT_CERTS_DNS_NAME', `more than ${MAX_DNS_NAMES} DNS names`);
  for (const name of dns) {
    if (!DNS_NAME.test(name)) {
      throw new CertsError('WEFT_CERTS_DNS_NAME', `not a DNS name: ${JSON.stringify(name.slice(0, 260))}`, {
        nextStep: 'use a lower-case host name',
      });
    }
  }
}
