import { WeftError } from '../../src/model/errors.ts';

/** Raised for policy content that cannot be evaluated. Codes: WEFT_POLICY_*. The rule that holds it fails closed. */
export class PolicyError extends WeftError {
  override readonly name = 'PolicyError';
}
