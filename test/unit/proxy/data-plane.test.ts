import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, Socket } from 'node:net';
import { describe, it } from 'node:test';
import { AF_INET, bind, getsockname, listen, SOCK_STREAM, socket as openSocket } from 'libbpf-ts/sys';
import { DataPlane } from '../../../proxy/data-plane.ts';
import type { OriginalDestination, PeerVerifier, TlsContexts } from '../../../src/model/data-plane.ts';
import { CountedTelemetry, snapshotOf, workloadEntry } from './mesh-fixture.ts';

const WORKLOAD = workloadEntry(1, 'client');

/** A data plane with one listener for what the workload dials, which is relayed to a port of this machine. */
class DataPlaneWorld implements AsyncDisposable {
  readonly counted: CountedTelemetry = new CountedTelemetry();
  readonly logged: string[] = [];
  readonly dataPlane: DataPlane;
  readonly port: number;
  find: () => OriginalDestination | null = () => ({ address: '192.0.2.1', port: 80, workloadId: 1 });
  readonly #clients: Socket[] = [];

  constructor(target: number, maxConnectionsPerListener: number) {
    this.dataPlane = new DataPlane({
      worker: 0,
      snapshot: snapshotOf([WORKLOAD]),
      dialer: { dial: () => connect({ port: target, host: '127.0.0.1', allowHalfOpen: true }) },
      originalDestinations: { find: () => this.find() },
      contexts: {} as TlsContexts,
      verifier: {} as PeerVerifier,
      telemetry: this.counted.telemetry,
      deniedByHeader: true,
      log: (_, message) => this.logged.push(message),
      maxConnectionsPerListener,
    });
    const fd = openSocket(AF_INET, SOCK_STREAM);
    bind(fd.fd, { address: '127.0.0.1', port: 0 });
    listen(fd.fd, 16);
    this.port = getsockname(fd.fd).port;
    const ports = { outbound: this.port, inbound: 0, tunnel: 0 };
    this.dataPlane.listen({ workloadId: 1, identity: WORKLOAD.identity, ports, outbound: [fd.disown()], inbound: [], tunnel: [] });
  }

  dial(): Socket {
    const client = new Socket({ allowHalfOpen: true });
    client.connect({ port: this.port, host: '127.0.0.1' });
    this.#clients.push(client);
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    await this.dataPlane[Symbol.asyncDispose]();
  }
}

/** A server that keeps what it is told open. */
async function target(): Promise<{ port: number } & Disposable> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).resume();
    socket.on('end', () => socket.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as { port: number }).port,
    [Symbol.dispose]: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

async function until(what: () => boolean): Promise<void> {
  const deadline = Date.now() + 3_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, 'it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('the listeners of a worker', () => {
  it('reset a connection too many, so that nothing of it stays, and take another once there is room', async () => {
    using application = await target();
    await using world = new DataPlaneWorld(application.port, 2);
    const first = world.dial();
    world.dial();
    await until(() => world.dataPlane.connections().length === 2);
    const [error] = (await once(world.dial(), 'error')) as [NodeJS.ErrnoException];
    assert.equal(error.code, 'ECONNRESET');
    assert.equal(world.counted.refused('outbound', 'passthrough', 'limit'), 1);
    first.end();
    first.resume();
    await until(() => world.dataPlane.connections().length === 1);
    world.dial();
    await until(() => world.dataPlane.connections().length === 2);
  });

  it('survive a connection that cannot be accepted: it alone is reset, counted and logged', async () => {
    using application = await target();
    await using world = new DataPlaneWorld(application.port, 10);
    const { find } = world;
    world.find = () => {
      throw new Error('the map does not answer');
    };
    const [error] = (await once(world.dial(), 'error')) as [NodeJS.ErrnoException];
    assert.equal(error.code, 'ECONNRESET');
    assert.equal(world.counted.refused('outbound', 'passthrough', 'other'), 1);
    assert.deepEqual(world.logged, ['a connection could not be accepted']);
    world.find = find;
    world.dial();
    await until(() => world.dataPlane.connections().length === 1);
  });

  it('let connections finish when they drain, and end what is left at the deadline', async () => {
    using application = await target();
    await using world = new DataPlaneWorld(application.port, 10);
    const polite = world.dial();
    const stubborn = world.dial();
    const closed = once(stubborn, 'error');
    await until(() => world.dataPlane.connections().length === 2);
    const drained = world.dataPlane.drain(300);
    const [refused] = (await once(world.dial(), 'error')) as [NodeJS.ErrnoException];
    assert.equal(refused.code, 'ECONNREFUSED');
    polite.end();
    polite.resume();
    await once(polite, 'close');
    await drained;
    await closed;
  });
});
