import { X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CliError } from './cli-error.ts';
import { writeWholeFile } from './whole-file.ts';

/** A file to write. Names are plain: no path. */
export interface SvidFile {
  readonly name: string;
  readonly content: string | Uint8Array;
  /** 0600 instead of 0644. */
  readonly secret: boolean;
}

/** By which file a directory is known to hold the SVID of an identity. */
export const SVID_FILE = 'svid.pem';

/**
 * Writes the files of an SVID into a directory, each whole or not at all, in the order that is given: whoever watches the last one finds the
 * others there. The directory is made, 0755, when it is missing.
 * @param identity files that are there are only replaced when `svid.pem` among them is an SVID of this identity
 * @throws CliError WEFT_CLI_FILE_EXISTS, WEFT_CLI_FILE
 */
export function writeSvidFiles(directory: string, files: readonly SvidFile[], identity: string, force: boolean): void {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    const taken = files.filter(({ name }) => existsSync(join(directory, name))).map(({ name }) => name);
    if (taken.length > 0 && !force && !holdsSvidOf(directory, identity)) {
      throw new CliError('WEFT_CLI_FILE_EXISTS', `${directory} has ${taken.join(', ')} already, and not of ${identity}`, {
        nextStep: 'name another directory, or overwrite them with --force',
      });
    }
    for (const { name, content, secret } of files) writeWholeFile(join(directory, name), content, { secret, replace: true });
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    throw new CliError('WEFT_CLI_FILE', `cannot write to ${directory}: ${(cause as Error).message}`, {
      cause,
      nextStep: 'name a directory that this user may write to',
    });
  }
}

function holdsSvidOf(directory: string, identity: string): boolean {
  try {
    const certificate = new X509Certificate(readFileSync(join(directory, SVID_FILE)));
    return certificate.subjectAltName?.split(', ').includes(`URI:${identity}`) ?? false;
  } catch {
    return false;
  }
}
