import { WeftError, type WeftErrorDetail } from '../model/errors.ts';

/** The exit codes of `weft`. `weft run` passes on its command's own. */
export const EXIT = {
  OK: 0,
  FAILURE: 1,
  USAGE: 2,
  /** `weft run`: the command is there, but cannot be executed. */
  NOT_EXECUTABLE: 126,
  /** `weft run`: there is no such command. */
  NOT_FOUND: 127,
} as const;

/** Raised by the command line. Codes: WEFT_CLI_*, or the code that an agent answered with. */
export class CliError extends WeftError {
  override readonly name = 'CliError';
  /** What the process exits with. */
  readonly exitCode: number;

  constructor(code: string, message: string, detail: WeftErrorDetail & { readonly exitCode?: number } = {}) {
    super(code, message, detail);
    this.exitCode = detail.exitCode ?? EXIT.FAILURE;
  }
}

/** A wrong flag or argument. */
export function usageError(message: string, nextStep: string): CliError {
  return new CliError('WEFT_CLI_USAGE', message, { nextStep, exitCode: EXIT.USAGE });
}
