import { WeftError } from '../../src/model/errors.ts';
import type { WeftErrorDetail } from '../../src/model/errors.ts';

export interface TunnelErrorDetail extends WeftErrorDetail {
  /** HTTP status of the refusal, when the peer answered. */
  readonly status?: number;
  /** `x-weft-denied-by` of the refusal: the policy's name. */
  readonly deniedBy?: string | null;
  /** See TunnelError.isUnheard. */
  readonly isUnheard?: boolean;
}

/** A tunnel could not be made, or was refused. Codes: WEFT_TUNNEL_*. `cause` is the failure underneath (socket, TLS, identity, HTTP/2). */
export class TunnelError extends WeftError {
  override readonly name = 'TunnelError';
  readonly status: number | null;
  readonly deniedBy: string | null;
  /** The peer has certainly not begun with what was asked of it: it may be asked again over another connection. */
  readonly isUnheard: boolean;

  constructor(code: string, message: string, detail: TunnelErrorDetail = {}) {
    super(code, message, detail);
    this.status = detail.status ?? null;
    this.deniedBy = detail.deniedBy ?? null;
    this.isUnheard = detail.isUnheard ?? false;
  }
}
