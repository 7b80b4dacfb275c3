import { connect, createServer, type AddressInfo } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parentPort } from 'node:worker_threads';
import { IdentityMirror } from '../certs/svid/identity-mirror.ts';
import { SvidTlsContexts } from '../certs/svid/tls-contexts.ts';
import type { ToWorker } from '../src/model/worker-messages.ts';

/** A proxy thread in small: it relays over loopback without pause, takes identity updates as worker.ts does, and tells how long its loop stood. */
const CONNECTIONS = 16;
const MESSAGE = Buffer.alloc(1024, 'x');

const port = parentPort;
if (port === null) throw new Error('identity-worker.ts is the entry of a worker thread');
const mirror = new IdentityMirror({ request: () => {} });
const contexts = new SvidTlsContexts(mirror);
const delay = monitorEventLoopDelay({ resolution: 1 });
let echoes = 0;

const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket));
echo.listen(0, '127.0.0.1', () => {
  for (let i = 0; i < CONNECTIONS; i++) {
    const socket = connect((echo.address() as AddressInfo).port, '127.0.0.1');
    let received = 0;
    socket.on('data', (chunk) => {
      received += chunk.length;
      if (received < MESSAGE.length) return;
      received -= MESSAGE.length;
      echoes++;
      socket.write(MESSAGE);
    });
    socket.write(MESSAGE);
  }
  port.postMessage({ type: 'ready' });
});

port.on('message', (message: ToWorker | { readonly type: 'reset' } | { readonly type: 'report' }) => {
  if (message.type === 'reset') {
    delay.reset();
    delay.enable();
    echoes = 0;
  } else if (message.type === 'report') {
    delay.disable();
    port.postMessage({ type: 'report', max_ms: delay.max / 1e6, p99_ms: delay.percentile(99) / 1e6, echoes });
  } else if (message.type === 'identities') {
    mirror.apply(message.update);
    // As a first connection would.
    const newest = message.update.svids.at(-1);
    if (newest !== undefined) contexts.context(newest.identity);
    port.postMessage({ type: 'done', request: message.request, value: null });
  }
});
