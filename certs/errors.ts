import { WeftError } from '../src/model/errors.ts';

/** Raised by the certificate authority and the SVID manager for what is wrong on our side. Codes: WEFT_CERTS_*. */
export class CertsError extends WeftError {
  override readonly name = 'CertsError';
}
