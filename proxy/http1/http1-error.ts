import { WeftError } from '../../src/model/errors.ts';

/**
 * Why an HTTP/1.1 connection was cut. Codes: WEFT_HTTP1_ABORTED, WEFT_HTTP1_POLICY_CHANGED, WEFT_HTTP1_CLOSE_TIMEOUT, WEFT_HTTP1_STATE.
 */
export class Http1Error extends WeftError {
  override readonly name = 'Http1Error';
}
