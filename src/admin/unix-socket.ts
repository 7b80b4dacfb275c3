import { existsSync, rmSync } from 'node:fs';
import { connect } from 'node:net';

/**
 * Makes room for a unix socket: removes what a process that is gone has left at the path.
 * @returns false when somebody listens there; it is left alone
 */
export async function clearStaleSocket(path: string): Promise<boolean> {
  if (!existsSync(path)) return true;
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
  if (alive) return false;
  rmSync(path, { force: true });
  return true;
}
