/**
 * What the HTTP/1.1 codec costs, without sockets: `node bench/micro/http1.ts`. Prints nanoseconds per head and per whole exchange.
 */
import type { ByteStream, ByteStreamHandler } from '../../src/model/byte-stream.ts';
import type { Decision } from '../../src/model/policy.ts';
import type { GateAnswer, HeaderChange, RequestGate } from '../../src/model/request-gate.ts';
import { detectProtocol } from '../../proxy/detect/detect-protocol.ts';
import { BodyFraming } from '../../proxy/http1/body-framing.ts';
import { DEFAULT_HTTP1_LIMITS } from '../../proxy/http1/limits.ts';
import { CHUNKED_BODY, parseRequestHead, RequestHead } from '../../proxy/http1/request-head.ts';
import { parseResponseHead, ResponseHead } from '../../proxy/http1/response-head.ts';
import { Http1Session } from '../../proxy/http1/session.ts';

const ALLOWED: Decision = { verdict: 'allow', policy: null, rule: null, reason: 'no policy applies' };

function answerOf(decision: Decision, change: HeaderChange | null = null): GateAnswer {
  return { decision, refusal: null, change, shadow: [] };
}

const ALLOWING = answerOf(ALLOWED);
const DENYING = answerOf({ ...ALLOWED, verdict: 'deny' });
const BASIS = {};
/** Its answers hold for a head that comes again. */
const STEADY_GATE: RequestGate = {
  ask: ({ method, path }) => (method === 'DELETE' && path === '/' ? DENYING : ALLOWING),
  basis: () => BASIS,
};
/** Asked each time, reads three headers. */
const READING_GATE: RequestGate = {
  ask: (head) =>
    head.header('authorization').length + head.header('cookie').length + head.header('x-request-id').length > 9 ? DENYING : ALLOWING,
};
const CHANGED = answerOf(ALLOWED, { remove: ['x-id'], set: [['x-forwarded-client-cert', 'URI=spiffe://cluster.local/ns/shop/sa/web']] });
const CHANGING_GATE: RequestGate = { ask: () => CHANGED };
const STEADY_CHANGING_GATE: RequestGate = { ask: () => CHANGED, basis: () => BASIS };

/** A stream that hands over and takes chunks at once: what is measured is the session, not a transport. */
class DirectStream implements ByteStream {
  handler: ByteStreamHandler | null = null;
  bytesRead = 0;
  bytesWritten = 0;
  readonly destroyed = false;
  attach(handler: ByteStreamHandler): void {
    this.handler = handler;
  }
  write(chunk: Uint8Array): boolean {
    this.bytesWritten += chunk.length;
    return true;
  }
  end(): void {}
  destroy(): void {
    throw new Error('the session refused a request of the benchmark');
  }
  pause(): void {}
  resume(): void {}
}

/** Best of several rounds, after as many to warm up. */
function measure(name: string, iterations: number, run: (iteration: number) => void): void {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 6; round++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < iterations; i++) run(i);
    best = Math.min(best, Number(process.hrtime.bigint() - start) / iterations);
  }
  console.log(`${name.padEnd(64)} ${best.toFixed(0).padStart(8)} ns`);
}

const small = Buffer.from('GET /api/items HTTP/1.1\r\nHost: 10.0.0.7:8080\r\n\r\n');
const usual = Buffer.from(
  'GET /api/items HTTP/1.1\r\nHost: shop.default:8080\r\nUser-Agent: wrk/4.1\r\nAccept: */*\r\nConnection: keep-alive\r\nX-Id: 1\r\n\r\n',
);
const browser = Buffer.from(
  `GET /index.html?lang=en HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: ${'Mozilla/5.0 '.repeat(8)}\r\nAccept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.7\r\nCookie: ${'session=0123456789abcdef; '.repeat(12)}\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\n\r\n`,
);
const answer = Buffer.from(
  'HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: keep-alive\r\n\r\nHello, world!',
);

const requestHead = new RequestHead();
const responseHead = new ResponseHead();
for (const [name, bytes] of [
  ['small', small],
  ['usual', usual],
  ['browser', browser],
] as const) {
  measure(`parse request head (${name}, ${bytes.length} bytes)`, 300_000, () => {
    if (parseRequestHead(bytes, 0, bytes.length, requestHead, DEFAULT_HTTP1_LIMITS) !== bytes.length) throw new Error('refused');
  });
}
measure(`parse response head (${answer.length} bytes)`, 300_000, () => {
  if (parseResponseHead(answer, 0, answer.length, responseHead, DEFAULT_HTTP1_LIMITS) <= 0) throw new Error('refused');
});
measure('detect HTTP/1', 300_000, () => {
  if (detectProtocol(usual) !== 'http1') throw new Error('not detected');
});

const chunked = Buffer.from(`${`400\r\n${'x'.repeat(1024)}\r\n`.repeat(16)}0\r\n\r\n`);
const framing = new BodyFraming(DEFAULT_HTTP1_LIMITS);
measure('follow a chunked body (16 chunks of 1 KiB)', 100_000, () => {
  framing.start(CHUNKED_BODY);
  if (framing.advance(chunked, 0, chunked.length) !== chunked.length) throw new Error('refused');
});

function session(gate: RequestGate): { down: ByteStreamHandler; up: ByteStreamHandler; answered: () => number } {
  const downstream = new DirectStream();
  const upstream = new DirectStream();
  let answered = 0;
  new Http1Session({
    downstream,
    upstream,
    gate: () => gate,
    normalisation: () => 'base',
    onExchange: (exchange) => {
      if (exchange.status === 200 || exchange.status === 403) answered++;
    },
    onClose: () => {},
    limits: DEFAULT_HTTP1_LIMITS,
    deniedByHeader: true,
    clock: () => performance.now() * 1000,
  }).start(null);
  return { down: downstream.handler as ByteStreamHandler, up: upstream.handler as ByteStreamHandler, answered: () => answered };
}

function measureExchanges(name: string, requests: readonly Buffer[], response: Buffer | null, gate: RequestGate = STEADY_GATE): void {
  const { down, up, answered } = session(gate);
  let sent = 0;
  measure(name, 200_000, (i) => {
    down.onData(requests[i % requests.length] as Buffer);
    if (response !== null) up.onData(response);
    sent++;
  });
  if (answered() !== sent) throw new Error(`${name}: ${answered()} of ${sent} answered`);
}

measureExchanges('exchange, the same head again', [usual], answer);
measureExchanges(
  'exchange, another path each time',
  ['a', 'b', 'c'].map((path) => Buffer.from(`GET /${path} HTTP/1.1\r\nHost: shop\r\nUser-Agent: wrk\r\n\r\n`)),
  answer,
);
measureExchanges('exchange, path to be normalised', [Buffer.from('GET /a/../b HTTP/1.1\r\nHost: shop\r\n\r\n'), usual], answer);
measureExchanges(
  'exchange, POST of 1 KiB',
  [Buffer.from(`POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1024\r\n\r\n${'x'.repeat(1024)}`)],
  answer,
);
measureExchanges('exchange, denied', [Buffer.from('DELETE / HTTP/1.1\r\nHost: shop\r\n\r\n')], null);
measureExchanges('exchange, a gate that reads three headers each time', [usual], answer, READING_GATE);
measureExchanges('exchange, a gate that changes headers, each time anew', [usual], answer, CHANGING_GATE);
measureExchanges('exchange, a gate that changes headers, remembered', [usual], answer, STEADY_CHANGING_GATE);
measureExchanges(
  'exchange, hop-by-hop fields, other each time',
  ['a', 'b'].map((path) => Buffer.from(`GET /${path} HTTP/1.1\r\nHost: shop\r\nConnection: x-hop\r\nX-Hop: 1\r\nUser-Agent: wrk\r\n\r\n`)),
  answer,
);
