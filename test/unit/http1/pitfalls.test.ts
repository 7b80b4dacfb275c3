import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { PathNormalisation } from '../../../proxy/http1/normalise-path.ts';
import type { RequestGate, RequestHead } from '../../../src/model/request-gate.ts';
import { settle } from '../../kit/stream-recorder.ts';
import { answer, DENIED, get, ok, startSession } from './session-fixture.ts';

/** What the gate was asked about a request, and what the server received: they must be about the same thing. */
async function pass(
  request: string,
  normalisation: PathNormalisation = 'base',
): Promise<{ seen: RequestHead | null; line: string; status: number }> {
  let seen: RequestHead | null = null;
  const gate: RequestGate = {
    ask: ({ method, path, query, host, scheme, header, headers }) => {
      seen = { method, path, query, host, scheme, header, headers };
      return answer();
    },
  };
  const { client, server, exchanges } = startSession({ gate, normalisation });
  client.send(request);
  await settle(3);
  const line = server.text().split('\r\n')[0] as string;
  if (line !== '') server.send(ok(''));
  await settle(3);
  return { seen, line, status: exchanges[0]?.status ?? 0 };
}

/** Both see `path`. */
async function bothSee(target: string, path: string, normalisation: PathNormalisation = 'base'): Promise<void> {
  const { seen, line } = await pass(get(target), normalisation);
  assert.equal(seen?.path, path, target);
  assert.equal(line.split(' ')[1]?.split('?')[0], path, target);
}

describe('pitfalls of policy over HTTP/1, numbered as in the reference', () => {
  test('1: dot segments are resolved, escaped or not, before a decision', async () => {
    for (const target of ['/a/../admin', '/./admin', '/%2e%2e/admin', '/a/%2E./admin', '/a/..\\admin', '/../../admin'])
      await bothSee(target, '/admin');
  });

  test('2: double and escaped slashes stay by default, and are one slash at the levels that say so', async () => {
    await bothSee('/a//admin', '/a//admin');
    await bothSee('/a%2Fadmin', '/a%2Fadmin');
    await bothSee('/a%5cadmin', '/a%5cadmin');
    await bothSee('/a//admin', '/a/admin', 'merge-slashes');
    await bothSee('/a%2Fadmin', '/a%2Fadmin', 'merge-slashes');
    for (const target of ['/a//admin', '/a%2Fadmin', '/a%5cadmin', '/a%2f%2F\\admin', '/b%2f..%2fa/admin']) {
      await bothSee(target, '/a/admin', 'decode-and-merge-slashes');
    }
    await bothSee('/a%252Fadmin', '/a%252Fadmin', 'decode-and-merge-slashes');
  });

  test('3: a path that begins with two slashes is a path, never an authority', async () => {
    for (const target of ['//bank/admin', '///bank', '//']) await bothSee(target, target);
    const { seen, line } = await pass(get('//bank/admin'));
    assert.deepEqual([seen?.host, line], ['shop', 'GET //bank/admin HTTP/1.1']);
    await bothSee('//bank/admin', '/bank/admin', 'merge-slashes');
    const { seen: absolute } = await pass('GET http://shop//bank/admin HTTP/1.1\r\nHost: shop\r\n\r\n');
    assert.deepEqual([absolute?.path, absolute?.host], ['//bank/admin', 'shop']);
  });

  test('4: a fragment is refused, escaped it is part of the path', async () => {
    assert.deepEqual(await pass(get('/a#/../admin')), { seen: null, line: '', status: 400 });
    assert.deepEqual(await pass(get('/a?b#c')), { seen: null, line: '', status: 400 });
    await bothSee('/a%23b', '/a%23b');
  });

  test('5: the host is compared in lower case, with its port; a trailing dot makes another name, for policy as for the server', async () => {
    for (const [host, expected] of [
      ['SHOP.Example', 'shop.example'],
      ['shop:8080', 'shop:8080'],
      ['shop.', 'shop.'],
    ] as const) {
      const { seen } = await pass(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      assert.equal(seen?.host, expected);
    }
  });

  test('6: path parameters are part of the path, and hide no dots', async () => {
    await bothSee('/a;x=1/admin;y', '/a;x=1/admin;y');
    await bothSee('/a/..;/admin', '/a/..;/admin');
    await bothSee('/a;/../admin', '/admin');
  });

  test('7: an escaped question mark begins no query; a plain one ends the path', async () => {
    await bothSee('/a%3F/../admin', '/admin');
    const { seen } = await pass(get('/admin?/../public'));
    assert.deepEqual([seen?.path, seen?.query], ['/admin', '/../public']);
    await bothSee('/a%3Fadmin', '/a%3Fadmin');
  });

  test('8: each value of a repeated header is seen, in order and never joined', async () => {
    let values: readonly string[] = [];
    const { client } = startSession({
      gate: {
        ask: (head) => {
          values = head.header('x-role');
          return answer({ decision: DENIED });
        },
      },
    });
    client.send(get('/', 'X-Role: user', 'Accept: a', 'x-role: admin, root'));
    await settle();
    assert.deepEqual(values, ['user', 'admin, root']);
  });

  test('14: what frames a request twice, or in a way that some server reads otherwise, is refused', async () => {
    for (const fields of [
      'Content-Length: 5\r\nTransfer-Encoding: chunked',
      'Transfer-Encoding: xchunked',
      'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
      'Transfer-Encoding\r: chunked',
      'Transfer-Encoding:\x0bchunked',
      'Content-Length : 5',
      'Content-Length: 5\0',
      'X: y\rContent-Length: 5',
      'X: y\nContent-Length: 5',
      'Content_Length: 5',
    ]) {
      assert.deepEqual(
        await pass(`POST / HTTP/1.1\r\nHost: shop\r\n${fields}\r\n\r\n0\r\n\r\n`),
        { seen: null, line: '', status: 400 },
        fields,
      );
    }
  });

  test('15: Content-Length comes once, whatever the case of its letters', async () => {
    const twice = 'POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n';
    assert.deepEqual(await pass(twice), { seen: null, line: '', status: 400 });
  });

  test('16: an answer that nobody asked for never becomes the answer to the next request', async () => {
    const { client, server, exchanges } = startSession();
    client.send(get('/1'));
    await settle();
    server.send(`${ok('1')}${ok('poison')}`);
    await settle();
    client.send(get('/2'));
    await settle();
    assert.deepEqual([client.text(), server.text(), exchanges.length], [ok('1'), get('/1'), 1]);
  });

  test('20: a header that names another method changes nothing for policy', async () => {
    for (const name of ['X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override']) {
      const { seen, line } = await pass(get('/', `${name}: DELETE`));
      assert.deepEqual([seen?.method, line], ['GET', 'GET / HTTP/1.1']);
    }
  });

  test('20: methods in lower case, CONNECT, and absolute-form with another Host are refused', async () => {
    for (const [request, status] of [
      ['delete / HTTP/1.1\r\nHost: shop\r\n\r\n', 400],
      ['CONNECT bank:80 HTTP/1.1\r\nHost: bank:80\r\n\r\n', 405],
      ['GET http://bank/ HTTP/1.1\r\nHost: shop\r\n\r\n', 400],
      ['GET http://shop:81/ HTTP/1.1\r\nHost: shop\r\n\r\n', 400],
    ] as const) {
      assert.deepEqual(await pass(request), { seen: null, line: '', status });
    }
  });

  test('20: GET with a body is framed like any other, so that the body is no request', async () => {
    const body = 'DELETE /admin HTTP/1.1\r\nHost: shop\r\n\r\n';
    let asked = 0;
    const { client } = startSession({
      gate: {
        ask: () => {
          asked++;
          return answer();
        },
      },
    });
    client.send(get('/', `Content-Length: ${body.length}`) + body);
    await settle();
    assert.equal(asked, 1);
  });

  test('20: an upgrade is decided by its GET, and no upgrade leads to requests that policy does not see', async () => {
    const { line } = await pass(get('/', 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: x'));
    assert.equal(line, 'GET / HTTP/1.1');
    const { client, server } = startSession();
    client.send(get('/forbidden/chat', 'Connection: Upgrade', 'Upgrade: websocket'));
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 403 /);
    assert.equal(server.text(), '');
  });

  test('a level that changes in mid-connection holds for the next request, also for a head that is known', async () => {
    const fixture = startSession();
    for (const level of ['base', 'merge-slashes', 'base'] as const) {
      fixture.normalisation = level;
      fixture.client.send(get('/a//b'));
      await settle();
      fixture.server.send(ok(''));
      await settle();
    }
    assert.equal(fixture.server.text(), get('/a//b') + get('/a/b') + get('/a//b'));
  });
});
