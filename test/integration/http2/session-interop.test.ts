import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import http2 from 'node:http2';
import net, { type AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import type { HttpExchange } from '../../../proxy/http-exchange.ts';
import { Http2Session } from '../../../proxy/http2/session.ts';
import { DEFAULT_HTTP2_SESSION_LIMITS } from '../../../proxy/http2/session-limits.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import { TestGate } from '../../unit/http2/session-fixture.ts';

const run = promisify(execFile);

/** A proxy on loopback: one Http2Session for each connection, in front of an application's port. */
class Proxy implements AsyncDisposable {
  readonly gate = new TestGate();
  readonly exchanges: Pick<HttpExchange, 'path' | 'status' | 'refusal' | 'grpcStatus'>[] = [];
  readonly malformed: string[] = [];
  readonly sessions = new Set<Http2Session>();
  readonly #server: net.Server;
  #empty: (() => void) | null = null;

  constructor(applicationPort: number) {
    this.#server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      const upstream = net.connect({ port: applicationPort, host: '127.0.0.1', allowHalfOpen: true });
      const session = new Http2Session({
        downstream: new SocketByteStream(socket),
        upstream: new SocketByteStream(upstream),
        gate: () => this.gate,
        normalisation: () => 'base',
        onExchange: ({ path, status, refusal, grpcStatus = null }) => void this.exchanges.push({ path, status, refusal, grpcStatus }),
        onMalformed: (reason) => void this.malformed.push(reason),
        onClose: () => {
          this.sessions.delete(session);
          if (this.sessions.size === 0) this.#empty?.();
        },
        limits: DEFAULT_HTTP2_SESSION_LIMITS,
        deniedByHeader: true,
        clock: () => performance.now() * 1000,
      });
      this.sessions.add(session);
      session.start(null);
    });
  }

  async listen(): Promise<number> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.sessions) session.destroy(new Error('the test is over'));
    this.#server.close();
    await once(this.#server, 'close');
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#empty = resolve;
    if (this.sessions.size > 0) await promise;
  }
}

/** A node:http2 application: sends its SETTINGS as soon as it accepts. */
function startApplication(): http2.Http2Server {
  const server = http2.createServer();
  server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
    stream.on('error', () => {});
    switch (headers[':path']) {
      case '/large':
        stream.respond({ ':status': 200 });
        stream.end(Buffer.alloc(3 << 20, 0x78));
        break;
      case '/echo':
        stream.respond({ ':status': 200 });
        stream.pipe(stream);
        break;
      case '/shop.Chat/Talk':
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'x-deadline': String(headers['grpc-timeout']) }));
        stream.on('data', (chunk: Buffer) => stream.write(chunk));
        stream.on('end', () => stream.end());
        break;
      case '/hints':
        stream.additionalHeaders({ ':status': 103, link: '</a.css>' });
        stream.respond({ ':status': 200 }, { endStream: true });
        break;
      case '/reset':
        stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
        break;
      default:
        stream.respond({ ':status': 200, 'content-type': 'text/plain' });
        stream.end(`hello ${headers[':path']}\n`);
    }
  });
  return server;
}

let application: http2.Http2Server;
let applicationPort: number;
before(async () => {
  application = startApplication();
  application.listen(0, '127.0.0.1');
  await once(application, 'listening');
  applicationPort = (application.address() as AddressInfo).port;
});
after(async () => {
  application.close();
  await once(application, 'close');
});

interface Answer {
  status: number | undefined;
  headers: http2.IncomingHttpHeaders;
  trailers: http2.IncomingHttpHeaders;
  bytes: number;
  text: string;
  error: NodeJS.ErrnoException | null;
  code: number;
}

async function ask(session: http2.ClientHttp2Session, headers: http2.OutgoingHttpHeaders, body?: Buffer): Promise<Answer> {
  const stream = session.request(headers, { endStream: body === undefined });
  const answer: Answer = { status: undefined, headers: {}, trailers: {}, bytes: 0, text: '', error: null, code: 0 };
  stream.on('response', (fields) => {
    answer.status = fields[':status'];
    answer.headers = fields;
  });
  stream.on('trailers', (fields) => (answer.trailers = fields));
  stream.on('data', (chunk: Buffer) => {
    answer.bytes += chunk.length;
    if (answer.text.length < 1000) answer.text += chunk.toString('latin1');
  });
  stream.on('error', (error) => (answer.error = error));
  if (body !== undefined) stream.end(body);
  await once(stream, 'close').catch(() => {});
  answer.code = stream.rstCode ?? 0;
  return answer;
}

describe('a node:http2 client and a node:http2 application with a session between', () => {
  it('requests, large bodies both ways, bidirectional gRPC with trailers, hints, refusals, resets', async () => {
    await using proxy = new Proxy(applicationPort);
    const session = http2.connect(`http://127.0.0.1:${await proxy.listen()}`);
    session.on('error', () => {});
    assert.equal((await ask(session, { ':path': '/a/../b' })).text, 'hello /b\n');
    assert.equal((await ask(session, { ':path': '/large' })).bytes, 3 << 20);
    const echoed = await ask(session, { ':path': '/echo', ':method': 'POST' }, Buffer.alloc(5 << 20, 0x61));
    assert.equal(echoed.bytes, 5 << 20);
    const talk = session.request({
      ':path': '/shop.Chat/Talk',
      ':method': 'POST',
      'content-type': 'application/grpc',
      te: 'trailers',
      'grpc-timeout': '5S',
    });
    const trailers = once(talk, 'trailers') as Promise<[http2.IncomingHttpHeaders]>;
    for (const word of ['one', 'two']) {
      talk.write(word);
      const [chunk] = (await once(talk, 'data')) as [Buffer];
      assert.equal(chunk.toString(), word);
    }
    talk.end();
    const [fields] = await trailers;
    assert.deepEqual([fields['grpc-status'], fields['x-deadline']], ['0', '5S']);
    const denied = await ask(session, { ':path': '/admin' });
    assert.deepEqual([denied.status, denied.headers['x-weft-denied-by']], [403, 'shop/no-admin']);
    const call = await ask(session, { ':path': '/admin', ':method': 'POST', 'content-type': 'application/grpc' }, Buffer.alloc(100_000));
    assert.deepEqual([call.status, call.headers['grpc-status']], [200, '7']);
    assert.equal((await ask(session, { ':path': '/reset' })).code, http2.constants.NGHTTP2_INTERNAL_ERROR);
    const hinted = session.request({ ':path': '/hints' });
    const [hints] = (await once(hinted, 'headers')) as [http2.IncomingHttpHeaders];
    assert.equal(hints['link'], '</a.css>');
    hinted.resume();
    await once(hinted, 'close');
    session.close();
    await once(session, 'close');
    assert.deepEqual(proxy.malformed, []);
    assert.deepEqual(
      proxy.exchanges.find(({ path }) => path === '/shop.Chat/Talk'),
      { path: '/shop.Chat/Talk', status: 200, refusal: null, grpcStatus: 0 },
    );
  });

  it('a client that stops reading one response gets the others', async () => {
    await using proxy = new Proxy(applicationPort);
    const session = http2.connect(`http://127.0.0.1:${await proxy.listen()}`, { settings: { initialWindowSize: 65_535 } });
    session.on('error', () => {});
    await once(session, 'connect');
    session.setLocalWindowSize(10 << 20);
    const slow = session.request({ ':path': '/large' });
    slow.pause();
    await once(slow, 'response');
    for (let i = 0; i < 5; i++) assert.equal((await ask(session, { ':path': '/large' })).bytes, 3 << 20);
    let bytes = 0;
    slow.on('data', (chunk: Buffer) => (bytes += chunk.length));
    slow.resume();
    await once(slow, 'close');
    assert.equal(bytes, 3 << 20);
    session.destroy();
  });

  it('an application that shuts down: what is open ends well, and the client is told to go elsewhere', async () => {
    const server = http2.createServer();
    const sessions: http2.ServerHttp2Session[] = [];
    server.on('session', (opened) => sessions.push(opened));
    const held = Promise.withResolvers<http2.ServerHttp2Stream>();
    server.on('stream', (stream: http2.ServerHttp2Stream) => held.resolve(stream));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    await using proxy = new Proxy((server.address() as AddressInfo).port);
    const session = http2.connect(`http://127.0.0.1:${await proxy.listen()}`);
    session.on('error', () => {});
    const answer = ask(session, { ':path': '/held' });
    const stream = await held.promise;
    const goaway = once(session, 'goaway');
    for (const each of sessions) each.close();
    await goaway;
    stream.respond({ ':status': 200 });
    stream.end('done');
    assert.equal((await answer).text, 'done');
    await once(session, 'close');
    server.close();
  });

  it('an application that speaks HTTP/1.1 only: 503, and UNAVAILABLE for gRPC', async () => {
    const server = net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n'));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    await using proxy = new Proxy((server.address() as AddressInfo).port);
    const session = http2.connect(`http://127.0.0.1:${await proxy.listen()}`);
    session.on('error', () => {});
    const [plain, call] = await Promise.all([
      ask(session, { ':path': '/' }),
      ask(session, { ':path': '/', ':method': 'POST', 'content-type': 'application/grpc+proto' }, Buffer.alloc(5)),
    ]);
    assert.equal(plain.status, 503);
    assert.equal(call.headers['grpc-status'], '14');
    session.destroy();
    server.close();
  });
});

describe('nghttp2’s tools through a session', () => {
  it('h2load: 2000 requests on two connections with 100 streams each, none fails; then as many that policy denies', async () => {
    await using proxy = new Proxy(applicationPort);
    const port = await proxy.listen();
    const { stdout } = await run('h2load', ['-n', '2000', '-c', '2', '-m', '100', `http://127.0.0.1:${port}/items`]);
    assert.match(stdout, /2000 succeeded, 0 failed, 0 errored/);
    assert.match(stdout, /status codes: 2000 2xx/);
    const denied = await run('h2load', ['-n', '2000', '-c', '2', '-m', '100', `http://127.0.0.1:${port}/admin`]);
    assert.match(denied.stdout, /status codes: 0 2xx, 0 3xx, 2000 4xx/);
    assert.equal(proxy.exchanges.length, 4000);
    assert.deepEqual(proxy.malformed, []);
  });

  it('nghttp: an upload, a large response, padding and CONTINUATION', async () => {
    await using proxy = new Proxy(applicationPort);
    const port = await proxy.listen();
    const { stdout } = await run('nghttp', ['-v', '-n', '--no-dep', '--continuation', '--padding=100', `http://127.0.0.1:${port}/large`], {
      maxBuffer: 8 << 20,
    });
    assert.ok(stdout.includes(':status: 200'));
    const upload = await run('nghttp', ['-v', '--no-dep', '-d', import.meta.filename, `http://127.0.0.1:${port}/echo`], {
      maxBuffer: 8 << 20,
    });
    assert.ok(upload.stdout.includes('an upload, a large response'));
    const bad = await run('nghttp', ['-v', '--no-dep', '-H', 'connection: close', `http://127.0.0.1:${port}/`], { maxBuffer: 8 << 20 });
    assert.ok(bad.stdout.includes('PROTOCOL_ERROR'));
    assert.deepEqual(proxy.malformed, ['connection does not exist in HTTP/2']);
  });
});
