import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { ErrorCode } from '../../../src/transport/http2/errors.ts';
import { settle } from '../../kit/stream-recorder.ts';
import { Recorder } from '../tunnel/recorder.ts';
import { type Arrived, answerOf, ALLOWED, closeSessions, get, grpc, post, startSession } from './session-fixture.ts';

afterEach(closeSessions);

/** The code with which a request's stream ended at the application. */
function errorCode(arrived: Arrived | undefined): number | undefined {
  return (arrived?.body.error as (Error & { http2Code: number }) | undefined)?.http2Code;
}

describe('a request through an HTTP/2 session', () => {
  it('reaches the application as it was sent, and so does the answer; the exchange is reported', async () => {
    const { request, application, gate, exchanges } = startSession();
    const fields = post('/items?x=1', 'x-a', '1', 'cookie', 'a=b', 'cookie', 'c=d', 'te', 'trailers');
    const response = await request(fields, 'hello').done();
    assert.deepEqual(response.head, [':status', '200', 'content-type', 'text/plain']);
    assert.equal(response.body.text(), 'hello');
    assert.equal(response.body.error, null);
    assert.deepEqual(application.arrived[0]?.fields, fields);
    assert.deepEqual(gate.asked, ['POST shop /items ?x=1']);
    await settle();
    assert.equal(exchanges.length, 1);
    const exchange = exchanges[0] as (typeof exchanges)[number];
    assert.deepEqual(
      [exchange.method, exchange.path, exchange.host, exchange.status, exchange.refusal, exchange.decision],
      ['POST', '/items', 'shop', 200, null, ALLOWED],
    );
    assert.equal(exchange.grpcStatus, undefined);
    assert.equal(exchange.requestBytes, fields.join('').length + 5);
    assert.equal(exchange.responseBytes, ':status200content-typetext/plain'.length + 5);
    assert.ok(exchange.durationMicros > 0);
  });

  it('goes upstream with the normalised path, which is the one the gate saw', async () => {
    const { request, application, gate } = startSession();
    await request(get('/a/./b/../%63?q=/../x')).done();
    assert.deepEqual(gate.asked, ['GET shop /a/c ?q=/../x']);
    assert.equal(application.arrived[0]?.fields.at(-1), '/a/c?q=/../x');
  });

  it('is normalised as far as the mesh says', async () => {
    const { request, gate } = startSession({ session: { normalisation: () => 'decode-and-merge-slashes' } });
    await request(get('/a%2F/b')).done();
    assert.deepEqual(gate.asked, ['GET shop /a/b']);
  });

  it('has no more frames upstream than it needs: the end of a request without body comes with its head', async () => {
    const { request, application } = startSession();
    let ended: boolean | null = null;
    const onStream = application.onStream.bind(application);
    application.onStream = (stream, head, fields, ...rest: unknown[]) => {
      ended = rest[0] as boolean;
      onStream(stream, head, fields);
    };
    await request(get('/')).done();
    assert.equal(ended, true);
  });

  it('does not carry what a server that merges trailers into the head would take for what policy saw', async () => {
    const { client, application } = startSession();
    const call = client.request(post('/'));
    const reader = new Recorder(call);
    call.resume();
    call.endWithTrailers([
      'x-checksum',
      '12',
      'authorization',
      'Bearer a',
      'cookie',
      'a=b',
      'x-forwarded-client-cert',
      'By=a',
      'x_weft_peer',
      'a',
      'content_type',
      'text/plain',
    ]);
    await reader.closed();
    assert.deepEqual(application.arrived[0]?.trailers, ['x-checksum', '12']);
  });

  it('carries trailers both ways', async () => {
    const { client, request, application, exchanges } = startSession();
    application.onRequest = ({ stream, body }) => {
      stream.respond([':status', '200', 'content-type', 'application/grpc']);
      stream.write(Buffer.from('part'));
      void body.until(() => body.ended).then(() => stream.endWithTrailers(['grpc-status', '5', 'grpc-message', 'no such item']));
    };
    const call = client.request(grpc('/shop.Items/Get'));
    const reader = new Recorder(call);
    let trailers: string[] = [];
    call.onTrailers = (fields) => (trailers = fields);
    call.resume();
    call.write(Buffer.from('question'));
    call.endWithTrailers(['x-checksum', '12']);
    await reader.closed();
    assert.deepEqual(trailers, ['grpc-status', '5', 'grpc-message', 'no such item']);
    assert.deepEqual(application.arrived[0]?.trailers, ['x-checksum', '12']);
    assert.equal(application.arrived[0]?.body.text(), 'question');
    await settle();
    assert.equal(exchanges[0]?.grpcStatus, 5);
    assert.equal(exchanges[0]?.status, 200);
    assert.equal(exchanges[0]?.refusal, null);
    const only = request(grpc('/shop.Items/Fail'), 'x');
    application.onRequest = ({ stream }) => stream.respond([':status', '200', 'grpc-status', '12'], true);
    await only.done();
    await settle();
    assert.equal(exchanges[1]?.grpcStatus, 12);
  });

  it('gets interim answers, and HEAD an answer with a length and no body', async () => {
    const { request, application } = startSession();
    application.onRequest = ({ stream }) => {
      stream.respond([':status', '100']);
      stream.respond([':status', '103', 'link', '</a>']);
      stream.respond([':status', '200', 'content-length', '5'], true);
    };
    const response = await request([':method', 'HEAD', ...get('/').slice(2)]).done();
    assert.deepEqual(response.interim, [
      [':status', '100'],
      [':status', '103', 'link', '</a>'],
    ]);
    assert.deepEqual(response.head, [':status', '200', 'content-length', '5']);
    assert.equal(response.body.bytes, 0);
  });

  it('streams in both directions at once, message by message', async () => {
    const { client, application } = startSession();
    application.onRequest = ({ stream, body }) => {
      stream.respond([':status', '200', 'content-type', 'application/grpc']);
      const onData = body.onData.bind(body);
      body.onData = (chunk) => {
        onData(chunk);
        stream.write(Buffer.from(`<${chunk.toString()}>`));
      };
      void body.until(() => body.ended).then(() => stream.endWithTrailers(['grpc-status', '0']));
    };
    const call = client.request(grpc('/chat'));
    const reader = new Recorder(call);
    call.resume();
    for (const word of ['one', 'two', 'three']) {
      call.write(Buffer.from(word));
      await reader.until(() => reader.text().endsWith(`<${word}>`));
    }
    call.end();
    await reader.closed();
    assert.equal(reader.text(), '<one><two><three>');
    assert.equal(reader.error, null);
  });

  it('may be answered before it has ended: the rest is not waited for', async () => {
    const { client, application, exchanges } = startSession();
    application.onRequest = ({ stream }) => {
      stream.respond([':status', '413', 'content-length', '3']);
      stream.write(Buffer.from('big'));
      stream.end();
      stream.finish();
    };
    const upload = client.request(post('/upload'));
    const reader = new Recorder(upload);
    upload.resume();
    upload.write(Buffer.alloc(1000));
    await reader.closed();
    assert.equal(reader.text(), 'big');
    assert.equal((reader.error as Error & { http2Code: number }).http2Code, ErrorCode.noError);
    await settle();
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal], [413, null]);
  });

  it('may be answered whole while its own end waits for the application to read', async () => {
    const { request, session, application, exchanges } = startSession({ application: { streamWindow: 1000 } });
    application.onRequest = ({ stream }) => {
      stream.pause();
      setImmediate(() => {
        stream.respond([':status', '200'], true);
        stream.finish();
      });
    };
    const response = await request(post('/'), Buffer.alloc(100_000)).done();
    assert.equal(response.field(':status'), '200');
    await settle();
    assert.equal(session.activeStreams, 0);
    assert.deepEqual(
      exchanges.map(({ status, refusal }) => [status, refusal]),
      [[200, null]],
    );
  });

  it('may go on after its answer has ended', async () => {
    const { client, application } = startSession();
    application.onRequest = ({ stream }) => stream.respond([':status', '200'], true);
    const upload = client.request(post('/upload'));
    const reader = new Recorder(upload);
    upload.resume();
    await reader.until(() => reader.ended);
    upload.write(Buffer.from('late'));
    upload.end();
    await reader.closed();
    assert.equal(reader.error, null);
    await settle();
    assert.equal(application.arrived[0]?.body.text(), 'late');
    assert.equal(application.arrived[0]?.body.error, null);
  });

  it('names the host by Host where there is no :authority, for the gate too', async () => {
    const { request, gate, application } = startSession();
    const seen: unknown[] = [];
    gate.answer = (head) => {
      seen.push(head.host, head.header('host'), head.header('x-a'), [...head.headers()], head.scheme, head.query, head.hasTrustHeaders);
      return answerOf(ALLOWED);
    };
    await request([':method', 'GET', ':scheme', 'http', ':path', '/?', 'host', 'Shop:80', 'x-a', '1', 'x-a', '2']).done();
    assert.deepEqual(seen, [
      'shop:80',
      ['Shop:80'],
      ['1', '2'],
      [
        ['host', 'Shop:80'],
        ['x-a', '1'],
        ['x-a', '2'],
      ],
      'http',
      '',
      false,
    ]);
    assert.ok(application.arrived[0]?.fields.includes('Shop:80'));
    seen.length = 0;
    await request(get('/', 'x-forwarded-for', '1.1.1.1')).done();
    assert.deepEqual([seen[1], seen[6]], [['shop'], true]);
  });
});

describe('resets', () => {
  for (const [name, code] of [
    ['CANCEL', ErrorCode.cancel],
    ['INTERNAL_ERROR', ErrorCode.internalError],
    ['ENHANCE_YOUR_CALM', ErrorCode.enhanceYourCalm],
  ] as const) {
    it(`of the client reach the application: ${name}`, async () => {
      const { client, application, exchanges } = startSession();
      application.onRequest = () => {};
      const call = client.request(grpc('/watch'));
      call.attach(new Recorder());
      await settle();
      call.reset(code);
      await settle();
      assert.equal(errorCode(application.arrived[0]), code);
      assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal], [0, 'downstream-closed']);
    });

    it(`of the application reach the client: ${name}`, async () => {
      const { request, application, exchanges } = startSession();
      application.onRequest = ({ stream }) => stream.reset(code);
      const response = await request(grpc('/x'), 'body').done();
      assert.equal(response.resetCode, code);
      await settle();
      assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal], [0, 'upstream-reset']);
    });
  }

  it('that say "try again elsewhere" stay what they are, and errors of one hop become CANCEL or INTERNAL_ERROR on the other', async () => {
    const { request, client, application } = startSession();
    application.onRequest = ({ stream }) => stream.reset(ErrorCode.refusedStream);
    assert.equal((await request(get('/')).done()).resetCode, ErrorCode.refusedStream);
    application.onRequest = ({ stream }) => stream.reset(ErrorCode.flowControlError);
    assert.equal((await request(get('/')).done()).resetCode, ErrorCode.internalError);
    application.onRequest = () => {};
    for (const code of [ErrorCode.streamClosed, ErrorCode.refusedStream, ErrorCode.noError]) {
      const call = client.request(post('/'));
      call.attach(new Recorder());
      await settle();
      call.reset(code);
      await settle();
      assert.equal(errorCode(application.arrived.at(-1)), ErrorCode.cancel);
    }
  });

  it('of a client whose whole request is there already cancel it at once, also while the application does not read', async () => {
    const { client, application } = startSession();
    application.onRequest = ({ stream }) => stream.pause();
    const call = client.request(post('/'));
    call.attach(new Recorder());
    call.write(Buffer.alloc(2 << 20));
    await settle(20);
    call.destroy();
    await settle();
    assert.ok(application.arrived[0]?.body.error instanceof Error);
  });

  it('in the middle of an answer reach the client', async () => {
    const { request, application } = startSession();
    application.onRequest = ({ stream }) => {
      stream.respond([':status', '200']);
      stream.write(Buffer.from('half'));
      setImmediate(() => setImmediate(() => stream.reset(ErrorCode.internalError)));
    };
    const response = await request(get('/')).done();
    assert.equal(response.body.text(), 'half');
    assert.equal(response.resetCode, ErrorCode.internalError);
    assert.equal(response.body.ended, false);
  });
});

describe('the end of connections', () => {
  it('an application that goes away lets the client finish what is open, and sends it to a new connection', async () => {
    const { client, clientOwner, request, application, applicationConnection, closes } = startSession();
    application.onRequest = () => {};
    const open = request(get('/slow'));
    await settle();
    applicationConnection?.drain(5000);
    await settle(12);
    assert.equal(clientOwner.goaway, ErrorCode.noError);
    assert.equal(client.availableStreams, 0);
    const arrived = application.arrived[0];
    arrived?.stream.respond([':status', '200']);
    arrived?.stream.end();
    await open.done();
    assert.equal(open.field(':status'), '200');
    await settle(12);
    assert.deepEqual(closes, [null]);
    assert.equal(clientOwner.closed, null);
  });

  it('what waits for an application that goes away is refused so that the client may try again', async () => {
    const { request, application, applicationConnection, exchanges } = startSession({ application: { maxConcurrentStreams: 1 } });
    application.onRequest = () => {};
    request(get('/open'));
    await settle();
    const waiting = request(get('/waiting'));
    await settle();
    applicationConnection?.drain(5000);
    await waiting.done();
    assert.equal(waiting.resetCode, ErrorCode.refusedStream);
    await settle();
    assert.equal(exchanges[0]?.refusal, 'upstream-draining');
    assert.equal(application.arrived.length, 1);
  });

  it('an idle application that closes closes the client’s connection in order', async () => {
    const { request, clientOwner, applicationConnection, closes } = startSession();
    await request(get('/')).done();
    applicationConnection?.destroy();
    await settle(12);
    assert.equal(clientOwner.closed, null);
    assert.equal(closes.length, 1);
  });

  it('a client that leaves ends its requests at the application', async () => {
    const { client, request, application, closes, exchanges } = startSession();
    application.onRequest = () => {};
    request(get('/a'));
    request(post('/b'), 'body');
    await settle();
    client.destroy();
    await settle(12);
    assert.ok(application.arrived.every(({ body }) => body.error !== null));
    assert.equal(closes.length, 1);
    assert.deepEqual(
      exchanges.map(({ path, refusal }) => [path, refusal]),
      [
        ['/a', 'downstream-closed'],
        ['/b', 'downstream-closed'],
      ],
    );
    assert.notEqual(application.closed, undefined);
  });

  it('a client that left without a request gives the application an orderly end', async () => {
    const { client, applicationEnd, closes } = startSession({ rawApplication: true });
    const reader = new Recorder(applicationEnd);
    applicationEnd.resume();
    await settle();
    client.destroy();
    await reader.until(() => reader.ended);
    assert.equal(reader.bytes, 0, 'the application was told nothing');
    applicationEnd.end();
    await reader.closed();
    assert.equal(reader.error, null);
    await settle();
    assert.deepEqual(closes, [null]);
  });

  it('an application that does not close a connection which nobody used is cut', async () => {
    const { client, applicationEnd, closes } = startSession({ rawApplication: true });
    const reader = new Recorder(applicationEnd);
    applicationEnd.resume();
    await settle();
    client.destroy();
    await reader.closed();
    await settle();
    assert.equal(closes.length, 1);
  });

  it('drain lets open requests finish, and refuses none that was on its way', async () => {
    const { session, request, application, clientOwner, closes } = startSession();
    application.onRequest = () => {};
    const open = request(get('/open'));
    await settle();
    session.drain();
    const onItsWay = request(get('/late'));
    await settle();
    for (const { stream } of application.arrived) stream.respond([':status', '200'], true);
    await open.done();
    await onItsWay.done();
    assert.deepEqual([open.field(':status'), onItsWay.field(':status')], ['200', '200']);
    await settle(12);
    assert.equal(clientOwner.goaway, ErrorCode.noError);
    assert.deepEqual(closes, [null]);
  });

  it('destroy ends both sides and reports what was open', async () => {
    const { session, request, application, exchanges, closes } = startSession();
    application.onRequest = () => {};
    const open = request(get('/open'));
    await settle();
    const why = new Error('the workload is gone');
    session.destroy(why);
    await open.done();
    await settle(12);
    assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal, exchanges[0]?.detail], [0, 'session-closed', 'the workload is gone']);
    assert.deepEqual(closes, [why]);
    assert.ok(application.arrived[0]?.body.error instanceof Error);
  });

  it('the application is lost: 503 where no answer had begun, a reset or gRPC UNAVAILABLE where one had', async () => {
    const { request, application, applicationEnd, exchanges } = startSession();
    application.onRequest = ({ stream, fields }) => {
      if (fields.includes('/begun')) stream.respond([':status', '200']);
      if (fields.includes('/begun')) stream.write(Buffer.from('half'));
    };
    const plain = request(get('/new'));
    const call = request(grpc('/new'), 'x');
    const begun = request(get('/begun'));
    const stream = request(grpc('/begun'), 'x');
    await settle();
    applicationEnd.destroy();
    await Promise.all([plain.done(), call.done(), begun.done(), stream.done()]);
    assert.equal(plain.field(':status'), '503');
    assert.deepEqual([call.field(':status'), call.field('grpc-status')], ['200', '14']);
    assert.equal(begun.resetCode, ErrorCode.internalError);
    assert.deepEqual([stream.body.text(), stream.field('grpc-status')], ['half', '14']);
    await settle();
    assert.deepEqual(
      exchanges.map(({ status, grpcStatus, refusal }) => [status, grpcStatus, refusal]).toSorted(),
      [
        [503, undefined, 'upstream-closed'],
        [200, 14, 'upstream-closed'],
        [0, undefined, 'upstream-truncated'],
        [200, 14, 'upstream-truncated'],
      ].toSorted(),
    );
  });
});

describe('an application that takes few streams at once', () => {
  it('gets the others in order as streams end', async () => {
    const { request, application } = startSession({ application: { maxConcurrentStreams: 2 } });
    application.onRequest = () => {};
    const responses = ['/1', '/2', '/3', '/4', '/5'].map((path) => request(get(path)));
    await settle();
    assert.equal(application.arrived.length, 2);
    for (let i = 0; i < 5; i++) {
      application.arrived[i]?.stream.respond([':status', '200'], true);
      await settle();
    }
    for (const response of responses) assert.equal((await response.done()).field(':status'), '200');
    assert.deepEqual(
      application.arrived.map(({ fields }) => fields.at(-1)),
      ['/1', '/2', '/3', '/4', '/5'],
    );
  });

  it('is not sent what was cancelled while it waited', async () => {
    const { request, application, exchanges } = startSession({ application: { maxConcurrentStreams: 1 } });
    application.onRequest = () => {};
    request(get('/1'));
    const cancelled = request(get('/2'));
    request(get('/3'));
    await settle();
    cancelled.stream.destroy();
    await settle();
    application.arrived[0]?.stream.respond([':status', '200'], true);
    await settle();
    assert.deepEqual(
      application.arrived.map(({ fields }) => fields.at(-1)),
      ['/1', '/3'],
    );
    assert.deepEqual(
      exchanges.map(({ path, refusal }) => [path, refusal]),
      [
        ['/2', 'downstream-closed'],
        ['/1', null],
      ],
    );
  });
});
