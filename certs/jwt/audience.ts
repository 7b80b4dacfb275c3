import { CertsError } from '../errors.ts';

/** A token for more would be good for nobody; JWT-SVID.md section 3.2 recommends exactly one. */
export const MAX_AUDIENCES = 16;
/** In characters. */
export const MAX_AUDIENCE_LENGTH = 2048;

/**
 * Whom a JWT-SVID is for: at least one, and no more than an authority signs.
 * @throws CertsError WEFT_CERTS_AUDIENCE
 */
export function checkAudience(audience: readonly string[]): void {
  if (audience.length === 0) throw unusable('there is none');
  if (audience.length > MAX_AUDIENCES) throw unusable(`there are more than ${MAX_AUDIENCES}`);
  for (const each of audience) {
    if (each === '') throw unusable('one is empty');
    if (each.length > MAX_AUDIENCE_LENGTH) throw unusable(`one is longer than ${MAX_AUDIENCE_LENGTH} characters`);
    if (!each.isWellFormed()) throw unusable('one is not Unicode');
  }
}

function unusable(why: string): CertsError {
  return new CertsError('WEFT_CERTS_AUDIENCE', `the audience of a JWT-SVID cannot be used: ${why}`, {
    nextStep: 'name who the token is for, once',
  });
}
