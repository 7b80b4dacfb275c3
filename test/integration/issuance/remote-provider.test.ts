import assert from 'node:assert/strict';
import { createPrivateKey } from 'node:crypto';
import { chmodSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { createServer } from 'node:tls';
import type { TrustState } from '../../../certs/bundle/trust-state.ts';
import { authoritySource } from '../../../certs/issuance/authority-source.ts';
import { systemClock } from '../../../certs/clock.ts';
import { DATABASE, IssuanceWorld, TRUST_DOMAIN, until, WEB } from './issuance-world.ts';

const connected = (provider: { status(): { problem: string | null } }): boolean => provider.status().problem === null;

/** The certificates of the SVID that node-b keeps. */
function ownChain(world: IssuanceWorld): string {
  return (JSON.parse(readFileSync(join(world.directory, 'node-b/node.json'), 'utf8')) as { certificateChain: string }).certificateChain;
}

describe('a node that gets its identities from another host', () => {
  test('joins with a token, gets what runs on it, over IPv4 and IPv6, and nothing else', async () => {
    await using world = await IssuanceWorld.start();
    for (const host of ['127.0.0.1', '::1']) {
      await using provider = await world.node('node-b', {
        server: { host, port: world.server.port },
        tokenFile: await world.tokenFile('node-b'),
        stateDirectory: join(world.directory, host),
      });
      await until('it is connected', () => connected(provider));
      const svid = await provider.x509Svid(WEB, 600);
      assert.equal(svid.identity, WEB);
      assert.ok(svid.notAfter <= Date.now() + 600_000);
      await assert.rejects(provider.x509Svid(DATABASE, 600), /may not have this/);
    }
  });

  test('comes back after a restart without a token, and its key is nobody else’s to read', async () => {
    await using world = await IssuanceWorld.start();
    const tokenFile = await world.tokenFile('node-b');
    {
      await using first = await world.node('node-b', { tokenFile });
      await until('it is connected', () => connected(first));
    }
    assert.equal(statSync(join(world.directory, 'node-b/node.json')).mode & 0o777, 0o600);
    await using second = await world.node('node-b');
    // At once: who asks waits for the connection.
    assert.equal((await second.x509Svid(WEB, 600)).identity, WEB);
    // The token is spent: a node that has lost its state cannot use it.
    await assert.rejects(world.node('node-b', { tokenFile, stateDirectory: join(world.directory, 'lost') }), { code: 'WEFT_CERTS_JOIN' });
  });

  test('does not start without a token, nor with one that is no token', async () => {
    await using world = await IssuanceWorld.start();
    await assert.rejects(world.node('node-b'), { code: 'WEFT_CERTS_JOIN' });
    await assert.rejects(world.node('node-b', { tokenFile: world.writeToken('weft-join-1.x.y') }), { code: 'WEFT_CERTS_TOKEN' });
    await assert.rejects(world.node('node-b', { tokenFile: '/nonexistent' }), { code: 'WEFT_CERTS_JOIN' });
  });

  test('warns of a token that others can read, and joins with it', async () => {
    await using world = await IssuanceWorld.start();
    const warned = (): number => world.logged.filter((line) => line.startsWith('group or others can read the join token')).length;
    await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    assert.equal(warned(), 0);
    const tokenFile = await world.tokenFile('node-c');
    chmodSync(tokenFile, 0o640);
    await world.node('node-c', { tokenFile });
    assert.equal(warned(), 1);
  });

  test('gives its token to nobody but the authority that the token names', async () => {
    await using world = await IssuanceWorld.start();
    await using impostor = await IssuanceWorld.start();
    const tokenFile = await world.tokenFile('node-b');
    await assert.rejects(world.node('node-b', { server: { host: '127.0.0.1', port: impostor.server.port }, tokenFile }), {
      code: 'WEFT_CERTS_AUTHORITY_UNKNOWN',
    });
    // It was not spent.
    await using provider = await world.node('node-b', { tokenFile });
    await until('it is connected', () => connected(provider));
  });

  test('a token for another node is refused by what it is given', async () => {
    await using world = await IssuanceWorld.start();
    await assert.rejects(world.node('node-b', { tokenFile: await world.tokenFile('node-c') }), { code: 'WEFT_CERTS_ISSUED_WRONG' });
  });

  test('follows the trust state, acknowledges it, and keeps it for the next start', async () => {
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it has the trust state', () => provider.trust()?.sequence === world.authority.trust().sequence);
    assert.deepEqual(provider.trust()?.bundle.jwtAuthorities, world.authority.trust().bundle.jwtAuthorities);
    await world.authority.prepare();
    await until('it has the new root', () => provider.trust()?.bundle.x509Authorities.length === 2);
    const { sequence } = world.authority.trust();
    provider.acknowledge(sequence);
    const record = (): bigint | null => world.authority.status().nodes.find(({ name }) => name === 'node-b')?.acknowledged ?? null;
    await until('the authority knows', () => record() === sequence);
    await until('it is kept', () => readFileSync(join(world.directory, 'node-b/node.json'), 'utf8').includes(`"${sequence}"`));
  });

  test('still knows what was revoked when it has to join again', async () => {
    await using world = await IssuanceWorld.start();
    const [old] = world.authority.status().slots;
    const { id } = await world.authority.prepare();
    await world.authority.activate(id, { force: true });
    await world.authority.taint(old?.id as string);
    await world.authority.revoke(old?.id as string);
    const revoked = [old?.signingKey];
    {
      await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
      await until('it knows the revoked key', () => provider.trust()?.revokedKeys.length === 1);
    }
    const path = join(world.directory, 'node-b/node.json');
    // Its SVID has expired while it was away.
    const { cert, key } = await world.credentials(`spiffe://${TRUST_DOMAIN}/node/node-b`, 1);
    const privateKey = createPrivateKey(key).export({ type: 'pkcs8', format: 'der' }).toString('base64');
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), certificateChain: cert, privateKey }));
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    assert.deepEqual([provider.trust()?.sequence, provider.trust()?.revokedKeys], [0n, revoked]);
  });

  test('joins an authority that was made anew under the same address, and acknowledges nothing of the one before', async () => {
    const service = { maxTtlSeconds: 3 };
    await using world = await IssuanceWorld.start({ service });
    const tokenFile = await world.tokenFile('node-b');
    await using provider = await world.node('node-b', { tokenFile });
    await world.authority.prepare();
    await until('it has the new root', () => provider.trust()?.bundle.x509Authorities.length === 2);
    const before = provider.trust()?.sequence as bigint;
    provider.acknowledge(before);
    const { port } = world.server;
    await world.stopServer();
    rmSync(join(world.directory, 'ca'), { recursive: true });
    await world.startServer({ service, listen: { host: '::', port } });
    writeFileSync(tokenFile, await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 600 }));
    const isNew = (): boolean => provider.trust()?.sequence === world.authority.trust().sequence && connected(provider);
    await until('it goes by the new authority', () => provider.trust()?.bundle.x509Authorities.length === 1 && isNew());
    const roots = ({ bundle }: { bundle: { x509Authorities: readonly Uint8Array[] } }): Buffer => Buffer.concat(bundle.x509Authorities);
    assert.deepEqual(roots(provider.trust() as TrustState), roots(world.authority.trust()));
    // Late, from a worker that was busy.
    provider.acknowledge(before);
    const { sequence } = world.authority.trust();
    provider.acknowledge(sequence);
    await until('it is heard', () => world.authority.status().nodes.find(({ name }) => name === 'node-b')?.acknowledged === sequence);
  });

  test('mints JWT-SVIDs of what runs on it', async () => {
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it is connected', () => connected(provider));
    const { token, identity, expiresAt } = await provider.jwtSvid(WEB, ['api']);
    const claims = JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()) as { sub: string; aud: unknown };
    assert.deepEqual([identity, claims.sub, expiresAt > Date.now()], [WEB, WEB, true]);
    await assert.rejects(provider.jwtSvid(DATABASE, ['api']), /may not have this/);
    await assert.rejects(provider.jwtSvid(WEB, []), /audience/);
  });

  test('survives a restart of the authority, says so meanwhile, and finds it again', async () => {
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it is connected', () => connected(provider));
    const { port } = world.server;
    await world.stopServer();
    await until('it says so', () => provider.status().problem !== null);
    await assert.rejects(provider.x509Svid(WEB, 600), { code: 'WEFT_CERTS_AUTHORITY_AWAY' });
    assert.notEqual(provider.trust(), null);
    await world.startServer({ listen: { host: '::', port } });
    await until('it is connected again', () => connected(provider));
    assert.equal((await provider.x509Svid(WEB, 600)).identity, WEB);
  });

  test('measures how far its clock is off, and so does the authority', async () => {
    const ahead = { now: () => Date.now() + 5_000, after: systemClock.after };
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b'), clock: ahead });
    await until('it is connected', () => connected(provider));
    assert.ok(Math.abs((provider.status().clockSkewSeconds ?? 0) - 5) < 1, String(provider.status().clockSkewSeconds));
    await until('the authority knows', () => Math.abs((world.nodes.sighting('node-b')?.clockSkewSeconds ?? 0) - 5) < 1);
  });

  test('renews its own SVID at half of its life, and shows the new one', async () => {
    await using world = await IssuanceWorld.start({ service: { maxTtlSeconds: 4 } });
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it is connected', () => connected(provider));
    const changes: number[] = [];
    provider.onChange(() => changes.push(performance.now()));
    const first = ownChain(world);
    await until('it has another', () => ownChain(world) !== first);
    // The first one would be good for two seconds more.
    const renewedAt = performance.now();
    await until('it is shown', () => changes.some((at) => at > renewedAt - 1_000), 1_000);
    // Past the end of the first one.
    await new Promise((resolve) => setTimeout(resolve, 4_000));
    await until('it is connected', () => connected(provider));
    assert.equal((await provider.x509Svid(WEB, 600)).identity, WEB);
  });

  test('renews its own SVID without failing what is asked meanwhile', async () => {
    await using world = await IssuanceWorld.start({ service: { maxTtlSeconds: 4 } });
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it is connected', () => connected(provider));
    const first = ownChain(world);
    const failures: unknown[] = [];
    const ask = async (): Promise<void> => {
      // Some time beyond the renewal.
      for (let more = 50; more > 0; more -= ownChain(world) === first ? 0 : 1)
        await provider.x509Svid(WEB, 600).catch((error) => failures.push(error));
    };
    await Promise.all([ask(), ask(), ask(), ask()]);
    assert.deepEqual(failures, []);
  });

  test('goes on through a rotation of the root', async () => {
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    provider.onChange(() => provider.acknowledge(provider.trust()?.sequence ?? 0n));
    await until('it is connected', () => connected(provider));
    const before = world.authority.status().slots[0]?.id;
    await world.authority.rotate();
    await until('the new root is active', () =>
      world.authority.status().slots.some(({ id, state }) => id !== before && state === 'active'),
    );
    assert.equal((await provider.x509Svid(WEB, 600)).identity, WEB);
    // A new node meets a server that shows a certificate of the new root.
    await using other = await world.node('node-c', { tokenFile: await world.tokenFile('node-c') });
    await until('another node is connected', () => connected(other));
  });

  test('is refused once it was evicted, and let in again with a new token', async () => {
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it is connected', () => connected(provider));
    await world.nodes.evict('node-b');
    await assert.rejects(provider.x509Svid(WEB, 600), /may not have this/);
    await using again = await world.node('node-b', {
      tokenFile: await world.tokenFile('node-b'),
      stateDirectory: join(world.directory, 'node-b-again'),
    });
    await until('it is connected', () => connected(again));
  });

  test('once evicted it holds up no rotation, whatever it says, and tokens that were made for it before are void', async () => {
    await using world = await IssuanceWorld.start();
    await world.tokenFile('node-b');
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
    await until('it is connected', () => connected(provider));
    const source = authoritySource(world.authority, world.nodes, world.counts);
    await world.authority.rotate();
    await until('it is waited for', () => (world.authority.status().rotation?.waitingFor ?? []).some(({ name }) => name === 'node-b'));
    await source.evictNode('node-b');
    // An old state, so that a record of this would be waited for.
    provider.acknowledge(1n);
    await until('the new root is active', () => world.authority.status().rotation?.phase !== 'publishing');
    const node = (await source.status()).nodes.find(({ name }) => name === 'node-b');
    assert.deepEqual([node?.evicted, node?.liveUntil], [true, null]);
    assert.deepEqual(await world.authority.tokens.list(), []);
  });

  test('may run workloads of the namespaces that its token names', async () => {
    await using world = await IssuanceWorld.start();
    await using provider = await world.node('node-b', { tokenFile: await world.tokenFile('node-b', { namespaces: ['batch'] }) });
    await until('it is connected', () => connected(provider));
    const job = `spiffe://${TRUST_DOMAIN}/ns/batch/sa/job`;
    assert.equal((await provider.x509Svid(job, 600)).identity, job);
    await assert.rejects(provider.x509Svid(`spiffe://${TRUST_DOMAIN}/ns/shop/sa/job`, 600), /may not have this/);
  });

  test('trusts no server that has only a workload’s SVID', async () => {
    await using world = await IssuanceWorld.start();
    {
      await using joined = await world.node('node-b', { tokenFile: await world.tokenFile('node-b') });
      await until('it is connected', () => connected(joined));
    }
    let asked = 0;
    const impostor = createServer({ ...(await world.credentials(WEB)), ALPNProtocols: ['h2'] }, (socket) => {
      socket.on('error', () => {});
      socket.on('data', () => asked++);
    });
    await new Promise<void>((resolve) => impostor.listen(0, '127.0.0.1', resolve));
    {
      await using provider = await world.node('node-b', { server: { host: '127.0.0.1', port: (impostor.address() as AddressInfo).port } });
      await until('it says whom it met', () => /it is .*sa\/web, not .*weft-ca/.test(provider.status().problem ?? ''));
    }
    impostor.close();
    assert.equal(asked, 0);
  });
});
