import { WeftError } from './errors.ts';

/** Raised for identities that do not follow SPIFFE-ID.md. Codes: WEFT_IDENTITY_*. */
export class IdentityError extends WeftError {
  override readonly name = 'IdentityError';
}

/** A parsed SPIFFE ID (SPIFFE-ID.md section 2). `namespace` and `serviceAccount` are set when the path is `/ns/<ns>/sa/<sa>`. */
export interface SpiffeId {
  /** The whole ID, `spiffe://…`. Two IDs are equal exactly when their texts are. */
  readonly text: string;
  readonly trustDomain: string;
  /** With its leading slash, or empty for the ID of a trust domain itself. */
  readonly path: string;
  readonly namespace: string | null;
  readonly serviceAccount: string | null;
}

/** SPIFFE-ID.md section 2.3: an ID has at most 2048 bytes, its trust domain at most 255. */
const MAX_ID_BYTES = 2048;
const MAX_TRUST_DOMAIN_BYTES = 255;
const SCHEME = 'spiffe://';
const TRUST_DOMAIN = /^[a-z0-9._-]+$/;
const SEGMENT = /^[a-zA-Z0-9._-]+$/;

function invalid(text: string, why: string): IdentityError {
  return new IdentityError('WEFT_IDENTITY_INVALID', `not a SPIFFE ID, ${why}: ${JSON.stringify(text.slice(0, 120))}`, {
    nextStep: 'use spiffe://<trust domain>/ns/<namespace>/sa/<service account>',
  });
}

/**
 * Parses a SPIFFE ID strictly: what the standard forbids is refused, and nothing is lower-cased or decoded,
 * so that two texts never name one principal.
 * @throws IdentityError WEFT_IDENTITY_INVALID
 */
export function parseSpiffeId(text: string): SpiffeId {
  if (!text.startsWith(SCHEME)) throw invalid(text, 'the scheme is not spiffe');
  if (text.length > MAX_ID_BYTES) throw invalid(text, `longer than ${MAX_ID_BYTES} bytes`);
  const slash = text.indexOf('/', SCHEME.length);
  const trustDomain = slash === -1 ? text.slice(SCHEME.length) : text.slice(SCHEME.length, slash);
  const path = slash === -1 ? '' : text.slice(slash);
  checkTrustDomain(trustDomain);
  const segments = path === '' ? [] : path.slice(1).split('/');
  for (const segment of segments) {
    if (!SEGMENT.test(segment) || segment === '.' || segment === '..') throw invalid(text, `bad path segment ${JSON.stringify(segment)}`);
  }
  const [ns, namespace, sa, serviceAccount] = segments;
  const isWorkload = segments.length === 4 && ns === 'ns' && sa === 'sa';
  return {
    text,
    trustDomain,
    path,
    namespace: isWorkload ? (namespace as string) : null,
    serviceAccount: isWorkload ? (serviceAccount as string) : null,
  };
}

/**
 * Checks a trust domain name by itself.
 * @throws IdentityError WEFT_IDENTITY_INVALID
 */
export function checkTrustDomain(name: string): string {
  if (name.length > MAX_TRUST_DOMAIN_BYTES || !TRUST_DOMAIN.test(name)) throw invalid(SCHEME + name, 'bad trust domain');
  return name;
}

/** The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. */
export function workloadIdentity(trustDomain: string, namespace: string, serviceAccount: string): SpiffeId {
  return parseSpiffeId(`${SCHEME}${trustDomain}/ns/${namespace}/sa/${serviceAccount}`);
}
