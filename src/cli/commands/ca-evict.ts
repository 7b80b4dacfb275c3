import type { Command } from 'commander';
import { resourceName } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { authorityClient, type SocketFlags, withSocketFlags } from './ca-flags.ts';

/** Adds `weft ca evict`. */
export function addCaEvictCommand(ca: Command, { terminal }: CommandContext): void {
  withSocketFlags(ca.command('evict'))
    .summary('refuse a node from now on')
    .description(
      'Refuses a node until it joins again with a new token: earlier tokens for it are void, and no rotation waits for it. The SVIDs that it has ' +
        'stay valid until they expire.',
    )
    .argument('<node>', 'its name, as `weft ca status` has it')
    .addHelpText('after', '\nExample:\n  weft ca evict node-b')
    .action(async (node: string, flags: SocketFlags) => {
      const name = resourceName('<node>', node);
      await authorityClient(flags).delete(`/v1/authority/nodes/${name}`);
      terminal.out(`${name} gets nothing any more; what it has expires within the life of an SVID\n`);
    });
}
