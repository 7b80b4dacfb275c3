import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { publicKeyDigest } from '../../../certs/x509/public-key.ts';
import { ChainWatch } from '../../../proxy/tunnel/chain-watch.ts';
import { TunnelPool } from '../../../proxy/tunnel/tunnel-pool.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import { type Forged, forge, forgeRoot } from '../../unit/certs/forge.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import { CLIENT_ID, LoopbackDialer, SERVER_ID, TunnelHost, TunnelWorld } from './tunnel-world.ts';

const digest = (one: Forged): string => publicKeyDigest(new X509Certificate(one.der).publicKey);

/** What an open connection ends with, within a second. */
async function endOf(stream: ByteStream): Promise<Error | null> {
  const { promise, resolve } = Promise.withResolvers<Error | null>();
  stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose: resolve });
  stream.resume();
  const timer = setTimeout(() => resolve(new Error('still open after a second')), 1000);
  return promise.finally(() => clearTimeout(timer));
}

async function roundTrip(stream: ByteStream): Promise<void> {
  const reader = new Recorder(stream);
  stream.resume();
  stream.write(Buffer.from('x'));
  await reader.until(() => reader.bytes === 1);
}

describe('an open tunnel ends within a second', () => {
  let world: TunnelWorld;
  let signer: Forged;
  beforeEach(async () => {
    world = await TunnelWorld.make();
    signer = await forge({ issuer: world.root, subject: 'CN=signer', uris: [], ca: true });
  });
  afterEach(() => world[Symbol.dispose]());

  function poolOf(host: TunnelHost, watch: ChainWatch | null): TunnelPool {
    return new TunnelPool({
      dialer: new LoopbackDialer(),
      contexts: world.contexts,
      verifier: world.verifier,
      ...(watch === null ? {} : { watch }),
      limits: { port: host.port },
      onClosed: (error) => ended.push(error),
    });
  }

  const ended: (Error | null)[] = [];
  beforeEach(() => ended.splice(0));

  const open = (tunnels: TunnelPool): Promise<ByteStream> =>
    tunnels.open({
      sourceWorkloadId: 1,
      sourceIdentity: CLIENT_ID,
      destinationAddress: '127.0.0.1',
      expectedIdentities: [SERVER_ID],
      authority: '10.0.0.1:80',
    });

  it("on the client, when a CA key in the server's chain is revoked; and the way is open again with a new SVID", async () => {
    await world.issue(SERVER_ID, signer);
    await using host = await new TunnelHost(world).listen();
    using tunnels = poolOf(host, world.watch);
    const stream = await open(tunnels);
    await roundTrip(stream);
    const end = endOf(stream);
    world.trust({ revokedKeys: [digest(signer)] });
    const error = (await end) as Error & { code?: string; cause?: { code?: string } };
    assert.equal(error.code, 'WEFT_TUNNEL_REVOKED');
    assert.equal(error.cause?.code, 'WEFT_IDENTITY_PEER_REVOKED');
    await assert.rejects(open(tunnels), { code: 'WEFT_TUNNEL_PEER', message: /revoked/ });
    await world.issue(SERVER_ID);
    await roundTrip(await open(tunnels));
    assert.equal((ended[0] as { code?: string } | null)?.code, 'WEFT_TUNNEL_REVOKED');
  });

  it("on the server, when a CA key in the client's chain is revoked; a new handshake with it is refused", async () => {
    await world.issue(CLIENT_ID, signer);
    await using host = await new TunnelHost(world).listen();
    // Nobody looks at the client's end.
    using tunnels = poolOf(host, null);
    const stream = await open(tunnels);
    await roundTrip(stream);
    const end = endOf(stream);
    world.trust({ revokedKeys: [digest(signer)] });
    assert.doesNotMatch(String(await end), /still open/);
    assert.equal(host.server.stats().connections, 0);
    await assert.rejects(open(tunnels));
    assert.equal((await host.firstRefusal()).code, 'WEFT_IDENTITY_PEER_REVOKED');
  });

  it('when the root of its chain leaves the bundle', async () => {
    await using host = await new TunnelHost(world).listen();
    using tunnels = poolOf(host, world.watch);
    const stream = await open(tunnels);
    await roundTrip(stream);
    const end = endOf(stream);
    world.trust({ roots: [(await forgeRoot({ subject: 'CN=next root' })).der] });
    assert.match(String(await end), /trusted no more/);
  });
});

describe('an open tunnel goes on', () => {
  it('when the bundle gets another root, and when an SVID is renewed', async () => {
    using world = await TunnelWorld.make();
    await using host = await new TunnelHost(world).listen();
    using tunnels = new TunnelPool({
      dialer: new LoopbackDialer(),
      contexts: world.contexts,
      verifier: world.verifier,
      watch: world.watch,
      limits: { port: host.port },
    });
    const stream = await tunnels.open({
      sourceWorkloadId: 1,
      sourceIdentity: CLIENT_ID,
      destinationAddress: '127.0.0.1',
      expectedIdentities: [SERVER_ID],
      authority: '10.0.0.1:80',
    });
    await roundTrip(stream);
    world.trust({ roots: [world.root.der, (await forgeRoot({ subject: 'CN=next root' })).der] });
    await world.issue(SERVER_ID);
    await new Promise((resolve) => setTimeout(resolve, 100));
    await roundTrip(stream);
    assert.equal(world.watch.size, 2);
  });
});

describe('the watch over chains', () => {
  async function worldWith(notAfter: number): Promise<{ world: TunnelWorld; leaf: Forged; ended: string[]; watch: ChainWatch }> {
    const world = await TunnelWorld.make();
    const leaf = await forge({ issuer: world.root, uris: [CLIENT_ID], notBefore: notAfter - 60_000, notAfter });
    const watch = new ChainWatch(world.verifier);
    const ended: string[] = [];
    watch.add({
      peerChain: [leaf.der],
      ownChain: [leaf.der],
      verifiedAt: notAfter - 30_000,
      end: (error) => ended.push((error.cause as { code: string }).code),
    });
    return { world, leaf, ended, watch };
  }

  it('leaves alone who has merely expired since the handshake, but not when its CA is revoked', async () => {
    const { world, ended, watch } = await worldWith(Date.now() - 10_000);
    using _ = world;
    using __ = watch;
    watch.recheck();
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(ended, []);
    world.trust({ revokedKeys: [digest(world.root)] });
    watch.recheck();
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(ended, ['WEFT_IDENTITY_PEER_REVOKED']);
    assert.equal(watch.size, 0);
  });

  it("ends those made with this workload's own SVID when that is revoked", async () => {
    const { world, leaf, ended, watch } = await worldWith(Date.now() + 60_000);
    using _ = world;
    using __ = watch;
    const signer = await forge({ issuer: world.root, subject: 'CN=signer', uris: [], ca: true });
    const own = await forge({ issuer: signer, uris: [SERVER_ID] });
    const errors: Error[] = [];
    const ownChain = [own.der, signer.der];
    watch.add({ peerChain: [leaf.der], ownChain, verifiedAt: Date.now(), end: (error) => errors.push(error) });
    world.trust({ revokedKeys: [digest(signer)] });
    watch.recheck();
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.match(String(errors[0]), /this workload's certificate/);
    assert.deepEqual(ended, []);
  });

  it('looks at 16,384 tunnels of 500 peers in slices, and ends them all within a second', async () => {
    const { world, leaf, watch } = await worldWith(Date.now() + 60_000);
    using _ = world;
    using __ = watch;
    const peers = await Promise.all(Array.from({ length: 500 }, () => forge({ issuer: world.root, uris: [CLIENT_ID] })));
    let open = 0;
    for (let i = 0; i < 16_384; i++) {
      open++;
      watch.add({ peerChain: [(peers[i % peers.length] as Forged).der], ownChain: [leaf.der], verifiedAt: Date.now(), end: () => open-- });
    }
    world.trust({ revokedKeys: [digest(world.root)] });
    const started = process.cpuUsage();
    let slices = 0;
    watch.recheck();
    while (watch.size > 0) {
      await new Promise((resolve) => setImmediate(resolve));
      slices++;
    }
    // Of this process's own CPU: what else the machine does meanwhile is not its doing.
    const { user, system } = process.cpuUsage(started);
    const took = (user + system) / 1000;
    assert.equal(open, 0);
    assert.ok(took < 1000, `took ${took} ms`);
    assert.ok(slices > took / 50, `${slices} slices in ${took} ms`);
  });
});
