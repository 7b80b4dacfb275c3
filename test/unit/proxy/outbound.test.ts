import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, Socket } from 'node:net';
import { describe, it } from 'node:test';
import type { LocalArrival } from '../../../proxy/local-arrival.ts';
import type { MeshView } from '../../../proxy/mesh-view.ts';
import { Outbound } from '../../../proxy/outbound/outbound.ts';
import { TunnelError } from '../../../proxy/tunnel/tunnel-error.ts';
import type { TunnelPool, TunnelRequest } from '../../../proxy/tunnel/tunnel-pool.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import type { DialRequest, OriginalDestination } from '../../../src/model/data-plane.ts';
import { memoryStreamPair } from '../../kit/memory-stream.ts';
import { StreamRecorder } from '../../kit/stream-recorder.ts';
import { CountedTelemetry, serviceEntry, viewOf, workloadEntry } from './mesh-fixture.ts';

const CLIENT = workloadEntry(1, 'client');
const FAR = workloadEntry(2, 'far', { local: false });

/** The application's end of a leg. */
class Application {
  readonly socket: Socket = new Socket({ allowHalfOpen: true });
  text = '';
  error: NodeJS.ErrnoException | null = null;
  ended = false;
  closed = false;

  constructor(port: number) {
    this.socket.on('data', (chunk) => (this.text += chunk));
    this.socket.on('error', (error) => (this.error = error));
    this.socket.on('end', () => (this.ended = true));
    this.socket.on('close', () => (this.closed = true));
    this.socket.connect({ port, host: '127.0.0.1' });
  }

  /** Says all it has to say, and waits for the whole answer. */
  async ask(text: string): Promise<string> {
    this.socket.end(text);
    await until(() => this.ended || this.closed);
    return this.text;
  }

  /** What an application sees that is refused: not an end, but a reset. */
  async isReset(): Promise<void> {
    await until(() => this.closed);
    assert.equal(this.error?.code, 'ECONNRESET');
  }
}

/** The outbound half with real legs over loopback; the kernel, other nodes and the inbound half are the test's. */
class OutboundWorld implements AsyncDisposable {
  readonly counted: CountedTelemetry = new CountedTelemetry();
  readonly dialled: DialRequest[] = [];
  readonly tunnelled: TunnelRequest[] = [];
  readonly arrivals: LocalArrival[] = [];
  readonly outbound: Outbound;
  view: MeshView;
  original: OriginalDestination | null = null;
  /** Where whatever is dialled really goes. */
  target: { port: number } | Error = new Error('no route');
  openTunnel: (request: TunnelRequest) => Promise<ByteStream> = async () => {
    throw new Error('no tunnels here');
  };
  readonly #applications: Application[] = [];
  readonly #listener: Server;
  readonly #servers: Server[];

  private constructor(view: MeshView, listener: Server, listenerWorkload: number) {
    this.view = view;
    this.#listener = listener;
    this.#servers = [listener];
    this.outbound = new Outbound({
      view: () => this.view,
      originalDestinations: { find: () => this.original },
      dialer: {
        dial: (request) => {
          this.dialled.push(request);
          if (this.target instanceof Error) throw this.target;
          return connect({ port: this.target.port, host: '127.0.0.1', allowHalfOpen: true });
        },
      },
      tunnels: {
        open: (request: TunnelRequest) => {
          this.tunnelled.push(request);
          return this.openTunnel(request);
        },
      } as TunnelPool,
      telemetry: this.counted.telemetry,
      acceptLocal: (arrival) => this.arrivals.push(arrival),
    });
    listener.on('connection', (socket) => this.outbound.accept(socket, listenerWorkload));
  }

  static async start(view: MeshView, listenerWorkload = 1): Promise<OutboundWorld> {
    const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    return new OutboundWorld(view, listener, listenerWorkload);
  }

  /** An application that answers with what it got once its client has half-closed. */
  async echo(): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      let said = '';
      socket.on('error', () => {});
      socket.on('data', (chunk) => (said += chunk));
      socket.on('end', () => socket.end(`you said ${said}`));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    this.#servers.push(server);
    this.target = { port: (server.address() as AddressInfo).port };
  }

  /** An application connects to `address:port`, as the kernel saw it. */
  dial(address: string, port = 80, workloadId = 1): Application {
    this.original = { address, port, workloadId };
    return this.leg();
  }

  leg(): Application {
    const application = new Application((this.#listener.address() as AddressInfo).port);
    this.#applications.push(application);
    return application;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.outbound.connections) connection.destroy(new Error('the test is over'));
    for (const { stream } of this.arrivals) stream.destroy();
    for (const { socket } of this.#applications) socket.destroy();
    for (const server of this.#servers) server.close();
  }
}

function refusedBy(code: string): () => Promise<ByteStream> {
  return async () => {
    throw new TunnelError('WEFT_TUNNEL_CONNECT', 'no tunnel', { cause: Object.assign(new Error(code), { code }) });
  };
}

async function until(what: () => boolean): Promise<void> {
  const deadline = Date.now() + 3_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, 'it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('a leg', () => {
  it('that the kernel did not capture is reset and counted', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT]));
    await world.leg().isReset();
    assert.equal(world.counted.refused('outbound', 'passthrough', 'not-captured'), 1);
    assert.deepEqual(world.dialled, []);
  });

  it('captured under a number of a former agent belongs to the workload whose listener took it', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT, workloadEntry(3, 'near')]));
    world.dial('10.0.0.3', 80, 77);
    await until(() => world.arrivals.length === 1);
    assert.equal(world.arrivals[0]?.client, CLIENT);
  });

  it('of nobody that is known is reset: on the listener of the host there is no second answer', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT]), 0);
    await world.dial('10.0.0.3', 80, 77).isReset();
    assert.equal(world.counted.refused('outbound', 'passthrough', 'unknown-destination'), 1);
  });
});

describe('a destination outside of the mesh', () => {
  it('is dialled as it was, from the client’s namespace; bytes and half-closes go through', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT]));
    await world.echo();
    assert.equal(await world.dial('192.0.2.1', 443).ask('hello'), 'you said hello');
    assert.deepEqual(world.dialled, [{ workloadId: 1, address: '192.0.2.1', port: 443, presentedPeer: null }]);
    await until(() => world.outbound.connections.size === 0);
    assert.equal(world.counted.active('outbound', 'passthrough'), 0);
  });

  it('that cannot be dialled resets the client, counted', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT]));
    await world.dial('192.0.2.1').isReset();
    await until(() => world.counted.refused('outbound', 'passthrough', 'dial-failed') === 1);
    assert.equal(world.outbound.connections.size, 0);
  });

  it('a service without endpoints resets the client, counted', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT], [serviceEntry('empty')]));
    await world.dial('10.96.0.1').isReset();
    await until(() => world.counted.refused('outbound', 'passthrough', 'no-endpoint') === 1);
    assert.deepEqual(world.dialled, []);
  });
});

describe('a destination on this node', () => {
  it('is handed over with the identity that the kernel attests and the client’s own address', async () => {
    const near = workloadEntry(3, 'near');
    const client = workloadEntry(1, 'client', { addresses: ['10.0.0.1', 'fd00::1'] });
    await using world = await OutboundWorld.start(viewOf([client, near]));
    const application = world.dial('10.0.0.3', 8080);
    await until(() => world.arrivals.length === 1);
    const [arrival] = world.arrivals;
    assert.equal(arrival?.client, client);
    assert.equal(arrival?.server, near);
    assert.deepEqual(arrival?.source, { address: '10.0.0.1', port: application.socket.localPort });
    assert.deepEqual(arrival?.destination, { address: '10.0.0.3', port: 8080 });
  });

  it('never gets an address from what was dialled: a client without addresses has none', async () => {
    const client = workloadEntry(1, 'job', { addresses: [] });
    await using world = await OutboundWorld.start(viewOf([client, workloadEntry(3, 'near')]));
    world.dial('10.0.0.3');
    await until(() => world.arrivals.length === 1);
    assert.equal(world.arrivals[0]?.source.address, '');
  });
});

describe('a destination on another node', () => {
  it('is reached through a tunnel with both identities, and never dialled', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT, FAR]));
    const [near, far] = memoryStreamPair();
    const server = new StreamRecorder(far);
    world.openTunnel = async () => near;
    const application = world.dial('10.0.0.2', 8080);
    const answer = application.ask('hello');
    await until(() => server.ended);
    const port = application.socket.localPort;
    assert.equal(server.text(), 'hello');
    server.send('good day');
    server.stream.end();
    assert.equal(await answer, 'good day');
    assert.deepEqual(world.tunnelled, [
      {
        sourceWorkloadId: 1,
        sourceIdentity: CLIENT.identity,
        destinationAddress: '10.0.0.2',
        expectedIdentities: [FAR.identity],
        authority: '10.0.0.2:8080',
        headers: { forwarded: `for="10.0.0.1:${port}"` },
      },
    ]);
    assert.deepEqual(world.dialled, []);
    await until(() => world.outbound.connections.size === 0);
  });

  it('strict, without a tunnel: the client is reset, and nothing is sent in plaintext', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT, FAR]));
    await world.echo();
    world.openTunnel = refusedBy('EHOSTUNREACH');
    await world.dial('10.0.0.2').isReset();
    await until(() => world.counted.refused('outbound', 'tunnel', 'tunnel-failed') === 1);
    assert.deepEqual(world.dialled, []);
  });

  it('strict, whose agent restarts: the client waits until the tunnel is there', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT, FAR]));
    const [near, far] = memoryStreamPair();
    const server = new StreamRecorder(far);
    const refuse = refusedBy('ECONNREFUSED');
    world.openTunnel = () => (world.tunnelled.length < 3 ? refuse() : Promise.resolve(near));
    world.dial('10.0.0.2').socket.write('patience');
    await until(() => server.text() === 'patience');
    assert.equal(world.tunnelled.length, 3);
    assert.deepEqual(world.dialled, []);
  });

  it('permissive, with a tunnel that fails otherwise than by a refused port: no plaintext', async () => {
    const far = { ...FAR, mode: 'permissive' as const };
    await using world = await OutboundWorld.start(viewOf([CLIENT, far]));
    await world.echo();
    world.openTunnel = async () => {
      throw new TunnelError('WEFT_TUNNEL_PEER', 'another identity');
    };
    await world.dial('10.0.0.2').isReset();
    assert.deepEqual(world.dialled, []);
  });

  it('permissive, whose agent is away: plaintext, for a second without asking again', async () => {
    const far = { ...FAR, mode: 'permissive' as const };
    await using world = await OutboundWorld.start(viewOf([CLIENT, far]));
    await world.echo();
    world.openTunnel = refusedBy('ECONNREFUSED');
    for (const text of ['one', 'two']) {
      assert.equal(await world.dial('10.0.0.2').ask(text), `you said ${text}`);
      if (text === 'one') world.tunnelled.length = 0;
    }
    assert.deepEqual(world.tunnelled, []);
    assert.equal(world.counted.fallbacks(), 2);
  });

  it('permissive, refused to one client: another one’s tunnel is tried all the same', async () => {
    const far = { ...FAR, mode: 'permissive' as const };
    const other = workloadEntry(3, 'other');
    await using world = await OutboundWorld.start(viewOf([CLIENT, other, far]));
    await world.echo();
    world.openTunnel = refusedBy('ECONNREFUSED');
    await world.dial('10.0.0.2').ask('in plaintext');
    const [near, end] = memoryStreamPair();
    const server = new StreamRecorder(end);
    world.openTunnel = async () => near;
    world.dial('10.0.0.2', 80, 3).socket.write('secret');
    await until(() => server.text() === 'secret');
    assert.equal(world.dialled.length, 1);
  });

  it('a client that is gone before the tunnel is there leaves none behind', async () => {
    await using world = await OutboundWorld.start(viewOf([CLIENT, FAR]));
    const [near, far] = memoryStreamPair();
    const server = new StreamRecorder(far);
    const { promise, resolve } = Promise.withResolvers<ByteStream>();
    world.openTunnel = () => promise;
    const application = world.dial('10.0.0.2');
    await until(() => world.tunnelled.length === 1);
    world.outbound.destroyWorkload(1);
    await application.isReset();
    resolve(near);
    await until(() => server.closed);
    assert.equal(world.outbound.connections.size, 0);
    assert.equal(world.counted.active('outbound', 'tunnel'), 0);
  });
});

describe('a workload that is gone', () => {
  it('loses its connections, and nobody else does', async () => {
    const other = workloadEntry(3, 'other');
    await using world = await OutboundWorld.start(viewOf([CLIENT, other]));
    await world.echo();
    const mine = world.dial('192.0.2.1');
    await until(() => world.outbound.connections.size === 1);
    const theirs = world.dial('192.0.2.1', 80, 3);
    await until(() => world.outbound.connections.size === 2);
    world.outbound.destroyWorkload(1);
    await mine.isReset();
    await until(() => world.outbound.connections.size === 1);
    assert.equal(await theirs.ask('still here'), 'you said still here');
  });
});
