import { WeftError } from '../../../src/model/errors.ts';

/** Raised by the lab. Codes: WEFT_LAB_*. */
export class LabError extends WeftError {
  override readonly name = 'LabError';
}
