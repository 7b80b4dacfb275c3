import type { Terminal } from '../../../src/cli/terminal.ts';

/** A terminal that remembers. */
export class RecordedTerminal implements Terminal {
  output = '';
  errors = '';

  out(text: string): void {
    this.output += text;
  }

  err(text: string): void {
    this.errors += text;
  }
}
