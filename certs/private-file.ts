import { constants } from 'node:fs';
import { type FileHandle, link, mkdir, open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CertsError } from './errors.ts';
import { putWholeFile } from './whole-file.ts';

/** A file of ours is a few KiB; more is not ours. */
const MAX_BYTES = 256 * 1024;
const OTHERS = 0o077;
const WRITABLE_BY_OTHERS = 0o022;

/**
 * Reads a file that holds a secret. Null when there is none.
 * @throws CertsError WEFT_CERTS_KEY_FILE when others can read it, or it is not a plain file of this user
 */
export async function readPrivateFile(path: string): Promise<string | null> {
  let file: FileHandle;
  try {
    // NOFOLLOW and NONBLOCK: neither a planted link nor a planted FIFO gets us anywhere.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return null;
    throw new CertsError(
      'WEFT_CERTS_KEY_FILE',
      `cannot open ${path}: ${code === 'ELOOP' ? 'it is a symbolic link' : (error as Error).message}`,
      {
        nextStep: 'put a plain file there that only the user of the agent can read',
        cause: error,
      },
    );
  }
  await using handle = file;
  const stat = await handle.stat();
  if (!stat.isFile()) throw unusable(path, 'it is not a plain file');
  if ((stat.mode & OTHERS) !== 0) {
    const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
    throw new CertsError('WEFT_CERTS_KEY_FILE', `the key file ${path} has mode ${mode}: group or others may use it`, {
      nextStep: `treat the key as leaked if others have accounts here; otherwise run: chmod 600 ${path}`,
    });
  }
  if (stat.uid !== process.geteuid?.() && stat.uid !== 0) throw unusable(path, `it belongs to user ${stat.uid}`);
  if (stat.size > MAX_BYTES) throw unusable(path, `it has ${stat.size} bytes`);
  return handle.readFile('utf8');
}

function unusable(path: string, why: string): CertsError {
  return new CertsError('WEFT_CERTS_KEY_FILE', `cannot use the key file ${path}: ${why}`, {
    nextStep: 'put a plain file there that only the user of the agent can read',
  });
}

/**
 * Creates a file that holds a secret, mode 0600 in a directory of mode 0700, whole or not at all. Of several processes that try at once
 * exactly one succeeds: link(2) refuses a name that exists, where rename(2) would replace it.
 * @returns false when the file existed
 * @throws CertsError WEFT_CERTS_DIRECTORY when others may write to the directory, or it cannot be written
 */
export async function createPrivateFile(path: string, content: string): Promise<boolean> {
  try {
    await putPrivateFile(path, content, link);
    return true;
  } catch (error) {
    if (error instanceof CertsError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'EEXIST') return false;
    throw error;
  }
}

/**
 * Writes a file that holds a secret as createPrivateFile does, in place of the one that is there: a reader finds the old one or the new
 * one, also after a crash.
 * @throws CertsError WEFT_CERTS_DIRECTORY
 */
export async function replacePrivateFile(path: string, content: string): Promise<void> {
  await putPrivateFile(path, content, rename);
}

async function putPrivateFile(path: string, content: string, put: (temporary: string, path: string) => Promise<void>): Promise<void> {
  const directory = dirname(path);
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await using parent = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
    if (((await parent.stat()).mode & WRITABLE_BY_OTHERS) !== 0) {
      throw new CertsError('WEFT_CERTS_DIRECTORY', `group or others may write to ${directory}, so they could replace the key`, {
        nextStep: `run: chmod 700 ${directory}`,
      });
    }
    await putWholeFile(path, content, put);
    await parent.sync();
  } catch (error) {
    if (error instanceof CertsError) throw error;
    throw new CertsError('WEFT_CERTS_DIRECTORY', `cannot write ${path}: ${(error as Error).message}`, {
      nextStep: 'give the agent a directory it may write to, on a file system with hard links',
      cause: error,
    });
  }
}
