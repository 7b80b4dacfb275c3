import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { chmodSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { authoritySource } from '../../../certs/issuance/authority-source.ts';
import { MINT_JWT_SVID, WATCH, type WatchRequest } from '../../../certs/issuance/messages.ts';
import { isRefused } from '../../../certs/issuance/node-register.ts';
import { RequestQueue } from '../../../certs/issuance/request-queue.ts';
import { readCertificateFields } from '../../../certs/x509/certificate-fields.ts';
import { GRPC_STATUS } from '../../../src/grpc/grpc-error.ts';
import { IssuanceWorld, PATIENCE_MS, TRUST_DOMAIN, until, WEB } from './issuance-world.ts';

// Two processes have one authority's directory: `weft ca serve` twice, or beside an agent.

const NODE_B = `spiffe://${TRUST_DOMAIN}/node/node-b`;
const JOB = `spiffe://${TRUST_DOMAIN}/ns/batch/sa/job`;
const denied = { status: GRPC_STATUS.PERMISSION_DENIED };

function evict(world: IssuanceWorld): Promise<void> {
  return authoritySource(world.authority, world.nodes, world.counts).evictNode('node-b');
}

describe('an eviction through one process', () => {
  test('is honoured by the other at once, on connections that are open too', async () => {
    await using one = await IssuanceWorld.start();
    await using two = await IssuanceWorld.start({}, one);
    const client = two.client(await two.credentials(NODE_B));
    await two.certify(client, { impersonate: WEB });
    const says = new RequestQueue<WatchRequest>();
    const say = (): void => says.push({ acknowledgedSequence: null, sentAt: BigInt(Date.now()) });
    say();
    const watching = (async () => {
      for await (const _ of client.bidi(WATCH, says));
    })();
    watching.catch(() => {});
    const isKnown = (): boolean => two.authority.status().nodes.some(({ name }) => name === 'node-b');
    await until('the node is known', isKnown);

    await evict(one);
    await assert.rejects(two.certify(client), denied);
    await assert.rejects(two.certify(client, { impersonate: WEB }), denied);
    await assert.rejects(client.unary(MINT_JWT_SVID, { identity: WEB, audience: ['a'] }, { timeoutMs: PATIENCE_MS }), denied);
    say();
    await assert.rejects(watching, denied);
    // No rotation waits for it in either.
    assert.equal(isKnown(), false);
    const { nodes } = await authoritySource(two.authority, two.nodes, two.counts).status();
    assert.deepEqual(
      nodes.map(({ name, evicted, liveUntil }) => [name, evicted, liveUntil]),
      [['node-b', true, null]],
    );
  });

  test('is done also when a token cannot be read, which is told', async () => {
    await using one = await IssuanceWorld.start();
    const client = one.client(await one.credentials(NODE_B));
    await one.certify(client);
    await one.authority.tokens.create({ node: 'node-c', ttlSeconds: 600 });
    const tokens = join(one.directory, 'ca', 'tokens');
    for (const file of readdirSync(tokens)) chmodSync(join(tokens, file), 0o644);
    await assert.rejects(evict(one), { code: 'WEFT_CERTS_KEY_FILE' });
    await assert.rejects(one.certify(client), denied);
  });

  test('ends with a join through the other, and what the token grants counts in both', async () => {
    await using one = await IssuanceWorld.start();
    await using two = await IssuanceWorld.start({}, one);
    const stolen = await one.credentials(NODE_B);
    await evict(one);
    // Certificates count in whole seconds.
    await setTimeout(1_100);
    const token = await one.authority.tokens.create({ node: 'node-b', ttlSeconds: 600, namespaces: ['batch'] });
    // However long it takes, what the node is given now does not count as one of those before.
    const issue = two.authority.issue.bind(two.authority);
    two.authority.issue = async (...request) => {
      const svid = await issue(...request);
      await setTimeout(1_100);
      return svid;
    };
    const [leaf] = await two.certify(two.client(), { token });
    const { notBefore } = readCertificateFields(new X509Certificate(leaf as string).raw);
    assert.equal(isRefused(await one.nodes.standing('node-b'), notBefore), false);
    for (const world of [one, two]) {
      const joined = world.client(await world.credentials(NODE_B));
      assert.equal((await world.certify(joined, { impersonate: JOB })).length, 2);
      await assert.rejects(world.certify(world.client(stolen), { impersonate: WEB }), denied);
    }
  });

  test('while a node joins through the other stands: the token is of before', async () => {
    await using one = await IssuanceWorld.start();
    await using two = await IssuanceWorld.start({}, one);
    const token = await one.authority.tokens.create({ node: 'node-b', ttlSeconds: 600, namespaces: ['batch'] });
    // At the last moment: the token is used up, and the join not written yet.
    const joined = two.nodes.joined.bind(two.nodes);
    two.nodes.joined = async (...join) => {
      await evict(one);
      await joined(...join);
    };
    await two.certify(two.client(), { token });
    for (const world of [one, two]) {
      await assert.rejects(world.certify(world.client(await world.credentials(NODE_B)), { impersonate: JOB }), denied);
    }
  });
});

test('one token that comes to two processes at once lets in one', async () => {
  await using one = await IssuanceWorld.start();
  await using two = await IssuanceWorld.start({}, one);
  const token = await one.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
  const attempts = await Promise.allSettled(
    Array.from({ length: 16 }, (_, index) => {
      const world = index % 2 === 0 ? one : two;
      return world.certify(world.client(), { token });
    }),
  );
  assert.equal(attempts.filter(({ status }) => status === 'fulfilled').length, 1);
  assert.equal(one.counts.joins + two.counts.joins, 1);
});

test('a file that makes no sense refuses its node alone, and the log and the status say so', async () => {
  await using world = await IssuanceWorld.start();
  await evict(world);
  writeFileSync(join(world.directory, 'ca/joined/node-b.evicted'), 'garbage');
  await assert.rejects(world.certify(world.client(await world.credentials(NODE_B))), { status: GRPC_STATUS.UNAVAILABLE });
  assert.match(world.logged.join('\n'), /cannot tell whether node-b was evicted/);
  const { warnings, nodes } = await authoritySource(world.authority, world.nodes, world.counts).status();
  assert.match(warnings.join(), /cannot tell whether node-b was evicted/);
  assert.deepEqual(
    nodes.map(({ name, evicted }) => [name, evicted]),
    [['node-b', true]],
  );
  const other = world.client(await world.credentials(`spiffe://${TRUST_DOMAIN}/node/node-c`));
  assert.equal((await world.certify(other)).length, 2);
  // The advice helps, also in a process that starts now.
  await world.stopServer();
  await world.startServer();
  await evict(world);
  const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
  assert.equal((await world.certify(world.client(), { token })).length, 2);
});
