import type { Decision } from '../../../src/model/policy.ts';
import type { GateAnswer, RequestGate, RequestHead } from '../../../src/model/request-gate.ts';
import type { HttpExchange } from '../../../proxy/http-exchange.ts';
import { Http2Connection, type Http2ConnectionHandler, type Http2Options } from '../../../src/transport/http2/connection.ts';
import { Http2Session, type Http2SessionOptions } from '../../../proxy/http2/session.ts';
import { DEFAULT_HTTP2_SESSION_LIMITS, type Http2SessionLimits } from '../../../proxy/http2/session-limits.ts';
import type { HeaderList } from '../../../src/transport/http2/hpack.ts';
import type { Http2Stream } from '../../../src/transport/http2/stream.ts';
import { type MemoryStream, memoryStreamPair, type MemoryStreamOptions } from '../../kit/memory-stream.ts';
import { Recorder } from '../tunnel/recorder.ts';

export const ALLOWED: Decision = { verdict: 'allow', policy: 'shop/allow', rule: 0, reason: 'matched an ALLOW rule' };
export const DENIED: Decision = { verdict: 'deny', policy: 'shop/no-admin', rule: 1, reason: 'matched a DENY rule' };

export function answerOf(decision: Decision, more: Partial<GateAnswer> = {}): GateAnswer {
  return { decision, refusal: null, change: null, shadow: [], ...more };
}

/** Refuses what is under /admin; remembers what it was asked. */
export class TestGate implements RequestGate {
  readonly asked: string[] = [];
  answer: (head: RequestHead) => GateAnswer | Promise<GateAnswer> = (head) => answerOf(head.path.startsWith('/admin') ? DENIED : ALLOWED);

  ask(head: RequestHead): GateAnswer | Promise<GateAnswer> {
    this.asked.push(`${head.method} ${head.host} ${head.path}${head.query === '' ? '' : ` ?${head.query}`}`);
    return this.answer(head);
  }
}

/** A request that arrived at the application. */
export interface Arrived {
  readonly stream: Http2Stream;
  readonly fields: HeaderList;
  readonly body: Recorder;
  trailers: HeaderList | null;
}

/** The application: keeps what arrives and answers as told. */
export class TestApplication implements Http2ConnectionHandler {
  readonly arrived: Arrived[] = [];
  readonly malformed: string[] = [];
  closed: Error | null | undefined = undefined;
  goaway: number | null = null;
  /** Answers 200 with the request's body when it has ended, unless replaced. */
  onRequest: (request: Arrived) => void = echo;

  onStream(stream: Http2Stream, _head: unknown, fields: HeaderList): void {
    const request: Arrived = { stream, fields, body: new Recorder(stream), trailers: null };
    stream.onTrailers = (trailers) => (request.trailers = trailers);
    this.arrived.push(request);
    stream.resume();
    this.onRequest(request);
  }
  onMalformed(reason: string): void {
    this.malformed.push(reason);
  }
  onGoaway(code: number): void {
    this.goaway = code;
  }
  onClose(error: Error | null): void {
    this.closed = error;
  }
}

export function echo({ stream, body }: Arrived): void {
  const onEnd = body.onEnd.bind(body);
  body.onEnd = () => {
    onEnd();
    stream.respond([':status', '200', 'content-type', 'text/plain']);
    stream.write(body.bytes === 0 ? Buffer.alloc(0) : Buffer.concat(body.chunks));
    stream.end();
  };
}

/** A response as its client sees it. */
export class Response {
  readonly stream: Http2Stream;
  readonly body: Recorder;
  readonly interim: HeaderList[] = [];
  head: HeaderList | null = null;
  trailers: HeaderList | null = null;

  constructor(stream: Http2Stream) {
    this.stream = stream;
    this.body = new Recorder(stream);
    stream.onResponse = (head, fields) => {
      if (head.status < 200) this.interim.push(fields);
      else this.head = fields;
    };
    stream.onTrailers = (fields) => (this.trailers = fields);
    stream.resume();
  }

  /** The first value of a field of the head, or of the trailers. */
  field(name: string): string | undefined {
    for (const fields of [this.head ?? [], this.trailers ?? []]) {
      const at = fields.findIndex((text, i) => i % 2 === 0 && text === name);
      if (at !== -1) return fields[at + 1];
    }
    return undefined;
  }

  /** The RST_STREAM code that ended it, or null. */
  get resetCode(): number | null {
    return this.body.error === null ? null : (this.body.error as Error & { http2Code: number }).http2Code;
  }

  async done(): Promise<this> {
    await this.body.closed();
    return this;
  }
}

export interface Fixture {
  readonly client: Http2Connection;
  readonly clientOwner: TestApplication;
  /** The client's end of the bytes, and the application's. */
  readonly clientEnd: MemoryStream;
  readonly applicationEnd: MemoryStream;
  readonly application: TestApplication;
  /** null when the test plays the application itself. */
  readonly applicationConnection: Http2Connection | null;
  readonly session: Http2Session;
  readonly gate: TestGate;
  readonly exchanges: HttpExchange[];
  readonly malformed: string[];
  readonly closes: (Error | null)[];
  request(fields: readonly string[], body?: string | Buffer | null): Response;
}

export interface FixtureOptions {
  readonly limits?: Partial<Http2SessionLimits>;
  readonly client?: Partial<Http2Options>;
  readonly application?: Partial<Http2Options>;
  readonly downstream?: MemoryStreamOptions;
  readonly upstream?: MemoryStreamOptions;
  readonly withoutUpstream?: boolean;
  /** The test plays the application, or the client, on the bytes. */
  readonly rawApplication?: boolean;
  readonly rawClient?: boolean;
  readonly session?: Partial<Http2SessionOptions>;
}

/** A session between an HTTP/2 client and an HTTP/2 application in memory. */
export function startSession(options: FixtureOptions = {}): Fixture {
  const [clientEnd, downstream] = memoryStreamPair(options.downstream);
  const [upstream, applicationEnd] = memoryStreamPair(options.upstream);
  const gate = new TestGate();
  const exchanges: HttpExchange[] = [];
  const malformed: string[] = [];
  const closes: (Error | null)[] = [];
  let now = 0;
  const session = new Http2Session({
    downstream,
    upstream: options.withoutUpstream === true ? null : upstream,
    gate: () => gate,
    normalisation: () => 'base',
    onExchange: (exchange) => exchanges.push(snapshot(exchange)),
    onMalformed: (reason) => malformed.push(reason),
    onClose: (error) => closes.push(error),
    limits: { ...DEFAULT_HTTP2_SESSION_LIMITS, keepAliveMillis: 0, ...options.limits },
    deniedByHeader: true,
    clock: () => (now += 10),
    ...options.session,
  });
  session.start(null);
  const application = new TestApplication();
  const clientOwner = new TestApplication();
  const noKeepAlive = { keepAliveMs: 0 };
  const applicationConnection =
    options.rawApplication === true
      ? null
      : new Http2Connection('server', applicationEnd, application, { ...noKeepAlive, ...options.application });
  // Sends nothing when the test plays the client: the connection is made on a pair of its own.
  const clientTransport = options.rawClient === true ? memoryStreamPair()[0] : clientEnd;
  const client = new Http2Connection('client', clientTransport, clientOwner, { ...noKeepAlive, ...options.client });
  const fixture: Fixture = {
    client,
    clientOwner,
    clientEnd,
    applicationEnd,
    application,
    applicationConnection,
    session,
    gate,
    exchanges,
    malformed,
    closes,
    request: (fields, body = null) => {
      const response = new Response(client.request(fields, body === null));
      if (body !== null) {
        response.stream.write(typeof body === 'string' ? Buffer.from(body) : body);
        response.stream.end();
      }
      return response;
    },
  };
  opened.push(fixture);
  return fixture;
}

const opened: Fixture[] = [];

/** Ends what the tests of a file have opened: its `afterEach`. */
export function closeSessions(): void {
  for (const { client, applicationConnection, session } of opened.splice(0)) {
    client.destroy();
    applicationConnection?.destroy();
    session.destroy(new Error('the test is over'));
  }
}

function snapshot(exchange: HttpExchange): HttpExchange {
  const { method, path, host, status, requestBytes, responseBytes, startedAt, durationMicros, decision, shadow, refusal, detail } =
    exchange;
  const grpc = exchange.grpcStatus === undefined ? {} : { grpcStatus: exchange.grpcStatus };
  return { method, path, host, status, ...grpc, requestBytes, responseBytes, startedAt, durationMicros, decision, shadow, refusal, detail };
}

/** The usual requests. */
export function get(path: string, ...more: readonly string[]): string[] {
  return [':method', 'GET', ':scheme', 'http', ':authority', 'shop', ':path', path, ...more];
}

export function post(path: string, ...more: readonly string[]): string[] {
  return [':method', 'POST', ':scheme', 'http', ':authority', 'shop', ':path', path, ...more];
}

export function grpc(path: string, ...more: readonly string[]): string[] {
  return post(path, 'content-type', 'application/grpc', 'te', 'trailers', ...more);
}
