import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ALLOW_PUBLIC, Mesh } from '../kit/mesh.ts';

const CLIENT_ID = 'spiffe://cluster.local/ns/shop/sa/client';

interface Seen {
  readonly remoteAddress: string;
  readonly localAddress: string;
  readonly path: string;
}

describe('a strict namespace', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', config: { policy: ALLOW_PUBLIC } });
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  for (const family of ['v4', 'v6'] as const) {
    it(`carries a request to the other node over mTLS, with both identities and honest addresses (${family})`, async () => {
      const answer = await mesh.curl(mesh.client, mesh.url(mesh.far, '/public/far?secret=1', family));
      assert.equal(answer.status, 200, answer.result.stderr);
      const seen = JSON.parse(answer.body) as Seen;
      assert.equal(seen.remoteAddress, mesh.client.addresses[family]);
      assert.equal(seen.localAddress, mesh.far.addresses[family]);
      assert.equal(seen.path, '/public/far?secret=1');
      const line = await mesh.accessLog(
        mesh.agentB,
        (found) => found.path === '/public/far' && found.source.address === mesh.client.addresses[family],
      );
      assert.equal(line.security, 'mtls');
      assert.equal(line.source.identity, CLIENT_ID);
      assert.equal(line.destination.identity, 'spiffe://cluster.local/ns/shop/sa/far');
      assert.equal(line.policy, 'shop/allow-public');
    });

    it(`carries a request on one node with a kernel-attested identity (${family})`, async () => {
      const answer = await mesh.curl(mesh.client, mesh.url(mesh.near, '/public/near', family));
      assert.equal(answer.status, 200, answer.result.stderr);
      assert.equal((JSON.parse(answer.body) as Seen).remoteAddress, mesh.client.addresses[family]);
      const line = await mesh.accessLog(
        mesh.agentA,
        (found) => found.path === '/public/near' && found.source.address === mesh.client.addresses[family],
      );
      assert.equal(line.security, 'kernel');
      assert.equal(line.source.identity, CLIENT_ID);
    });

    it(`refuses what no rule allows with a 403 that names the policy (${family})`, async () => {
      for (const server of [mesh.near, mesh.far]) {
        const answer = await mesh.curl(mesh.client, mesh.url(server, '/public/x', family), '-X', 'DELETE');
        assert.equal(answer.status, 403);
        assert.match(answer.headers, /x-weft-denied-by: shop\/allow-public/i);
        assert.match(answer.body, /shop\/allow-public/);
        assert.equal((await mesh.curl(mesh.client, mesh.url(server, '/private', family))).status, 403);
      }
    });

    it(`refuses a workload that is not enrolled (${family})`, async () => {
      for (const server of [mesh.near, mesh.far]) {
        const answer = await mesh.curl(mesh.stranger, mesh.url(server, '/public/x', family));
        assert.equal(answer.status, 403);
        assert.match(answer.body, /strict mode requires mTLS/);
      }
    });
  }

  it('decides with the identity of who calls, not of the node', async () => {
    assert.equal((await mesh.curl(mesh.near, mesh.url(mesh.far, '/public/x'))).status, 403);
  });

  it('lets a smuggled path not past its policy', async () => {
    const answer = await mesh.curl(mesh.client, mesh.url(mesh.far, '/public/../private'), '--path-as-is');
    assert.equal(answer.status, 403);
  });

  it('shows no plaintext between the nodes', async () => {
    const marker = 'weft-plaintext-marker-8417';
    await using capture = await mesh.nodeA.capture(mesh.nodeA.interfaceTo(mesh.nodeB));
    const meshed = await mesh.curl(mesh.client, mesh.url(mesh.far, `/public/${marker}`));
    assert.equal(meshed.status, 200);
    const wire = await capture.stop();
    assert.ok(wire.packets >= 2, 'the capture saw the connection');
    assert.equal(wire.contains(marker), false);
    assert.equal(wire.contains('HTTP/1.1'), false);
  });

  it('shows plaintext between the nodes for those who are not enrolled, so the capture can see it', async () => {
    const marker = 'weft-plaintext-marker-1748';
    await using capture = await mesh.nodeA.capture(mesh.nodeA.interfaceTo(mesh.nodeB));
    await mesh.curl(mesh.stranger, mesh.url(mesh.far, `/public/${marker}`));
    assert.equal((await capture.stop()).contains(marker), true);
  });
});

describe('a rollout from off to permissive to strict, and back', () => {
  it('loses no request of an enrolled client, and takes strangers until it is strict', async () => {
    await using mesh = await Mesh.start({ mode: 'off' });
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 200);
    await using caller = mesh.keepCalling(mesh.client, [mesh.near, mesh.far]);
    await caller.more(4);
    await mesh.setMode('shop', 'permissive');
    await caller.more(4);
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 200);
    await mesh.setMode('shop', 'strict');
    await caller.more(4);
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 403);
    // Back as it came: straight to off, one node would send plaintext while the other is still strict.
    await mesh.setMode('shop', 'permissive');
    await caller.more(4);
    await mesh.setMode('shop', 'off');
    await caller.more(4);
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 200);
    await caller.stop();
    assert.deepEqual([...caller.statuses.keys()], [200], JSON.stringify([...caller.statuses]));
  });
});
