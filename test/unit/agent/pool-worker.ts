import { parentPort } from 'node:worker_threads';
import type { ToWorker } from '../../../src/model/worker-messages.ts';

/** A worker for worker-pool.test.ts: it answers `traffic`, fails at `connections`, and dies of a `drain`. */
parentPort?.on('message', (message: ToWorker) => {
  if (message.type === 'jwks') return;
  const { request, type } = message;
  if (type === 'drain') throw new Error('asked to die');
  if (type === 'traffic') parentPort?.postMessage({ type: 'done', request, value: 'answer' });
  else if (type === 'connections') parentPort?.postMessage({ type: 'failed', request, message: 'out of order' });
});
parentPort?.postMessage({ type: 'ready' });
