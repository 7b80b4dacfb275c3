import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { Agent, createServer, request as httpRequest } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { DEFAULT_HTTP1_LIMITS } from '../../../proxy/http1/limits.ts';
import { Http1Session } from '../../../proxy/http1/session.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import { TEST_GATE } from './session-fixture.ts';

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

/** node:http as client and server, with sessions between them, and real sockets. */
async function startProxy(): Promise<{
  port: number;
  counts: { exchanges: number; closes: number; connections: number };
  stop: () => void;
}> {
  const server = createServer((request, response) => {
    void buffer(request).then((body) => {
      if (request.url === '/large') response.end(Buffer.alloc(3_000_000, 'abcdefg'));
      else if (request.url === '/chunked') {
        for (let part = 0; part < 50; part++) response.write(Buffer.alloc(part * 997, 'xyz'));
        response.end();
      } else response.end(`${request.method} ${request.url} ${digest(body)}`);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const counts = { exchanges: 0, closes: 0, connections: 0 };
  const proxy = createTcpServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    counts.connections++;
    new Http1Session({
      downstream: new SocketByteStream(socket),
      upstream: new SocketByteStream(connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })),
      gate: () => TEST_GATE,
      normalisation: () => 'base',
      onExchange: () => counts.exchanges++,
      onClose: () => counts.closes++,
      limits: DEFAULT_HTTP1_LIMITS,
      deniedByHeader: true,
      clock: () => performance.now() * 1000,
    }).start(null);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  return {
    port: (proxy.address() as AddressInfo).port,
    counts,
    stop: () => {
      proxy.close();
      server.close();
      server.closeAllConnections();
    },
  };
}

test('node:http as client and server see nothing of the session between them but its denials', async () => {
  const proxy = await startProxy();
  const agent = new Agent({ keepAlive: true, maxSockets: 8 });
  const call = async (method: string, path: string, body: Buffer | null, isChunked = false): Promise<Answer> => {
    const request = httpRequest({ port: proxy.port, host: '127.0.0.1', agent, method, path });
    if (body !== null && !isChunked) request.setHeader('content-length', body.length);
    if (body !== null && isChunked) for (let at = 0; at < body.length; at += 70_000) request.write(body.subarray(at, at + 70_000));
    request.end(isChunked ? null : body);
    const [response] = await once(request, 'response');
    return { status: response.statusCode, body: await buffer(response) };
  };
  try {
    const upload = Buffer.alloc(2_000_000, 'upload');
    await Promise.all(
      Array.from({ length: 160 }, async (_, index) => {
        switch (index % 8) {
          case 0:
            assert.equal(digest((await call('GET', '/large', null)).body), digest(Buffer.alloc(3_000_000, 'abcdefg')));
            break;
          case 1:
            assert.equal(String((await call('POST', '/up', upload)).body), `POST /up ${digest(upload)}`);
            break;
          case 2:
            assert.equal(String((await call('PUT', '/up', upload, true)).body), `PUT /up ${digest(upload)}`);
            break;
          case 3:
            assert.equal((await call('GET', '/chunked', null)).body.length, 997 * ((49 * 50) / 2));
            break;
          case 4:
            assert.equal((await call('DELETE', '/x', null)).status, 403);
            break;
          case 5:
            assert.equal((await call('POST', '/forbidden', Buffer.alloc(1000))).status, 403);
            break;
          case 6:
            assert.equal((await call('HEAD', '/large', null)).body.length, 0);
            break;
          default:
            assert.equal(String((await call('GET', '/a/../b', null)).body), `GET /b ${digest(Buffer.alloc(0))}`);
        }
      }),
    );
    assert.equal(proxy.counts.exchanges, 160);
    agent.destroy();
    while (proxy.counts.closes < proxy.counts.connections) await new Promise((resolve) => setTimeout(resolve, 5));
  } finally {
    agent.destroy();
    proxy.stop();
  }
});
