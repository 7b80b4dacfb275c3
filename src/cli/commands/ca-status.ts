import type { Command } from 'commander';
import type { AuthorityStatusAnswer } from '../../model/authority-api.ts';
import { authorityText } from '../authority-text.ts';
import type { CommandContext } from '../command-context.ts';
import { authorityClient, type SocketFlags, withSocketFlags } from './ca-flags.ts';

/** Adds `weft ca status`. */
export function addCaStatusCommand(ca: Command, { terminal }: CommandContext): void {
  withSocketFlags(ca.command('status'))
    .summary('show the authority, its rotation and its nodes')
    .description(
      'Shows the authorities of the trust domain, the rotation under way and who is waited for, and the nodes with their clocks.',
    )
    .option('--json', 'what the authority says, as JSON')
    .addHelpText('after', '\nExamples:\n  weft ca status\n  weft ca status --json')
    .action(async (flags: SocketFlags & { readonly json?: true }) => {
      const status = await authorityClient(flags).get<AuthorityStatusAnswer>('/v1/authority');
      terminal.out(flags.json === true ? `${JSON.stringify(status, null, 2)}\n` : authorityText(status));
    });
}
