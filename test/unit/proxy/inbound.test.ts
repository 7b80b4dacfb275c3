import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { describe, it } from 'node:test';
import { MeshView } from '../../../proxy/mesh-view.ts';
import { Inbound } from '../../../proxy/inbound/inbound.ts';
import { RefusalLog } from '../../../proxy/refusal-log.ts';
import type { TunnelConnect, TunnelResponder } from '../../../proxy/tunnel/tunnel-server.ts';
import type { DialRequest } from '../../../src/model/data-plane.ts';
import { parseSpiffeId } from '../../../src/model/identity.ts';
import type { WorkloadEntry } from '../../../src/model/snapshot.ts';
import { memoryStreamPair } from '../../kit/memory-stream.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';
import { allow, CountedTelemetry, snapshotOf, viewOf, workloadEntry } from './mesh-fixture.ts';

const WEB = workloadEntry(2, 'web');
const PORTS = { outbound: 15_001, inbound: 15_006, tunnel: 15_008 };

/** The inbound half with an application behind real sockets. */
class InboundWorld implements AsyncDisposable {
  readonly counted: CountedTelemetry = new CountedTelemetry();
  readonly dialled: DialRequest[] = [];
  readonly inbound: Inbound;
  /** What reached the application. */
  received = '';
  view: MeshView;
  onDial: () => void = () => {};
  readonly #application: Server;

  private constructor(view: MeshView, application: Server) {
    this.view = view;
    this.#application = application;
    application.on('connection', (socket) => {
      socket.on('error', () => {});
      socket.on('data', (chunk) => (this.received += chunk));
    });
    this.inbound = new Inbound({
      view: () => this.view,
      dialer: {
        dial: (request) => {
          this.dialled.push(request);
          this.onDial();
          return connect({ port: (application.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
        },
      },
      telemetry: this.counted.telemetry,
      refusals: new RefusalLog(() => {}),
      deniedByHeader: true,
      portsOf: () => PORTS,
    });
  }

  static async start(view: MeshView): Promise<InboundWorld> {
    const application = createServer({ allowHalfOpen: true });
    application.listen(0, '127.0.0.1');
    await once(application, 'listening');
    return new InboundWorld(view, application);
  }

  /** A local client's connection, as the outbound half hands it over. */
  local(client: WorkloadEntry, address: string, port = 8080): StreamRecorder {
    const [end, stream] = memoryStreamPair();
    const destination = { address: '10.0.0.2', port };
    this.inbound.acceptLocal({ stream, client, server: WEB, source: { address, port: 1234 }, destination });
    return new StreamRecorder(end);
  }

  /** A CONNECT; its answer is a status, and for a 200 the client's end. */
  tunnel(wish: Partial<TunnelConnect> = {}): { status: number | null; client: StreamRecorder } {
    const [end, stream] = memoryStreamPair();
    const result = { status: null as number | null, client: new StreamRecorder(end) };
    const responder: TunnelResponder = {
      accept: () => {
        result.status = 200;
        return stream;
      },
      refuse: (status) => {
        result.status = status;
      },
      onAbort: () => {},
    };
    const connection: TunnelConnect = {
      host: '10.0.0.2',
      port: 8080,
      peer: parseSpiffeId('spiffe://cluster.local/ns/shop/sa/client'),
      remoteAddress: '10.0.0.1',
      remotePort: 4321,
      localAddress: '10.0.0.2',
      headers: { get: () => null },
      ...wish,
    };
    this.inbound.acceptTunnel(connection, responder, 2, PORTS);
    return result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.inbound.connections) connection.destroy(new Error('the test is over'));
    this.#application.close();
    await settle();
  }
}

async function until(what: () => boolean): Promise<void> {
  const deadline = Date.now() + 3_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, 'it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('a client of this node', () => {
  it('reaches the application, which sees the client’s address', async () => {
    const client = workloadEntry(1, 'client');
    await using world = await InboundWorld.start(viewOf([client, WEB]));
    world.local(client, '10.0.0.1').send('\x00 not HTTP');
    await until(() => world.received !== '');
    assert.deepEqual(world.dialled, [
      { workloadId: 2, address: '10.0.0.2', port: 8080, presentedPeer: { address: '10.0.0.1', port: 1234 } },
    ]);
    const [connection] = world.inbound.connections;
    assert.equal(connection?.record.connection.source.workload, client);
    assert.equal(connection?.record.connection.source.identity, client.identity);
  });

  it('without an address gets none: no rule about addresses lets it in, and the application is shown nothing wrong', async () => {
    const client = workloadEntry(1, 'job', { addresses: [] });
    const guarded = { ...WEB, policies: [0] };
    for (const [ipBlocks, expected] of [
      [['0.0.0.0/0', '::/0'], 0],
      [null, 1],
    ] as const) {
      const policy = allow('shop/by-address', { from: [ipBlocks === null ? { namespaces: ['shop'] } : { ipBlocks }] });
      await using world = await InboundWorld.start(viewOf([client, guarded], [], [policy]));
      const [end, stream] = memoryStreamPair();
      const destination = { address: '10.0.0.2', port: 8080 };
      world.inbound.acceptLocal({ stream, client, server: guarded, source: { address: '', port: 1 }, destination });
      new StreamRecorder(end).send('\x00 not HTTP');
      await settle();
      assert.equal(world.dialled.length, expected);
      if (expected === 1) assert.equal(world.dialled[0]?.presentedPeer, null);
    }
  });

  it('is kept from the agent’s own ports', async () => {
    const client = workloadEntry(1, 'client');
    await using world = await InboundWorld.start(viewOf([client, WEB]));
    for (const port of Object.values(PORTS)) {
      const recorder = world.local(client, '10.0.0.1', port);
      await settle();
      assert.equal(recorder.closed, true);
    }
    assert.deepEqual(world.dialled, []);
    assert.equal(world.counted.refused('inbound', 'local', 'forbidden-port'), 3);
  });

  it('is reset, and counted, when no socket can be made towards the application', async () => {
    const client = workloadEntry(1, 'client');
    await using world = await InboundWorld.start(viewOf([client, WEB]));
    world.onDial = () => {
      throw new Error('too many open files');
    };
    const recorder = world.local(client, '10.0.0.1');
    await settle();
    assert.equal(recorder.closed, true);
    assert.notEqual(recorder.error, null);
    assert.equal(world.counted.refused('inbound', 'local', 'dial-failed'), 1);
    assert.equal(world.inbound.connections.size, 0);
  });
});

describe('a CONNECT', () => {
  it('to this workload is answered once the application accepted, and carries bytes', async () => {
    await using world = await InboundWorld.start(viewOf([WEB]));
    const answer = world.tunnel();
    assert.equal(answer.status, null);
    await until(() => answer.status === 200);
    answer.client.send('\x00 not HTTP');
    await until(() => world.received === '\x00 not HTTP');
  });

  it('to another address is a 400, to a port of the agent a 503: nothing is dialled', async () => {
    await using world = await InboundWorld.start(viewOf([WEB]));
    for (const host of ['10.0.0.3', '127.0.0.1', '::1', 'web.shop.svc']) assert.equal(world.tunnel({ host }).status, 400);
    for (const port of Object.values(PORTS)) assert.equal(world.tunnel({ port }).status, 503);
    assert.deepEqual(world.dialled, []);
    assert.equal(world.counted.refused('inbound', 'tunnel', 'unknown-destination'), 4);
    assert.equal(world.counted.refused('inbound', 'tunnel', 'forbidden-port'), 3);
  });

  it('to a workload that is no more is a 503, counted', async () => {
    await using world = await InboundWorld.start(viewOf([]));
    assert.equal(world.tunnel().status, 503);
    assert.equal(world.counted.refused('inbound', 'tunnel', 'unknown-destination'), 1);
  });

  it('is decided by the policies in force when the application accepts, not by those when it came', async () => {
    const before = { ...WEB, policies: [0] };
    await using world = await InboundWorld.start(viewOf([before], [], [allow('shop/everybody')]));
    const answer = world.tunnel();
    // What was policy 0 is policy 1 now.
    const deny = allow('shop/a-few', { from: [{ namespaces: ['other'] }] });
    world.view = new MeshView(snapshotOf([{ ...WEB, policies: [1] }], [], [allow('shop/everybody'), deny]));
    await until(() => answer.status === 200);
    answer.client.send('\x00 not HTTP');
    await until(() => answer.client.closed);
    assert.equal(world.received, '');
    assert.equal(world.counted.refused('inbound', 'tunnel', 'policy'), 1);
  });

  it('to a workload that left the mesh meanwhile is a 503', async () => {
    await using world = await InboundWorld.start(viewOf([WEB]));
    const answer = world.tunnel();
    world.view = viewOf([]);
    await until(() => answer.status !== null);
    assert.equal(answer.status, 503);
  });

  it('shows the port that the client’s node names, if it is the same client’s', async () => {
    await using world = await InboundWorld.start(viewOf([WEB]));
    for (const [forwarded, port] of [
      ['for="10.0.0.1:5555"', 5555],
      ['for="10.0.0.9:5555"', 4321],
      ['for="10.0.0.1:99999"', 4321],
      ['for="[::::]:80"', 4321],
      ['nonsense', 4321],
    ] as const) {
      world.tunnel({ headers: { get: () => forwarded } });
      assert.deepEqual(world.dialled.at(-1)?.presentedPeer, { address: '10.0.0.1', port }, forwarded);
    }
  });

  it('is logged under a workload’s name only if the identity is that workload’s', async () => {
    const client = workloadEntry(1, 'client');
    const impostor = workloadEntry(1, 'another');
    for (const [known, expected] of [
      [client, client],
      [impostor, null],
    ] as const) {
      await using world = await InboundWorld.start(viewOf([known, WEB]));
      const answer = world.tunnel();
      await until(() => answer.status === 200);
      const [connection] = world.inbound.connections;
      assert.equal(connection?.record.connection.source.workload, expected);
    }
  });
});

describe('a client from outside of the mesh', () => {
  it('of a workload that is no more is reset and counted', async () => {
    await using world = await InboundWorld.start(viewOf([]));
    const server = createServer({ pauseOnConnect: true }, (socket) => world.inbound.acceptPlaintext(socket, 2, PORTS));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
    assert.equal(error.code, 'ECONNRESET');
    assert.equal(world.counted.refused('inbound', 'plaintext', 'unknown-destination'), 1);
    server.close();
  });
});

describe('a new mesh', () => {
  it('ends what it no longer allows, and nothing else', async () => {
    const client = workloadEntry(1, 'client');
    const friend = workloadEntry(3, 'friend');
    await using world = await InboundWorld.start(viewOf([client, friend, WEB]));
    const first = world.local(client, '10.0.0.1');
    const second = world.local(friend, '10.0.0.3');
    for (const recorder of [first, second]) recorder.send('\x00 not HTTP');
    await settle();
    const policy = allow('shop/friends', { from: [{ serviceAccounts: ['shop/friend'] }] });
    const view = viewOf([client, friend, { ...WEB, policies: [0] }], [], [policy]);
    world.view = view;
    world.inbound.reconsider(view);
    await until(() => first.closed);
    assert.equal(second.closed, false);
    assert.equal(world.inbound.connections.size, 1);
    assert.equal(world.counted.refused('inbound', 'local', 'policy'), 1);
  });

  it('a workload that is gone loses its connections', async () => {
    const client = workloadEntry(1, 'client');
    await using world = await InboundWorld.start(viewOf([client, WEB]));
    const recorder = world.local(client, '10.0.0.1');
    recorder.send('\x00 not HTTP');
    await settle();
    world.inbound.destroyWorkload(1);
    await settle();
    assert.equal(recorder.closed, false);
    world.inbound.destroyWorkload(2);
    await until(() => recorder.closed && world.inbound.connections.size === 0);
    assert.equal(world.counted.active('inbound', 'local'), 0);
  });
});
