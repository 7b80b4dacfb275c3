import { createHash, createPublicKey, type KeyObject, sign } from 'node:crypto';
import type { JwtAuthority } from '../bundle/trust-state.ts';
import { CertsError } from '../errors.ts';
import type { JwtSvid } from '../identity-provider.ts';
import { checkAudience } from '../jwt/audience.ts';
import { checkWorkloadIdentity } from './certificate-authority.ts';

export interface IssueJwtRequest {
  /** SPIFFE ID of a workload in this authority's trust domain. */
  readonly identity: string;
  /** Who the token is for. At least one; JWT-SVID.md section 3.2 recommends exactly one. */
  readonly audience: readonly string[];
  /** Default: 300. */
  readonly ttlSeconds?: number;
}

/** JWT-SVIDs are bearer tokens: short lives bound what a stolen one is worth. */
export const DEFAULT_JWT_TTL_SECONDS = 300;
export const MAX_JWT_TTL_SECONDS = 3600;

/** Signs JWT-SVIDs (JWT-SVID.md) of one trust domain with one P-256 key (ES256). */
export class JwtSigner {
  readonly authority: JwtAuthority;
  readonly #trustDomain: string;
  readonly #key: KeyObject;
  readonly #header: string;

  constructor(trustDomain: string, key: KeyObject) {
    this.#trustDomain = trustDomain;
    this.#key = key;
    this.authority = jwtAuthority(createPublicKey(key));
    this.#header = base64url(JSON.stringify({ alg: 'ES256', kid: this.authority.keyId, typ: 'JWT' }));
  }

  /**
   * When a token for this request would expire, in milliseconds since the epoch.
   * @param limit it never outlives this
   * @throws CertsError WEFT_CERTS_TTL, WEFT_CERTS_AUDIENCE, WEFT_CERTS_IDENTITY_REFUSED
   * @throws IdentityError WEFT_IDENTITY_INVALID
   */
  expiry(request: IssueJwtRequest, now: number, limit: number): number {
    checkWorkloadIdentity(request.identity, this.#trustDomain);
    checkAudience(request.audience);
    const ttlSeconds = request.ttlSeconds ?? DEFAULT_JWT_TTL_SECONDS;
    if (!Number.isFinite(ttlSeconds) || ttlSeconds < 1 || ttlSeconds > MAX_JWT_TTL_SECONDS) {
      throw new CertsError('WEFT_CERTS_TTL', `a JWT-SVID cannot live for ${ttlSeconds} s`, {
        nextStep: `ask for 1 to ${MAX_JWT_TTL_SECONDS} seconds`,
      });
    }
    return Math.min(Math.floor(now / 1000 + ttlSeconds) * 1000, Math.floor(limit / 1000) * 1000);
  }

  /** Signs a token that expires then, by `expiry`. */
  async issue(request: IssueJwtRequest, now: number, expiresAt: number): Promise<JwtSvid> {
    const issuedAt = Math.floor(now / 1000) * 1000;
    const [only] = request.audience;
    const claims = {
      sub: request.identity,
      // One audience as a plain string: JWT-SVID.schema knows no other form, and RFC 7519 section 4.1.3 allows both.
      aud: request.audience.length === 1 ? only : request.audience,
      exp: expiresAt / 1000,
      iat: issuedAt / 1000,
    };
    const input = `${this.#header}.${base64url(JSON.stringify(claims))}`;
    const signature = await new Promise<Buffer>((resolve, reject) => {
      // RFC 7518 section 3.4: the two numbers side by side, not DER.
      sign('sha256', Buffer.from(input), { key: this.#key, dsaEncoding: 'ieee-p1363' }, (error, bytes) => {
        if (error === null) resolve(bytes);
        else reject(error);
      });
    });
    return { identity: request.identity, token: `${input}.${signature.toString('base64url')}`, issuedAt, expiresAt };
  }
}

/** The public half for a bundle; its `kid` is the RFC 7638 thumbprint. */
function jwtAuthority(publicKey: KeyObject): JwtAuthority {
  const { crv, kty, x, y } = publicKey.export({ format: 'jwk' });
  // RFC 7638 section 3.2: the required members, in this order, without a space.
  const keyId = createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url');
  return { keyId, jwk: { kty, crv, x, y, alg: 'ES256' } as JwtAuthority['jwk'] };
}

function base64url(text: string): string {
  return Buffer.from(text, 'utf8').toString('base64url');
}
