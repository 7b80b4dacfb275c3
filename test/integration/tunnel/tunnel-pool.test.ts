import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { TLSSocket } from 'node:tls';
import { TunnelPool } from '../../../proxy/tunnel/tunnel-pool.ts';
import type { TunnelPoolLimits, TunnelRequest } from '../../../proxy/tunnel/tunnel-pool.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import { CLIENT_ID, echo, LoopbackDialer, SERVER_ID, TunnelHost, TunnelWorld } from './tunnel-world.ts';

const OTHER_ID = 'spiffe://example.org/ns/shop/sa/other';

function request(over: Partial<TunnelRequest> = {}): TunnelRequest {
  return {
    sourceWorkloadId: 1,
    sourceIdentity: CLIENT_ID,
    destinationAddress: '127.0.0.1',
    expectedIdentities: [SERVER_ID],
    authority: '10.0.0.1:80',
    ...over,
  };
}

async function roundTrip(stream: ByteStream): Promise<void> {
  const reader = new Recorder(stream);
  stream.resume();
  stream.write(Buffer.from('x'));
  await reader.until(() => reader.bytes === 1);
}

function refused(error: { code?: string; cause?: { code?: string } }): boolean {
  return error.cause?.code === 'ECONNREFUSED';
}

async function settle(millis = 20): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, millis));
}

describe('a tunnel pool', () => {
  let world: TunnelWorld;
  const dialer = new LoopbackDialer();
  before(async () => {
    world = await TunnelWorld.make();
    await world.issue(OTHER_ID);
  });
  after(() => world[Symbol.dispose]());

  function pool(host: TunnelHost, limits: Partial<TunnelPoolLimits> = {}): TunnelPool {
    return new TunnelPool({ dialer, contexts: world.contexts, verifier: world.verifier, limits: { port: host.port, ...limits } });
  }

  /** A peer that does TLS on its first connection, and then what `then` says; the next ones are the host's. */
  function afterTls(host: TunnelHost, then: (socket: Socket) => void): void {
    host.listener.removeAllListeners('connection');
    host.listener.once('connection', (socket) => {
      const secure = new TLSSocket(socket, {
        isServer: true,
        secureContext: world.context(SERVER_ID),
        requestCert: true,
        rejectUnauthorized: false,
        ALPNProtocols: ['h2'],
      });
      secure.on('error', () => {});
      secure.once('secure', () => then(socket));
      host.listener.on('connection', (next) => host.server.accept(next));
    });
  }

  for (const [how, leave] of [
    ['with a reset', (socket: Socket) => void socket.resetAndDestroy()],
    ['in order', (socket: Socket) => void socket.destroy()],
  ] as const) {
    it(`tries another connection when the peer leaves between the handshake and its first frame, ${how}`, async () => {
      await using host = await new TunnelHost(world).listen();
      afterTls(host, leave);
      using tunnels = pool(host);
      await roundTrip(await tunnels.open(request()));
      assert.equal(tunnels.stats().handshakes, 2);
    });
  }

  it('does not try another when the peer is there and says nothing, nor when this side has ended the tunnel', async () => {
    for (const end of ['the peer is silent', 'the workload is gone']) {
      await using host = await new TunnelHost(world).listen();
      using tunnels = pool(host, { client: { http2: { settingsTimeoutMs: 200 } } });
      using open = new DisposableStack();
      afterTls(host, (socket) => {
        open.defer(() => socket.destroy());
        if (end === 'the workload is gone') tunnels.dropWorkload(request().sourceWorkloadId);
      });
      await assert.rejects(tunnels.open(request()), { code: 'WEFT_TUNNEL_LOST' }, end);
      assert.equal(tunnels.stats().handshakes, 1, end);
    }
  });

  it('shares one handshake between concurrent first opens, and the connection afterwards', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    const streams = await Promise.all(Array.from({ length: 60 }, () => tunnels.open(request())));
    for (const stream of streams) await roundTrip(stream);
    await roundTrip(await tunnels.open(request({ authority: '10.0.0.1:81' })));
    const stats = tunnels.stats();
    assert.equal(stats.handshakes, 1);
    assert.equal(stats.openedStreams, 61);
    assert.equal(stats.tunnels[0]?.connections[0]?.activeStreams, 61);
    assert.equal(host.server.stats().acceptedConnections, 1);
  });

  it('adds a connection when streams are at the limit, ours or the peer’s', async () => {
    await using host = await new TunnelHost(world, echo, { http2: { maxConcurrentStreams: 10 } }).listen();
    using tunnels = pool(host);
    const streams = await Promise.all(Array.from({ length: 35 }, () => tunnels.open(request())));
    for (const stream of streams) await roundTrip(stream);
    const connections = tunnels.stats().tunnels[0]?.connections ?? [];
    assert.equal(
      connections.reduce((sum, connection) => sum + connection.activeStreams, 0),
      35,
    );
    for (const connection of connections) assert.ok(connection.activeStreams <= 10);
    // A freed slot is used again.
    streams[0]?.destroy();
    await settle();
    const before = tunnels.stats().handshakes;
    await roundTrip(await tunnels.open(request()));
    assert.equal(tunnels.stats().handshakes, before);
  });

  it('serves a thousand opens at once, each connection to its limit', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    const streams = await Promise.all(Array.from({ length: 1000 }, () => tunnels.open(request())));
    await Promise.all(streams.map((stream) => roundTrip(stream)));
    assert.equal(tunnels.stats().handshakes, 10);
  });

  it('does not share connections between source workloads, identities, or expected peers', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    await tunnels.open(request());
    await tunnels.open(request({ sourceWorkloadId: 2 }));
    await tunnels.open(request({ sourceIdentity: OTHER_ID }));
    await tunnels.open(request({ expectedIdentities: [SERVER_ID, OTHER_ID] }));
    assert.equal(tunnels.stats().handshakes, 4);
    await assert.rejects(tunnels.open(request({ expectedIdentities: [OTHER_ID] })), { code: 'WEFT_TUNNEL_PEER_IDENTITY' });
  });

  it('does not use a connection of a rotated SVID for new streams, and lets the old ones finish', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    const old = await tunnels.open(request());
    const reader = new Recorder(old);
    old.resume();
    await world.issue(CLIENT_ID);
    await roundTrip(await tunnels.open(request()));
    assert.equal(tunnels.stats().handshakes, 2);
    old.write(Buffer.from('still'));
    await reader.until(() => reader.text() === 'still');
    old.end();
    await reader.closed();
    assert.equal(reader.error, null);
    await settle();
    assert.equal(tunnels.stats().tunnels[0]?.connections.length, 1);
  });

  it('the server’s rotated SVID serves new handshakes at once', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    await tunnels.open(request());
    await world.issue(SERVER_ID);
    await roundTrip(await tunnels.open(request({ sourceWorkloadId: 2 })));
    assert.equal(tunnels.stats().handshakes, 2);
  });

  it('leaves a connection that is going away, without failing an open', async () => {
    await using first = await new TunnelHost(world).listen();
    using tunnels = pool(first);
    await roundTrip(await tunnels.open(request()));
    const drained = first.server.drain(200);
    await settle();
    // The node behind the port is the same in this test, so the new connection is turned away at the door: it was tried.
    await assert.rejects(tunnels.open(request()), { code: 'WEFT_TUNNEL_TLS' });
    assert.equal(tunnels.stats().handshakes, 2);
    await drained;
  });

  it('releases an idle connection', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host, { idleMs: 30 });
    const stream = await tunnels.open(request());
    await settle(60);
    assert.equal(host.server.stats().connections, 1);
    const reader = new Recorder(stream);
    stream.resume();
    stream.end();
    await reader.closed();
    await settle(80);
    assert.equal(host.server.stats().connections, 0);
    assert.equal(tunnels.stats().tunnels.length, 0);
  });

  it('stops dialling for a while after failures in a row, keeps their cause, and tries again', async () => {
    const host = await new TunnelHost(world).listen();
    using tunnels = pool(host, { failuresBeforeBackoff: 2, backoffMs: 500 });
    const { port } = host;
    await host[Symbol.asyncDispose]();
    await assert.rejects(tunnels.open(request()), refused);
    await assert.rejects(tunnels.open(request()), refused);
    await assert.rejects(tunnels.open(request()), (error: { code?: string; cause?: { code?: string } }) => {
      assert.equal(error.code, 'WEFT_TUNNEL_BACKOFF');
      return refused(error);
    });
    assert.equal(tunnels.stats().handshakes, 2);
    await using again = new TunnelHost(world);
    await new Promise<void>((resolve) => {
      again.listener.listen(port, '127.0.0.1', resolve);
    });
    await settle(520);
    await roundTrip(await tunnels.open(request()));
  });

  it('ends the tunnels of a workload that is gone, and only those', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    const gone = new Recorder(await tunnels.open(request()));
    const stays = new Recorder(await tunnels.open(request({ sourceWorkloadId: 2 })));
    tunnels.dropWorkload(1);
    await gone.closed();
    assert.ok(gone.error !== null);
    assert.equal(stays.closes, 0);
  });

  it('drains: no new opens, resolves when the streams have ended', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    const stream = await tunnels.open(request());
    const reader = new Recorder(stream);
    stream.resume();
    let done = false;
    const drained = tunnels.drain(5000).then(() => (done = true));
    await assert.rejects(tunnels.open(request()), { code: 'WEFT_TUNNEL_CLOSED' });
    await settle();
    assert.equal(done, false);
    stream.end();
    await reader.closed();
    await drained;
    assert.equal(tunnels.stats().state, 'stopped');
  });

  it('fails when the source has no SVID, and sends nothing', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host, { identityTimeoutMs: 20 });
    const before = dialer.requests.length;
    await assert.rejects(tunnels.open(request({ sourceIdentity: 'spiffe://example.org/ns/shop/sa/none' })), {
      code: 'WEFT_IDENTITY_UNAVAILABLE',
    });
    assert.equal(dialer.requests.length, before);
  });

  it('survives ten thousand short connections without keeping anything', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = pool(host);
    for (let round = 0; round < 100; round++) {
      await Promise.all(
        Array.from({ length: 100 }, async (_, i) => {
          const stream = await tunnels.open(request());
          const reader = new Recorder(stream);
          stream.resume();
          stream.write(Buffer.from('ping'));
          await reader.until(() => reader.bytes === 4);
          if (i % 2 === 0) stream.end();
          else stream.destroy();
          await reader.closed();
        }),
      );
    }
    await settle();
    const stats = tunnels.stats();
    assert.equal(stats.openedStreams, 10_000);
    assert.ok(stats.handshakes < 10, `${stats.handshakes} handshakes`);
    assert.equal(
      stats.tunnels[0]?.connections.reduce((sum, connection) => sum + connection.activeStreams, 0),
      0,
    );
    assert.equal(host.server.stats().streams, 0);
  });
});
