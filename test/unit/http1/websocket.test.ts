import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net';
import { test, type TestContext } from 'node:test';
import type { HttpExchange } from '../../../proxy/http-exchange.ts';
import { DEFAULT_HTTP1_LIMITS } from '../../../proxy/http1/limits.ts';
import { Http1Session } from '../../../proxy/http1/session.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import type { RequestGate } from '../../../src/model/request-gate.ts';
import { answer, DENIED, gateOf } from './session-fixture.ts';

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

/** Sends back each text message, unmasked: just enough of RFC 6455 for short frames, which is all the tests send. */
function echo(socket: Socket): void {
  socket.on('data', (bytes: Buffer) => {
    for (let at = 0; at + 6 <= bytes.length; ) {
      const opcode = (bytes[at] as number) & 15;
      const length = (bytes[at + 1] as number) & 127;
      const mask = bytes.subarray(at + 2, at + 6);
      const payload = bytes.subarray(at + 6, at + 6 + length).map((byte, index) => byte ^ (mask[index & 3] as number));
      socket.write(Buffer.concat([Buffer.from([128 | opcode, length]), payload]));
      if (opcode === 8) socket.end();
      at += 6 + length;
    }
  });
  socket.on('error', () => {});
}

interface World {
  readonly url: string;
  readonly sessions: Http1Session[];
  readonly exchanges: HttpExchange[];
  readonly upgrades: IncomingMessage[];
  gate: RequestGate;
}

/** node:http as an upgrade server, with sessions in front of it, over loopback. */
async function world(context: TestContext, gate: RequestGate): Promise<World> {
  const server = createServer((_request, response) => response.end('plain'));
  const upgrades: IncomingMessage[] = [];
  server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
    upgrades.push(request);
    const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}${GUID}`).digest('base64');
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    echo(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sessions: Http1Session[] = [];
  const exchanges: HttpExchange[] = [];
  const proxy = createTcpServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    const upstream = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
    const session = new Http1Session({
      downstream: new SocketByteStream(socket),
      upstream: new SocketByteStream(upstream),
      gate: () => made.gate,
      normalisation: () => 'base',
      onExchange: (exchange) => exchanges.push({ ...exchange }),
      onClose: () => {},
      limits: DEFAULT_HTTP1_LIMITS,
      deniedByHeader: true,
      clock: () => performance.now() * 1000,
    });
    sessions.push(session);
    session.start(null);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const made: World = { url: `ws://127.0.0.1:${(proxy.address() as AddressInfo).port}`, sessions, exchanges, upgrades, gate };
  context.after(() => {
    for (const session of sessions) session.destroy(new Error('the test is over'));
    proxy.close();
    server.close();
    server.closeAllConnections();
  });
  return made;
}

test('a WebSocket that policy allows by its GET: messages pass both ways, and closing is orderly', async (context) => {
  const { url, exchanges, upgrades } = await world(
    context,
    gateOf(({ path }) => path !== '/chat'),
  );
  const socket = new WebSocket(`${url}/chat`);
  await once(socket, 'open');
  assert.deepEqual(
    exchanges.map(({ method, path, status }) => [method, path, status]),
    [['GET', '/chat', 101]],
  );
  for (const text of ['one', 'two', 'GET /admin HTTP/1.1']) {
    socket.send(text);
    const [message] = await once(socket, 'message');
    assert.equal(message.data, text);
  }
  socket.close(1000);
  const [closed] = await once(socket, 'close');
  assert.deepEqual([closed.code, closed.wasClean, upgrades.length], [1000, true, 1]);
});

test('a WebSocket that policy denies is refused at the upgrade, and the server hears nothing of it', async (context) => {
  const { url, exchanges, upgrades } = await world(
    context,
    gateOf(({ path }) => path !== '/chat'),
  );
  const socket = new WebSocket(`${url}/other`);
  await once(socket, 'error');
  assert.deepEqual([exchanges[0]?.status, exchanges[0]?.refusal, upgrades.length], [403, 'policy-denied', 0]);
});

test('a gate that answers later, and changes headers, holds for upgrades too', async (context) => {
  const change = { remove: ['x-client'], set: [['x-verified', 'yes']] } as const;
  const { url, upgrades } = await world(context, {
    ask: ({ path }) => Promise.resolve(path === '/chat' ? answer({ change }) : answer({ decision: DENIED })),
  });
  const refused = new WebSocket(`${url}/other`);
  await once(refused, 'error');
  const socket = new WebSocket(`${url}/chat`);
  await once(socket, 'open');
  socket.send('hello');
  const [message] = await once(socket, 'message');
  assert.deepEqual([message.data, upgrades.length, upgrades[0]?.headers['x-verified']], ['hello', 1, 'yes']);
  socket.close();
  await once(socket, 'close');
});

test('a WebSocket goes on through a change of policy that allows it, and ends with one that does not, at once or later', async (context) => {
  for (const forbidding of [gateOf(() => true), { ask: () => Promise.resolve(answer({ decision: DENIED })) }]) {
    const made = await world(
      context,
      gateOf(() => false),
    );
    const socket = new WebSocket(`${made.url}/chat`);
    await once(socket, 'open');
    made.gate = gateOf(({ path }) => path !== '/chat');
    made.sessions[0]?.recheck();
    socket.send('still here');
    const [message] = await once(socket, 'message');
    assert.equal(message.data, 'still here');
    made.gate = forbidding;
    made.sessions[0]?.recheck();
    const [closed] = await once(socket, 'close');
    assert.equal(closed.wasClean, false);
  }
});
