import { WeftError } from '../model/errors.ts';

/** Raised for key sets, never for a token: those are refused by a TokenFailure. Codes: WEFT_JWT_*. */
export class JwtError extends WeftError {
  override readonly name = 'JwtError';
}
