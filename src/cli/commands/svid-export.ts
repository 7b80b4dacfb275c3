import { type Command, Option } from 'commander';
import { certificatesPem, defaultSvid, type ReceivedSvid } from '../../../certs/workload-api/received-svid.ts';
import { absolutePath } from '../flag-values.ts';
import type { CommandContext } from '../program.ts';
import { SVID_FILE, type SvidFile, writeSvidFiles } from '../svid-directory.ts';
import { endpointAddress, withWorkloadApi } from '../workload-api.ts';
import { pemFiles } from './svid-fetch.ts';

interface ExportFlags {
  readonly socket?: string;
  readonly format: 'pem' | 'der';
  readonly out: string;
  readonly force?: true;
}

/** Adds `weft svid export`. */
export function addSvidExportCommand(svid: Command, context: CommandContext): void {
  svid
    .command('export')
    .summary('the SVID of the calling process, in the form that a program wants')
    .description('Fetches the SVID of the workload that this process is part of, and writes it with its key as files.')
    .requiredOption('--out <dir>', 'where to; made when it is missing')
    .addOption(new Option('--format <format>', 'pem, or der').choices(['pem', 'der']).default('pem'))
    .option('--socket <address>', 'unix:///path or tcp://IP:port (default: SPIFFE_ENDPOINT_SOCKET, else that of the agent)')
    .option('--force', 'overwrite files that are of somebody else')
    .addHelpText(
      'after',
      `
Examples:
  weft run -n shop -s cart -- weft svid export --out ./identity
  weft run -n shop -s cart -- weft svid export --format der --out ./identity

pem: svid.pem, svid.key, bundle.pem. der: svid.der (the leaf), svid.key.der, bundle-1.der and so on, and svid.pem. Keys have mode 0600.`,
    )
    .action(async (flags: ExportFlags) => {
      const directory = absolutePath('--out', flags.out);
      const received = await withWorkloadApi(endpointAddress(flags.socket, process.env), async (client) =>
        defaultSvid(await client.x509Svids()),
      );
      writeSvidFiles(directory, flags.format === 'pem' ? pemFiles(received) : derFiles(received), received.id, flags.force === true);
      context.terminal.out(`${received.id} in ${directory}\n`);
    });
}

function derFiles(svid: ReceivedSvid): SvidFile[] {
  return [
    ...svid.bundle.map((content, index) => ({ name: `bundle-${index + 1}.der`, content, secret: false })),
    { name: 'svid.key.der', content: svid.privateKey, secret: true },
    ...svid.chain.map((content, index) => ({ name: index === 0 ? 'svid.der' : `intermediate-${index}.der`, content, secret: false })),
    // Also says whose the directory is.
    { name: SVID_FILE, content: certificatesPem(svid.chain), secret: false },
  ];
}
