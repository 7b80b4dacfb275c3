import { WeftError } from '../model/errors.ts';
import { CliError, EXIT } from './cli-error.ts';

/** Where a command writes. Texts end with a newline. */
export interface Terminal {
  out(text: string): void;
  err(text: string): void;
}

/** Shows an error as one line and, where there is one, the next step. Returns the exit code that goes with it. */
export function showError(terminal: Terminal, error: unknown): number {
  if (!(error instanceof WeftError)) {
    const text = error instanceof Error ? error.message : String(error);
    terminal.err(`weft: WEFT_CLI_UNEXPECTED: ${oneLine(text)}\nnext: set WEFT_DEBUG=1 to see where it came from, and report it\n`);
    if (process.env.WEFT_DEBUG !== undefined && error instanceof Error) terminal.err(`${error.stack}\n`);
    return EXIT.FAILURE;
  }
  terminal.err(`weft: ${error.code}: ${oneLine(error.message)}\n`);
  if (error.nextStep !== null) terminal.err(`next: ${oneLine(error.nextStep)}\n`);
  if (process.env.WEFT_DEBUG !== undefined) terminal.err(`${error.stack}\n`);
  return error instanceof CliError ? error.exitCode : EXIT.FAILURE;
}

/** Texts may come from files and from the agent: what could move a cursor or start a new line is shown, not done. */
export function oneLine(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/\s*\n\s*/g, ' ').replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}
