import { parseCompactToken } from '../../src/jose/compact-token.ts';
import type { JwtSvid } from '../identity-provider.ts';
import type { JwtSvidResponse } from '../workload-api/messages.ts';
import { badMessage, noSvid } from './spire-error.ts';

/**
 * The JWT-SVID of one identity in a FetchJWTSVID message, which may hold those of others. Its signature is left to whoever it is shown to.
 * @throws CertsError WEFT_CERTS_SPIRE_NO_SVID when it is not there, WEFT_CERTS_SPIRE_MESSAGE when it is not what was asked for
 */
export function readJwtSvid(response: JwtSvidResponse, identity: string, audience: readonly string[], now: number): JwtSvid {
  const entry = response.svids.find(({ spiffeId }) => spiffeId === identity);
  if (entry === undefined) throw noSvid(identity, 'its answer has JWT-SVIDs of other identities only');
  const token = parseCompactToken(entry.svid);
  if (typeof token === 'string') throw badMessage(`the JWT-SVID of ${identity} is ${token}`);
  const { sub, aud, exp, iat } = token.payload;
  if (sub !== identity) throw badMessage(`the JWT-SVID of ${identity} is of another subject`);
  const audiences: unknown[] = Array.isArray(aud) ? aud : [aud];
  if (!audience.every((wanted) => audiences.includes(wanted)))
    throw badMessage(`the JWT-SVID of ${identity} lacks an audience that was asked for`);
  if (typeof exp !== 'number' || exp * 1000 <= now) throw badMessage(`the JWT-SVID of ${identity} has expired, or never does`);
  return { identity, token: entry.svid, issuedAt: typeof iat === 'number' ? iat * 1000 : now, expiresAt: exp * 1000 };
}
