import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { AuthorityProvider } from '../../../certs/issuance/authority-provider.ts';
import { authoritySource } from '../../../certs/issuance/authority-source.ts';
import { WATCH, type WatchRequest } from '../../../certs/issuance/messages.ts';
import { RequestQueue } from '../../../certs/issuance/request-queue.ts';
import { GRPC_STATUS } from '../../../src/grpc/grpc-error.ts';
import { encodeMessage } from '../../../src/grpc/message.ts';
import { frameMessage } from '../../../src/grpc/message-framing.ts';
import { IssuanceWorld, TRUST_DOMAIN, until, WEB } from './issuance-world.ts';

// A node that has joined, and does what no agent of ours does.

const NODE_B = `spiffe://${TRUST_DOMAIN}/node/node-b`;

function request(acknowledgedSequence: bigint | null): Buffer {
  const message: WatchRequest = { acknowledgedSequence, sentAt: BigInt(Date.now()) };
  return frameMessage(encodeMessage(WATCH.request, message));
}

describe('a node with an SVID', () => {
  test('ends its own stream and no more when it does not read, and acknowledges what there has not been', async () => {
    await using world = await IssuanceWorld.start();
    const unhandled: unknown[] = [];
    const note = (reason: unknown): void => void unhandled.push(reason);
    process.on('unhandledRejection', note);
    try {
      const socket = await world.dial(await world.credentials(NODE_B));
      const session = connect('https://ca.test', { createConnection: () => socket, settings: { initialWindowSize: 0 } });
      session.on('error', () => {});
      const stream = session.request({ ':method': 'POST', ':path': WATCH.path, 'content-type': 'application/grpc', te: 'trailers' });
      stream.on('error', () => {});
      const { sequence } = world.authority.trust();
      // Each answer waits in the server, until its sending waits too.
      for (let i = 0; i < 100; i++) {
        stream.write(request(i % 2 === 0 ? null : sequence));
        await setTimeout(5);
      }
      stream.write(request(sequence + 1n));
      await setTimeout(300);
      assert.deepEqual(unhandled, []);
      session.destroy();
      await once(socket, 'close');
    } finally {
      process.off('unhandledRejection', note);
    }
  });

  test('keeps nobody busy but the authority when it says something new all the time', async () => {
    await using world = await IssuanceWorld.start();
    const watch = async (node: string): Promise<{ says: RequestQueue<WatchRequest>; heard: () => number }> => {
      const says = new RequestQueue<WatchRequest>();
      let heard = 0;
      const client = world.client(await world.credentials(`spiffe://${TRUST_DOMAIN}/node/${node}`));
      const listen = async (): Promise<void> => {
        for await (const _ of client.bidi(WATCH, says)) heard++;
      };
      listen().catch(() => {});
      says.push({ acknowledgedSequence: null, sentAt: 0n });
      await until(`${node} hears of the trust state`, () => heard > 0);
      return { says, heard: () => heard };
    };
    const quiet = await watch('node-c');
    const busy = await watch('node-b');
    const serial = (socket: TLSSocket): string | undefined => socket.getPeerX509Certificate()?.serialNumber;
    const certificate = serial(await world.dial());
    let told = 0;
    new AuthorityProvider({ authority: world.authority, nodeName: 'node-a', from: 'here' }).onChange(() => told++);
    const { sequence } = world.authority;
    const acknowledged = (): bigint | null | undefined =>
      world.authority.status().nodes.find(({ name }) => name === 'node-b')?.acknowledged;
    for (let i = 0; i < 20; i++) {
      const acknowledgedSequence = i % 2 === 0 ? sequence : null;
      busy.says.push({ acknowledgedSequence, sentAt: 0n });
      await until('the authority heard it', () => acknowledged() === acknowledgedSequence);
    }
    await setTimeout(100);
    assert.deepEqual([quiet.heard(), busy.heard(), told], [1, 1, 0]);
    assert.equal(serial(await world.dial()), certificate);
    // What concerns everybody still comes.
    await world.authority.prepare();
    await until('both hear of a change', () => quiet.heard() === 2 && busy.heard() === 2 && told === 1);
  });
});

describe('an evicted node', () => {
  test('has no use of tokens that it was given before', async () => {
    await using world = await IssuanceWorld.start();
    const source = authoritySource(world.authority, world.nodes, world.counts);
    const once = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 600 });
    const reusable = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 600, reusable: true });
    const others = await world.authority.tokens.create({ node: 'node-c', ttlSeconds: 600 });
    await source.evictNode('node-b');
    for (const token of [once, reusable]) {
      await assert.rejects(world.certify(world.client(), { token }), { status: GRPC_STATUS.UNAUTHENTICATED });
      await assert.rejects(world.certify(world.client(), { token, impersonate: WEB }), { status: GRPC_STATUS.UNAUTHENTICATED });
    }
    assert.equal((await world.nodes.standing('node-b')).evicted, true);
    assert.equal((await world.certify(world.client(), { token: others })).length, 2);
    const anew = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 600 });
    assert.equal((await world.certify(world.client(), { token: anew })).length, 2);
  });

  test('has no use of an SVID that it had before, also after the node has joined again', async () => {
    await using world = await IssuanceWorld.start();
    const stolen = await world.credentials(NODE_B);
    await authoritySource(world.authority, world.nodes, world.counts).evictNode('node-b');
    // Certificates count in whole seconds.
    await setTimeout(1_100);
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 600 });
    await world.certify(world.client(), { token });
    for (const when of ['now', 'after a restart']) {
      await assert.rejects(world.certify(world.client(stolen), { impersonate: WEB }), { status: GRPC_STATUS.PERMISSION_DENIED }, when);
      const joined = world.client(await world.credentials(NODE_B));
      assert.equal((await world.certify(joined, { impersonate: WEB })).length, 2, when);
      await world.stopServer();
      await world.startServer();
    }
  });

  test('is not heard any more, and no rotation waits for it', async () => {
    await using world = await IssuanceWorld.start();
    const client = world.client(await world.credentials(NODE_B));
    const says = new RequestQueue<WatchRequest>();
    const say = (): void => says.push({ acknowledgedSequence: null, sentAt: BigInt(Date.now()) });
    say();
    const watching = (async () => {
      for await (const _ of client.bidi(WATCH, says));
    })();
    const isKnown = (): boolean => world.authority.status().nodes.some(({ name }) => name === 'node-b');
    await until('the node is known', isKnown);
    await authoritySource(world.authority, world.nodes, world.counts).evictNode('node-b');
    assert.equal(isKnown(), false);
    say();
    await assert.rejects(watching, { status: GRPC_STATUS.PERMISSION_DENIED });
    assert.equal(isKnown(), false);
    await world.authority.rotate();
    await until('the new authority signs', () => world.authority.status().rotation?.phase !== 'publishing');
  });
});
