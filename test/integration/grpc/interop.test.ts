import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { RPC_STATUS, unpackAny } from '../../../src/grpc/any.ts';
import { describeServices } from '../../../src/grpc/descriptor.ts';
import { GRPC_STATUS } from '../../../src/grpc/grpc-error.ts';
import { GrpcClient } from '../../../src/grpc/grpc-client.ts';
import { decodeMessage, encodeMessage } from '../../../src/grpc/message.ts';
import type { ServiceDefinition } from '../../../src/grpc/service.ts';
import { STRUCT, structFromJson, structToJson } from '../../../src/grpc/struct.ts';
import { Child, exec } from '../../kit/child.ts';
import { EVERYTHING, NOTHING } from '../../unit/grpc/message-fixture.ts';
import { everythings } from '../../unit/grpc/message-values.ts';
import {
  collect,
  ECHO,
  ECHO_SERVICE,
  type Echo,
  echoWorld,
  FAIL,
  HANG,
  METADATA,
  REPEAT,
  SAY,
  statusOf,
  TALK,
  until,
} from './echo-fixture.ts';

/** Debian's, which has python3-grpcio. */
const PYTHON = '/usr/bin/python3';
const APP = fileURLToPath(new URL('../../kit/apps/grpc-typed.py', import.meta.url));
const timeoutMs = 5_000;

function descriptorsOf(service: ServiceDefinition): string {
  return describeServices([service])
    .map(({ descriptor }) => Buffer.from(descriptor).toString('base64'))
    .join(',');
}

/** Each message as the other library reads it, and as it writes it again. */
async function transcode(
  service: ServiceDefinition,
  type: string,
  messages: readonly Uint8Array[],
): Promise<{ json: unknown; bytes: Buffer }[]> {
  const input = messages.map((message) => `${Buffer.from(message).toString('base64')}\n`).join('');
  const { stdout, stderr, code } = await exec([PYTHON, APP, 'transcode', descriptorsOf(service), type], { input });
  assert.equal(code, 0, stderr);
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [json = '', base64 = ''] = line.split('\t');
      return { json: JSON.parse(json) as unknown, bytes: Buffer.from(base64, 'base64') };
    });
}

const EVERYTHING_SERVICE: ServiceDefinition = {
  name: 'test.EverythingService',
  file: 'test/everything.proto',
  methods: [{ path: '/test.EverythingService/Get', kind: 'unary', request: EVERYTHING, response: STRUCT }],
};

describe("messages and protobuf's own library", () => {
  it('agree on the value of every field, by name', async () => {
    const message = encodeMessage(EVERYTHING, {
      ...NOTHING,
      text: 'Zoë',
      small: -5,
      large: -(2n ** 63n),
      largeUnsigned: 2n ** 64n - 1n,
      real: 0.5,
      colour: 5,
      maybeText: '',
      child: { ...NOTHING, flag: true },
      numbers: [1, -1],
      labels: new Map([['a', 'b']]),
      named: new Map([['n', { ...NOTHING, text: 't' }]]),
      eitherNumber: 0,
    });
    const [read] = await transcode(EVERYTHING_SERVICE, 'test.Everything', [message]);
    assert.deepEqual(read?.json, {
      text: 'Zoë',
      small: -5,
      large: '-9223372036854775808',
      large_unsigned: '18446744073709551615',
      real: 0.5,
      colour: 'BLUE',
      maybe_text: '',
      child: { flag: true },
      numbers: [1, -1],
      labels: { a: 'b' },
      named: { n: { text: 't' } },
      either_number: 0,
    });
  });

  it('read each other', async () => {
    const messages = fc.sample(everythings, { numRuns: 200, seed: 5 });
    const read = await transcode(
      EVERYTHING_SERVICE,
      'test.Everything',
      messages.map((message) => encodeMessage(EVERYTHING, message)),
    );
    assert.equal(read.length, 200);
    for (const [index, { bytes }] of read.entries()) assert.deepEqual(decodeMessage(EVERYTHING, bytes), messages[index]);
  });

  it('agree on JSON as a Struct', async () => {
    const json = { text: 'a', list: [1, null, true, { deep: [] }], object: { zero: 0 }, '': 'empty' };
    const [read] = await transcode(EVERYTHING_SERVICE, 'google.protobuf.Struct', [encodeMessage(STRUCT, structFromJson(json))]);
    assert.deepEqual(read?.json, json);
    assert.deepEqual(JSON.parse(JSON.stringify(structToJson(decodeMessage(STRUCT, read?.bytes as Buffer)))), json);
  });
});

for (const host of [null, '127.0.0.1', '::1']) {
  it(`gRPC's own client calls the server over ${host ?? 'a unix socket'}, and learns its messages from it`, async () => {
    await using world = await echoWorld({}, host);
    world.server.reflect([ECHO_SERVICE]);
    const { address } = world;
    const target = 'path' in address ? `unix:${address.path}` : `${host === '::1' ? '[::1]' : host}:${address.port}`;
    const { stdout, stderr, code } = await exec([PYTHON, APP, 'call', target]);
    assert.equal(code, 0, stderr);
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const [services, v1, v1alpha, ...calls] = lines;
    assert.deepEqual(services, {
      services: ['test.EchoService', 'grpc.reflection.v1.ServerReflection', 'grpc.reflection.v1alpha.ServerReflection'],
    });
    assert.deepEqual(
      [v1, v1alpha],
      ['v1', 'v1alpha'].map((version) => ({ version, files: ['test/echo.proto'] })),
    );
    const { fail, ...answers } = Object.assign({}, ...calls) as Record<string, unknown>;
    assert.deepEqual(answers, {
      unknown: [2, 7],
      unary: { text: 'héllo', count: -1 },
      stream: [1, 2, 3],
      large: 200_000,
      'too large': ['RESOURCE_EXHAUSTED', 'a message of 300004 bytes is over the limit of 262144', null],
      bidi: Array.from({ length: 20 }, (_, n) => n),
      bug: ['INTERNAL', 'internal error', null],
      deadline: ['DEADLINE_EXCEEDED', 'Deadline Exceeded', null],
      missing: ['UNIMPLEMENTED', 'there is no such method', null],
      metadata: ['true|again', '00ff'],
      cancelled: ['CANCELLED', 'Locally cancelled by application!', null],
    });
    const [status, text, details] = fail as [string, string, string];
    assert.deepEqual([status, text], ['NOT_FOUND', 'no such thing: §']);
    const [detail] = decodeMessage(RPC_STATUS, Buffer.from(details, 'hex')).details;
    assert.deepEqual(detail && unpackAny(ECHO, detail), { text: 'detail', count: 7 });
    await until(() => world.seen.watching === 0, 'the end of the cancelled call');
  });
}

it("the client calls gRPC's own server", async () => {
  await using python = await Child.start([PYTHON, APP, 'serve', descriptorsOf(ECHO_SERVICE)]);
  const [, port] = await python.waitForLine(/listening on (\d+)/, 10_000);
  await using client = new GrpcClient({
    authority: 'localhost',
    connect: async () => connect({ host: '127.0.0.1', port: Number(port) }).on('error', () => {}),
  });
  const hello: Echo = { text: 'héllo', count: -1 };
  assert.deepEqual(await client.unary(SAY, hello, { timeoutMs }), hello);
  assert.deepEqual(
    (await collect(client.serverStream(REPEAT, { text: '', count: 3 }, { timeoutMs }))).map(({ count }) => count),
    [1, 2, 3],
  );
  const talk = async function* (): AsyncGenerator<Echo> {
    for (let count = 0; count < 20; count++) yield { text: 'x'.repeat(20_000), count };
  };
  assert.equal((await collect(client.bidi(TALK, talk(), { timeoutMs }))).length, 20);
  const failure = await statusOf(client.unary(FAIL, { text: 'no such thing: §', count: 0 }, { timeoutMs }));
  assert.deepEqual([failure.status, failure.message, failure.details], [GRPC_STATUS.NOT_FOUND, 'no such thing: §', Uint8Array.of(8, 5)]);
  const metadata = { 'workload.spiffe.io': 'true', 'some-bin': Uint8Array.of(0, 255) };
  assert.equal((await client.unary(METADATA, { text: 'workload.spiffe.io', count: 0 }, { timeoutMs, metadata })).text, 'true');
  assert.equal((await client.unary(METADATA, { text: 'some-bin', count: 0 }, { timeoutMs, metadata })).text, '00ff');
  assert.equal((await statusOf(client.unary(HANG, hello, { timeoutMs: 100 }))).status, GRPC_STATUS.DEADLINE_EXCEEDED);
  await python.waitForLine(/hang ended/, 5_000);
  const cancel = new AbortController();
  setTimeout(() => cancel.abort(), 50);
  const cancelled = await statusOf(client.unary(HANG, hello, { timeoutMs, signal: cancel.signal }));
  assert.equal(cancelled.status, GRPC_STATUS.CANCELLED);
});
