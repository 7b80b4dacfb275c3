import { WeftError } from '../../src/model/errors.ts';

/** Why an external authoriser could not be asked. It never leaves the room: see Authorisation.failed. Codes: WEFT_EXTAUTHZ_*. */
export class AuthorisationError extends WeftError {
  override readonly name = 'AuthorisationError';
}
