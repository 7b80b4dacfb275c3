import { randomBytes } from 'node:crypto';
import { open, unlink } from 'node:fs/promises';

/**
 * Writes a file of mode 0600 under another name and moves it to its own, so that it is there whole or not at all, also after a crash.
 * @param put link(2) for a name that must be new, rename(2) for one that may be taken
 * @throws what the file system refuses
 */
export async function putWholeFile(path: string, content: string, put: (temporary: string, path: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await using file = await open(temporary, 'wx', 0o600);
    await file.writeFile(content);
    await file.sync();
    await put(temporary, path);
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
}
