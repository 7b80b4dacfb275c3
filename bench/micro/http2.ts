/**
 * What a unary gRPC exchange costs in an Http2Session: `node bench/micro/http2.ts [--json] [--requests N] [--rounds N]`.
 *
 * - in memory: client, session and application in this process on streams in memory, less the same without the session;
 * - on loopback: the CPU of a process that is only the proxy, beside one that does the same with node:http2, in the same run, interleaved.
 *
 * An exchange is a head of ten fields, a message of 64 bytes each way, and trailers.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import http2 from 'node:http2';
import net, { type AddressInfo } from 'node:net';
import { parseArgs } from 'node:util';
import { Http2Connection } from '../../src/transport/http2/connection.ts';
import { Http2Session } from '../../proxy/http2/session.ts';
import { DEFAULT_HTTP2_SESSION_LIMITS } from '../../proxy/http2/session-limits.ts';
import type { Http2Stream } from '../../src/transport/http2/stream.ts';
import { SocketByteStream } from '../../src/transport/socket-stream.ts';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { GateAnswer, RequestHead } from '../../src/model/request-gate.ts';
import { memoryStreamPair } from '../../test/kit/memory-stream.ts';

const { values: flags, positionals } = parseArgs({
  options: { json: { type: 'boolean' }, requests: { type: 'string' }, rounds: { type: 'string' } },
  allowPositionals: true,
});
const requests = Number(flags.requests ?? 20_000);
const rounds = Number(flags.rounds ?? 5);
const CONCURRENCY = [1, 32] as const;

const MESSAGE = Buffer.alloc(64, 1);
const REQUEST = Object.entries({
  ':method': 'POST',
  ':scheme': 'http',
  ':path': '/shop.Items/Get',
  ':authority': 'items.shop:50051',
  'content-type': 'application/grpc',
  'user-agent': 'grpc-go/1.70.0',
  te: 'trailers',
  'grpc-timeout': '999932u',
  'x-request-id': '6b1c27b4-5bd0-4a9e-9f50-0f9b7f1f3f3b',
  traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
}).flat();
const ANSWER_HEAD = [':status', '200', 'content-type', 'application/grpc'];
const ANSWER_TRAILERS = ['grpc-status', '0', 'grpc-message', ''];
const QUIET = { keepAliveMs: 0 };

const ALLOW: GateAnswer = {
  decision: { verdict: 'allow', policy: null, rule: null, reason: 'no policy applies' },
  refusal: null,
  change: null,
  shadow: [],
};
const DENY: GateAnswer = { ...ALLOW, decision: { ...ALLOW.decision, verdict: 'deny' } };
const gate = { ask: ({ path }: RequestHead): GateAnswer => (path.startsWith('/admin') ? DENY : ALLOW) };

/** The application: answers when the request has ended. */
function answerAtEnd(stream: Http2Stream): void {
  stream.attach({
    onData() {},
    onDrain() {},
    onClose() {},
    onEnd: () => {
      stream.respond(ANSWER_HEAD);
      stream.write(MESSAGE);
      stream.endWithTrailers(ANSWER_TRAILERS);
    },
  });
  stream.resume();
}

function serve(transport: ByteStream): Http2Connection {
  return new Http2Connection('server', transport, { onStream: answerAtEnd, onClose() {} }, QUIET);
}

function session(downstream: ByteStream, upstream: ByteStream): Http2Session {
  const made = new Http2Session({
    downstream,
    upstream,
    gate: () => gate,
    normalisation: () => 'base',
    onExchange() {},
    onClose() {},
    limits: DEFAULT_HTTP2_SESSION_LIMITS,
    deniedByHeader: true,
    clock: () => performance.now() * 1000,
  });
  made.start(null);
  return made;
}

/** Calls `count` times, `concurrency` at once. */
function load(client: Http2Connection, count: number, concurrency: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let started = 0;
  let ended = 0;
  const call = (): void => {
    if (started === count) return;
    started++;
    const stream = client.request(REQUEST);
    let trailers = false;
    stream.onTrailers = () => (trailers = true);
    stream.attach({
      onData() {},
      onEnd() {},
      onDrain() {},
      onClose: (error) => {
        if (error !== null || !trailers) reject(error ?? new Error('no trailers'));
        if (++ended === count) resolve();
        call();
      },
    });
    stream.resume();
    stream.write(MESSAGE);
    stream.end();
  };
  for (let i = 0; i < concurrency; i++) call();
  return promise;
}

async function cpuOf(work: () => Promise<void>): Promise<number> {
  const start = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(start);
  return user + system;
}

/** Node's own HTTP/2 as a proxy, written as its documentation would have it. */
function nodeProxy(applicationPort: number): net.Server {
  const server = http2.createServer();
  server.on('session', (downstream) => {
    const upstream = http2.connect(`http://127.0.0.1:${applicationPort}`);
    upstream.on('error', () => downstream.destroy());
    downstream.on('close', () => upstream.close());
    downstream.on('stream', (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
      stream.on('error', () => {});
      if (headers[':path']?.startsWith('/admin')) {
        stream.respond({ ':status': 403 }, { endStream: true });
        return;
      }
      const onward = upstream.request(headers);
      onward.on('error', () => stream.destroy());
      let trailers: http2.IncomingHttpHeaders = {};
      onward.on('response', (fields) => stream.respond(fields, { waitForTrailers: true }));
      onward.on('trailers', (fields) => (trailers = fields));
      stream.on('wantTrailers', () => stream.sendTrailers(trailers));
      stream.pipe(onward);
      onward.pipe(stream);
    });
  });
  return server as unknown as net.Server;
}

function weftProxy(applicationPort: number): net.Server {
  return net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    const upstream = net.connect({ port: applicationPort, host: '127.0.0.1', allowHalfOpen: true });
    session(new SocketByteStream(socket), new SocketByteStream(upstream));
  });
}

/** What a child process is, by its first argument. */
async function runChild(role: string, applicationPort: number): Promise<void> {
  let server: net.Server;
  if (role === 'application') {
    server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => void serve(new SocketByteStream(socket)));
  } else {
    server = role === 'weft' ? weftProxy(applicationPort) : nodeProxy(applicationPort);
  }
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.send?.((server.address() as AddressInfo).port);
  process.on('message', () => process.send?.(process.cpuUsage()));
  process.on('disconnect', () => process.exit());
}

interface Child {
  readonly process: ChildProcess;
  readonly port: number;
  cpu(): Promise<number>;
}

async function start(role: string, applicationPort = 0): Promise<Child> {
  const child = fork(import.meta.filename, [role, String(applicationPort)]);
  const [port] = (await once(child, 'message')) as [number];
  return {
    process: child,
    port,
    cpu: async () => {
      child.send('cpu');
      const [{ user, system }] = (await once(child, 'message')) as [NodeJS.CpuUsage];
      return user + system;
    },
  };
}

async function connect(port: number): Promise<Http2Connection> {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  await once(socket, 'connect');
  return new Http2Connection('client', new SocketByteStream(socket), { onClose() {} }, QUIET);
}

interface Run {
  readonly name: string;
  readonly concurrency: number;
  readonly cpuMicrosPerExchange: number;
  readonly exchangesPerSecond: number;
}

function rounded(name: string, concurrency: number, micros: number, perSecond: number): Run {
  return { name, concurrency, cpuMicrosPerExchange: Number(micros.toFixed(1)), exchangesPerSecond: Math.round(perSecond) };
}

async function inMemory(): Promise<Run[]> {
  const [clientEnd, downstream] = memoryStreamPair();
  const [upstream, applicationEnd] = memoryStreamPair();
  session(downstream, upstream);
  serve(applicationEnd);
  const through = new Http2Connection('client', clientEnd, { onClose() {} }, QUIET);
  const [directEnd, directServer] = memoryStreamPair();
  serve(directServer);
  const direct = new Http2Connection('client', directEnd, { onClose() {} }, QUIET);
  const runs: Run[] = [];
  for (const concurrency of CONCURRENCY) {
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < rounds; round++) {
      const without = await cpuOf(() => load(direct, requests, concurrency));
      const whole = await cpuOf(() => load(through, requests, concurrency));
      best = Math.min(best, (whole - without) / requests);
    }
    runs.push(rounded('weft, in memory', concurrency, best, 1e6 / best));
  }
  through.destroy();
  direct.destroy();
  return runs;
}

async function onLoopback(): Promise<Run[]> {
  const application = await start('application');
  const proxies = {
    'weft, loopback': await start('weft', application.port),
    'node:http2, loopback': await start('node', application.port),
  };
  const best = new Map<string, Run>();
  const clients = new Map<string, Http2Connection>();
  for (const [name, { port }] of Object.entries(proxies)) {
    const client = await connect(port);
    clients.set(name, client);
    await load(client, 2000, 16);
  }
  for (let round = 0; round < rounds; round++) {
    for (const concurrency of CONCURRENCY) {
      const count = concurrency === 1 ? Math.ceil(requests / 4) : requests;
      for (const [name, proxy] of Object.entries(proxies)) {
        const before = await proxy.cpu();
        const started = performance.now();
        await load(clients.get(name) as Http2Connection, count, concurrency);
        const seconds = (performance.now() - started) / 1000;
        const run = rounded(name, concurrency, ((await proxy.cpu()) - before) / count, count / seconds);
        const key = `${name} ${concurrency}`;
        if (run.cpuMicrosPerExchange < (best.get(key)?.cpuMicrosPerExchange ?? Number.POSITIVE_INFINITY)) best.set(key, run);
      }
    }
  }
  for (const client of clients.values()) client.destroy();
  for (const child of [application, ...Object.values(proxies)]) child.process.disconnect();
  return [...best.values()];
}

const [role, port] = positionals;
if (role !== undefined) {
  await runChild(role, Number(port));
} else {
  const runs = [...(await inMemory()), ...(await onLoopback())];
  if (flags.json === true) console.log(JSON.stringify({ scenario: 'http2-session', runs }, null, 2));
  else console.table(runs);
}
