import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { Http2Connection } from '../../../src/transport/http2/connection.ts';
import type { Http2Options } from '../../../src/transport/http2/connection.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import { CLIENT_ID, connect, echo, SERVER_ID, TunnelHost, TunnelWorld } from './tunnel-world.ts';
import { pemKey } from '../../unit/certs/forge.ts';

const run = promisify(execFile);

describe('the tunnel and node:http2', () => {
  let world: TunnelWorld;
  before(async () => {
    world = await TunnelWorld.make();
  });
  after(() => world[Symbol.dispose]());

  function material(identity: string): { key: string; cert: string; ca: string } {
    const svid = world.mirror.current(identity);
    assert.ok(svid !== null);
    return { key: pemKey(svid.privateKey), cert: svid.certificateChain, ca: world.root.pem };
  }

  it('a node:http2 client is served: CONNECT, echo of 5 MiB, half-close, refusal, PING', async () => {
    await using host = await new TunnelHost(world, (request, responder) => {
      if (request.port === 1) responder.refuse(401, { 'x-weft-denied-by': 'ns/p' });
      else echo(request, responder);
    }).listen();
    const session = http2.connect(`https://127.0.0.1:${host.port}`, { ...material(CLIENT_ID), checkServerIdentity: () => undefined });
    session.on('error', () => {});
    const stream = session.request({ ':method': 'CONNECT', ':authority': '[fd00::1]:80', baggage: 'k8s.namespace.name=shop' });
    const [headers] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders & { ':status': number }];
    assert.equal(headers[':status'], 200);
    let received = 0;
    stream.on('data', (chunk: Buffer) => (received += chunk.length));
    stream.end(Buffer.alloc(5 << 20));
    await once(stream, 'close');
    assert.equal(received, 5 << 20);
    const denied = session.request({ ':method': 'CONNECT', ':authority': '10.0.0.1:1' });
    denied.on('error', () => {});
    const [refusal] = (await once(denied, 'response')) as [http2.IncomingHttpHeaders & { ':status': number }];
    assert.equal(refusal[':status'], 401);
    assert.equal(refusal['x-weft-denied-by'], 'ns/p');
    const get = session.request({ ':method': 'GET', ':path': '/' });
    get.on('error', () => {});
    const [wrong] = (await once(get, 'response')) as [http2.IncomingHttpHeaders & { ':status': number }];
    assert.equal(wrong[':status'], 400);
    assert.equal((await host.firstRefusal()).reason, 'not_connect');
    await new Promise<void>((resolve, reject) => {
      session.ping((error) => (error === null ? resolve() : reject(error)));
    });
    session.close();
    await once(session, 'close');
  });

  it('a resumed session of a foreign client is verified like a full one', async () => {
    await using host = await new TunnelHost(world).listen();
    const tls = await import('node:tls');
    let session: Buffer | undefined;
    for (const resumed of [false, true]) {
      const socket = tls.connect({
        ...material(CLIENT_ID),
        host: '127.0.0.1',
        port: host.port,
        ALPNProtocols: ['h2'],
        checkServerIdentity: () => undefined,
        ...(session === undefined ? {} : { session }),
      });
      if (session === undefined) socket.on('session', (ticket: Buffer) => (session = ticket));
      await once(socket, 'secureConnect');
      const client = http2.connect('https://x', { createConnection: () => socket });
      const stream = client.request({ ':method': 'CONNECT', ':authority': '10.0.0.1:80' });
      await once(stream, 'response');
      assert.equal(socket.isSessionReused(), resumed);
      stream.resume();
      stream.end();
      await once(stream, 'close');
      client.destroy();
    }
    assert.equal(host.refused.length, 0);
    // The ticket was sealed under the old SVID: after a rotation it buys nothing.
    await world.issue(SERVER_ID);
    const socket = tls.connect({
      ...material(CLIENT_ID),
      host: '127.0.0.1',
      port: host.port,
      ALPNProtocols: ['h2'],
      checkServerIdentity: () => undefined,
      ...(session === undefined ? {} : { session }),
    });
    await once(socket, 'secureConnect');
    assert.equal(socket.isSessionReused(), false);
    socket.destroy();
  });

  it('a node:http2 server is used: CONNECT, echo of 5 MiB, refusal, GOAWAY', async () => {
    const server = http2.createSecureServer({ ...material(SERVER_ID), requestCert: true, minVersion: 'TLSv1.3' });
    server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
      stream.on('error', () => {});
      if (headers[':authority'] === '10.0.0.1:1') {
        stream.respond({ ':status': 503 }, { endStream: true });
        return;
      }
      assert.equal(headers['forwarded'], 'for="10.0.0.2:1"');
      stream.respond({ ':status': 200, baggage: 'x=y' });
      stream.pipe(stream);
    });
    let session: http2.ServerHttp2Session | null = null;
    server.on('session', (opened) => (session = opened));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const retired = Promise.withResolvers<void>();
    const client = connect(world, { port: (server.address() as AddressInfo).port } as TunnelHost, { onRetired: retired.resolve });
    const stream: ByteStream = await client.open('10.0.0.1:80', { forwarded: 'for="10.0.0.2:1"' });
    const reader = new Recorder(stream);
    stream.resume();
    const total = 5 << 20;
    let left = total;
    stream.attach({
      onData: (chunk) => reader.onData(chunk),
      onEnd: () => reader.onEnd(),
      onClose: (error) => reader.onClose(error),
      onDrain: () => fill(),
    });
    const fill = (): void => {
      while (left > 0) {
        left -= 65_536;
        if (!stream.write(Buffer.alloc(65_536))) return;
      }
      stream.end();
    };
    fill();
    await reader.closed();
    assert.equal(reader.error, null);
    assert.equal(reader.bytes, total);
    await assert.rejects(client.open('10.0.0.1:1', { forwarded: 'x' }), { code: 'WEFT_TUNNEL_REFUSED', status: 503 });
    (session as http2.ServerHttp2Session | null)?.goaway();
    await retired.promise;
    assert.equal(client.availableStreams, 0);
    client.destroy();
    server.close();
    (session as http2.ServerHttp2Session | null)?.destroy();
  });
});

/** A cleartext server (prior knowledge) with a small site. */
class Site implements Disposable {
  readonly errors: string[] = [];
  continuations = 0;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  constructor(options: Partial<Http2Options> = {}) {
    this.#server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      this.#sockets.add(socket);
      const connection = new Http2Connection(
        'server',
        new SocketByteStream(socket),
        {
          onStream: (stream, head) => {
            stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
            stream.resume();
            const body = head.path === '/large' ? Buffer.alloc(300_000, 0x78) : Buffer.from('hello\n');
            stream.respond([':status', '200', 'content-length', String(body.length), 'content-type', 'text/plain']);
            stream.write(body);
            stream.end();
          },
          onMalformed: (reason) => this.errors.push(reason),
          onClose: (error) => {
            if (error !== null) this.errors.push(`${connection.state} ${error.message}`);
          },
        },
        options,
      );
      const onContinuation = connection.onContinuation.bind(connection);
      connection.onContinuation = (fragment, endHeaders) => {
        this.continuations++;
        onContinuation(fragment, endHeaders);
      };
    });
  }

  async listen(): Promise<number> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  [Symbol.dispose](): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

describe('the HTTP/2 layer and nghttp2’s tools', () => {
  it('h2load: 2000 requests, 100 streams on each of two connections, none fails', async () => {
    using site = new Site();
    const port = await site.listen();
    const { stdout } = await run('h2load', ['-n', '2000', '-c', '2', '-m', '100', `http://127.0.0.1:${port}/`]);
    assert.match(stdout, /2000 succeeded, 0 failed, 0 errored/);
    const large = await run('h2load', ['-n', '200', '-c', '2', '-m', '20', `http://127.0.0.1:${port}/large`]);
    assert.match(large.stdout, /200 succeeded, 0 failed, 0 errored/);
    assert.deepEqual(site.errors, []);
  });

  it('nghttp: a request with CONTINUATION frames and padding, a large response', async () => {
    using site = new Site({ maxFrameSize: 16_384 });
    const port = await site.listen();
    const { stdout } = await run('nghttp', ['-v', '-n', '--no-dep', '--continuation', '--padding=100', `http://127.0.0.1:${port}/large`], {
      maxBuffer: 4 << 20,
    });
    assert.ok(stdout.includes(':status: 200'));
    assert.ok(site.continuations > 0, 'no CONTINUATION came');
    assert.deepEqual(site.errors, []);
  });
});
