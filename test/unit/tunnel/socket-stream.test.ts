import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import type { AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import { Recorder } from './recorder.ts';

async function pair(): Promise<[SocketByteStream, SocketByteStream]> {
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = net.connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[net.Socket], unknown];
  server.close();
  return [new SocketByteStream(client), new SocketByteStream(accepted)];
}

describe('SocketByteStream', () => {
  it('starts paused and delivers what came before the handler was attached', async () => {
    const [a, b] = await pair();
    a.write(Buffer.from('early'));
    await new Promise((resolve) => setTimeout(resolve, 20));
    const reader = new Recorder(b);
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(reader.text(), '');
    b.resume();
    await reader.until(() => reader.text() === 'early');
    assert.equal(b.bytesRead, 5);
    assert.equal(a.bytesWritten, 5);
    a.destroy();
    b.destroy();
  });

  it('half-closes: the other direction goes on, and an orderly close has no error', async () => {
    const [a, b] = await pair();
    const ra = new Recorder(a);
    const rb = new Recorder(b);
    a.resume();
    b.resume();
    a.write(Buffer.from('question'));
    a.end();
    await rb.until(() => rb.ended);
    assert.equal(rb.text(), 'question');
    b.write(Buffer.from('answer'));
    b.end();
    await ra.closed();
    await rb.closed();
    assert.equal(ra.text(), 'answer');
    assert.equal(ra.error, null);
    assert.equal(rb.error, null);
  });

  it('destroy resets the far end, and onClose follows in a later turn with the reason given', async () => {
    const [a, b] = await pair();
    const ra = new Recorder(a);
    const rb = new Recorder(b);
    a.resume();
    b.resume();
    a.destroy(new Error('policy'));
    assert.equal(ra.closes, 0);
    await ra.closed();
    await rb.closed();
    assert.equal(ra.error?.message, 'policy');
    assert.equal((rb.error as NodeJS.ErrnoException).code, 'ECONNRESET');
    assert.equal(ra.closes, 1);
    assert.equal(a.write(Buffer.from('x')), true);
    assert.equal(a.bytesWritten, 0);
  });

  for (const [when, wait] of [
    ['in the same turn', () => Promise.resolve()],
    ['in a microtask', () => new Promise<void>(queueMicrotask)],
    ['in the next tick', () => new Promise<void>((resolve) => process.nextTick(resolve))],
    ['in the next turn', () => new Promise<void>((resolve) => setImmediate(resolve))],
    ['a while', () => new Promise<void>((resolve) => setTimeout(resolve, 20))],
  ] as const) {
    it(`destroy ${when} after end closes the socket`, async () => {
      const [a, b] = await pair();
      const ra = new Recorder(a);
      const rb = new Recorder(b);
      a.resume();
      b.resume();
      a.write(Buffer.from('last words'));
      a.end();
      if (when !== 'in the same turn') await wait();
      a.destroy();
      await ra.closed();
      b.end();
      await rb.closed();
      assert.equal(a.socket.closed, true);
    });
  }

  it('tells a handler attached after the close', async () => {
    const [a, b] = await pair();
    a.destroy();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const late = new Recorder(a);
    await late.closed();
    assert.equal((late.error as { code?: string }).code, 'WEFT_STREAM_DESTROYED');
    b.destroy();
  });

  it('says stop when the far end does not read, and drains when it does', async () => {
    const [a, b] = await pair();
    const ra = new Recorder(a);
    const rb = new Recorder(b);
    const chunk = Buffer.alloc(64 * 1024);
    let written = 0;
    while (a.write(chunk)) written += chunk.length;
    written += chunk.length;
    assert.ok(written < 64 * 1024 * 1024);
    b.resume();
    await ra.until(() => ra.drains > 0);
    await rb.until(() => b.bytesRead === written);
    a.destroy();
    b.destroy();
  });
});
