import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { publicKeyDigest } from '../../../certs/x509/public-key.ts';
import { ChainWatch } from '../../../proxy/tunnel/chain-watch.ts';
import { SessionStore } from '../../../proxy/tunnel/session-store.ts';
import { TunnelPool } from '../../../proxy/tunnel/tunnel-pool.ts';
import type { TunnelServerLimits } from '../../../proxy/tunnel/tunnel-server.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import type { PeerVerifier, TlsContexts } from '../../../src/model/data-plane.ts';
import { type Forged, forge, forgeRoot } from '../../unit/certs/forge.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import { CLIENT_ID, connect, echo, LoopbackDialer, SERVER_ID, TunnelHost, type TunnelSide, TunnelWorld } from './tunnel-world.ts';

const digest = (one: Forged): string => publicKeyDigest(new X509Certificate(one.der).publicKey);

/** With this each stream needs a connection of its own, once the client has heard of it. */
const ONE_STREAM: Partial<TunnelServerLimits> = { http2: { maxConcurrentStreams: 1 } };

async function roundTrip(stream: ByteStream): Promise<ByteStream> {
  const reader = new Recorder(stream);
  stream.resume();
  stream.write(Buffer.from('x'));
  await reader.until(() => reader.bytes === 1);
  return stream;
}

/** Contexts as they are now, for good: a change does not reach them, so that what is left to stop a resumption is the look at the chain. */
function frozen(world: TunnelWorld): TlsContexts {
  const contexts = new Map([CLIENT_ID, SERVER_ID].map((identity) => [identity, world.context(identity)]));
  return {
    generation: 1,
    context: (identity) => contexts.get(identity) ?? null,
    wait: () => Promise.reject(new Error('there is no other')),
    chainOf: (context) => world.contexts.chainOf(context),
  };
}

describe('a tunnel that resumes the TLS session of an earlier one', () => {
  let world: TunnelWorld;
  let signer: Forged;
  /** The client's clock, and the server's. */
  let now: { client: number; server: number };
  let dialer: LoopbackDialer;
  beforeEach(async () => {
    dialer = new LoopbackDialer();
    world = await TunnelWorld.make();
    signer = await forge({ issuer: world.root, subject: 'CN=signer', uris: [], ca: true });
    now = { client: 0, server: 0 };
  });
  afterEach(() => world[Symbol.dispose]());

  /** One end with a verifier and a watch of its own, and contexts that stay. */
  function side(end: 'client' | 'server', cacheSize?: number): TunnelSide & { readonly watch: ChainWatch } {
    const verifier = new SvidVerifier(world.mirror, {
      now: () => Date.now() + now[end],
      ...(cacheSize === undefined ? {} : { cacheSize }),
    });
    return { contexts: frozen(world), verifier, watch: new ChainWatch(verifier) };
  }

  function poolOf(port: number, { contexts, verifier, watch }: TunnelSide = world, onOpened?: (isResumed: boolean) => void): TunnelPool {
    return new TunnelPool({ dialer, contexts, verifier, watch, limits: { port }, ...(onOpened === undefined ? {} : { onOpened }) });
  }

  const open = async (tunnels: TunnelPool): Promise<ByteStream> =>
    roundTrip(
      await tunnels.open({
        sourceWorkloadId: 1,
        sourceIdentity: CLIENT_ID,
        destinationAddress: '127.0.0.1',
        expectedIdentities: [SERVER_ID],
        authority: '10.0.0.1:80',
      }),
    );

  const facts = (tunnels: TunnelPool): object => {
    const { handshakes, resumed, failures } = tunnels.stats();
    return { handshakes, resumed, failures };
  };

  it('works, twice for each full handshake', async () => {
    await using host = await new TunnelHost(world, echo, ONE_STREAM).listen();
    const opened: boolean[] = [];
    using tunnels = poolOf(host.port, world, (isResumed) => opened.push(isResumed));
    for (let i = 0; i < 6; i++) await open(tunnels);
    assert.deepEqual(facts(tunnels), { handshakes: 6, resumed: 4, failures: 0 });
    const connections = tunnels.stats().tunnels[0]?.connections ?? [];
    const expected = [false, true, true, false, true, true];
    assert.deepEqual(
      connections.map(({ resumed, peer }) => [resumed, peer]),
      expected.map((resumed) => [resumed, SERVER_ID]),
    );
    assert.deepEqual([opened, host.opened], [expected, expected], 'what both ends are told, for their counters');
    assert.deepEqual(host.refused, []);
  });

  for (const [what, change] of [
    ["the client's SVID was renewed", () => world.issue(CLIENT_ID)],
    ["the server's SVID was renewed", () => world.issue(SERVER_ID)],
    ['a bundle changed', async () => world.trust({ roots: [world.root.der, (await forgeRoot({ subject: 'CN=next root' })).der] })],
  ] as const) {
    it(`does not happen when ${what}: a full handshake takes its place`, async () => {
      await using host = await new TunnelHost(world, echo, ONE_STREAM).listen();
      using tunnels = poolOf(host.port);
      await open(tunnels);
      await change();
      await open(tunnels);
      assert.deepEqual(facts(tunnels), { handshakes: 2, resumed: 0, failures: 0 });
      assert.deepEqual(host.refused, []);
    });
  }

  it("is refused by the client to a server whose CA's key has been revoked since", async () => {
    await world.issue(SERVER_ID, signer);
    await using host = await new TunnelHost(side('server'), echo, ONE_STREAM).listen();
    using tunnels = poolOf(host.port, side('client'));
    await open(tunnels);
    world.trust({ revokedKeys: [digest(signer)] });
    await assert.rejects(open(tunnels), { code: 'WEFT_TUNNEL_PEER', message: /revoked/ });
    assert.deepEqual(facts(tunnels), { handshakes: 2, resumed: 0, failures: 1 });
  });

  it('is refused by the client to a server whose certificate has expired since', async () => {
    await world.issue(SERVER_ID, world.root, { notAfter: Date.now() + 60_000 });
    await using host = await new TunnelHost(side('server'), echo, ONE_STREAM).listen();
    using tunnels = poolOf(host.port, side('client'));
    await open(tunnels);
    now.client = 61_000;
    await assert.rejects(open(tunnels), { code: 'WEFT_TUNNEL_PEER', message: /expired/ });
    assert.deepEqual(facts(tunnels), { handshakes: 2, resumed: 0, failures: 1 });
  });

  for (const [what, code, change] of [
    ["whose CA's key has been revoked", 'WEFT_IDENTITY_PEER_REVOKED', () => world.trust({ revokedKeys: [digest(signer)] })],
    ['whose certificate has expired', 'WEFT_IDENTITY_PEER_EXPIRED', () => (now.server = 61_000)],
  ] as const) {
    it(`is refused by the server to a client ${what} since, and so is the full handshake after it`, async () => {
      await world.issue(CLIENT_ID, signer, { notAfter: Date.now() + 60_000 });
      await using host = await new TunnelHost(side('server'), echo, ONE_STREAM).listen();
      using tunnels = poolOf(host.port, side('client'));
      await open(tunnels);
      change();
      await assert.rejects(open(tunnels), { code: 'WEFT_TUNNEL_DISTRUSTED', message: new RegExp(code) });
      assert.deepEqual(
        host.refused.map((refused) => refused.code),
        [code, code],
      );
      assert.deepEqual(facts(tunnels), { handshakes: 3, resumed: 1, failures: 0 });
    });
  }

  it('is refused when the peer that comes back is not the one expected', async () => {
    await using host = await new TunnelHost(world).listen();
    const sessions = new SessionStore(world.verifier).of('any', world.context(CLIENT_ID));
    const first = connect(world, host, { sessions });
    await roundTrip(await first.open('10.0.0.1:80'));
    const second = connect(world, host, { sessions, expectedIdentities: [CLIENT_ID] });
    await assert.rejects(second.ready, { code: 'WEFT_TUNNEL_PEER_IDENTITY' });
    assert.equal(second.isResumed, true);
    first.destroy();
  });

  it('is refused when no chain was kept with the session', async () => {
    await using host = await new TunnelHost(world).listen();
    const sessions = new SessionStore(world.verifier).of('any', world.context(CLIENT_ID));
    const first = connect(world, host, { sessions });
    await roundTrip(await first.open('10.0.0.1:80'));
    const session = sessions.take()?.session as Buffer;
    const second = connect(world, host, { sessions: { ...sessions, take: () => ({ session, peerChain: [] }) } });
    await assert.rejects(second.ready, { code: 'WEFT_TUNNEL_PEER', message: /showed no certificate/ });
    first.destroy();
  });

  for (const [end, revoked] of [
    ['client', SERVER_ID],
    ['server', CLIENT_ID],
  ] as const) {
    it(`is ended by the ${end}'s watch when a CA key in the other's chain is revoked, and not before`, async () => {
      await world.issue(revoked, signer);
      const [near, far] = [side('client'), side('server', 1)];
      await using host = await new TunnelHost(far, echo, ONE_STREAM).listen();
      using tunnels = poolOf(host.port, near);
      await open(tunnels);
      const stream = await open(tunnels);
      assert.deepEqual(facts(tunnels), { handshakes: 2, resumed: 1, failures: 0 });
      // Nobody has the certificates of the full handshake any more.
      dialer.sockets[0]?.destroy();
      const watch = end === 'client' ? near.watch : far.watch;
      world.trust({ roots: [world.root.der, (await forgeRoot({ subject: 'CN=next root' })).der] });
      watch.recheck();
      await new Promise((resolve) => setTimeout(resolve, 50));
      await roundTrip(stream);
      world.trust({ revokedKeys: [digest(signer)] });
      const closed = new Recorder(stream);
      watch.recheck();
      await closed.closed();
      assert.equal(watch.size, 0);
    });
  }

  it('works through an intermediate when the server has forgotten the leaf', async () => {
    await world.issue(CLIENT_ID, signer);
    const far = side('server', 1);
    await using host = await new TunnelHost(far, echo, ONE_STREAM).listen();
    using tunnels = poolOf(host.port, side('client'));
    await open(tunnels);
    far.verifier.verify([(await forge({ issuer: world.root })).der]);
    await open(tunnels);
    assert.deepEqual(facts(tunnels), { handshakes: 2, resumed: 1, failures: 0 });
    assert.deepEqual(host.refused, []);
  });

  it('gives way to one full handshake, without a failed open, when the server knows no way from the leaf to a root', async () => {
    await world.issue(CLIENT_ID, signer);
    let verifier: PeerVerifier = new SvidVerifier(world.mirror);
    const far: TunnelSide = {
      ...side('server'),
      verifier: { verify: (chain, at) => verifier.verify(chain, at), complete: (leaf) => verifier.complete(leaf) },
    };
    await using host = await new TunnelHost(far, echo, ONE_STREAM).listen();
    using tunnels = poolOf(host.port, side('client'));
    await open(tunnels);
    verifier = new SvidVerifier(world.mirror);
    await open(tunnels);
    assert.deepEqual(
      host.refused.map((refused) => refused.code),
      ['WEFT_IDENTITY_PEER_CHAIN'],
    );
    assert.deepEqual(facts(tunnels), { handshakes: 3, resumed: 1, failures: 0 });
  });

  it('gives way to one full handshake, without a failed open, when TLS fails over the session', async () => {
    await using host = await new TunnelHost(world, echo, ONE_STREAM).listen();
    let connections = 0;
    const listener = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      // A fatal decrypt_error (RFC 8446 section 6) for the second: what a server says that cannot verify the binder of a session.
      if (++connections === 2) socket.end(Buffer.from([0x15, 3, 3, 0, 2, 2, 51]));
      else host.server.accept(socket);
    });
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    using tunnels = poolOf((listener.address() as AddressInfo).port);
    await open(tunnels);
    await open(tunnels);
    assert.deepEqual(facts(tunnels), { handshakes: 3, resumed: 0, failures: 1 });
    listener.close();
  });
});

describe('a handshake that comes when its workload has no SVID', () => {
  const LATE = 'spiffe://example.org/ns/shop/sa/late';

  it('waits for one', async () => {
    using world = await TunnelWorld.make();
    await using host = await new TunnelHost(world, echo, {}, LATE).listen();
    const client = connect(world, host, { expectedIdentities: [LATE] });
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(host.server.stats().handshakes, 1);
    await world.issue(LATE);
    await roundTrip(await client.open('10.0.0.1:80'));
    client.destroy();
  });

  it('does not wait longer than it may, nor when its server closes', async () => {
    using world = await TunnelWorld.make();
    await using host = await new TunnelHost(world, echo, { identityTimeoutMs: 50 }, LATE).listen();
    await assert.rejects(connect(world, host).ready, { code: 'WEFT_TUNNEL_TLS' });
    assert.equal((await host.firstRefusal()).reason, 'no_identity');
    const client = connect(world, host);
    await new Promise((resolve) => setTimeout(resolve, 20));
    host.server.dispose();
    await assert.rejects(client.ready, { code: 'WEFT_TUNNEL_TLS' });
    assert.equal(host.refused[1]?.reason, 'draining');
  });
});
