import { WeftError } from '../model/errors.ts';

/** Raised by a JSON endpoint. Its codes are those of its Endpoint. */
export class AdminError extends WeftError {
  override readonly name = 'AdminError';
}
