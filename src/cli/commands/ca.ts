import type { Command } from 'commander';
import type { CommandContext } from '../command-context.ts';
import { addCaEvictCommand } from './ca-evict.ts';
import { addCaExportCommand } from './ca-export.ts';
import { addCaImportCommand } from './ca-import.ts';
import { addCaRotateCommand, addCaStepCommands } from './ca-rotate.ts';
import { addCaServeCommand } from './ca-serve.ts';
import { addCaStatusCommand } from './ca-status.ts';
import { addCaTokenCommand } from './ca-token.ts';

/** The parts of `weft ca`. */
export const CA_COMMANDS: readonly string[] = [
  'serve',
  'token',
  'status',
  'rotate',
  'prepare',
  'activate',
  'taint',
  'revoke',
  'evict',
  'import',
  'export',
];

/** Adds `weft ca` and its parts. */
export function addCaCommand(program: Command, context: CommandContext): void {
  const ca = program
    .command('ca')
    .summary('run the certificate authority, let nodes join, rotate its root')
    .description('Works on the certificate authority of the trust domain, on the host that has it.')
    .addHelpText(
      'after',
      `
Examples:
  weft ca serve --config /etc/weft                an authority for other hosts
  weft ca token --node node-b                     lets node-b join it
  weft ca status                                  its roots, its nodes and their clocks
  weft ca rotate                                  replaces the root, under traffic
  weft ca export --out root.pem                   what verifiers need

See docs/authority.md.`,
    );
  addCaServeCommand(ca, context);
  addCaTokenCommand(ca, context);
  addCaStatusCommand(ca, context);
  addCaRotateCommand(ca, context);
  addCaStepCommands(ca, context);
  addCaEvictCommand(ca, context);
  addCaImportCommand(ca, context);
  addCaExportCommand(ca, context);
}
