import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { FETCH_X509_SVID, type X509SvidResponse } from '../../../certs/workload-api/messages.ts';
import { WorkloadApiClient } from '../../../certs/workload-api/workload-api-client.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../../src/grpc/grpc-error.ts';
import { GrpcServer, type ServerStreamHandler } from '../../../src/grpc/grpc-server.ts';
import type { EmptyRequest } from '../../../certs/workload-api/messages.ts';

/** A server whose streams go as the test says, and a client whose pauses are only written down. */
class Scripted implements AsyncDisposable {
  readonly pauses: number[] = [];
  readonly client: WorkloadApiClient;
  readonly #grpc = new GrpcServer<null>();
  readonly #server: Server = createServer((socket) => this.#grpc.accept(socket, null));
  readonly #directory = mkdtempSync(join(tmpdir(), 'weft-api-client-'));

  constructor(handler: ServerStreamHandler<EmptyRequest, X509SvidResponse, null>) {
    this.#grpc.addServerStream(FETCH_X509_SVID, handler);
    const path = join(this.#directory, 'socket');
    this.#server.listen(path);
    const clock = {
      now: () => 0,
      after: (ms: number, callback: () => void): (() => void) => {
        this.pauses.push(ms);
        setImmediate(callback);
        return () => {};
      },
    };
    this.client = new WorkloadApiClient({ endpoint: { kind: 'unix', path }, clock, random: () => 0 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client[Symbol.asyncDispose]();
    await this.#grpc[Symbol.asyncDispose]();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    rmSync(this.#directory, { recursive: true });
  }
}

const MESSAGE: X509SvidResponse = { svids: [], crl: [], federatedBundles: new Map() };

function failing(status: 3 | 7 | 12 | 14): GrpcStatusError {
  return new GrpcStatusError(status, 'as the test says');
}

test('a denial and an absence are tried again, more and more slowly; a stream that gave something is opened again at once', async () => {
  let call = 0;
  await using world = new Scripted(async (_, { metadata }, send) => {
    assert.deepEqual(metadata.all('workload.spiffe.io'), ['true']);
    call++;
    if (call <= 3) throw failing(call === 2 ? GRPC_STATUS.UNAVAILABLE : GRPC_STATUS.PERMISSION_DENIED);
    await send(MESSAGE);
    if (call === 4) throw failing(GRPC_STATUS.UNAVAILABLE);
  });
  const stop = new AbortController();
  let seen = 0;
  for await (const _ of world.client.watchX509Svids({ signal: stop.signal })) if (++seen === 2) stop.abort();
  assert.equal(call, 5);
  assert.deepEqual(world.pauses, [1_000, 2_000, 4_000]);
});

for (const status of [GRPC_STATUS.INVALID_ARGUMENT, GRPC_STATUS.UNIMPLEMENTED]) {
  test(`status ${status} is not tried again`, async () => {
    let calls = 0;
    await using world = new Scripted(async () => {
      calls++;
      throw failing(status);
    });
    const watch = world.client.watchX509Svids({ signal: new AbortController().signal });
    await assert.rejects(watch.next(), (error) => error instanceof GrpcStatusError && error.status === status);
    assert.equal(calls, 1);
  });
}
