import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Http2Connection } from '../../../src/transport/http2/connection.ts';
import type { Http2Stream } from '../../../src/transport/http2/stream.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import { grpc } from '../../unit/http2/session-fixture.ts';

const STREAMS = 1000;
const BODY = Buffer.alloc(64 * 1024, 0x61);

test('1000 streams of one connection, all of whose readers are stuck in both directions, cost less than 64 MB, and all end well', async () => {
  using open = new DisposableStack();
  const arrived: { stream: Http2Stream; body: Recorder }[] = [];
  const options = { keepAliveMs: 0, maxConcurrentStreams: STREAMS, maxOpenStreams: STREAMS, streamWindow: 1024, connectionWindow: 65_535 };
  const onStream = (stream: Http2Stream): void => {
    arrived.push({ stream, body: new Recorder(stream) });
    stream.respond([':status', '200', 'content-type', 'application/grpc']);
    stream.write(BODY);
    stream.endWithTrailers(['grpc-status', '0']);
  };
  const connections: Http2Connection[] = [];
  const application = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    connections.push(new Http2Connection('server', new SocketByteStream(socket), { onStream, onClose() {} }, options));
  });
  open.defer(() => {
    for (const connection of connections) connection.destroy();
    application.close();
  });
  application.listen(0, '127.0.0.1');
  await once(application, 'listening');
  const child = fork(
    new URL('session-process.ts', import.meta.url),
    [String((application.address() as AddressInfo).port), String(STREAMS)],
    { execArgv: ['--expose-gc'] },
  );
  open.defer(() => child.kill());
  const [port] = (await once(child, 'message')) as [number];
  const measure = async (): Promise<{ rss: number; active: number }> => {
    const answer = once(child, 'message') as Promise<[{ rss: number; active: number }]>;
    child.send('measure');
    return (await answer)[0];
  };
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  await once(socket, 'connect');
  const client = new Http2Connection('client', new SocketByteStream(socket), { onClose() {} }, options);
  open.defer(() => client.destroy());
  const warm = new Recorder(client.request(grpc('/warm'), true));
  await delay(200);
  const before = await measure();
  const readers: Recorder[] = [warm];
  const streams: Http2Stream[] = [];
  const [first] = arrived;
  assert.ok(first !== undefined);
  for (let i = 1; i < STREAMS; i++) {
    const stream = client.request(grpc(`/shop.Items/Get${i}`, 'authorization', `Bearer ${'x'.repeat(300)}${i}`));
    readers.push(new Recorder(stream));
    streams.push(stream);
    stream.write(BODY);
    stream.end();
  }
  // Until the windows have filled: nothing moves any more. What garbage adds comes and goes, so the least of the last measurements counts.
  const full = async (): Promise<{ rss: number; active: number }> => {
    const seen = [await measure()];
    const isQuiet = (): boolean => {
      const last = seen.slice(-5);
      const sizes = last.map(({ rss }) => rss);
      return last.length === 5 && last.every(({ active }) => active === STREAMS) && Math.max(...sizes) - Math.min(...sizes) < 1 << 20;
    };
    for (const deadline = performance.now() + 15_000; !isQuiet() && performance.now() < deadline; ) {
      await delay(100);
      seen.push(await measure());
    }
    return seen.slice(-5).reduce((least, now) => (now.rss < least.rss ? now : least));
  };
  const loaded = await full();
  assert.equal(loaded.active, STREAMS);
  assert.equal(arrived.length, STREAMS);
  const megabytes = (loaded.rss - before.rss) / 1e6;
  console.log(`# ${megabytes.toFixed(1)} MB for ${STREAMS} streams, of which 33.5 MB are two full connection windows`);
  assert.ok(megabytes < 64, `${megabytes} MB`);
  // Everything that was held arrives, whole and in order.
  for (const { stream } of arrived) stream.resume();
  for (const stream of streams) stream.resume();

  await Promise.all(readers.slice(1).map((reader) => untilClosed(reader)));
  assert.ok(readers.slice(1).every((reader) => reader.bytes === BODY.length && reader.error === null));
  // A client has its answer and has sent its request before the application has read that.
  await Promise.all(arrived.slice(1).map(({ body }) => untilClosed(body)));
  assert.ok(arrived.slice(1).every(({ body }) => body.bytes === BODY.length));
  child.disconnect();
  await once(child, 'exit');
});

async function untilClosed(reader: Recorder): Promise<void> {
  while (reader.closes === 0) await delay(20);
}
