import type { Decision } from '../../../src/model/policy.ts';
import type { GateAnswer, RequestGate, RequestHead } from '../../../src/model/request-gate.ts';
import { CoarseTimers } from '../../../proxy/coarse-timer.ts';
import { DEFAULT_HTTP1_LIMITS, type Http1Limits } from '../../../proxy/http1/limits.ts';
import type { PathNormalisation } from '../../../proxy/http1/normalise-path.ts';
import type { HttpExchange } from '../../../proxy/http-exchange.ts';
import { Http1Session } from '../../../proxy/http1/session.ts';
import { memoryStreamPair, type MemoryStreamOptions } from '../../kit/memory-stream.ts';
import { StreamRecorder } from '../../kit/stream-recorder.ts';

export const ALLOWED: Decision = { verdict: 'allow', policy: 'shop/allow-get', rule: 0, reason: 'matched an ALLOW rule' };
export const DENIED: Decision = { verdict: 'deny', policy: 'shop/no-delete', rule: 1, reason: 'matched a DENY rule' };

/** A gate's answer, an allowing one if nothing else is said. */
export function answer(parts: Partial<GateAnswer> = {}): GateAnswer {
  return { decision: ALLOWED, refusal: null, change: null, shadow: [], ...parts };
}

/** A gate that refuses what `isDenied` says, and answers the same as long as it is the same. */
export function gateOf(isDenied: (request: RequestHead) => boolean): RequestGate {
  const basis = {};
  const [allowed, denied] = [answer(), answer({ decision: DENIED })];
  return { ask: (request) => (isDenied(request) ? denied : allowed), basis: () => basis };
}

/** Refuses the method DELETE and paths under /forbidden. */
export const TEST_GATE: RequestGate = gateOf(({ method, path }) => method === 'DELETE' || path.startsWith('/forbidden'));

export interface SessionFixture {
  readonly client: StreamRecorder;
  readonly server: StreamRecorder;
  readonly session: Http1Session;
  readonly exchanges: HttpExchange[];
  readonly closes: (Error | null)[];
  gate: RequestGate;
  normalisation: PathNormalisation;
}

export interface SessionFixtureOptions {
  readonly gate?: RequestGate;
  readonly normalisation?: PathNormalisation;
  readonly limits?: Partial<Http1Limits>;
  readonly downstream?: MemoryStreamOptions;
  readonly upstream?: MemoryStreamOptions;
  readonly withoutUpstream?: boolean;
  readonly firstBytes?: Buffer | null;
  /** The streams flow already when the session gets them. */
  readonly resumed?: boolean;
  readonly clientFlowing?: boolean;
  readonly serverFlowing?: boolean;
}

/** A session between a client and a server that the test plays. */
export function startSession(options: SessionFixtureOptions = {}): SessionFixture {
  const [clientEnd, downstream] = memoryStreamPair(options.downstream);
  const [upstream, serverEnd] = memoryStreamPair(options.upstream);
  const exchanges: HttpExchange[] = [];
  const closes: (Error | null)[] = [];
  let now = 0;
  const session = new Http1Session({
    downstream,
    upstream: options.withoutUpstream === true ? null : upstream,
    gate: () => fixture.gate,
    normalisation: () => fixture.normalisation,
    onExchange: (exchange) => exchanges.push({ ...exchange }),
    onClose: (error) => closes.push(error),
    limits: { ...DEFAULT_HTTP1_LIMITS, ...options.limits },
    deniedByHeader: true,
    clock: () => (now += 10),
    timers: new CoarseTimers(10),
  });
  const fixture: SessionFixture = {
    client: new StreamRecorder(clientEnd, options.clientFlowing ?? true),
    server: new StreamRecorder(serverEnd, options.serverFlowing ?? true),
    session,
    exchanges,
    closes,
    gate: options.gate ?? TEST_GATE,
    normalisation: options.normalisation ?? 'base',
  };
  if (options.resumed === true) {
    downstream.resume();
    upstream.resume();
  }
  session.start(options.firstBytes ?? null);
  return fixture;
}

/** The usual request of the tests. */
export function get(path: string, ...fields: readonly string[]): string {
  return `GET ${path} HTTP/1.1\r\nHost: shop\r\n${fields.map((field) => `${field}\r\n`).join('')}\r\n`;
}

/** The usual answer. */
export function ok(body: string): string {
  return `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}
