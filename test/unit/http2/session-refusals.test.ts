import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { CoarseTimers } from '../../../proxy/coarse-timer.ts';
import { ErrorCode } from '../../../src/transport/http2/errors.ts';
import type { GateAnswer } from '../../../src/model/request-gate.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';
import { Recorder } from '../tunnel/recorder.ts';
import { ALLOWED, answerOf, closeSessions, DENIED, get, grpc, post, startSession } from './session-fixture.ts';

afterEach(closeSessions);

const MALFORMED: Readonly<Record<string, readonly string[]>> = {
  'an upper-case name': get('/', 'X-Admin', '1'),
  'a connection field': get('/', 'connection', 'close'),
  'a transfer-encoding': post('/', 'transfer-encoding', 'chunked'),
  'a keep-alive': get('/', 'keep-alive', '5'),
  'a proxy-connection': get('/', 'proxy-connection', 'close'),
  'an upgrade': get('/', 'upgrade', 'websocket'),
  'te other than trailers': get('/', 'te', 'gzip'),
  'te with a list': get('/', 'te', 'trailers, gzip'),
  'two methods': [':method', 'GET', ...get('/')],
  'two paths': get('/', ':path', '/admin'),
  'a pseudo-header at the end': [...get('/'), 'x-a', '1', ':authority', 'other'],
  'an unknown pseudo-header': [':protocol', 'websocket', ...get('/')],
  'no method': get('/').slice(2),
  'no scheme': [':method', 'GET', ':authority', 'shop', ':path', '/'],
  'no path': [':method', 'GET', ':scheme', 'http', ':authority', 'shop'],
  'an empty path': get(''),
  'a path without a slash': get('admin'),
  'an absolute path': get('http://shop/admin'),
  'an asterisk for GET': get('*'),
  'a host other than the authority': get('/', 'host', 'other'),
  'two hosts': get('/', 'host', 'shop', 'host', 'shop'),
  'CR in a value': get('/', 'x-a', 'a\rb'),
  'LF in a value': get('/', 'x-a', 'a\nx-admin: 1'),
  'NUL in a value': get('/', 'x-a', 'a\0b'),
  'CRLF in the path': get('/ HTTP/1.1\r\nx: y'),
  'CRLF in the method': [':method', 'GET / HTTP/1.1\r\n', ...get('/').slice(2)],
  'a space before a value': get('/', 'x-a', ' b'),
  'a space in a name': get('/', 'x a', 'b'),
  'a colon in a name': get('/', 'x:a', 'b'),
  'an empty name': get('/', '', 'b'),
  'two content-lengths': post('/', 'content-length', '1', 'content-length', '1'),
  'a list of content-lengths': post('/', 'content-length', '1, 1'),
  'a signed content-length': post('/', 'content-length', '+1'),
};

describe('a malformed request', () => {
  for (const [name, fields] of Object.entries(MALFORMED)) {
    it(`is reset and counted, and neither gate nor application see it: ${name}`, async () => {
      const { request, gate, application, malformed, exchanges } = startSession();
      const response = await request(fields).done();
      assert.equal(response.resetCode, ErrorCode.protocolError);
      assert.equal(response.head, null);
      assert.equal(malformed.length, 1);
      await settle();
      assert.deepEqual(
        exchanges.map(({ status, refusal, detail }) => [status, refusal, detail]),
        [[0, 'malformed-message', malformed[0]]],
      );
      assert.deepEqual(gate.asked, []);
      assert.deepEqual(application.arrived, []);
      // The connection goes on.
      assert.equal((await request(get('/')).done()).field(':status'), '200');
    });
  }

  it('is reset where its body is not what content-length says', async () => {
    for (const [length, body] of [
      ['3', 'four'],
      ['5', 'four'],
    ] as const) {
      const { request, application, malformed, exchanges } = startSession();
      const response = await request(post('/', 'content-length', length), body).done();
      assert.equal(response.resetCode, ErrorCode.protocolError);
      assert.deepEqual(malformed, ['a body other than content-length says']);
      await settle();
      assert.deepEqual(
        exchanges.map(({ refusal }) => refusal),
        ['malformed-message'],
      );
      assert.ok(application.arrived.every((arrived) => !arrived.body.ended && arrived.body.error !== null));
    }
  });

  for (const name of ['host', 'content-length', ':path', 'Upper', 'connection', 'trailer']) {
    it(`is reset where its trailers have ${name}`, async () => {
      const { client, application, malformed } = startSession();
      const call = client.request(grpc('/x'));
      const reader = new Recorder(call);
      call.write(Buffer.from('x'));
      call.endWithTrailers([name, '1']);
      await reader.closed();
      assert.equal((reader.error as Error & { http2Code: number }).http2Code, ErrorCode.protocolError);
      assert.equal(malformed.length, 1);
      await settle();
      assert.ok(application.arrived.every((arrived) => !arrived.body.ended));
    });
  }
});

const REFUSED: Readonly<Record<string, readonly [status: string, reason: string, fields: readonly string[]]>> = {
  CONNECT: ['405', 'connect-refused', [':method', 'CONNECT', ':authority', 'shop:80']],
  TRACE: ['405', 'trace-refused', [':method', 'TRACE', ...get('/').slice(2)]],
  'a lower-case method': ['400', 'bad-method', [':method', 'get', ...get('/').slice(2)]],
  'a long method': ['400', 'bad-method', [':method', 'A'.repeat(33), ...get('/').slice(2)]],
  'another scheme': ['400', 'bad-scheme', [':method', 'GET', ':scheme', 'ftp', ...get('/').slice(4)]],
  'no authority and no host': ['400', 'missing-host', [':method', 'GET', ':scheme', 'http', ':path', '/']],
  'user information in the authority': ['400', 'bad-host', [':method', 'GET', ':scheme', 'http', ':authority', 'a@shop', ':path', '/']],
  'a path in the authority': ['400', 'bad-host', [':method', 'GET', ':scheme', 'http', ':authority', 'shop/admin', ':path', '/']],
  'a port that is none': ['400', 'bad-host', [':method', 'GET', ':scheme', 'http', ':authority', 'shop:99999', ':path', '/']],
  'half an IPv6 address': ['400', 'bad-host', [':method', 'GET', ':scheme', 'http', ':authority', '[::1', ':path', '/']],
  'an escaped NUL': ['400', 'bad-path', get('/a%00b')],
  'half an escape': ['400', 'bad-path', get('/a%2')],
  'a fragment': ['400', 'bad-path', get('/a#b')],
  'a byte that is not ASCII': ['400', 'bad-path', get('/\u00e4')],
  'a name that frames the message for a sloppy server': ['400', 'ambiguous-field-name', get('/', 'content_length', '5')],
  'a name that speaks for the mesh to a sloppy server': ['400', 'ambiguous-field-name', get('/', 'x_forwarded_client_cert', 'By=a')],
  'such a name with one dash': ['400', 'ambiguous-field-name', get('/', 'x-weft_peer', 'a')],
  'a very long path': ['414', 'target-too-long', get(`/${'a'.repeat(8192)}`)],
};

describe('a request that is refused before policy', () => {
  for (const [name, [status, reason, fields]] of Object.entries(REFUSED)) {
    it(`is answered, and nothing is forwarded: ${name}`, async () => {
      const { request, gate, application, exchanges } = startSession();
      const response = await request(fields).done();
      assert.equal(response.field(':status'), status);
      assert.match(response.body.text(), new RegExp(`^weft: ${reason}( \\(.*\\))?\n$`));
      await settle();
      assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal], [Number(status), reason]);
      assert.equal(exchanges[0]?.decision.verdict, 'deny');
      assert.deepEqual(gate.asked, []);
      assert.deepEqual(application.arrived, []);
    });
  }

  it('is answered with 431 for a header list over the limit', async () => {
    const { request, application, malformed, exchanges } = startSession();
    const response = await request(get('/', ...Array.from({ length: 5 }, () => ['x-a', 'a'.repeat(8000)]).flat())).done();
    assert.equal(response.field(':status'), '431');
    assert.equal(malformed.length, 1);
    await settle();
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal], [431, 'head-too-large']);
    assert.deepEqual(application.arrived, []);
  });

  it('is answered in gRPC’s way where it is gRPC', async () => {
    const { request } = startSession();
    const response = await request(grpc('/a%zz'), 'x').done();
    assert.deepEqual(
      [response.field(':status'), response.field('grpc-status'), response.field('grpc-message')],
      ['200', '13', 'weft: bad-path (malformed escape in path)'],
    );
  });
});

describe('a request that the gate refuses', () => {
  it('gets 403, a short text and the name of the policy', async () => {
    const { request, application, exchanges } = startSession();
    const response = await request(post('/admin/x'), 'body').done();
    const body = 'weft: request denied by policy shop/no-admin (matched a DENY rule)\n';
    assert.deepEqual(response.head, [
      ':status',
      '403',
      'content-length',
      String(body.length),
      'content-type',
      'text/plain',
      'x-weft-denied-by',
      'shop/no-admin',
    ]);
    assert.equal(response.body.text(), body);
    await settle();
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal, exchanges[0]?.decision], [403, 'policy-denied', DENIED]);
    assert.deepEqual(application.arrived, []);
  });

  it('gets no body for HEAD, and no name where the header is turned off', async () => {
    const { request } = startSession({ session: { deniedByHeader: false } });
    const response = await request([':method', 'HEAD', ...get('/admin').slice(2)]).done();
    assert.equal(response.field(':status'), '403');
    assert.equal(response.body.bytes, 0);
    assert.equal(response.field('x-weft-denied-by'), undefined);
  });

  it('gets PERMISSION_DENIED in trailers-only form for gRPC', async () => {
    const { request, application, exchanges } = startSession();
    const response = await request(grpc('/admin.Users/Delete'), 'x').done();
    assert.deepEqual(response.head, [
      ':status',
      '200',
      'content-type',
      'application/grpc',
      'grpc-status',
      '7',
      'grpc-message',
      'weft: request denied by policy shop/no-admin (matched a DENY rule)',
      'x-weft-denied-by',
      'shop/no-admin',
    ]);
    assert.equal(response.trailers, null);
    assert.equal(response.body.bytes, 0);
    await settle();
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.grpcStatus, exchanges[0]?.refusal], [200, 7, 'policy-denied']);
    assert.deepEqual(application.arrived, []);
  });

  for (const [status, grpcStatus] of [
    [400, 13],
    [401, 16],
    [403, 7],
    [404, 12],
    [429, 14],
    [502, 14],
    [503, 14],
    [504, 14],
    [418, 2],
  ] as const) {
    it(`gets grpc-status ${grpcStatus} where the gate says ${status}`, async () => {
      const { request, gate } = startSession();
      gate.answer = () => answerOf(DENIED, { refusal: { status, headers: [], body: 'Jwt verification fails' } });
      const response = await request(grpc('/x'), 'x').done();
      assert.deepEqual([response.field('grpc-status'), response.field('grpc-message')], [String(grpcStatus), 'Jwt verification fails']);
      assert.equal((await request(get('/x')).done()).field(':status'), String(status));
    });
  }

  it('gets the gate’s own words, but none that would break the message', async () => {
    const { request, gate } = startSession();
    const headers: [string, string][] = [
      ['WWW-Authenticate', ' Bearer realm="x" '],
      ['location', '/login'],
      ['content-length', '3'],
      ['connection', 'close'],
      [':status', '200'],
      ['x-evil', 'a\r\nb'],
      ['x-weft-denied-by', 'forged'],
      ['content-type', 'text/html'],
    ];
    gate.answer = () => answerOf(DENIED, { refusal: { status: 302, headers, body: '<p>über</p>' } });
    const response = await request(get('/')).done();
    assert.deepEqual(response.head, [
      ':status',
      '302',
      'content-length',
      '12',
      'www-authenticate',
      'Bearer realm="x"',
      'location',
      '/login',
      'content-type',
      'text/html',
      'x-weft-denied-by',
      'shop/no-admin',
    ]);
    assert.equal(Buffer.concat(response.body.chunks).toString('utf8'), '<p>über</p>');
    const call = await request(grpc('/'), 'x').done();
    assert.equal(call.field('content-type'), 'application/grpc');
    assert.equal(call.field('www-authenticate'), 'Bearer realm="x"');
    assert.equal(call.field('grpc-message'), '<p>%C3%BCber</p>');
    gate.answer = () => answerOf(DENIED, { refusal: { status: 204, headers: [], body: 'x' } });
    const none = await request(get('/')).done();
    assert.deepEqual(none.head, [':status', '204', 'x-weft-denied-by', 'shop/no-admin']);
    gate.answer = () => answerOf(DENIED, { refusal: { status: 100, headers: [], body: 'x' } });
    assert.equal((await request(get('/')).done()).field(':status'), '403');
  });

  it('may have a body of any length: what is not read is not waited for', async () => {
    const { client, exchanges, clientOwner } = startSession({ limits: { streamWindow: 65_536 } });
    const upload = client.request(post('/admin'));
    const reader = new Recorder(upload);
    upload.resume();
    for (let i = 0; i < 100; i++) upload.write(Buffer.alloc(65_536));
    await reader.closed();
    assert.equal((reader.error as Error & { http2Code: number }).http2Code, ErrorCode.noError);
    await settle();
    assert.equal(exchanges[0]?.status, 403);
    assert.equal(clientOwner.closed, undefined);
  });

  it('closes where the gate fails: it throws, or breaks its promise never to reject', async () => {
    const { request, gate, application } = startSession();
    gate.answer = () => {
      throw new Error('bug');
    };
    assert.equal((await request(get('/')).done()).field(':status'), '403');
    gate.answer = () => Promise.reject(new Error('bug'));
    assert.equal((await request(grpc('/'), 'x').done()).field('grpc-status'), '7');
    assert.deepEqual(application.arrived, []);
  });
});

describe('a gate that takes its time', () => {
  it('holds the request back, its body up to the window, and then lets it go whole', async () => {
    const { client, gate, application } = startSession({ limits: { streamWindow: 65_536 } });
    const { promise, resolve } = Promise.withResolvers<GateAnswer>();
    gate.answer = () => promise;
    const call = client.request(post('/'));
    const reader = new Recorder(call);
    call.resume();
    const body = Buffer.alloc(300_000, 'x');
    call.write(body);
    call.end();
    await settle(20);
    assert.deepEqual(application.arrived, []);
    assert.ok(call.sendWindow === 0 && call.wantsToSend, 'the client was not stopped by the window');
    resolve(answerOf(ALLOWED));
    await reader.closed();
    assert.equal(reader.bytes, 300_000);
    assert.equal(reader.error, null);
  });

  it('does not hold other requests', async () => {
    const { request, gate } = startSession();
    gate.answer = (head) => (head.path === '/slow' ? new Promise<GateAnswer>(() => {}) : answerOf(ALLOWED));
    request(get('/slow'));
    assert.equal((await request(get('/quick')).done()).field(':status'), '200');
  });

  it('is not waited for by a client that left: nothing is forwarded', async () => {
    const { request, gate, application, exchanges } = startSession();
    const { promise, resolve } = Promise.withResolvers<GateAnswer>();
    gate.answer = () => promise;
    const response = request(get('/'));
    const whole = request(post('/'), 'whole body');
    await settle();
    response.stream.destroy();
    whole.stream.destroy();
    await settle();
    resolve(answerOf(ALLOWED));
    await settle();
    assert.deepEqual(application.arrived, []);
    assert.deepEqual(
      exchanges.map(({ refusal }) => refusal),
      ['downstream-closed', 'downstream-closed'],
    );
  });

  it('is given up request by request', async () => {
    const started = performance.now();
    const { request, gate, exchanges } = startSession({
      limits: { authorisationMillis: 60 },
      session: { timers: new CoarseTimers(10), clock: () => (performance.now() - started) * 1000 },
    });
    gate.answer = () => new Promise<GateAnswer>(() => {});
    const first = request(get('/1'));
    await delay(40);
    const second = request(get('/2'));
    await Promise.all([first.done(), second.done()]);
    await settle();
    assert.ok(
      exchanges.every(({ durationMicros }) => durationMicros >= 60_000),
      exchanges.map(String).join(),
    );
  });

  it('is given up after a while', async () => {
    const started = performance.now();
    const { request, gate, exchanges } = startSession({
      limits: { authorisationMillis: 20 },
      session: { timers: new CoarseTimers(10), clock: () => (performance.now() - started) * 1000 },
    });
    gate.answer = () => new Promise<GateAnswer>(() => {});
    assert.equal((await request(get('/')).done()).field(':status'), '503');
    assert.equal((await request(grpc('/'), 'x').done()).field('grpc-status'), '14');
    await delay(1);
    assert.deepEqual(
      exchanges.map(({ refusal }) => refusal),
      ['authorisation-timeout', 'authorisation-timeout'],
    );
  });
});

describe('headers that the gate changes', () => {
  it('are what the application gets, in trailers too; pseudo-headers stay', async () => {
    const { client, gate, application } = startSession();
    gate.answer = () =>
      answerOf(ALLOWED, {
        change: {
          remove: ['x-forwarded-for', 'x-user'],
          set: [
            ['x-forwarded-for', '10.0.0.1'],
            ['x-user', ' alice '],
          ],
        },
      });
    const call = client.request(post('/', 'x-forwarded-for', '1.1.1.1', 'x-user', 'root', 'x_user', 'toor', 'x-keep', '1'));
    const reader = new Recorder(call);
    call.resume();
    call.endWithTrailers(['x-user', 'root', 'x-sum', '3']);
    await reader.closed();
    const [arrived] = application.arrived;
    assert.deepEqual(arrived?.fields, post('/', 'x-keep', '1', 'x-forwarded-for', '10.0.0.1', 'x-user', 'alice'));
    assert.deepEqual(arrived?.trailers, ['x-sum', '3']);
  });

  it('may not be those that frame or route a message, nor break it: the request is refused', async () => {
    const { request, gate, application } = startSession();
    for (const set of [
      ['content-length', '0'],
      ['host', 'other'],
      [':path', '/admin'],
      ['X-Upper', '1'],
      ['x-a', 'a\r\nb'],
      ['x-a', '\u20ac'],
    ] as const) {
      gate.answer = () => answerOf(ALLOWED, { change: { remove: [], set: [set] } });
      assert.equal((await request(get('/')).done()).field(':status'), '403', set.join());
    }
    assert.deepEqual(application.arrived, []);
  });

  it('do not include those that are for a proxy: the application never gets them', async () => {
    const { request, application } = startSession();
    await request(get('/', 'proxy-authorization', 'Basic x', 'http2-settings', 'AAMAAABk', 'x-a', '1')).done();
    assert.deepEqual(application.arrived[0]?.fields, get('/', 'x-a', '1'));
  });
});

describe('an application that does not speak HTTP/2', () => {
  for (const [name, answer] of [
    ['speaks HTTP/1.1', 'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'],
    ['closes', null],
  ] as const) {
    it(`means 503, or UNAVAILABLE, and no request has reached it: it ${name}`, async () => {
      const { request, applicationEnd, exchanges, clientOwner } = startSession({ rawApplication: true });
      const server = new StreamRecorder(applicationEnd);
      const plain = request(get('/secret'));
      const call = request(grpc('/secret'), 'x');
      await settle();
      assert.ok(server.text().startsWith('PRI * HTTP/2.0'));
      assert.ok(!server.text().includes('secret'));
      if (answer === null) applicationEnd.end();
      else server.send(answer);
      await Promise.all([plain.done(), call.done()]);
      assert.equal(plain.field(':status'), '503');
      assert.deepEqual(
        [call.field(':status'), call.field('grpc-status'), call.field('grpc-message')],
        ['200', '14', 'weft: upstream-not-http2'],
      );
      await settle();
      assert.deepEqual(
        exchanges.map(({ refusal }) => refusal),
        ['upstream-not-http2', 'upstream-not-http2'],
      );
      assert.notEqual(clientOwner.goaway, null);
    });
  }

  it('or never answers at all', async () => {
    const { request, exchanges } = startSession({ rawApplication: true, limits: { upstreamReadyMillis: 30 } });
    assert.equal((await request(get('/')).done()).field(':status'), '503');
    await settle();
    assert.equal(exchanges[0]?.refusal, 'upstream-not-http2');
  });

  it('an unreachable application is not called that', async () => {
    const { request, applicationEnd, exchanges } = startSession({ rawApplication: true });
    const response = request(get('/'));
    await settle(1);
    applicationEnd.destroy();
    assert.equal((await response.done()).field(':status'), '503');
    await settle();
    assert.equal(exchanges[0]?.refusal, 'upstream-closed');
  });

  it('without any, what policy denies is denied and all else is 503', async () => {
    const { request, exchanges } = startSession({ withoutUpstream: true });
    assert.equal((await request(get('/admin')).done()).field(':status'), '403');
    assert.equal((await request(get('/')).done()).field(':status'), '503');
    await settle();
    assert.deepEqual(
      exchanges.map(({ refusal }) => refusal),
      ['policy-denied', 'no-upstream'],
    );
  });

  it('a malformed answer is 502, or a reset where it had begun', async () => {
    const { request, application, exchanges } = startSession();
    application.onRequest = ({ stream, fields }) => {
      if (fields.includes('/head')) stream.respond([':status', '200', 'Bad Name', 'x'], true);
      else if (fields.includes('/bodiless')) {
        stream.respond([':status', '204']);
        stream.write(Buffer.from('body'));
      } else {
        stream.respond([':status', '200', 'content-length', '2']);
        stream.write(Buffer.from('body'));
        stream.end();
      }
    };
    assert.equal((await request(get('/head')).done()).field(':status'), '502');
    assert.equal((await request(get('/length')).done()).resetCode, ErrorCode.internalError);
    assert.equal((await request(get('/bodiless')).done()).resetCode, ErrorCode.internalError);
    assert.equal((await request(grpc('/head'), 'x').done()).field('grpc-status'), '14');
    await settle();
    assert.ok(exchanges.every(({ refusal }) => refusal === 'upstream-malformed'));
  });
});
