/**
 * The one error shape of Weft. Each room has one subclass and a fixed set of codes; docs/errors.md has a line for every code.
 */
export interface WeftErrorDetail {
  /** What the operator should do next, as one imperative sentence. */
  readonly nextStep?: string;
  /** The failure underneath. */
  readonly cause?: unknown;
}

/** Base of every error that Weft raises on purpose. `code` is stable and may be matched by scripts. */
export class WeftError extends Error {
  override readonly name: string = 'WeftError';
  readonly code: string;
  readonly nextStep: string | null;

  constructor(code: string, message: string, detail: WeftErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.code = code;
    this.nextStep = detail.nextStep ?? null;
  }

  /** One line for a terminal or a log: code, message and the next step. */
  describe(): string {
    return `${this.code}: ${this.message}${this.nextStep === null ? '' : ` (${this.nextStep})`}`;
  }
}

/** The text of anything that was thrown, for a log line. */
export function errorText(error: unknown): string {
  if (error instanceof WeftError) return error.describe();
  return error instanceof Error ? error.message : String(error);
}
