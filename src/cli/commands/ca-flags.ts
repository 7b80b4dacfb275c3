import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { DEFAULT_RUN_DIRECTORY } from '../../model/admin-api.ts';
import type { Material } from '../../model/authority-api.ts';
import { AdminClient } from '../admin-client.ts';
import { CliError, usageError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';

/** Flags of every command that asks a running authority. */
export interface SocketFlags {
  readonly runDir: string;
}

/** Adds --run-dir. */
export function withSocketFlags(command: Command): Command {
  return command.option('--run-dir <dir>', 'where the authority has its socket', DEFAULT_RUN_DIRECTORY);
}

/** @throws CliError WEFT_CLI_USAGE */
export function authorityClient(flags: SocketFlags): AdminClient {
  return AdminClient.ofAuthority(absolutePath('--run-dir', flags.runDir));
}

/** Flags that name a certificate authority of the operator's own. */
export interface MaterialFlags {
  readonly cert?: string;
  readonly key?: string;
  readonly passphraseFile?: string;
  readonly pkcs12?: string;
  readonly passwordFile?: string;
}

/** Adds the flags of MaterialFlags. */
export function withMaterialFlags(command: Command): Command {
  return command
    .option('--cert <file>', 'PEM certificate of an authority of your own, with the chain to its root')
    .option('--key <file>', 'PEM key of that authority')
    .option('--passphrase-file <file>', 'the passphrase of that key, when it is encrypted')
    .option('--pkcs12 <file>', 'both in one PKCS#12 file instead')
    .option('--password-file <file>', 'the password of that file');
}

/**
 * What the flags name, read from the files; null when they name nothing. Secrets come from files alone: command lines are visible to others.
 * @throws CliError WEFT_CLI_USAGE, WEFT_CLI_FILE; CertsError WEFT_CERTS_KEY_STORE
 */
export async function readMaterial({ cert, key, passphraseFile, pkcs12, passwordFile }: MaterialFlags): Promise<Material | null> {
  if (pkcs12 !== undefined) {
    if (cert !== undefined || key !== undefined || passphraseFile !== undefined) {
      throw usageError('--pkcs12 has the certificate and the key in it', 'give --pkcs12 with --password-file, or --cert with --key');
    }
    if (passwordFile === undefined)
      throw usageError('--pkcs12 needs its password', 'write it into a file, and name that with --password-file');
    return readPkcs12(pkcs12, readSecret(passwordFile));
  }
  if (passwordFile !== undefined) throw usageError('--password-file is for --pkcs12', 'use --passphrase-file for a PEM key');
  if (cert === undefined && key === undefined) {
    if (passphraseFile !== undefined) throw usageError('--passphrase-file is for --key', 'give --cert and --key too');
    return null;
  }
  if (cert === undefined || key === undefined) {
    throw usageError(`${cert === undefined ? '--key' : '--cert'} is one half of an authority`, 'give --cert and --key together');
  }
  return {
    certificate: readBytes(cert).toString('utf8'),
    key: readBytes(key).toString('utf8'),
    passphrase: passphraseFile === undefined ? null : readSecret(passphraseFile),
  };
}

async function readPkcs12(path: string, password: string): Promise<Material> {
  // Loaded when it is needed.
  const { readKeyStore } = await import('../../../certs/keystore/pkcs12.ts');
  const { privateKey, certificates } = await readKeyStore(readBytes(path), password);
  if (privateKey === null)
    throw new CliError('WEFT_CLI_FILE', `there is no key in ${path}`, { nextStep: 'give a file with the key of the authority' });
  return {
    certificate: certificates.map((der) => new X509Certificate(der).toString()).join(''),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    passphrase: null,
  };
}

/**
 * The first line of a file.
 * @throws CliError WEFT_CLI_FILE when it cannot be read or is empty
 */
export function readSecret(path: string): string {
  const secret = readBytes(path).toString('utf8').split(/\r?\n/, 1)[0] as string;
  if (secret !== '') return secret;
  throw new CliError('WEFT_CLI_FILE', `the first line of ${path} is empty`, { nextStep: 'write the secret into its first line' });
}

function readBytes(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new CliError('WEFT_CLI_FILE', `cannot read ${path}: ${(cause as Error).message}`, {
      cause,
      nextStep: 'check its name and permissions',
    });
  }
}
