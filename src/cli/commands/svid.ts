import type { Command } from 'commander';
import type { CommandContext } from '../command-context.ts';
import { addSvidExportCommand } from './svid-export.ts';
import { addSvidFetchCommand } from './svid-fetch.ts';
import { addSvidShowCommand } from './svid-show.ts';

/** The commands below `weft svid`. */
export const SVID_COMMANDS = ['show', 'fetch', 'export'] as const;

/** Adds `weft svid`. */
export function addSvidCommand(program: Command, context: CommandContext): void {
  const svid = program
    .command('svid')
    .summary('identities: show, fetch, export')
    .description('Shows the identities that the agent of this host keeps, and fetches or exports that of the calling process.')
    .addHelpText(
      'after',
      `
Examples:
  weft svid show                                  what the agent keeps, and when it is renewed
  weft svid fetch                                 who am I?
  weft svid fetch --write /run/cart --watch       files for an application that reads them
  weft svid fetch --jwt --audience db             a token to send
  weft svid export --format der --out ./identity`,
    );
  addSvidShowCommand(svid, context);
  addSvidFetchCommand(svid, context);
  addSvidExportCommand(svid, context);
}
