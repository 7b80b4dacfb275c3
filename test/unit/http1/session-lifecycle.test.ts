import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { settle } from '../../kit/stream-recorder.ts';
import { get, ok, gateOf, startSession } from './session-fixture.ts';

describe('pipelining', () => {
  test('requests sent ahead reach the server one at a time, and denials among them keep their place', async () => {
    const { client, server, exchanges } = startSession();
    client.send(get('/1') + get('/forbidden') + get('/2') + get('/forbidden/too') + get('/3'));
    await settle();
    assert.equal(server.text(), get('/1'));
    assert.equal(client.text(), '');
    for (const path of ['/1', '/2', '/3']) {
      server.send(ok(path));
      await settle();
    }
    assert.equal(server.text(), get('/1') + get('/2') + get('/3'));
    assert.deepEqual(
      exchanges.map((exchange) => [exchange.path, exchange.status]),
      [
        ['/1', 200],
        ['/forbidden', 403],
        ['/2', 200],
        ['/forbidden/too', 403],
        ['/3', 200],
      ],
    );
    const bodies = [...client.text().matchAll(/\/\d$|\/\d(?=HTTP)|403 Forbidden/g)].map(String);
    assert.deepEqual(bodies, ['/1', '403 Forbidden', '/2', '403 Forbidden', '/3']);
  });

  test('a client that sends ahead is paused after one chunk', async () => {
    const { client, server } = startSession({ downstream: { highWaterMark: 1000 } });
    client.send(get('/first'));
    await settle();
    let accepted = 0;
    while (client.send('x'.repeat(500))) accepted += 500;
    await settle();
    while (client.send('x'.repeat(500))) accepted += 500;
    await settle();
    assert.ok(accepted < 4000, `${accepted} bytes taken while an exchange was in flight`);
    assert.equal(server.text(), get('/first'));
  });

  test('requests that a detector read ahead hold the client back from the start', async () => {
    const fixture = startSession({ firstBytes: Buffer.from(get('/1') + get('/2')), resumed: true, downstream: { highWaterMark: 1000 } });
    fixture.client.send(get('/3') + get('/4'));
    for (let pieces = 0; fixture.client.send(get('/more')); pieces++) {
      await settle(1);
      assert.ok(pieces < 100, 'the client was not paused');
    }
    for (const path of ['/1', '/2', '/3', '/4']) {
      fixture.server.send(ok(path));
      await settle();
    }
    assert.equal(fixture.server.text(), get('/1') + get('/2') + get('/3') + get('/4') + get('/more'));
  });

  test('denials stop when the client does not read them', async () => {
    const { client, exchanges } = startSession({ downstream: { highWaterMark: 2000 }, clientFlowing: false });
    client.send(get('/forbidden').repeat(1000));
    await settle();
    assert.ok(exchanges.length < 20, `${exchanges.length} answers queued`);
    client.stream.resume();
    await settle(60);
    await delay(20);
    assert.equal(exchanges.length, 1000);
  });
});

describe('bodies and back-pressure', () => {
  test('a slow server holds the client back, and every byte arrives', async () => {
    const { client, server, exchanges } = startSession({
      upstream: { highWaterMark: 1000, chunkSize: 100 },
      downstream: { highWaterMark: 1000, chunkSize: 300 },
      serverFlowing: false,
    });
    const head = 'POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000\r\n\r\n';
    const body = 'abcdefghij'.repeat(10_000);
    client.send(head);
    let sent = 0;
    const pump = (): void => {
      while (sent < body.length) {
        const piece = body.slice(sent, sent + 250);
        sent += piece.length;
        if (!client.send(piece)) return;
      }
    };
    client.onChange = pump;
    pump();
    await settle();
    assert.ok(sent < 5000, `${sent} bytes taken before the server read any`);
    server.stream.resume();
    while (server.bytes().length < head.length + body.length) await settle(1);
    assert.equal(server.text(), head + body);
    server.send(ok('done'));
    await settle();
    assert.equal(exchanges[0]?.requestBytes, head.length + body.length);
  });

  test('a slow client holds the server back, and every byte arrives', async () => {
    const { client, server } = startSession({
      upstream: { highWaterMark: 1000, chunkSize: 300 },
      downstream: { highWaterMark: 1000, chunkSize: 100 },
      clientFlowing: false,
    });
    client.send(get('/'));
    await settle();
    const body = 'abcdefghij'.repeat(10_000);
    const answer = ok(body);
    let sent = 0;
    const pump = (): void => {
      while (sent < answer.length) {
        const piece = answer.slice(sent, sent + 250);
        sent += piece.length;
        if (!server.send(piece)) return;
      }
    };
    server.onChange = pump;
    pump();
    await settle();
    assert.ok(sent < 5000, `${sent} bytes taken before the client read any`);
    client.stream.resume();
    while (client.bytes().length < answer.length) await settle(1);
    assert.equal(client.text(), answer);
  });

  test('an answer that comes before the request is whole is passed on, and the rest of the request too', async () => {
    const { client, server, exchanges } = startSession();
    const head = 'POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n';
    client.send(`${head}01234`);
    await settle();
    server.send(ok('early'));
    await settle();
    assert.equal(client.text(), ok('early'));
    assert.equal(exchanges.length, 0);
    client.send(`56789${get('/next')}`);
    await settle();
    assert.equal(exchanges.length, 1);
    assert.equal(server.text(), `${head}0123456789${get('/next')}`);
  });

  test('chunked bodies and trailers pass in both directions', async () => {
    const { client, server } = startSession({ downstream: { chunkSize: 7 }, upstream: { chunkSize: 5 } });
    const body = '5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n';
    const request = `POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n${body}`;
    const answer = `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${body}`;
    client.send(request);
    await settle();
    server.send(answer);
    await settle();
    client.send(get('/next'));
    await settle();
    assert.equal(server.text(), request + get('/next'));
    assert.equal(client.text(), answer);
  });

  test('100-continue goes to the client before the final answer', async () => {
    const { client, server, exchanges } = startSession();
    const head = 'POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n';
    client.send(head);
    await settle();
    assert.equal(server.text(), head);
    server.send('HTTP/1.1 100 Continue\r\n\r\n');
    await settle();
    assert.equal(client.text(), 'HTTP/1.1 100 Continue\r\n\r\n');
    client.send('hello');
    await settle();
    server.send(`HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n${ok('fine')}`);
    await settle();
    assert.equal(client.text(), `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n${ok('fine')}`);
    assert.deepEqual([exchanges.length, exchanges[0]?.status], [1, 200]);
  });

  test('an interim answer of HTTP/1.0, which has none, is a broken server: clients differ on what follows it', async () => {
    for (const status of ['100 Continue', '101 Switching Protocols', '103 Early Hints']) {
      const { client, server, exchanges } = startSession();
      client.send(get('/'));
      await settle();
      server.send(`HTTP/1.0 ${status}\r\n\r\n${ok('fine')}`);
      await settle();
      assert.deepEqual([exchanges.length, exchanges[0]?.status], [1, 502], status);
      assert.match(client.text(), /^HTTP\/1\.1 502 /, status);
    }
  });

  test('a final answer to Expect without the body ends the connection: the next bytes could be either', async () => {
    const { client, server, exchanges } = startSession();
    client.send('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n');
    await settle();
    const before = server.bytes().length;
    server.send('HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n');
    await settle();
    client.send(get('/forbidden'));
    await settle();
    assert.equal(server.bytes().length, before);
    assert.equal(client.ended, true);
    assert.deepEqual([exchanges.length, exchanges[0]?.status], [1, 417]);
  });
});

describe('paths', () => {
  test('what policy saw is what the server gets', async () => {
    const seen: string[] = [];
    const { client, server, exchanges } = startSession({
      gate: gateOf(({ path }) => {
        seen.push(path);
        return path === '/admin';
      }),
    });
    client.send('GET /a/../b/%7euser?x=/../y HTTP/1.1\r\nHost: shop\r\nX: 1\r\n\r\n');
    await settle();
    assert.equal(server.text(), 'GET /b/~user?x=/../y HTTP/1.1\r\nHost: shop\r\nX: 1\r\n\r\n');
    server.send(ok(''));
    await settle();
    for (const sneaky of ['/x/../admin', '/./admin', '/%61dmin', '/x\\..\\admin']) {
      client.send(get(sneaky));
      await settle();
    }
    assert.deepEqual(seen, ['/b/~user', '/admin', '/admin', '/admin', '/admin']);
    assert.equal(exchanges.filter((exchange) => exchange.status === 403).length, 4);
  });

  test('absolute-form reaches the server in origin-form, with its body', async () => {
    const { client, server } = startSession();
    client.send('POST http://Shop:80/a HTTP/1.1\r\nHost: shop:80\r\nContent-Length: 2\r\n\r\nhi');
    await settle();
    assert.equal(server.text(), 'POST /a HTTP/1.1\r\nHost: shop:80\r\nContent-Length: 2\r\n\r\nhi');
  });
});

describe('ends of the connection', () => {
  test('a client that half-closes after its request still gets the answer, then both sides close', async () => {
    const { client, server, closes } = startSession();
    client.send(get('/'));
    client.stream.end();
    await settle();
    assert.equal(server.text(), get('/'));
    assert.equal(server.ended, false);
    server.send(ok('here'));
    await settle();
    assert.equal(client.text(), ok('here'));
    assert.equal(client.ended, true);
    assert.equal(server.ended, true);
    server.stream.end();
    await settle();
    assert.deepEqual(closes, [null]);
  });

  test('half-closing after pipelined requests delivers all their answers', async () => {
    const { client, server, exchanges } = startSession();
    client.send(get('/1') + get('/forbidden') + get('/2'));
    client.stream.end();
    await settle();
    server.send(ok('1'));
    await settle();
    server.send(ok('2'));
    await settle();
    assert.deepEqual(
      exchanges.map((exchange) => exchange.status),
      [200, 403, 200],
    );
    assert.equal(client.ended, true);
  });

  test('an idle close by either side closes the other in order', async () => {
    for (const side of ['client', 'server'] as const) {
      const fixture = startSession();
      fixture.client.send(get('/'));
      await settle();
      fixture.server.send(ok(''));
      await settle();
      fixture[side].stream.end();
      await settle();
      assert.equal(fixture.client.ended && fixture.server.ended, true);
      fixture[side === 'client' ? 'server' : 'client'].stream.end();
      await settle();
      assert.deepEqual(fixture.closes, [null]);
      assert.deepEqual([fixture.client.error, fixture.server.error], [null, null]);
    }
  });

  test('a client gone in the middle of an exchange takes the server connection with it', async () => {
    const { client, server, exchanges, closes } = startSession();
    client.send(get('/slow'));
    await settle();
    client.stream.destroy();
    await settle();
    assert.notEqual(server.error, null);
    assert.deepEqual([exchanges.length, exchanges[0]?.status, exchanges[0]?.refusal], [1, 0, 'downstream-closed']);
    assert.equal(closes.length, 1);
  });

  test('a request cut short by a half-close is never completed for the server', async () => {
    const { client, server, exchanges } = startSession();
    client.send('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n01234');
    client.stream.end();
    await settle();
    assert.notEqual(server.error, null);
    assert.match(client.text(), /^HTTP\/1\.1 400 .*truncated-body\n$/s);
    assert.equal(exchanges[0]?.refusal, 'truncated-body');
  });

  test('a head cut short by a half-close is answered 400', async () => {
    const { client, server, exchanges } = startSession();
    client.send('GET / HTTP/1.1\r\nHost: sh');
    client.stream.end();
    await settle();
    assert.equal(server.bytes().length, 0);
    assert.match(client.text(), /^HTTP\/1\.1 400 .*truncated-head\n$/s);
    assert.equal(exchanges[0]?.refusal, 'truncated-head');
  });

  test('connection: close from either side ends both after the answer', async () => {
    for (const [request, answer] of [
      [get('/', 'Connection: close'), ok('x')],
      [get('/'), 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx'],
      ['GET / HTTP/1.0\r\n\r\n', 'HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx'],
    ] as const) {
      const { client, server } = startSession();
      client.send(request + get('/more'));
      await settle();
      server.send(answer);
      await settle();
      assert.equal(client.text(), answer);
      assert.equal(server.text(), request);
      assert.deepEqual([client.ended, server.ended], [true, true]);
    }
  });

  test('HTTP/1.0 with keep-alive goes on', async () => {
    const { client, server } = startSession();
    const request = 'GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n';
    client.send(request);
    await settle();
    server.send('HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx');
    await settle();
    client.send(request);
    await settle();
    assert.equal(server.text(), request + request);
  });

  test('a client that resets while the connection is closing does not leave the server connection behind', async () => {
    const { client, closes } = startSession({ downstream: { highWaterMark: 10 }, clientFlowing: false, limits: { lingerMillis: 20 } });
    client.send('nonsense');
    await settle();
    client.stream.destroy();
    await delay(100);
    assert.equal(closes.length, 1);
  });

  test('a bad line in a long head is refused when it comes, not when the head is complete', async () => {
    const { client } = startSession();
    client.send(`GET / HTTP/1.1\r\nHost: shop\r\nX: ${'y'.repeat(4000)}`);
    await settle();
    client.send('z\n');
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 400 .*bare-line-feed\n$/s);
  });

  test('an incomplete head is answered 408 in time, and a client that never closes is cut', async () => {
    const { client, exchanges, closes, server } = startSession({ limits: { headTimeoutMillis: 20, lingerMillis: 20 } });
    server.onChange = () => {
      if (server.ended) server.stream.end();
    };
    client.send('GET / HTTP/1.1\r\n');
    await delay(100);
    assert.match(client.text(), /^HTTP\/1\.1 408 /);
    assert.equal(exchanges[0]?.refusal, 'head-timeout');
    await delay(100);
    assert.notEqual(client.error, null);
    assert.equal((closes[0] as { code?: string } | undefined)?.code, 'WEFT_HTTP1_CLOSE_TIMEOUT');
  });

  test('a denied request whose body does not come ends the connection in time', async () => {
    const { client, exchanges, closes, server } = startSession({ limits: { drainMillis: 20, lingerMillis: 20 } });
    server.onChange = () => {
      if (server.ended) server.stream.end();
    };
    client.send('DELETE / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n12345');
    await delay(100);
    assert.match(client.text(), /^HTTP\/1\.1 403 /);
    assert.equal(exchanges[0]?.status, 403);
    assert.equal(client.ended, true);
    await delay(100);
    assert.equal(closes.length, 1);
  });

  test('a head that was completed in time does not time out later', async () => {
    const { client, server, exchanges } = startSession({ limits: { headTimeoutMillis: 30 } });
    client.send('GET / HTTP/1.1\r\n');
    await settle();
    client.send('Host: shop\r\n\r\n');
    await delay(100);
    server.send(ok('late'));
    await settle();
    assert.equal(client.text(), ok('late'));
    assert.equal(exchanges[0]?.status, 200);
  });

  test('draining finishes the exchange in flight and takes no further request', async () => {
    const { client, server, session } = startSession();
    client.send(get('/1'));
    await settle();
    session.drain();
    client.send(get('/2'));
    await settle();
    server.send(ok('1'));
    await settle();
    assert.equal(client.text(), ok('1'));
    assert.equal(client.ended, true);
    assert.equal(server.text(), get('/1'));
  });

  test('draining an idle connection closes it now', async () => {
    const { client, server, session } = startSession();
    assert.equal(session.idle, true);
    session.drain();
    await settle();
    assert.deepEqual([client.ended, server.ended], [true, true]);
  });
});

describe('the server misbehaves', () => {
  test('closed or reset before an answer: 503', async () => {
    for (const end of ['end', 'destroy'] as const) {
      const { client, server, exchanges } = startSession();
      client.send(get('/'));
      await settle();
      server.stream[end]();
      await settle();
      assert.match(client.text(), /^HTTP\/1\.1 503 .*\r\nconnection: close\r\n.*upstream-closed\n$/s);
      assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal], [503, 'upstream-closed']);
      assert.equal(client.ended, true);
    }
  });

  test('never connected: 503 for the request that was waiting', async () => {
    const { client, server, exchanges } = startSession({ serverFlowing: false });
    client.send(get('/'));
    server.stream.destroy();
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 503 /);
    assert.equal(exchanges.length, 1);
  });

  test('no upstream at all: allowed requests get 503, denied ones 403', async () => {
    const { client, exchanges } = startSession({ withoutUpstream: true });
    client.send(get('/forbidden') + get('/'));
    await settle();
    assert.deepEqual(
      exchanges.map((exchange) => [exchange.status, exchange.refusal]),
      [
        [403, 'policy-denied'],
        [503, 'no-upstream'],
      ],
    );
  });

  test('an answer nobody asked for is not passed on', async () => {
    const { client, server } = startSession();
    server.send(ok('poison'));
    await settle();
    assert.equal(client.text(), '');
    assert.equal(client.ended, true);
  });

  test('more than the answer is not taken for the next answer', async () => {
    const { client, server, exchanges } = startSession();
    client.send(get('/1') + get('/2'));
    await settle();
    server.send(ok('1') + ok('poison'));
    await settle();
    assert.equal(client.text(), ok('1'));
    assert.equal(client.ended, true);
    assert.deepEqual([server.text(), exchanges.length], [get('/1'), 1]);
  });

  for (const [name, head] of [
    ['not HTTP', 'hello\r\n\r\n'],
    ['HTTP/2', 'HTTP/2.0 200 OK\r\n\r\n'],
    ['bad status', 'HTTP/1.1 2000 OK\r\n\r\n'],
    ['status out of range', 'HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n'],
    ['bare LF', 'HTTP/1.1 200 OK\nContent-Length: 0\n\n'],
    ['folded field', 'HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n'],
    ['duplicate Content-Length', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
    ['both framings', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['unknown coding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n'],
    ['chunked in HTTP/1.0', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['chunked 204', 'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['103 with a length', 'HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n'],
    ['NUL', 'HTTP/1.1 200 OK\r\nX: \0\r\n\r\n'],
    ['bad chunk at once', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n'],
    ['long head', `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(33_000)}\r\nContent-Length: 0\r\n\r\n`],
    ['unasked upgrade', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n'],
  ] as const) {
    test(`${name}: 502, nothing of it forwarded`, async () => {
      for (const chunkSize of [head.length > 1000 ? 500 : 1, 100_000]) {
        const { client, server, exchanges } = startSession({ upstream: { chunkSize } });
        client.send(get('/'));
        await settle();
        server.send(head);
        await settle();
        if (name === 'bad chunk at once' && chunkSize === 1) continue;
        assert.match(client.text(), /^HTTP\/1\.1 502 .*\r\nconnection: close\r\n/s);
        assert.equal(exchanges[0]?.status, 502);
        assert.notEqual(server.error, null);
      }
    });
  }

  for (const [name, answer] of [
    ['chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['an interim response', `HTTP/1.1 103 Early Hints\r\n\r\n${ok('')}`],
  ] as const) {
    test(`${name} for a client of HTTP/1.0, who cannot read that: 502`, async () => {
      const { client, server } = startSession();
      client.send('GET / HTTP/1.0\r\n\r\n');
      await settle();
      server.send(answer);
      await settle();
      assert.match(client.text(), /^HTTP\/1\.1 502 /);
    });
  }

  test('a body that breaks off or breaks its framing cuts the client off: it must not look complete', async () => {
    for (const [head, rest] of [
      ['HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345', null],
      ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n', null],
      ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n', 'oops'],
    ] as const) {
      const { client, server, exchanges } = startSession();
      client.send(get('/'));
      await settle();
      server.send(head);
      await settle();
      if (rest === null) server.stream.end();
      else server.send(rest);
      await settle();
      assert.equal(client.text(), head);
      assert.notEqual(client.error, null);
      assert.equal(exchanges[0]?.status, 0);
    }
  });
});

describe('what frames a response', () => {
  for (const [name, request, answer] of [
    ['HEAD has no body', 'HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n'],
    ['HEAD has no chunks', 'HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'],
    ['204 has no body', get('/'), 'HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n'],
    ['304 has no body', get('/'), 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n'],
    ['no reason phrase', get('/'), 'HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n'],
  ] as const) {
    test(name, async () => {
      const { client, server, exchanges } = startSession();
      for (const _ of [1, 2]) {
        client.send(request);
        await settle();
        server.send(answer);
        await settle();
      }
      assert.equal(client.text(), answer + answer);
      assert.equal(exchanges.length, 2);
    });
  }

  test('without a length it ends with the connection, at any split', async () => {
    const answer = 'HTTP/1.1 200 OK\r\nX: y\r\n\r\nuntil the end';
    for (let split = 0; split <= answer.length; split++) {
      const { client, server, exchanges } = startSession();
      client.send(get('/'));
      await settle(1);
      server.send(answer.slice(0, split));
      await settle(1);
      server.send(answer.slice(split));
      server.stream.end();
      await settle(2);
      assert.equal(client.text(), answer);
      assert.deepEqual([client.ended, client.error, exchanges[0]?.status, exchanges[0]?.responseBytes], [true, null, 200, answer.length]);
    }
  });

  test('the end of a response that the client has yet to read is not cut off', async () => {
    const { client, server } = startSession({
      downstream: { highWaterMark: 100 },
      clientFlowing: false,
      limits: { closeMillis: 10, lingerMillis: 10 },
    });
    const answer = `HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 500\r\n\r\n${'x'.repeat(500)}`;
    client.send(get('/'));
    await settle();
    server.send(answer);
    server.stream.end();
    await delay(80);
    client.stream.resume();
    await settle();
    assert.equal(client.text(), answer);
    assert.equal(client.ended, true);
  });
});

describe('upgrade', () => {
  const request = 'GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  const switching = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';

  test('after 101 both directions are opaque, half-closes included', async () => {
    const { client, server, exchanges, closes } = startSession();
    client.send(`${request}early`);
    await settle();
    assert.equal(server.text(), request);
    server.send(`${switching}\x81\x00`);
    await settle();
    client.send(get('/forbidden'));
    await settle();
    assert.equal(server.text(), `${request}early${get('/forbidden')}`);
    assert.equal(client.text(), `${switching}\x81\x00`);
    assert.deepEqual([exchanges.length, exchanges[0]?.status], [1, 101]);
    client.stream.end();
    await settle();
    assert.equal(server.ended, true);
    server.send('last words');
    server.stream.end();
    await settle();
    assert.ok(client.text().endsWith('last words'));
    assert.deepEqual(closes, [null]);
  });

  test('a half-close before the 101 reaches the server after it', async () => {
    const { client, server } = startSession();
    client.send(request);
    client.stream.end();
    await settle();
    assert.equal(server.ended, false);
    server.send(switching);
    await settle();
    assert.equal(server.ended, true);
    server.send('data');
    await settle();
    assert.ok(client.text().endsWith('data'));
  });

  const early = 'POST / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhel';
  for (const [name, sent, received] of [
    ['without Connection: upgrade', 'GET / HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\n\r\n', get('/')],
    [
      'in HTTP/1.0',
      'GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n',
      'GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n',
    ],
    ['before the body is whole', early, early],
  ] as const) {
    test(`a 101 to an upgrade ${name} is refused`, async () => {
      const { client, server } = startSession();
      client.send(sent);
      await settle();
      server.send(switching);
      await settle();
      assert.match(client.text(), /^HTTP\/1\.1 502 /);
      client.send(get('/forbidden'));
      await settle();
      assert.equal(server.text(), received);
    });
  }

  test('a refused upgrade leaves an HTTP connection', async () => {
    const { client, server } = startSession();
    client.send(request);
    await settle();
    server.send(ok('no'));
    await settle();
    client.send(get('/forbidden'));
    await settle();
    assert.match(client.text(), /403 Forbidden/);
    assert.equal(server.text(), request);
  });

  test('HTTP/2 by upgrade would hide requests from policy: 502', async () => {
    const { client, server } = startSession();
    client.send('GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: foo, H2C\r\nHTTP2-Settings: \r\n\r\n');
    await settle();
    server.send('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n');
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 502 .*upstream-unexpected-upgrade/s);
  });

  test('a policy change that forbids it cuts an open tunnel', async () => {
    const fixture = startSession();
    fixture.client.send(request);
    await settle();
    fixture.server.send(switching);
    await settle();
    fixture.session.recheck();
    await settle();
    assert.equal(fixture.client.closed, false);
    fixture.gate = gateOf(({ path }) => path === '/chat');
    fixture.session.recheck();
    await settle();
    assert.equal(fixture.client.closed && fixture.server.closed, true);
    assert.equal((fixture.closes[0] as { code?: string } | undefined)?.code, 'WEFT_HTTP1_POLICY_CHANGED');
  });
});

describe('policy', () => {
  test('a change in mid-exchange: 403 before an answer has begun, a cut after', async () => {
    for (const answered of [false, true]) {
      const fixture = startSession();
      const { client, server, exchanges } = fixture;
      client.send(get('/x'));
      await settle();
      if (answered) server.send('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf');
      await settle();
      fixture.gate = gateOf(() => true);
      fixture.session.recheck();
      await settle();
      assert.notEqual(server.error, null);
      assert.deepEqual(
        [exchanges.length, exchanges[0]?.status, exchanges[0]?.refusal],
        answered ? [1, 0, 'policy-changed'] : [1, 403, 'policy-denied'],
      );
      if (answered) assert.notEqual(client.error, null);
      else assert.match(client.text(), /^HTTP\/1\.1 403 /);
    }
  });

  test('a policy that throws denies', async () => {
    const { client, server } = startSession({
      gate: {
        ask: () => {
          throw new Error('broken');
        },
      },
    });
    client.send(get('/'));
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 403 .*x-weft-denied-by: no-policy-allows\r\n/s);
    assert.equal(server.bytes().length, 0);
  });

  test('a denied HEAD has no body', async () => {
    const { client } = startSession();
    client.send('HEAD /forbidden HTTP/1.1\r\nHost: shop\r\n\r\n');
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 403 Forbidden\r\n(?:[^\r]+\r\n)+\r\n$/);
  });

  test('policy gets the method as sent, the path without query and the host in lower case with its port', async () => {
    const seen: unknown[] = [];
    const { client } = startSession({
      gate: gateOf((request) => {
        seen.push({ method: request.method, path: request.path, host: request.host });
        return true;
      }),
    });
    client.send('M-SEARCH /A?b HTTP/1.1\r\nHost: SHOP.example:8080\r\n\r\nGET / HTTP/1.0\r\n\r\n');
    await settle();
    assert.deepEqual(seen, [
      { method: 'M-SEARCH', path: '/A', host: 'shop.example:8080' },
      { method: 'GET', path: '/', host: '' },
    ]);
  });
});
