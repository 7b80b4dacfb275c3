import { lstatSync, rmSync } from 'node:fs';
import { connect } from 'node:net';

/**
 * Makes room for a unix socket: removes what a process that is gone has left at the path. What is no socket is left alone: it is nobody's to
 * remove, and listening there fails.
 * @returns false when somebody listens there; it is left alone
 */
export async function clearStaleSocket(path: string): Promise<boolean> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return true;
  const isStale = await new Promise<boolean>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    // Anything else is somebody who is there: EAGAIN, one with more callers than it has taken yet.
    probe.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED' || code === 'ENOENT'));
  });
  if (isStale) rmSync(path, { force: true });
  return isStale;
}
