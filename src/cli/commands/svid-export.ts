import { type Command, Option } from 'commander';
import { createKeyStore, createTrustStore } from '../../../certs/keystore/pkcs12.ts';
import { defaultSvid, type ReceivedSvid } from '../../../certs/workload-api/received-svid.ts';
import { certificatesToPem } from '../../../certs/x509/pem.ts';
import { usageError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { SVID_FILE, type SvidFile, writeSvidFiles } from '../svid-directory.ts';
import { endpointAddress, withWorkloadApi } from '../workload-api.ts';
import { readSecret } from './ca-flags.ts';
import { pemFiles } from './svid-fetch.ts';

interface ExportFlags {
  readonly socket?: string;
  readonly format: 'pem' | 'der' | 'pkcs12';
  readonly passwordFile?: string;
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
    .addOption(new Option('--format <format>', 'pem, der, or pkcs12').choices(['pem', 'der', 'pkcs12']).default('pem'))
    .option('--password-file <file>', 'with pkcs12: the first line is the password of both stores')
    .option('--socket <address>', 'unix:///path or tcp://IP:port (default: SPIFFE_ENDPOINT_SOCKET, else that of the agent)')
    .option('--force', 'overwrite files that are of somebody else')
    .addHelpText(
      'after',
      `
Examples:
  weft run -n shop -s cart -- weft svid export --out ./identity
  weft run -n shop -s cart -- weft svid export --format der --out ./identity
  weft run -n shop -s cart -- weft svid export --format pkcs12 --out ./identity --password-file ./password

pem: svid.pem, svid.key, bundle.pem. der: svid.der (the leaf), svid.key.der, bundle-1.der and so on, and svid.pem.
pkcs12: keystore.p12 with the alias svid, truststore.p12, and svid.pem. What holds a key has mode 0600.`,
    )
    .action(async (flags: ExportFlags) => {
      const password = storePassword(flags);
      const directory = absolutePath('--out', flags.out);
      const received = await withWorkloadApi(endpointAddress(flags.socket, process.env), async (client) =>
        defaultSvid(await client.currentX509Svids()),
      );
      const files =
        password === null ? (flags.format === 'pem' ? pemFiles(received) : derFiles(received)) : await storeFiles(received, password);
      writeSvidFiles(directory, files, received.id, flags.force === true);
      context.terminal.out(`${received.id} in ${directory}\n`);
    });
}

/** Null for the forms that have none. @throws CliError WEFT_CLI_USAGE, WEFT_CLI_FILE */
function storePassword({ format, passwordFile }: ExportFlags): string | null {
  if (format !== 'pkcs12' && passwordFile === undefined) return null;
  if (format !== 'pkcs12') throw usageError('--password-file is for pkcs12', 'add --format pkcs12, or leave it out');
  if (passwordFile === undefined)
    throw usageError('a keystore needs a password', 'write one into a file, and name it with --password-file');
  return readSecret(absolutePath('--password-file', passwordFile));
}

/** For Java: what one is, and whom one trusts. Roots of other trust domains are not among those: a truststore cannot keep them apart. */
async function storeFiles(svid: ReceivedSvid, password: string): Promise<SvidFile[]> {
  const { chain, privateKey, bundle } = svid;
  return [
    { name: 'truststore.p12', content: await createTrustStore({ certificates: bundle, password, friendlyName: 'root' }), secret: false },
    {
      name: 'keystore.p12',
      content: await createKeyStore({ privateKey, certificates: chain, password, friendlyName: 'svid' }),
      secret: true,
    },
    { name: SVID_FILE, content: certificatesToPem(chain), secret: false },
  ];
}

function derFiles(svid: ReceivedSvid): SvidFile[] {
  return [
    ...svid.bundle.map((content, index) => ({ name: `bundle-${index + 1}.der`, content, secret: false })),
    { name: 'svid.key.der', content: svid.privateKey, secret: true },
    ...svid.chain.map((content, index) => ({ name: index === 0 ? 'svid.der' : `intermediate-${index}.der`, content, secret: false })),
    // Also says whose the directory is.
    { name: SVID_FILE, content: certificatesToPem(svid.chain), secret: false },
  ];
}
