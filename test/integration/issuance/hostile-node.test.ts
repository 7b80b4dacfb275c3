import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:http2';
import { describe, test } from 'node:test';
import { WATCH, type WatchRequest } from '../../../certs/issuance/messages.ts';
import { encodeMessage } from '../../../src/grpc/message.ts';
import { frameMessage } from '../../../src/grpc/message-framing.ts';
import { IssuanceWorld, TRUST_DOMAIN } from './issuance-world.ts';

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
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      stream.write(request(sequence + 1n));
      await new Promise((resolve) => setTimeout(resolve, 300));
      assert.deepEqual(unhandled, []);
      session.destroy();
      await once(socket, 'close');
    } finally {
      process.off('unhandledRejection', note);
    }
  });
});
