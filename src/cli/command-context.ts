import type { Terminal } from './terminal.ts';

/** What every command is given. */
export interface CommandContext {
  readonly terminal: Terminal;
  /** Says what the process shall exit with once the command has returned. */
  exit(code: number): void;
}
