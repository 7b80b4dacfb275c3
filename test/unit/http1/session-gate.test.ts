import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { GateAnswer, Refusal, RequestGate, RequestHead } from '../../../src/model/request-gate.ts';
import { settle } from '../../kit/stream-recorder.ts';
import { answer, DENIED, gateOf, get, ok, startSession } from './session-fixture.ts';

const DENYING = answer({ decision: DENIED });

/** A gate whose answers the test gives, each when it likes. */
class SlowGate implements RequestGate {
  readonly asked: { readonly path: string; readonly give: (answer: GateAnswer) => void; readonly fail: (error: Error) => void }[] = [];

  ask(head: RequestHead): Promise<GateAnswer> {
    const { promise, resolve, reject } = Promise.withResolvers<GateAnswer>();
    this.asked.push({ path: head.path, give: resolve, fail: reject });
    return promise;
  }

  give(index: number, given: GateAnswer = answer()): void {
    this.asked[index]?.give(given);
  }
}

function waiting(options: Parameters<typeof startSession>[0] = {}): { gate: SlowGate; fixture: ReturnType<typeof startSession> } {
  const gate = new SlowGate();
  return { gate, fixture: startSession({ ...options, gate }) };
}

/** How often the gate is asked for three requests with the same head. */
async function asks(gate: RequestGate, before: (round: number) => void = () => {}): Promise<number> {
  let count = 0;
  const counting: RequestGate = {
    ask: (head) => {
      count++;
      return gate.ask(head);
    },
    ...(gate.basis === undefined ? {} : { basis: () => gate.basis?.() ?? null }),
  };
  const { client, server } = startSession({ gate: counting });
  for (let round = 0; round < 3; round++) {
    before(round);
    client.send(get('/same'));
    await settle(2);
    server.send(ok(''));
    await settle(2);
  }
  return count;
}

async function refused(refusal: Refusal, request = get('/')): Promise<string> {
  const { client, server, exchanges } = startSession({ gate: { ask: () => answer({ decision: DENIED, refusal }) } });
  client.send(request);
  await settle();
  assert.equal(server.text(), '');
  assert.deepEqual([exchanges[0]?.refusal, exchanges[0]?.status], ['policy-denied', Number(client.text().slice(9, 12))]);
  return client.text();
}

describe('a gate that answers later', () => {
  test('nothing is forwarded before it does, and the whole request after', async () => {
    const { gate, fixture } = waiting();
    const { client, server, exchanges } = fixture;
    const request = 'POST /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n';
    client.send(`${request}01234`);
    await settle();
    client.send('56789');
    await settle();
    assert.equal(server.text(), '');
    gate.give(0);
    await settle();
    assert.equal(server.text(), `${request}0123456789`);
    server.send(ok('fine'));
    await settle();
    assert.equal(client.text(), ok('fine'));
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.requestBytes], [200, request.length + 10]);
  });

  test('pipelined requests are asked and answered in their order', async () => {
    const { gate, fixture } = waiting();
    const { client, server, exchanges } = fixture;
    client.send(get('/1') + get('/2') + get('/3'));
    await settle();
    assert.deepEqual([gate.asked.map(({ path }) => path), server.text()], [['/1'], '']);
    gate.give(0);
    await settle();
    assert.equal(server.text(), get('/1'));
    server.send(ok('1'));
    await settle();
    gate.give(1, DENYING);
    await settle();
    gate.give(2);
    await settle();
    server.send(ok('3'));
    await settle();
    assert.equal(server.text(), get('/1') + get('/3'));
    assert.deepEqual(
      exchanges.map(({ path, status }) => [path, status]),
      [
        ['/1', 200],
        ['/2', 403],
        ['/3', 200],
      ],
    );
    assert.match(client.text(), /^HTTP\/1\.1 200 OK.*403 Forbidden.*200 OK/s);
  });

  test('a client that sends on is paused after one chunk', async () => {
    const { fixture } = waiting({ downstream: { highWaterMark: 1000 } });
    fixture.client.send('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\n');
    await settle();
    let taken = 0;
    for (let round = 0; round < 10; round++) {
      while (fixture.client.send('x'.repeat(500))) taken += 500;
      await settle(2);
    }
    assert.ok(taken < 4000, `${taken} bytes taken`);
  });

  test('a denial drops the short body that waited, and the connection goes on', async () => {
    const { gate, fixture } = waiting();
    const { client, server, exchanges } = fixture;
    client.send(`POST /no HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello${get('/yes')}`);
    await settle();
    gate.give(0, DENYING);
    await settle();
    gate.give(1);
    await settle();
    assert.equal(server.text(), get('/yes'));
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.requestBytes], [403, 57]);
  });

  test('one that rejects, or throws, denies', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/'));
    await settle();
    gate.asked[0]?.fail(new Error('broken'));
    await settle();
    assert.match(fixture.client.text(), /^HTTP\/1\.1 403 /);
    assert.equal(fixture.server.text(), '');
  });

  test('one that never answers: 503 in time, and what it says afterwards is too late', async () => {
    const { gate, fixture } = waiting({ limits: { authorisationMillis: 20 } });
    const { client, server, exchanges } = fixture;
    client.send(get('/'));
    await delay(100);
    gate.give(0);
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 503 .*authorisation-timeout\n$/s);
    assert.deepEqual([exchanges.length, exchanges[0]?.status, exchanges[0]?.refusal, server.text()], [1, 503, 'authorisation-timeout', '']);
  });

  test('a client gone meanwhile is reported, and nothing is forwarded', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/'));
    await settle();
    fixture.client.stream.destroy();
    await settle();
    gate.give(0);
    await settle();
    assert.deepEqual([fixture.exchanges.length, fixture.exchanges[0]?.refusal], [1, 'downstream-closed']);
    assert.equal(fixture.server.text(), '');
    assert.equal(fixture.closes.length, 1);
  });

  test('a client that half-closes after its request gets its answer', async () => {
    for (const [given, status] of [
      [answer(), 200],
      [DENYING, 403],
    ] as const) {
      const { gate, fixture } = waiting();
      fixture.client.send(get('/'));
      fixture.client.stream.end();
      await settle();
      gate.give(0, given);
      await settle();
      if (status === 200) fixture.server.send(ok('here'));
      await settle();
      assert.deepEqual([fixture.exchanges.length, fixture.exchanges[0]?.status, fixture.client.ended], [1, status, true]);
    }
  });

  test('a body that a half-close cut short is never completed for the server', async () => {
    for (const given of [answer(), DENYING]) {
      const { gate, fixture } = waiting();
      fixture.client.send('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n01234');
      fixture.client.stream.end();
      await settle();
      gate.give(0, given);
      await settle();
      assert.equal(fixture.exchanges.length, 1);
      assert.equal(fixture.exchanges[0]?.refusal, given === DENYING ? 'policy-denied' : 'truncated-body');
      if (given !== DENYING) assert.notEqual(fixture.server.error, null);
      assert.equal(fixture.client.ended, true);
    }
  });

  test('a client that half-closed before any of the body came is told so', async () => {
    for (const given of [answer(), DENYING]) {
      const { gate, fixture } = waiting();
      fixture.client.send('POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n');
      fixture.client.stream.end();
      await settle();
      gate.give(0, given);
      await settle();
      assert.deepEqual(
        fixture.exchanges.map((exchange) => exchange.refusal),
        [given === DENYING ? 'policy-denied' : 'truncated-body'],
      );
      assert.equal(fixture.client.ended, true);
    }
  });

  test('a server gone meanwhile: 503 for what is allowed, 403 for what is not', async () => {
    for (const [given, status] of [
      [answer(), 503],
      [DENYING, 403],
    ] as const) {
      const { gate, fixture } = waiting();
      fixture.client.send(get('/'));
      await settle();
      fixture.server.stream.end();
      await settle();
      gate.give(0, given);
      await settle();
      assert.deepEqual(
        fixture.exchanges.map((exchange) => exchange.status),
        [status],
      );
    }
  });

  test('a server that answers a request that it never got: 502', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/'));
    await settle();
    fixture.server.send(ok('poison'));
    await settle();
    gate.give(0);
    await settle();
    assert.match(fixture.client.text(), /^HTTP\/1\.1 502 /);
    assert.equal(fixture.exchanges.length, 1);
  });

  test('a policy that changes meanwhile is asked again, and the old answer counts no more', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/'));
    await settle();
    fixture.session.recheck();
    gate.give(0);
    await settle();
    assert.deepEqual([gate.asked.length, fixture.server.text()], [2, '']);
    fixture.gate = gateOf(() => true);
    fixture.session.recheck();
    gate.give(1);
    await settle();
    assert.match(fixture.client.text(), /^HTTP\/1\.1 403 /);
    assert.equal(fixture.server.text(), '');
  });

  test('asked again about a request on its way, it may cut it when its answer comes', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/slow'));
    await settle();
    gate.give(0);
    await settle();
    fixture.session.recheck();
    await settle();
    gate.give(1, DENYING);
    await settle();
    assert.match(fixture.client.text(), /^HTTP\/1\.1 403 /);
    assert.deepEqual([fixture.exchanges.length, fixture.exchanges[0]?.status], [1, 403]);
    assert.notEqual(fixture.server.error, null);
  });

  test('asked again, its answer does not touch the next request', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/1'));
    await settle();
    gate.give(0);
    await settle();
    fixture.session.recheck();
    fixture.server.send(ok('1'));
    await settle();
    fixture.client.send(get('/2'));
    await settle();
    gate.give(1, DENYING);
    await settle();
    assert.deepEqual([fixture.exchanges.length, fixture.client.closed], [1, false]);
    gate.give(2);
    await settle();
    assert.equal(fixture.server.text(), get('/1') + get('/2'));
  });

  test('draining waits for it', async () => {
    const { gate, fixture } = waiting();
    fixture.client.send(get('/1') + get('/2'));
    await settle();
    fixture.session.drain();
    gate.give(0);
    await settle();
    fixture.server.send(ok('1'));
    await settle();
    assert.equal(fixture.client.text(), ok('1'));
    assert.deepEqual([fixture.client.ended, gate.asked.length], [true, 1]);
  });
});

describe('what may be remembered', () => {
  test('an answer is used again for the same head while its basis is the same', async () => {
    assert.equal(await asks(gateOf(() => false)), 1);
  });

  test('without a basis the gate is asked each time', async () => {
    assert.equal(await asks({ ask: () => answer() }), 3);
    assert.equal(await asks({ ask: () => answer(), basis: () => null }), 3);
  });

  test('after a recheck the gate is asked again, whatever its basis', async () => {
    let denies = false;
    const basis = {};
    const { client, server, session } = startSession({ gate: { ask: () => (denies ? DENYING : answer()), basis: () => basis } });
    client.send(get('/same'));
    await settle();
    server.send(ok(''));
    await settle();
    denies = true;
    session.recheck();
    client.send(get('/same'));
    await settle();
    assert.equal(server.text(), get('/same'));
  });

  test('another basis is asked again', async () => {
    let basis = {};
    const gate = { ask: () => answer(), basis: () => basis };
    assert.equal(await asks(gate, (round) => round === 2 && (basis = {})), 2);
  });
});

describe('headers as the gate sees them', () => {
  test('each value as it was sent, trimmed, in order, whatever the case of the name', async () => {
    const seen: unknown[] = [];
    const gate: RequestGate = {
      ask: (head) => {
        seen.push(head.header('x-a'), head.header('x-b'), head.header('x-a-b'), head.header('host'), [...head.headers()]);
        seen.push([head.method, head.path, head.query, head.host, head.scheme]);
        return answer();
      },
    };
    const { client } = startSession({ gate });
    client.send('GET /p?q=1 HTTP/1.1\r\nHOST: Shop\r\nX-A:one, two\r\nx-a: \t three \t\r\nX-A_B: caf\xe9\r\nX-Empty:\r\n\r\n');
    await settle();
    assert.deepEqual(seen, [
      ['one, two', 'three'],
      [],
      [],
      ['Shop'],
      [
        ['host', 'Shop'],
        ['x-a', 'one, two'],
        ['x-a', 'three'],
        ['x-a_b', 'caf\xe9'],
        ['x-empty', ''],
      ],
      ['GET', '/p', 'q=1', 'shop', 'http'],
    ]);
  });

  test('the same in a head that is long, has many fields, comes in pieces or a second time', async () => {
    const filler = Array.from({ length: 90 }, (_, index) => `X-${index}: ${'y'.repeat(20)}`);
    for (const fields of [['X-A: 1'], [...filler, 'X-A: 1']]) {
      for (const chunkSize of [7, 100_000]) {
        let seen = 0;
        const gate: RequestGate = {
          ask: (head) => {
            seen += head.header('x-a').length;
            assert.equal([...head.headers()].length, fields.length + 1);
            return answer();
          },
        };
        const { client, server } = startSession({ gate, downstream: { chunkSize } });
        for (let round = 0; round < 2; round++) {
          client.send(get('/', ...fields));
          await settle(4);
          server.send(ok(''));
          await settle(4);
        }
        assert.equal(seen, 2);
      }
    }
  });

  test('are there until an answer that comes late, also in a long head', async () => {
    const long = `X-Long: ${'y'.repeat(3000)}`;
    for (const fields of [['X-A: 1'], ['X-A: 1', long]]) {
      let late: readonly string[] = [];
      const gate: RequestGate = {
        ask: async (head) => {
          await delay(10);
          late = head.header('x-a');
          return answer({ change: { remove: ['x-a'], set: [['x-b', late.join()]] } });
        },
      };
      const { client, server } = startSession({ gate });
      client.send(get('/', ...fields) + get('/next'));
      await delay(30);
      assert.deepEqual(late, ['1']);
      assert.equal(server.text(), get('/', ...fields.slice(1), 'x-b: 1'));
    }
  });

  test('are those of each request in turn', async () => {
    const seen: (readonly string[])[] = [];
    const gate: RequestGate = {
      ask: (head) => {
        seen.push(head.header('x-a'));
        return DENYING;
      },
    };
    const { client } = startSession({ gate });
    for (const fields of [['X-A: 1'], ['X: 0', 'X-A: 2', 'X-A: 3'], [], ['X-A: 4']]) {
      client.send(get('/', ...fields));
      await settle(2);
    }
    assert.deepEqual(seen, [['1'], ['2', '3'], [], ['4']]);
  });

  test('are there for a recheck while a tunnel is open, also those of a long head', async () => {
    for (const length of [10, 3000]) {
      const { client, server, session } = startSession({
        gate: { ask: (head) => (head.header('x-key').join() === 'k' ? answer() : DENYING) },
      });
      client.send(get('/', 'Connection: Upgrade', 'Upgrade: websocket', `X-Long: ${'y'.repeat(length)}`, 'X-Key: k'));
      await settle();
      server.send('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
      await settle();
      session.recheck();
      await settle();
      assert.equal(client.closed, false);
    }
  });

  test('trust headers are announced, and refused when written with underscores', async () => {
    const seen: unknown[] = [];
    const gate: RequestGate = {
      ask: (head) => {
        seen.push(head.hasTrustHeaders);
        return DENYING;
      },
    };
    const { client, exchanges } = startSession({ gate });
    for (const field of ['X-Real: 1', 'X-FORWARDED-For: 1', 'x-weft-Peer: 1', 'X-Forwarded: 1']) {
      client.send(get('/', field));
      await settle(2);
    }
    assert.deepEqual(seen, [false, true, true, false]);
    client.send(get('/', 'X_Forwarded_Client_Cert: me'));
    await settle();
    assert.equal(exchanges.at(-1)?.refusal, 'ambiguous-field-name');
  });
});

describe('headers that the gate changes', () => {
  const sent = get('/x?y', 'X-Weft-Who: me', 'Accept: a', 'x-weft-WHO: you', 'X-Weft-Other: 1');

  test('go in every occurrence, and others are added at the end; all else stays byte for byte', async () => {
    const change = {
      remove: ['x-weft-who', 'x-absent'],
      set: [
        ['x-weft-who', 'spiffe://a/ns/b/sa/c'],
        ['x-more', 'caf\xe9'],
      ],
    } as const;
    const { client, server } = startSession({ gate: { ask: () => answer({ change }) } });
    client.send(sent);
    await settle();
    const expected = get('/x?y', 'Accept: a', 'X-Weft-Other: 1', 'x-weft-who: spiffe://a/ns/b/sa/c', 'x-more: caf\xe9');
    assert.equal(server.text(), expected);
    server.send(ok(''));
    await settle();
    // The head is known by now.
    client.send(sent);
    await settle();
    assert.equal(server.text(), expected + expected);
  });

  test('together with a body and a path that is normalised', async () => {
    const { client, server } = startSession({ gate: { ask: () => answer({ change: { remove: ['x-a'], set: [] } }) } });
    client.send('POST /a/../b HTTP/1.1\r\nX-A: 1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi');
    await settle();
    assert.equal(server.text(), 'POST /b HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi');
  });

  test('a name is removed with the names that a CGI-like application takes for it', async () => {
    for (const name of ['x-user-id', 'x_user_id']) {
      const { client, server } = startSession({ gate: { ask: () => answer({ change: { remove: [name], set: [] } }) } });
      client.send(get('/', 'X_User_Id: 1', 'x-user_id: 2', 'X-User-Ids: 3', 'X-USER-ID: 4'));
      await settle();
      assert.equal(server.text(), get('/', 'X-User-Ids: 3'));
    }
  });

  test('framing, routing and hop-by-hop fields, and what is no header, cannot be changed: the request is refused', async () => {
    for (const change of [
      { remove: ['host'], set: [] },
      { remove: ['content-length'], set: [] },
      { remove: ['transfer_encoding'], set: [] },
      { remove: ['X-Upper'], set: [] },
      { remove: [''], set: [] },
      { remove: [], set: [['connection', 'x-a']] },
      { remove: [], set: [['transfer-encoding', 'chunked']] },
      { remove: [], set: [['upgrade', 'h2c']] },
      { remove: [], set: [[':path', '/admin']] },
      { remove: [], set: [['x a', '1']] },
      { remove: [], set: [['x-a', '1\r\nx-b: 2']] },
      { remove: [], set: [['x-a', '1\n']] },
      { remove: [], set: [['x-a', '\0']] },
      { remove: [], set: [['x-a', '\u20ac']] },
      { remove: [], set: [['x-a', 'y'.repeat(40_000)]] },
    ] as const) {
      const { client, server, exchanges } = startSession({ gate: { ask: () => answer({ change }) } });
      client.send(get('/'));
      await settle(2);
      assert.equal(server.text(), '', JSON.stringify(change));
      assert.deepEqual([exchanges[0]?.status, exchanges[0]?.decision.verdict], [403, 'deny']);
    }
  });
});

describe('refusals in the words of the gate', () => {
  test('status, headers and body', async () => {
    assert.equal(
      await refused({ status: 401, headers: [['www-authenticate', 'Bearer realm="x"']], body: 'Jwt is expired' }),
      'HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\nwww-authenticate: Bearer realm="x"\r\nx-weft-denied-by: shop/no-delete\r\ncontent-length: 14\r\n\r\nJwt is expired',
    );
  });

  test('a body that is not ASCII is as long as its bytes; HEAD and 204 have none', async () => {
    const refusal = {
      status: 403,
      headers: [['Content-Type', 'text/html']],
      body: '\u20ac!',
    } as const;
    assert.match(await refused(refusal), /content-type: text\/html\r\n.*content-length: 4\r\n\r\n\xe2\x82\xac!$/s);
    assert.match(await refused(refusal, 'HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n'), /content-length: 4\r\n\r\n$/);
    const empty = await refused({ ...refusal, status: 204 });
    assert.match(empty, /^HTTP\/1\.1 204 .*\r\n\r\n$/s);
    assert.doesNotMatch(empty, /content-length/);
  });

  test('what would frame the answer or break out of it is left out', async () => {
    const text = await refused({
      status: 302,
      headers: [
        ['location', 'https://login'],
        ['set-cookie', 'a=1'],
        ['set-cookie', 'b=2'],
        ['content-length', '0'],
        ['Transfer-Encoding', 'chunked'],
        ['connection', 'close'],
        ['x-a', '1\r\nx-b: 2'],
        ['x c', '1'],
        ['x-weft-denied-by', 'somebody'],
      ],
      body: 'see there',
    });
    assert.match(
      text,
      /^HTTP\/1\.1 302 .*location: https:\/\/login\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n.*content-length: 9\r\n\r\nsee there$/s,
    );
    assert.doesNotMatch(text, /transfer|connection|x-[abc]|x c|somebody/i);
  });

  test('a status that is no final answer becomes 403', async () => {
    for (const status of [100, 199, 600, 0, Number.NaN, 403.5])
      assert.match(await refused({ status, headers: [], body: '' }), /^HTTP\/1\.1 403 /);
  });
});

test('an HTTP/1.0 client is closed on after a denial, since nothing told it that the connection stays', async () => {
  const { client } = startSession({ gate: gateOf(() => true) });
  client.send('GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n');
  await settle();
  assert.match(client.text(), /connection: close\r\n/);
  assert.equal(client.ended, true);
});

test('dry-run and AUDIT decisions are in the report of each exchange', async () => {
  const shadow = [{ policy: 'shop/dry', rule: 0, effect: 'deny', reason: 'matched a DENY rule' }] as const;
  const basis = {};
  const { client, server, exchanges } = startSession({ gate: { ask: () => answer({ shadow }), basis: () => basis } });
  for (let round = 0; round < 2; round++) {
    client.send(get('/'));
    await settle();
    server.send(ok(''));
    await settle();
  }
  assert.deepEqual(
    exchanges.map((exchange) => exchange.shadow),
    [shadow, shadow],
  );
});
