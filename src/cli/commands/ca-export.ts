import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { DEFAULT_STATE_DIRECTORY } from '../../model/admin-api.ts';
import type { CertificatesAnswer } from '../../model/authority-api.ts';
import { CliError, usageError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import type { Terminal } from '../terminal.ts';
import { loadControl } from './ca-control.ts';
import { authorityClient, readSecret, type SocketFlags, withSocketFlags } from './ca-flags.ts';

interface ExportFlags extends SocketFlags {
  readonly out?: string;
  readonly key?: true;
  readonly pkcs12?: true;
  readonly passphraseFile?: string;
  readonly caDir: string;
  readonly caPassphraseFile?: string;
  readonly trustDomain: string;
}

/** Adds `weft ca export`. */
export function addCaExportCommand(ca: Command, { terminal }: CommandContext): void {
  withSocketFlags(ca.command('export'))
    .summary('write the roots, or the active authority with its key')
    .description(
      'Writes the roots of the trust domain (PEM), which verifiers need; with --key the active authority with its key, encrypted.',
    )
    .option('--out <file>', 'a new file, mode 0600 (default: standard output)')
    .option('--key', 'the active authority and its key, from its directory on this host')
    .option('--pkcs12', 'with --key and --out: one PKCS#12 file in place of PEM')
    .option('--passphrase-file <file>', 'with --key: the key is encrypted with the first line of this file')
    .option('--ca-dir <dir>', 'with --key: the directory of the authority', `${DEFAULT_STATE_DIRECTORY}/ca`)
    .option('--ca-passphrase-file <file>', 'with --key: what the keys in that directory are encrypted with, if they are')
    .option('--trust-domain <name>', 'with --key: the trust domain', 'cluster.local')
    .addHelpText(
      'after',
      `
Examples:
  weft ca export --out root.pem
  weft ca export --key --passphrase-file secret --out backup.pem
  weft ca export --key --passphrase-file secret --pkcs12 --out backup.p12

Whoever has the key and its passphrase can be anybody in the trust domain.`,
    )
    .action(async (flags: ExportFlags) => {
      if (flags.key === true) {
        write(flags.out, await authorityWithKey(flags), terminal);
        return;
      }
      if (flags.passphraseFile !== undefined) throw usageError('--passphrase-file is for --key', 'give --key, or leave it out');
      if (flags.pkcs12 === true) throw usageError('--pkcs12 is for --key', 'give --key, or leave it out');
      const { roots } = await authorityClient(flags).get<CertificatesAnswer>('/v1/authority/certificates');
      write(flags.out, roots, terminal);
    });
}

async function authorityWithKey(flags: ExportFlags): Promise<string | Uint8Array> {
  const { passphraseFile, caPassphraseFile, trustDomain } = flags;
  if (passphraseFile === undefined)
    throw usageError('--key needs a passphrase', 'write one into a file, and name that with --passphrase-file');
  if (flags.pkcs12 === true && flags.out === undefined) throw usageError('PKCS#12 is no text', 'name a file for it with --out');
  const control = await loadControl();
  const options = {
    directory: absolutePath('--ca-dir', flags.caDir),
    trustDomain,
    passphrase: caPassphraseFile === undefined ? null : async () => readSecret(caPassphraseFile),
  };
  const passphrase = readSecret(passphraseFile);
  return flags.pkcs12 === true ? control.exportKeyStore(options, passphrase) : control.exportAuthority(options, passphrase);
}

function write(out: string | undefined, content: string | Uint8Array, terminal: Terminal): void {
  if (out === undefined) {
    terminal.out(content.toString());
    return;
  }
  try {
    writeFileSync(out, content, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    throw new CliError('WEFT_CLI_FILE', `cannot write ${out}: ${(cause as Error).message}`, { cause, nextStep: 'name a new file' });
  }
}
