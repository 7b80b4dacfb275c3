import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2, { type ClientHttp2Session, type ClientHttp2Stream, type OutgoingHttpHeaders } from 'node:http2';
import type { Socket } from 'node:net';
import { describe, it } from 'node:test';
import { GRPC_STATUS, type GrpcStatusError } from '../../../src/grpc/grpc-error.ts';
import { encodeMessage } from '../../../src/grpc/message.ts';
import { frameMessage } from '../../../src/grpc/message-framing.ts';
import { ECHO, type EchoWorld, echoWorld, REPEAT, SAY, TALK, until, WATCH } from './echo-fixture.ts';

const HELLO = { text: 'hello', count: 1 };
const MESSAGE = frameMessage(encodeMessage(ECHO, HELLO));
const timeoutMs = 5_000;

async function session(world: EchoWorld): Promise<ClientHttp2Session & AsyncDisposable> {
  const socket = await world.dial();
  const made = http2.connect('http://localhost', { createConnection: () => socket });
  made.on('error', () => {});
  return Object.assign(made, { [Symbol.asyncDispose]: async () => made.destroy() });
}

function begin(from: ClientHttp2Session, path: string, more: OutgoingHttpHeaders = {}): ClientHttp2Stream {
  const stream = from.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers', ...more });
  stream.on('error', () => {});
  return stream;
}

/** The HTTP status and the gRPC status that a stream ends with, or the code it was reset with. */
async function endOf(stream: ClientHttp2Stream): Promise<{ http?: unknown; grpc?: unknown; reset: number }> {
  const end: { http?: unknown; grpc?: unknown } = {};
  const note = (headers: Record<string, unknown>): void => {
    if (headers[':status'] !== undefined) end.http = headers[':status'];
    if (headers['grpc-status'] !== undefined) end.grpc = headers['grpc-status'];
  };
  stream.on('response', note).on('trailers', note).resume();
  await closeOf(stream);
  return { ...end, reset: stream.rstCode };
}

/** Waits for the end, whether it comes with an error or not. */
function closeOf(thing: Socket | ClientHttp2Session | ClientHttp2Stream): Promise<void> {
  return until(() => thing.destroyed, 'the end of a connection or stream');
}

async function serves(world: EchoWorld): Promise<void> {
  assert.deepEqual(await world.client().unary(SAY, HELLO, { timeoutMs }), HELLO);
}

async function isClosed(socket: Socket): Promise<void> {
  await closeOf(socket.resume());
}

describe('a server with hostile clients', () => {
  it('closes connections that do not speak HTTP/2', async () => {
    await using world = await echoWorld();
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    const cases = {
      'HTTP/1.1': Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n'),
      'random bytes': Buffer.from('ffeeddccbbaa99887766554433221100'.repeat(4), 'hex'),
      'a frame that is too long': Buffer.concat([preface, Buffer.from('ffffff000000000001', 'hex')]),
      'DATA on no stream': Buffer.concat([preface, Buffer.from('000000040000000000 000001000000000001ff'.replace(' ', ''), 'hex')]),
      'broken HPACK': Buffer.concat([preface, Buffer.from('000000040000000000 000004010500000001ffffffff'.replace(' ', ''), 'hex')]),
    };
    for (const bytes of Object.values(cases)) {
      const socket = await world.dial();
      socket.write(bytes);
      await isClosed(socket);
    }
    await until(() => world.server.sessions === 0, 'the end of the sessions');
    await serves(world);
  });

  it('closes connections that say nothing, and that are idle', async () => {
    await using world = await echoWorld({ limits: { handshakeTimeoutMs: 40, idleTimeoutMs: 80 } });
    await isClosed(await world.dial());
    await using idle = await session(world);
    const begun = performance.now();
    await closeOf(idle);
    assert.ok(performance.now() - begun > 40);
    await using busy = await session(world);
    const watch = begin(busy, WATCH.path);
    watch.end(MESSAGE);
    await new Promise((resolve) => setTimeout(resolve, 250));
    assert.equal(busy.destroyed, false);
  });

  it('answers what is not gRPC by HTTP', async () => {
    await using world = await echoWorld();
    await using client = await session(world);
    assert.equal((await endOf(begin(client, SAY.path, { ':method': 'GET' }))).http, 405);
    assert.equal((await endOf(begin(client, SAY.path, { 'content-type': 'application/json' }))).http, 415);
    assert.equal((await endOf(begin(client, SAY.path, { 'content-type': 'application/grpcish' }))).http, 415);
  });

  it('answers malformed calls with the status that gRPC has for them', async () => {
    await using world = await echoWorld({ limits: { maxMessageBytes: 1_000 } });
    await using client = await session(world);
    const cases: Record<string, [Buffer, OutgoingHttpHeaders, number]> = {
      'no request': [Buffer.alloc(0), {}, GRPC_STATUS.INTERNAL],
      'two requests': [Buffer.concat([MESSAGE, MESSAGE]), {}, GRPC_STATUS.INTERNAL],
      'a cut request': [MESSAGE.subarray(0, -1), {}, GRPC_STATUS.INTERNAL],
      'a cut header': [MESSAGE.subarray(0, 3), {}, GRPC_STATUS.INTERNAL],
      'no protobuf': [frameMessage(Buffer.from([0x0a, 0xff])), {}, GRPC_STATUS.INTERNAL],
      'a length of 4 GiB': [Buffer.from('00ffffffff', 'hex'), {}, GRPC_STATUS.RESOURCE_EXHAUSTED],
      'a message over the limit': [frameMessage(Buffer.alloc(1_001)), {}, GRPC_STATUS.RESOURCE_EXHAUSTED],
      'a compressed message': [Buffer.from([1, ...MESSAGE.subarray(1)]), {}, GRPC_STATUS.UNIMPLEMENTED],
      'another encoding': [MESSAGE, { 'grpc-encoding': 'gzip' }, GRPC_STATUS.UNIMPLEMENTED],
      'a malformed timeout': [MESSAGE, { 'grpc-timeout': '1s' }, GRPC_STATUS.INVALID_ARGUMENT],
      'a timeout of nine digits': [MESSAGE, { 'grpc-timeout': '100000000m' }, GRPC_STATUS.INVALID_ARGUMENT],
    };
    for (const [what, [bytes, headers, status]] of Object.entries(cases)) {
      const stream = begin(client, SAY.path, headers);
      stream.end(bytes);
      assert.deepEqual([(await endOf(stream)).grpc, what], [String(status), what]);
    }
    await serves(world);
    assert.deepEqual(world.seen.errors, []);
  });

  it('ends a call whose request does not come, also after half of it', async () => {
    await using world = await echoWorld({ limits: { requestTimeoutMs: 50 } });
    await using client = await session(world);
    for (const part of [null, MESSAGE.subarray(0, 3), MESSAGE.subarray(0, -2)]) {
      const stream = begin(client, SAY.path);
      if (part !== null) stream.write(part);
      assert.equal((await endOf(stream)).grpc, String(GRPC_STATUS.DEADLINE_EXCEEDED));
    }
  });

  it('holds no more unfinished messages of a connection than it may', async () => {
    await using world = await echoWorld({ limits: { maxMessageBytes: 10_000, maxHeldBytes: 25_000 } });
    await using client = await session(world);
    const half = frameMessage(Buffer.alloc(10_000)).subarray(0, 9_000);
    const streams = Array.from({ length: 4 }, () => begin(client, SAY.path));
    for (const stream of streams) stream.write(half);
    const ends = await Promise.race([endOf(streams[2] as ClientHttp2Stream), endOf(streams[3] as ClientHttp2Stream)]);
    assert.equal(ends.grpc, String(GRPC_STATUS.RESOURCE_EXHAUSTED));
    await serves(world);
  });

  it('holds no more metadata of a connection than it may, and takes calls again when others have ended', async () => {
    await using world = await echoWorld({ limits: { maxHeldBytes: 25_000 } });
    await using client = await session(world);
    await once(client, 'remoteSettings');
    const calls = Array.from({ length: 2 }, () => begin(client, TALK.path, { 'x-long': 'x'.repeat(10_000) }));
    assert.equal((await endOf(begin(client, TALK.path, { 'x-long': 'x'.repeat(10_000) }))).grpc, String(GRPC_STATUS.RESOURCE_EXHAUSTED));
    calls[0]?.end();
    assert.equal((await endOf(calls[0] as ClientHttp2Stream)).grpc, String(GRPC_STATUS.OK));
    const more = begin(client, TALK.path, { 'x-long': 'x'.repeat(10_000) });
    more.end(MESSAGE);
    assert.equal((await endOf(more)).grpc, String(GRPC_STATUS.OK));
    await serves(world);
  });

  it('ends the call of a client that never reads, and holds little for it meanwhile', async () => {
    await using world = await echoWorld({ limits: { sendTimeoutMs: 100 } });
    await using client = await session(world);
    const before = process.memoryUsage().arrayBuffers;
    const stream = begin(client, REPEAT.path);
    stream.end(frameMessage(encodeMessage(ECHO, { text: 'x'.repeat(10_000), count: 1_000_000 })));
    await once(stream, 'response');
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.ok(process.memoryUsage().arrayBuffers - before < 8 * 1024 * 1024);
    await until(() => stream.closed || stream.destroyed || stream.aborted, 'the reset');
    assert.equal(stream.rstCode, http2.constants.NGHTTP2_CANCEL);
    await serves(world);
  });

  it('refuses streams and connections over the limits, and serves others', async () => {
    const limits = { maxStreamsPerSession: 5, maxSessionsPerPeer: 2 };
    await using world = await echoWorld({ limits, peerKey: (peer) => peer });
    await using client = await session(world);
    await once(client, 'remoteSettings');
    const streams = Array.from({ length: 8 }, () => begin(client, WATCH.path));
    for (const stream of streams) stream.end(MESSAGE);
    await until(() => world.seen.watching === 5, 'five calls');
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(world.seen.watching, 5);
    await serves(world);
    await isClosed(await world.dial());
    assert.equal(world.server.sessions, 2);
  });

  it('keeps nobody out when a few peers have all connections: the oldest of whoever has most gives way', async () => {
    let peers = 0;
    const limits = { maxSessions: 6, maxSessionsPerPeer: 3 };
    // Two that take all they can, and then others.
    await using world = await echoWorld({ limits, peerKey: () => ['a', 'a', 'a', 'b', 'b', 'b', 'c', 'd'][peers++] ?? 'e' });
    const taken: Socket[] = [];
    for (let i = 0; i < 6; i++) {
      taken.push(await world.dial());
      await until(() => world.server.sessions === i + 1, 'the session');
    }
    await using third = await session(world);
    await once(third, 'remoteSettings');
    await isClosed(taken[0] as Socket);
    await using fourth = await session(world);
    await once(fourth, 'remoteSettings');
    await isClosed(taken[3] as Socket);
    assert.deepEqual(
      [1, 2, 4, 5].map((index) => taken[index]?.destroyed),
      [false, false, false, false],
    );
    assert.equal(world.server.sessions, 6);
  });

  it('ends a connection that opens and resets streams without end', async () => {
    await using world = await echoWorld({ limits: { resetBurst: 50, resetsPerSecond: 1 } });
    await using client = await session(world);
    for (let i = 0; i < 500 && !client.destroyed; i++) {
      const stream = begin(client, WATCH.path);
      stream.end(MESSAGE);
      await new Promise((resolve) => setImmediate(resolve));
      stream.close(http2.constants.NGHTTP2_CANCEL);
    }
    await closeOf(client);
    await until(() => world.seen.watching === 0, 'the end of its calls');
    await serves(world);
  });

  it('ends a call that its client ended and then reset, though its handler has not read all of it', async () => {
    await using world = await echoWorld();
    const ends: unknown[] = [];
    world.server.addBidi({ ...TALK, path: '/test.EchoService/Wait' }, async (_requests, { signal }) => {
      await once(signal, 'abort');
      ends.push((signal.reason as GrpcStatusError).status);
    });
    await using client = await session(world);
    const stream = begin(client, '/test.EchoService/Wait');
    stream.end(MESSAGE);
    await once(stream, 'finish');
    stream.close(http2.constants.NGHTTP2_CANCEL);
    await until(() => ends.length > 0, 'the end of the call');
    assert.deepEqual(ends, [GRPC_STATUS.CANCELLED]);
    await serves(world);
  });

  it('refuses heads that are too long', async () => {
    await using world = await echoWorld({ limits: { maxHeaderListBytes: 2_000 } });
    await using client = await session(world);
    await once(client, 'remoteSettings');
    const { grpc, reset } = await endOf(begin(client, SAY.path, { 'x-long': 'x'.repeat(10_000) }));
    assert.deepEqual([grpc, reset !== 0], [undefined, true]);
    await serves(world);
  });

  it('notices a peer on TCP that does not answer', async () => {
    await using world = await echoWorld({ limits: { keepaliveIntervalMs: 50, keepaliveTimeoutMs: 50 } }, '127.0.0.1');
    await using alive = await session(world);
    const dead = await world.dial();
    // A whole handshake, and then nobody who answers PING.
    dead.write(Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.from('000000040000000000', 'hex')]));
    await isClosed(dead);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(alive.destroyed, false);
  });
});
