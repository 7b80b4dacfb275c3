import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { settle } from '../../kit/stream-recorder.ts';
import { BAD_REQUESTS, GOOD_REQUESTS } from './bad-requests.ts';
import { gateOf, startSession } from './session-fixture.ts';

const ALLOW_ALL = gateOf(() => false);

describe('refused, closed and never forwarded', () => {
  for (const { name, text, refusal, status } of BAD_REQUESTS) {
    test(name, async () => {
      const { client, server, exchanges, closes } = startSession({ gate: ALLOW_ALL });
      server.onChange = () => {
        if (server.ended) server.stream.end();
      };
      client.send(text);
      await settle();
      assert.equal(server.bytes().length, 0);
      assert.match(client.text(), new RegExp(`^HTTP/1\\.1 ${status} `));
      assert.match(client.text(), /\r\nconnection: close\r\n/);
      assert.match(client.text(), new RegExp(`\r\n\r\nweft: ${refusal.replace('.', '\\.')}\n$`));
      assert.equal(client.ended, true);
      assert.deepEqual(
        exchanges.map((exchange) => [exchange.status, exchange.refusal]),
        [[status, refusal]],
      );
      client.stream.end();
      await settle();
      assert.deepEqual(closes, [null]);
    });
  }
});

describe('the same refusal when the bytes come one by one', () => {
  for (const { name, text, refusal } of BAD_REQUESTS) {
    if (text.length > 2000) continue;
    test(name, async () => {
      const { client, server, exchanges } = startSession({ gate: ALLOW_ALL, downstream: { chunkSize: 1 } });
      client.send(text);
      await settle();
      assert.deepEqual(
        exchanges.map((exchange) => exchange.refusal),
        [refusal],
      );
      // Of a body that turns out bad, the part before may have gone on; the request is then cut off, never completed.
      if (server.bytes().length > 0) assert.ok(server.error !== null, 'the upstream connection must be cut');
      assert.match(client.text(), new RegExp(`weft: ${refusal.replace('.', '\\.')}\n$`));
    });
  }
});

test('a refused request after good ones does not disturb their answers', async () => {
  for (const { text, status } of BAD_REQUESTS) {
    const { client, server, exchanges } = startSession({ gate: ALLOW_ALL });
    const [first, second] = ['GET /1 HTTP/1.1\r\nHost: shop\r\n\r\n', 'GET /2 HTTP/1.1\r\nHost: shop\r\n\r\n'];
    client.send(first + second + text);
    await settle(2);
    server.send('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1');
    await settle(2);
    server.send('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2');
    await settle(2);
    assert.equal(server.text(), first + second);
    assert.deepEqual(
      exchanges.map((exchange) => exchange.status),
      [200, 200, status],
    );
    assert.match(client.text(), new RegExp(`^HTTP/1.1 200.*\r\n\r\n1HTTP/1.1 200.*\r\n\r\n2HTTP/1.1 ${status} `, 's'));
  }
});

describe('forwarded as they came, however the bytes are split', () => {
  for (const text of GOOD_REQUESTS) {
    test(JSON.stringify(text.slice(0, 40)), async () => {
      const expected = text.replace(/http:\/\/shop\/?/i, '/');
      for (let split = 0; split < text.length; split++) {
        const { client, server, exchanges } = startSession({ gate: ALLOW_ALL });
        client.send(text.slice(0, split));
        await settle(1);
        client.send(text.slice(split));
        await settle(1);
        assert.equal(server.text(), expected, `split at ${split}`);
        server.send('HTTP/1.1 204 No Content\r\n\r\n');
        await settle(1);
        assert.equal(exchanges.length, 1, `split at ${split}`);
        assert.equal(exchanges[0]?.requestBytes, text.length);
      }
    });
  }
});
