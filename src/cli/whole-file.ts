import { randomBytes } from 'node:crypto';
import { closeSync, fchmodSync, fsyncSync, linkSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';

export interface WholeFileOptions {
  /** 0600 instead of 0644. */
  readonly secret: boolean;
  /** Takes the place of a file that is there; otherwise that one stays, and EEXIST is thrown. */
  readonly replace: boolean;
}

/**
 * Writes a file whole or not at all: readers see the old one or the new one. It is private from its first byte on.
 * @throws what the file system refuses
 */
export function writeWholeFile(path: string, content: string | Uint8Array, { secret, replace }: WholeFileOptions): void {
  const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
  const fd = openSync(temporary, 'wx', 0o600);
  try {
    const bytes = Buffer.from(content);
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    if (!secret) fchmodSync(fd, 0o644);
    fsyncSync(fd);
    // link(2) refuses a name that exists.
    if (replace) renameSync(temporary, path);
    else linkSync(temporary, path);
  } finally {
    closeSync(fd);
    rmSync(temporary, { force: true });
  }
}
