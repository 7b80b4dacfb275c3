import { WeftError } from '../src/model/errors.ts';

/** Raised by the data plane for one connection. Codes: WEFT_PROXY_*. */
export class ProxyError extends WeftError {
  override readonly name = 'ProxyError';
}
