import type { Command } from 'commander';
import { DEFAULT_RUN_DIRECTORY } from '../../model/admin-api.ts';
import { AdminClient } from '../admin-client.ts';
import { absolutePath } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { statusText } from './status.ts';

/** Adds `weft svid show`. */
export function addSvidShowCommand(svid: Command, context: CommandContext): void {
  svid
    .command('show')
    .summary('the SVIDs that the agent keeps')
    .description(
      'Shows the SVIDs that the agent of this host keeps for its workloads, when they are renewed, and its trust bundles. No keys.',
    )
    .option('--json', 'what the agent says, as JSON')
    .option('--run-dir <dir>', 'where the agent keeps its admin socket', DEFAULT_RUN_DIRECTORY)
    .addHelpText('after', '\nExamples:\n  weft svid show\n  weft svid show --json\n\nExit code: 1 when no agent answers.')
    .action(async (flags: { readonly json?: true; readonly runDir: string }) => {
      context.terminal.out(await statusText(new AdminClient(absolutePath('--run-dir', flags.runDir)), 'svids', flags.json === true));
    });
}
