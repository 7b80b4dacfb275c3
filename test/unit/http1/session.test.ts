import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../kit/stream-recorder.ts';
import { get, ok, gateOf, startSession } from './session-fixture.ts';

test('a request and its response pass byte for byte and are reported', async () => {
  const { client, server, exchanges } = startSession();
  const request = get('/a/b?q=1', 'User-Agent:  odd \t spacing');
  client.send(request);
  await settle();
  assert.equal(server.text(), request);
  server.send(ok('hello'));
  await settle();
  assert.equal(client.text(), ok('hello'));
  assert.equal(exchanges.length, 1);
  const [exchange] = exchanges;
  assert.deepEqual(
    { ...exchange, decision: exchange?.decision.policy },
    {
      method: 'GET',
      path: '/a/b',
      host: 'shop',
      status: 200,
      requestBytes: request.length,
      responseBytes: ok('hello').length,
      startedAt: 10,
      durationMicros: 10,
      decision: 'shop/allow-get',
      shadow: [],
      refusal: null,
      detail: null,
    },
  );
});

test('bytes read by the detector are the start of the first request', async () => {
  const { client, server } = startSession({ firstBytes: Buffer.from('GET / HT') });
  client.send('TP/1.1\r\nHost: shop\r\n\r\n');
  await settle();
  assert.equal(server.text(), get('/'));
});

test('requests follow each other on one connection, the same head recognised', async () => {
  const { client, server, exchanges } = startSession();
  for (const path of ['/same', '/same', '/other', '/same']) {
    client.send(get(path));
    await settle(2);
    server.send(ok(path));
    await settle(2);
  }
  assert.equal(server.text(), get('/same') + get('/same') + get('/other') + get('/same'));
  assert.equal(client.text(), ok('/same') + ok('/same') + ok('/other') + ok('/same'));
  assert.deepEqual(
    exchanges.map((exchange) => exchange.path),
    ['/same', '/same', '/other', '/same'],
  );
});

test('a denied request is answered 403 with the policy named, and the server sees none of it', async () => {
  const { client, server, exchanges } = startSession();
  client.send('DELETE /x HTTP/1.1\r\nHost: shop\r\n\r\n');
  await settle();
  assert.match(client.text(), /^HTTP\/1\.1 403 Forbidden\r\n/);
  assert.match(client.text(), /\r\nx-weft-denied-by: shop\/no-delete\r\n/);
  assert.match(client.text(), /\r\n\r\nweft: request denied by policy shop\/no-delete \(matched a DENY rule\)\n$/);
  assert.doesNotMatch(client.text(), /connection: close/);
  assert.equal(server.bytes().length, 0);
  assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal, exchanges[0]?.decision.policy], [403, 'policy-denied', 'shop/no-delete']);
  client.send(get('/after'));
  await settle();
  assert.equal(server.text(), get('/after'));
});

test('the short body of a denied request is dropped, and the connection goes on', async () => {
  const { client, server, exchanges } = startSession();
  client.send('DELETE /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n01234');
  await settle();
  client.send(`56789${get('/after')}`);
  await settle();
  assert.equal(server.text(), get('/after'));
  server.send(ok('fine'));
  await settle();
  assert.ok(client.text().endsWith(ok('fine')));
  assert.equal(exchanges[0]?.requestBytes, 'DELETE /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n'.length + 10);
});

for (const [what, fields] of [
  ['long', 'Content-Length: 1000000'],
  ['chunked', 'Transfer-Encoding: chunked'],
  ['awaited', 'Content-Length: 5\r\nExpect: 100-continue'],
] as const) {
  test(`a denied request with a ${what} body ends the connection after its 403`, async () => {
    const { client, server, exchanges } = startSession();
    client.send(`DELETE /x HTTP/1.1\r\nHost: shop\r\n${fields}\r\n\r\n${get('/smuggled')}`);
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 403 Forbidden\r\n(?:[^\r]+\r\n)*connection: close\r\n/);
    assert.equal(exchanges.length, 1);
    assert.equal(client.ended, true);
    assert.equal(server.bytes().length, 0);
  });
}

test('a policy that was swapped decides the next request, also for a head that is recognised', async () => {
  const fixture = startSession();
  const { client, server } = fixture;
  client.send(get('/x'));
  await settle();
  server.send(ok(''));
  await settle();
  fixture.gate = gateOf(() => true);
  client.send(get('/x'));
  await settle();
  assert.equal(server.text(), get('/x'));
  assert.match(client.text(), /403 Forbidden/);
});
