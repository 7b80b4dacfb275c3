import type { Command } from 'commander';
import { DEFAULT_STATE_DIRECTORY } from '../../model/admin-api.ts';
import type { Material, MaterialRequest, SlotAnswer } from '../../model/authority-api.ts';
import { CliError, usageError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { loadControl } from './ca-control.ts';
import {
  authorityClient,
  type MaterialFlags,
  readMaterial,
  readSecret,
  type SocketFlags,
  withMaterialFlags,
  withSocketFlags,
} from './ca-flags.ts';

interface ImportFlags extends SocketFlags, MaterialFlags {
  readonly caDir?: string;
  readonly caPassphraseFile?: string;
  readonly trustDomain: string;
}

/** Adds `weft ca import`. */
export function addCaImportCommand(ca: Command, { terminal }: CommandContext): void {
  withMaterialFlags(withSocketFlags(ca.command('import')))
    .summary('bring an authority of your own')
    .description(
      'Brings a certificate authority of your own. A running authority puts it into the bundle and waits: `weft ca rotate` or `weft ca activate` ' +
        'lets it sign. With --ca-dir it goes into a directory that is not in use yet, and signs from the start.',
    )
    .option('--ca-dir <dir>', `the directory of an authority that does not run, such as ${DEFAULT_STATE_DIRECTORY}/ca`)
    .option('--trust-domain <name>', 'with --ca-dir: the trust domain', 'cluster.local')
    .option('--ca-passphrase-file <file>', 'with --ca-dir: keep the keys there encrypted with the first line of this file')
    .addHelpText(
      'after',
      `
Examples:
  weft ca import --cert ca.pem --key ca.key                             to a running authority
  weft ca import --cert ca.pem --key ca.key --passphrase-file secret
  weft ca import --pkcs12 ca.p12 --password-file secret
  weft ca import --cert ca.pem --key ca.key --ca-dir /var/lib/weft/ca   before the first start`,
    )
    .action(async (flags: ImportFlags) => {
      const material = await readMaterial(flags);
      if (material === null) throw usageError('there is nothing to import', 'give --cert and --key, or --pkcs12');
      if (flags.caDir !== undefined) {
        terminal.out(`${await importToDirectory(flags, material)}\n`);
        return;
      }
      const request: MaterialRequest = { material };
      const slot = await authorityClient(flags).post<SlotAnswer>('/v1/authority/prepare', request);
      terminal.out(`${slot.id}\n`);
      terminal.err('it is in the bundle and signs nothing yet: go on with `weft ca rotate`\n');
    });
}

async function importToDirectory(flags: ImportFlags, material: Material): Promise<string> {
  await refuseWhileServed(flags);
  const control = await loadControl();
  const { caPassphraseFile } = flags;
  return control.importAuthority(
    {
      directory: absolutePath('--ca-dir', flags.caDir ?? ''),
      trustDomain: flags.trustDomain,
      passphrase: caPassphraseFile === undefined ? null : async () => readSecret(caPassphraseFile),
    },
    material,
  );
}

/** A running authority has nodes, which must have the new root before it signs. */
async function refuseWhileServed(flags: SocketFlags): Promise<void> {
  const authority = authorityClient(flags);
  if (await authority.answers('/v1/authority')) {
    throw new CliError('WEFT_CLI_AUTHORITY_RUNS', `an authority answers on ${authority.socketPath}`, {
      nextStep: 'leave --ca-dir out, and go on with `weft ca rotate`',
    });
  }
}
