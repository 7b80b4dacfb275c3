import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { RPC_STATUS, unpackAny } from '../../../src/grpc/any.ts';
import { GRPC_STATUS } from '../../../src/grpc/grpc-error.ts';
import { DEFAULT_DECODE_LIMITS, decodeMessage, encodeMessage } from '../../../src/grpc/message.ts';
import { FRAME_HEADER_BYTES, frameMessage } from '../../../src/grpc/message-framing.ts';
import { Http2Connection } from '../../../src/transport/http2/connection.ts';
import { fieldValue } from '../../../src/transport/http2/message.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import {
  collect,
  ECHO,
  type Echo,
  echoWorld,
  FAIL,
  HANG,
  METADATA,
  NOTHING,
  REPEAT,
  SAY,
  statusOf,
  TALK,
  until,
  WATCH,
} from './echo-fixture.ts';

const HELLO: Echo = { text: 'hello', count: 1 };
const timeoutMs = 5_000;

for (const host of [null, '127.0.0.1', '::1']) {
  describe(`client and server over ${host ?? 'a unix socket'}`, () => {
    it('make calls of every kind on one connection', async () => {
      await using world = await echoWorld({}, host);
      const client = world.client();
      assert.deepEqual(await client.unary(SAY, HELLO, { timeoutMs }), HELLO);
      assert.deepEqual(
        (await collect(client.serverStream(REPEAT, { text: 'x', count: 3 }))).map(({ count }) => count),
        [1, 2, 3],
      );
      const talk = async function* (): AsyncGenerator<Echo> {
        for (let count = 0; count < 50; count++) yield { text: 'x'.repeat(10_000), count };
      };
      assert.equal((await collect(client.bidi(TALK, talk()))).at(-1)?.count, 49);
      const many = await Promise.all(Array.from({ length: 50 }, (_, count) => client.unary(SAY, { text: '', count }, { timeoutMs })));
      assert.deepEqual(
        many.map(({ count }) => count),
        Array.from({ length: 50 }, (_, count) => count),
      );
      assert.deepEqual([world.dials, new Set(world.seen.peers)], [1, new Set(['somebody'])]);
    });
  });
}

it('a client may call the server what it likes: grpc-java says the path of the socket', async () => {
  await using world = await echoWorld();
  const connection = new Http2Connection('client', new SocketByteStream(await world.dial()), { onClose() {} });
  using _closed = { [Symbol.dispose]: () => connection.destroy() };
  const head = [':method', 'POST', ':scheme', 'http', ':authority', '/run/weft/api.sock', ':path', SAY.path];
  const stream = connection.request([...head, 'content-type', 'application/grpc', 'te', 'trailers']);
  const reader = new Recorder(stream);
  let status: string | null = null;
  stream.onTrailers = (fields) => {
    status = fieldValue(fields, 'grpc-status');
  };
  stream.write(frameMessage(encodeMessage(ECHO, HELLO)));
  stream.end();
  stream.resume();
  await reader.closed();
  assert.equal(status, '0');
  assert.deepEqual(decodeMessage(ECHO, Buffer.concat(reader.chunks).subarray(FRAME_HEADER_BYTES)), HELLO);
});

it('a client may be closed at any moment: what is reset while node:http2 reads would abort the process', async () => {
  await using world = await echoWorld({}, '127.0.0.1');
  const unended = async function* (): AsyncGenerator<Echo> {
    yield HELLO;
    await new Promise(() => {});
  };
  for (let round = 0; round < 300; round++) {
    const client = world.client();
    await client.unary(SAY, HELLO, { timeoutMs });
    const over = new AbortController();
    const asking = (async () => {
      for (; !over.signal.aborted; await setImmediate()) void client.unary(SAY, HELLO, { timeoutMs }).catch(() => {});
    })();
    // The server ends it and resets what the client would still send; the client is closed within the callback that tells it so.
    assert.equal((await statusOf(collect(client.bidi(NOTHING, unended())))).status, GRPC_STATUS.UNIMPLEMENTED);
    over.abort();
    await client[Symbol.asyncDispose]();
    await asking;
  }
});

describe('draining a client', () => {
  it('lets its calls end, then closes', async () => {
    await using world = await echoWorld();
    const client = world.client();
    const answers = collect(client.serverStream(REPEAT, { text: 'x'.repeat(100_000), count: 50 }));
    await client.drain(timeoutMs);
    assert.equal((await answers).length, 50);
    assert.equal((await statusOf(client.unary(SAY, HELLO, { timeoutMs }))).status, GRPC_STATUS.CANCELLED);
  });

  it('waits no longer than it may', async () => {
    await using world = await echoWorld();
    const client = world.client();
    const hanging = statusOf(client.unary(HANG, HELLO, { timeoutMs }));
    await client.drain(50);
    assert.equal((await hanging).status, GRPC_STATUS.CANCELLED);
  });
});

describe('a call', () => {
  it('takes turns with its answers: one comes before the next request', async () => {
    await using world = await echoWorld();
    const turns: string[] = [];
    const next = Promise.withResolvers<void>();
    const requests = async function* (): AsyncGenerator<Echo> {
      yield HELLO;
      await next.promise;
      turns.push('second request');
      yield HELLO;
    };
    for await (const _answer of world.client().bidi(TALK, requests())) {
      turns.push('answer');
      next.resolve();
    }
    assert.deepEqual(turns, ['answer', 'second request', 'answer']);
  });

  it('ends with the status, text and details that its handler throws', async () => {
    await using world = await echoWorld();
    const error = await statusOf(world.client().unary(FAIL, { text: 'no such thing: § 100% ', count: 7 }, { timeoutMs }));
    assert.deepEqual([error.status, error.message, error.nextStep], [GRPC_STATUS.NOT_FOUND, 'no such thing: § 100% ', null]);
    const [detail] = decodeMessage(RPC_STATUS, error.details as Uint8Array).details;
    assert.deepEqual(detail && unpackAny(ECHO, detail), { text: 'detail', count: 7 });
    assert.deepEqual(world.seen.errors, []);
  });

  it('ends with INTERNAL for a bug of its handler, which stays on the server', async () => {
    await using world = await echoWorld();
    const error = await statusOf(world.client().unary(FAIL, { text: 'bug', count: 0 }, { timeoutMs }));
    assert.deepEqual([error.status, error.message, error.details], [GRPC_STATUS.INTERNAL, 'internal error', null]);
    assert.match(String(world.seen.errors[0]), /the secret is 42/);
  });

  it('ends with UNIMPLEMENTED for a method that is not there', async () => {
    await using world = await echoWorld();
    assert.equal((await statusOf(world.client().unary(NOTHING, HELLO, { timeoutMs }))).status, GRPC_STATUS.UNIMPLEMENTED);
  });

  it('ends at its deadline, on both sides', async () => {
    await using world = await echoWorld();
    const error = await statusOf(world.client().unary(HANG, HELLO, { timeoutMs: 50 }));
    assert.equal(error.status, GRPC_STATUS.DEADLINE_EXCEEDED);
    await until(() => world.seen.ends.length === 1, 'the end at the server');
    assert.ok([GRPC_STATUS.DEADLINE_EXCEEDED, GRPC_STATUS.CANCELLED].includes(world.seen.ends[0]?.status as 4));
  });

  it('is cancelled by its signal, before and while it runs', async () => {
    await using world = await echoWorld();
    const client = world.client();
    assert.equal((await statusOf(client.unary(SAY, HELLO, { timeoutMs, signal: AbortSignal.abort() }))).status, GRPC_STATUS.CANCELLED);
    const cancel = new AbortController();
    const call = statusOf(collect(client.serverStream(WATCH, HELLO, { signal: cancel.signal })));
    await until(() => world.seen.watching === 1, 'the call');
    cancel.abort();
    assert.equal((await call).status, GRPC_STATUS.CANCELLED);
    await until(() => world.seen.watching === 0, 'the end at the server');
    assert.equal(world.seen.ends[0]?.status, GRPC_STATUS.CANCELLED);
  });

  it('is cancelled when its caller stops listening', async () => {
    await using world = await echoWorld();
    for await (const answer of world.client().serverStream(WATCH, HELLO)) {
      assert.deepEqual(answer, HELLO);
      break;
    }
    await until(() => world.seen.ends.length === 1, 'the end at the server');
  });

  it('carries metadata: text, bytes, and nothing that is not allowed', async () => {
    await using world = await echoWorld();
    const client = world.client();
    const metadata = { 'workload.spiffe.io': 'true', 'some-bin': Uint8Array.of(0, 255, 128) };
    const ask = async (text: string): Promise<string> => (await client.unary(METADATA, { text, count: 0 }, { timeoutMs, metadata })).text;
    assert.deepEqual([await ask('workload.spiffe.io'), await ask('some-bin'), await ask('other')], ['true', '00ff80', '']);
    for (const bad of [{ 'grpc-timeout': '1S' }, { 'a b': 'x' }, { a: 'x\r\ny' }, { 'a-bin': 'text' }, { ':path': '/x' }]) {
      const error = await statusOf(client.unary(SAY, HELLO, { timeoutMs, metadata: bad as unknown as Record<string, string> }));
      assert.equal(error.status, GRPC_STATUS.INTERNAL, JSON.stringify(bad));
    }
  });

  it('fails for a message over the limit, of the request and of the answer', async () => {
    await using world = await echoWorld({ limits: { maxMessageBytes: 1_000 } });
    const large = { text: 'x'.repeat(2_000), count: 1 };
    assert.equal((await statusOf(world.client().unary(SAY, large, { timeoutMs }))).status, GRPC_STATUS.RESOURCE_EXHAUSTED);
    const strict = world.client({ answerLimits: { ...DEFAULT_DECODE_LIMITS, maxBytes: 100 } });
    const medium = { text: 'x'.repeat(500), count: 1 };
    assert.equal((await statusOf(strict.unary(SAY, medium, { timeoutMs }))).status, GRPC_STATUS.RESOURCE_EXHAUSTED);
    assert.deepEqual(await strict.unary(SAY, HELLO, { timeoutMs }), HELLO);
  });
});

describe('a client', () => {
  it('connects anew after its connection broke', async () => {
    await using world = await echoWorld();
    const sockets: Awaited<ReturnType<typeof world.dial>>[] = [];
    const client = world.client({
      connect: async () => {
        const socket = await world.dial();
        sockets.push(socket);
        return socket;
      },
    });
    await client.unary(SAY, HELLO, { timeoutMs });
    const call = statusOf(client.unary(HANG, HELLO, { timeoutMs }));
    await client.unary(SAY, HELLO, { timeoutMs });
    sockets[0]?.destroy();
    assert.equal((await call).status, GRPC_STATUS.UNAVAILABLE);
    assert.deepEqual(await client.unary(SAY, HELLO, { timeoutMs }), HELLO);
    assert.equal(world.dials, 2);
  });

  it('says UNAVAILABLE without a server, and does not wait longer than it may for a connection', async () => {
    await using world = await echoWorld();
    const refused = world.client({ connect: () => Promise.reject(new Error('refused')) });
    assert.equal((await statusOf(refused.unary(SAY, HELLO, { timeoutMs }))).status, GRPC_STATUS.UNAVAILABLE);
    let given: AbortSignal | null = null;
    const never = world.client({
      connectTimeoutMs: 30,
      connect: (signal) => {
        given = signal;
        return new Promise(() => {});
      },
    });
    assert.equal((await statusOf(never.unary(SAY, HELLO, { timeoutMs }))).status, GRPC_STATUS.UNAVAILABLE);
    assert.equal((given as AbortSignal | null)?.aborted, true);
    assert.equal((await statusOf(never.unary(SAY, HELLO, { timeoutMs: 5 }))).status, GRPC_STATUS.DEADLINE_EXCEEDED);
  });

  it('ends its calls when it is closed', async () => {
    await using world = await echoWorld();
    const client = world.client();
    const call = statusOf(collect(client.serverStream(WATCH, HELLO)));
    await until(() => world.seen.watching === 1, 'the call');
    await client[Symbol.asyncDispose]();
    assert.equal((await call).status, GRPC_STATUS.CANCELLED);
    assert.equal((await statusOf(client.unary(SAY, HELLO, { timeoutMs }))).status, GRPC_STATUS.CANCELLED);
  });
});

describe('a server that drains', () => {
  it('ends streams with UNAVAILABLE, lets the rest finish in time, and takes nothing new', async () => {
    await using world = await echoWorld();
    const client = world.client();
    const watch = statusOf(collect(client.serverStream(WATCH, HELLO)));
    const hang = statusOf(client.unary(HANG, HELLO, { timeoutMs }));
    await until(() => world.seen.watching === 1, 'the call');
    await client.unary(SAY, HELLO, { timeoutMs });
    const begun = performance.now();
    await world.server.drain(200);
    const took = performance.now() - begun;
    assert.ok(took > 150 && took < 2_000, `${took} ms`);
    assert.deepEqual([(await watch).status, (await hang).status], [GRPC_STATUS.UNAVAILABLE, GRPC_STATUS.UNAVAILABLE]);
    assert.deepEqual([world.server.state, world.server.sessions], ['stopped', 0]);
    assert.equal((await statusOf(client.unary(SAY, HELLO, { timeoutMs }))).status, GRPC_STATUS.UNAVAILABLE);
  });

  it('is done at once without calls', async () => {
    await using world = await echoWorld();
    await world.client().unary(SAY, HELLO, { timeoutMs });
    const begun = performance.now();
    await world.server.drain(5_000);
    assert.ok(performance.now() - begun < 1_000);
  });
});
