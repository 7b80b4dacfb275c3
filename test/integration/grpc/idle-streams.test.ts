import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { GrpcClient } from '../../../src/grpc/grpc-client.ts';
import { connect } from 'node:net';
import { type Echo, WATCH } from './echo-fixture.ts';

const SERVER = fileURLToPath(new URL('./idle-streams-server.ts', import.meta.url));
const SESSIONS = 100;
const STREAMS_EACH = 100;
/** Measured: 10 KiB; the rest is room for another machine. */
const MAX_BYTES_PER_STREAM = 20 * 1024;
const HELLO: Echo = { text: 'hello', count: 1 };

interface Report {
  readonly path: string;
  readonly watching: number;
  readonly rss: number;
}

describe('ten thousand idle streams', () => {
  it('take a bounded amount of memory, and give it back', async (context) => {
    const server = fork(SERVER, { execArgv: ['--expose-gc', '--disable-warning=ExperimentalWarning'] });
    const ask = async (): Promise<Report> => {
      server.send('report');
      const [report] = (await once(server, 'message')) as [Report];
      return report;
    };
    try {
      await once(server, 'message');
      const before = await ask();
      const clients = Array.from(
        { length: SESSIONS },
        () => new GrpcClient({ authority: 'localhost', connect: async () => connect(before.path).on('error', () => {}) }),
      );
      await Promise.all(
        clients.flatMap((client) =>
          Array.from({ length: STREAMS_EACH }, () => client.serverStream(WATCH, HELLO)[Symbol.asyncIterator]().next()),
        ),
      );
      const held = await ask();
      assert.equal(held.watching, SESSIONS * STREAMS_EACH);
      const perStream = (held.rss - before.rss) / held.watching;
      context.diagnostic(`${Math.round(perStream)} bytes of resident memory for each idle stream`);
      assert.ok(perStream < MAX_BYTES_PER_STREAM, `${perStream} bytes`);
      await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()));
      const deadline = performance.now() + 5_000;
      while ((await ask()).watching > 0) assert.ok(performance.now() < deadline, 'calls go on after their clients went');
    } finally {
      server.disconnect();
      const timer = setTimeout(() => server.kill('SIGKILL'), 10_000);
      const [code] = (await once(server, 'exit')) as [number | null];
      clearTimeout(timer);
      // Nothing that was served keeps the process.
      assert.equal(code, 0);
    }
  });
});
