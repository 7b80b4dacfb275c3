import { isMainThread } from 'node:worker_threads';
import { LibbpfError } from './errors.ts';

/** Throws LIBBPF_MAIN_THREAD_ONLY in a worker. `reason` says why in a few words. */
export function requireMainThread(what: string, reason: string): void {
  if (!isMainThread) throw new LibbpfError('LIBBPF_MAIN_THREAD_ONLY', `${what} works in the main thread only: ${reason}`);
}
