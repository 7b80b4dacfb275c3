import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { RequestGate } from '../../../src/model/request-gate.ts';
import { settle } from '../../kit/stream-recorder.ts';
import { answer, gateOf, get, ok, startSession } from './session-fixture.ts';

/** What the server receives for a request. */
async function forwarded(request: string): Promise<string> {
  const { client, server } = startSession({ gate: gateOf(() => false) });
  client.send(request);
  await settle();
  return server.text();
}

function post(path: string, fields: string): string {
  return `POST ${path} HTTP/1.1\r\nHost: shop\r\n${fields}Content-Length: 2\r\n\r\nhi`;
}

function fine(fields: readonly string[]): string {
  return `HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n${fields.map((field) => `${field}\r\n`).join('')}\r\nhi`;
}

describe('request fields', () => {
  for (const [name, fields] of [
    ['Connection: keep-alive', ['Connection: keep-alive', 'Keep-Alive: timeout=5']],
    ['Connection: close', ['connection:close']],
    ['TE: trailers', ['TE: trailers', 'Connection: TE']],
    ['an upgrade that this hop follows', ['Connection: keep-alive, Upgrade', 'Upgrade: websocket']],
    ['Trailer', ['Trailer: X-Sum']],
    ['names in a field that is not Connection', ['X-Connection: x-a', 'X-A: 1']],
  ] as const) {
    test(`${name} stays as it came`, async () => assert.equal(await forwarded(get('/', ...fields)), get('/', ...fields)));
  }

  for (const [name, fields, expected] of [
    ['fields that Connection names go', ['X-A: 1', 'Connection: x-a , X-B', 'x-B: 2', 'X-C: 3', 'X_A: 4'], ['X-C: 3']],
    ['in every Connection field', ['Connection: x-a', 'Connection: close', 'X-A: 1', 'connection: X-B', 'X-B: 1'], ['connection: close']],
    ['credentials too', ['Connection: Authorization', 'Authorization: Bearer x'], []],
    ['Proxy-Connection', ['Proxy-Connection: keep-alive', 'X: 1'], ['X: 1']],
    ['Proxy-Authorization', ['proxy-authorization: Basic x', 'Connection: keep-alive'], ['connection: keep-alive']],
    ['TE, for a coding that nobody could frame', ['TE: gzip;q=0.5', 'Connection: TE'], []],
    ['TE, but for trailers', ['TE: gzip, trailers', 'X: 1'], ['X: 1', 'connection: te', 'te: trailers']],
    ['Upgrade that Connection does not name', ['Upgrade: websocket'], []],
    [
      'HTTP/2 by upgrade: the request goes on as what it is',
      ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk', 'X: 1'],
      ['X: 1'],
    ],
    ['TLS by upgrade', ['Connection: keep-alive, Upgrade', 'Upgrade: TLS/1.2, websocket'], ['connection: keep-alive']],
    ['HTTP/2 among others', ['Connection: Upgrade', 'Upgrade: websocket', 'Upgrade: H2C'], []],
    ['empty Connection options mean nothing', ['Connection: , ,x-a,,', 'X-A: 1'], []],
  ] as const) {
    test(name, async () => assert.equal(await forwarded(get('/', ...fields)), get('/', ...expected)));
  }

  test('the same again, from memory, and with a body', async () => {
    const { client, server } = startSession({ gate: gateOf(() => false) });
    for (let round = 0; round < 2; round++) {
      client.send(post('/a/./b?c', 'Connection: x-a\r\nX-A: 1\r\n'));
      await settle();
      server.send(ok(''));
      await settle();
    }
    const expected = post('/a/b?c', '');
    assert.equal(server.text(), expected + expected);
  });

  test('the gate does not see what the server does not get', async () => {
    const seen: unknown[] = [];
    const gate: RequestGate = {
      ask: (head) => {
        seen.push([head.header('authorization'), head.header('x-a'), [...head.headers()]]);
        return answer();
      },
    };
    const { client } = startSession({ gate });
    client.send(get('/', 'Authorization: Bearer x', 'X-A: 1', 'Connection: authorization'));
    await settle();
    assert.deepEqual(seen, [
      [
        [],
        ['1'],
        [
          ['host', 'shop'],
          ['x-a', '1'],
        ],
      ],
    ]);
  });

  test('many names in Connection are refused', async () => {
    const { client, server, exchanges } = startSession();
    client.send(get('/', `Connection: ${Array.from({ length: 17 }, (_, index) => `x-${index}`).join()}`));
    await settle();
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal, server.text()], [400, 'too-many-connection-options', '']);
  });
});

describe('response fields', () => {
  for (const [name, fields, expected] of [
    ['Connection: keep-alive and Keep-Alive stay', ['Connection: keep-alive', 'Keep-Alive: timeout=5'], null],
    ['fields that Connection names go', ['X-A: 1', 'Connection: x-a, keep-alive', 'X-B: 2'], ['X-B: 2', 'connection: keep-alive']],
    ['an offer to upgrade goes', ['Upgrade: h2,h2c', 'Connection: Upgrade', 'Server: Apache'], ['Server: Apache']],
    ['Proxy-Authenticate goes', ['Proxy-Authenticate: Basic', 'Proxy-Connection: close'], []],
    ['Trailer stays', ['Trailer: x-sum'], null],
  ] as const) {
    test(name, async () => {
      const { client, server, exchanges } = startSession();
      for (let round = 0; round < 2; round++) {
        client.send(get('/'));
        await settle();
        server.send(fine(fields));
        await settle();
      }
      const received = fine(expected ?? fields);
      assert.equal(client.text(), received + received);
      assert.equal(exchanges[1]?.responseBytes, received.length);
    });
  }

  test('an interim response loses them too, and what it says of the connection, and 426 keeps what it asks for', async () => {
    const { client, server } = startSession();
    client.send(get('/'));
    await settle();
    server.send('HTTP/1.1 103 Early Hints\r\nProxy-Connection: x\r\nConnection: close\r\nLink: </a>\r\n\r\n');
    const required = 'HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n';
    server.send(required);
    await settle();
    assert.equal(client.text(), `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${required}`);
  });

  test('a 101 to what was not offered and hides requests is refused', async () => {
    const { client, server } = startSession();
    client.send(get('/', 'Connection: Upgrade', 'Upgrade: websocket'));
    await settle();
    server.send('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n');
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 502 .*upstream-unexpected-upgrade/s);
  });
});

describe('trailers', () => {
  for (const name of [
    'Host',
    'Transfer-Encoding',
    'Content-Length',
    'Content-Type',
    'Content-Encoding',
    'Authorization',
    'Cookie',
    'Set-Cookie',
    'Connection',
    'TE',
    'Upgrade',
    'Expect',
    'Proxy-Authorization',
    'X-Forwarded-For',
    'X_Forwarded_Client_Cert',
    'x-weft-identity',
    'Forwarded',
  ]) {
    test(`${name} is refused in them`, async () => {
      const { client, server, exchanges } = startSession();
      client.send(`POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${name}: x\r\n\r\n`);
      await settle();
      assert.deepEqual([exchanges[0]?.refusal, server.text()], ['bad-trailer', '']);
    });
  }

  test('others pass, also those with long names', async () => {
    const request = `POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\ngrpc-status: 0\r\nX-${'a'.repeat(60)}: 1\r\nHosts: 1\r\n\r\n`;
    assert.equal(await forwarded(request), request);
  });
});

test('TRACE is refused: it would show what the mesh adds', async () => {
  const { client, server, exchanges } = startSession();
  client.send('TRACE / HTTP/1.1\r\nHost: shop\r\n\r\n');
  await settle();
  assert.match(client.text(), /^HTTP\/1\.1 405 .*\r\nallow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n/s);
  assert.deepEqual([server.text(), exchanges[0]?.refusal], ['', 'trace-refused']);
});

test('Max-Forwards is left alone: nobody on the way counts this hop', async () => {
  const request = 'OPTIONS * HTTP/1.1\r\nHost: shop\r\nMax-Forwards: 1\r\n\r\n';
  assert.equal(await forwarded(request), request);
});
