import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { GateAnswer, RequestGate } from '../../src/model/request-gate.ts';
import { type CoarseTimer, type CoarseTimers, sharedCoarseTimers } from '../coarse-timer.ts';
import { GATE_FAILED, plainAnswer } from '../gate/gate-answers.ts';
import { type HttpExchange, NOT_DECIDED } from '../http-exchange.ts';
import type { PathNormalisation } from '../http1/normalise-path.ts';
import { Http2Connection, type Http2Options } from '../../src/transport/http2/connection.ts';
import { ErrorCode, Http2Error } from '../../src/transport/http2/errors.ts';
import { type ExchangeOwner, ExchangeState, Http2Exchange } from './exchange.ts';
import type { HeaderList } from '../../src/transport/http2/hpack.ts';
import type { RequestHead } from '../../src/transport/http2/message.ts';
import type { Http2RefusalReason } from './refusal.ts';
import type { Http2SessionLimits } from './session-limits.ts';
import type { Http2Stream } from '../../src/transport/http2/stream.ts';

/** What a session is given. It owns both streams from construction until `onClose`. */
export interface Http2SessionOptions {
  /** The client's end. */
  readonly downstream: ByteStream;
  /** The application's end; may still be connecting. null: nothing can be forwarded, so every request that is allowed is refused too. */
  readonly upstream: ByteStream | null;
  /** The gate in force. Read and asked for every request, and again for the open ones at `recheck`. */
  readonly gate: () => RequestGate;
  /** How far paths are normalised. Read for every request. */
  readonly normalisation: () => PathNormalisation;
  /** Called once for each request, when it is over. The object is the session's: copy what is kept. */
  readonly onExchange: (exchange: HttpExchange) => void;
  /** A message of the client was malformed and its stream was reset, or the connection ended for it. For counters; the words are for logs. */
  readonly onMalformed?: (reason: string) => void;
  /** Exactly once and last: neither connection takes part in anything any more. The streams have ended, or end by themselves within a second. */
  readonly onClose: (error: Error | null) => void;
  readonly limits: Http2SessionLimits;
  /** Name the policy in `x-weft-denied-by`. */
  readonly deniedByHeader: boolean;
  /** Microseconds, monotonic. */
  readonly clock: () => number;
  /** Deadlines; the thread's own when not given. */
  readonly timers?: CoarseTimers;
}

/**
 * idle: nothing was forwarded yet, so the upstream was told nothing. starting: our preface went out. ready: it speaks HTTP/2.
 * draining: it takes no new streams. gone: lost, closed, or never there.
 */
export type UpstreamState = 'idle' | 'starting' | 'ready' | 'draining' | 'gone';

const FORWARD: Record<UpstreamState, readonly UpstreamState[]> = {
  idle: ['starting', 'gone'],
  starting: ['ready', 'gone'],
  ready: ['draining', 'gone'],
  draining: ['gone'],
  gone: [],
};

/** What an upstream may say before it was asked: its SETTINGS, usually of under a hundred bytes. */
const MAX_EARLY_BYTES = 65_536;

/** How long an upstream may take to close a connection that nobody used. */
const LINGER_MILLIS = 1000;

const NO_SHADOW = Object.freeze([]);

/**
 * An HTTP/2 connection between a client and one application (RFC 9113, cleartext with prior knowledge on both sides), with the gate asked
 * for every request. To the client it is a server; to the application it is a client, on one connection of its own.
 *
 * Streams are joined one to one: heads, DATA, trailers and resets go across, windows end to end. An upstream that goes away takes the
 * client's connection along, in order: GOAWAY, so that the client dials again and a new pair is made.
 *
 * Invariants: see `Http2Exchange` for one request. Requests reach the application in the order in which the gate allowed them. An upstream
 * hears nothing before the first allowed request, and no request before it has shown that it speaks HTTP/2.
 *
 * Memory: at most a connection window in each direction, and for each open request its head and two stream objects.
 */
export class Http2Session implements ExchangeOwner {
  readonly #options: Http2SessionOptions;
  readonly #exchanges = new Set<Http2Exchange>();
  /** Allowed, in order, and not forwarded yet. */
  readonly #waiting: Http2Exchange[] = [];
  #downstream: Http2Connection | null = null;
  #upstream: Http2Connection | null = null;
  #upstreamState: UpstreamState = 'idle';
  /** What the upstream said before our preface. */
  #early: Buffer[] = [];
  #earlyBytes = 0;
  #upstreamError: Error | null = null;
  /** Its SETTINGS came. */
  #spokeHttp2 = false;
  #downstreamClosed = false;
  #upstreamClosed = false;
  #closed = false;
  /** Armed while the gate takes its time for any request. */
  readonly #timer: CoarseTimer;
  #linger: NodeJS.Timeout | null = null;
  #error: Error | null = null;

  constructor(options: Http2SessionOptions) {
    this.#options = options;
    this.#timer = (options.timers ?? sharedCoarseTimers).timer(() => this.#expire());
  }

  /**
   * Takes over both streams, paused or flowing.
   * @param firstBytes of the client, read to detect the protocol
   * @param upstreamFirstBytes of the application, which may send its SETTINGS as soon as it accepts
   */
  start(firstBytes: Buffer | null, upstreamFirstBytes: Buffer | null = null): void {
    const { downstream, upstream, limits } = this.#options;
    if (upstream === null) {
      this.#upstreamState = 'gone';
      this.#upstreamClosed = true;
    } else {
      if (upstreamFirstBytes !== null) this.#keepEarly(upstreamFirstBytes, upstream);
      upstream.attach({
        onData: (chunk) => this.#keepEarly(chunk, upstream),
        onEnd: () => this.#upstreamLeft(null),
        onDrain() {},
        onClose: (error) => {
          this.#upstreamLeft(error);
          this.#upstreamClosed = true;
          this.#closeIfDone();
        },
      });
      upstream.resume();
    }
    const connection = new Http2Connection(
      'server',
      downstream,
      {
        onStream: (stream, head, fields, endStream) => this.#stream(stream, head, fields, endStream),
        onMalformed: (reason, stream) => this.#malformed(reason, stream),
        onClose: (error) => this.#clientLeft(error),
      },
      {
        ...shared(limits),
        maxConcurrentStreams: limits.concurrentStreams,
        resetBurst: limits.resetBurst,
        resetsPerSecond: limits.resetsPerSecond,
        keepAliveMs: limits.keepAliveMillis,
        // A client that reads slowly may have an answer's head waiting for each of its streams.
        maxUnreadControl: (1 << 20) + limits.concurrentStreams * limits.headBytes,
      },
    );
    this.#downstream = connection;
    if (firstBytes !== null && firstBytes.length > 0) connection.onData(firstBytes);
  }

  /** Requests open now. */
  get activeStreams(): number {
    return this.#exchanges.size;
  }

  get upstreamState(): UpstreamState {
    return this.#upstreamState;
  }

  /** GOAWAY to the client; the connection closes when the open streams have ended, or after `limits.drainMillis`. */
  drain(): void {
    this.#downstream?.drain(this.#options.limits.drainMillis);
  }

  /**
   * Asks the gate again for what is open. What is no longer allowed ends: with the refusal where no answer has begun, else with
   * RST_STREAM (CANCEL) on both sides.
   */
  recheck(): void {
    for (const exchange of this.#exchanges) exchange.recheck();
  }

  /** Ends both connections now. Open requests are reported as cut. */
  destroy(error: Error): void {
    this.#error ??= error;
    this.#downstream?.destroy(error);
    this.#leaveUpstream(error);
  }

  // The client.

  #stream(stream: Http2Stream, head: RequestHead, fields: HeaderList, endStream: boolean): void {
    const exchange = new Http2Exchange(this, stream, fields, endStream);
    this.#exchanges.add(exchange);
    exchange.start(head);
  }

  #malformed(reason: string, stream: Http2Stream): void {
    this.#options.onMalformed?.(reason);
    // A stream that an exchange owns is reported by it.
    if (stream.attached) return;
    const refusal: Http2RefusalReason = reason === 'a header list over the limit' ? 'head-too-large' : 'malformed-message';
    this.#options.onExchange({
      method: '',
      path: '',
      host: '',
      status: refusal === 'head-too-large' ? 431 : 0,
      requestBytes: 0,
      responseBytes: 0,
      startedAt: this.clock(),
      durationMicros: 0,
      decision: NOT_DECIDED,
      shadow: NO_SHADOW,
      refusal,
      detail: reason,
    });
  }

  #clientLeft(error: Error | null): void {
    this.#downstreamClosed = true;
    this.#error ??= error;
    if (error instanceof Http2Error && isMisconduct(error)) this.#options.onMalformed?.(error.message);
    this.#leaveUpstream(error);
    this.#closeIfDone();
  }

  // What exchanges ask for.

  get deniedByHeader(): boolean {
    return this.#options.deniedByHeader;
  }

  get pathNormalisation(): PathNormalisation {
    return this.#options.normalisation();
  }

  get maxTargetBytes(): number {
    return this.#options.limits.targetBytes;
  }

  clock(): number {
    return this.#options.clock();
  }

  ask(exchange: Http2Exchange): GateAnswer | Promise<GateAnswer> {
    try {
      return this.#options.gate().ask(exchange);
    } catch {
      return plainAnswer(GATE_FAILED);
    }
  }

  awaits(): void {
    if (!this.#timer.armed) this.#timer.arm(this.#options.limits.authorisationMillis);
  }

  #expire(): void {
    const { authorisationMillis } = this.#options.limits;
    const limit = this.clock() - authorisationMillis * 1000;
    let isAnyLeft = false;
    for (const exchange of this.#exchanges) if (exchange.expire(limit)) isAnyLeft = true;
    if (isAnyLeft) this.#timer.arm(authorisationMillis);
  }

  ended(exchange: Http2Exchange): void {
    this.#exchanges.delete(exchange);
    // An application that takes no more streams may do so for ever, while a client gives up request after request.
    const at = this.#waiting.indexOf(exchange);
    if (at !== -1) this.#waiting.splice(at, 1);
    this.#options.onExchange(exchange);
  }

  forward(exchange: Http2Exchange): void {
    if (this.#upstreamState === 'idle') this.#openUpstream();
    const upstream = this.#upstream;
    if (this.#upstreamState === 'ready' && this.#waiting.length === 0 && upstream !== null && upstream.availableStreams > 0) {
      exchange.open(upstream);
      return;
    }
    if (this.#upstreamState === 'gone' || this.#upstreamState === 'draining') {
      this.#refuse(exchange);
      return;
    }
    this.#waiting.push(exchange);
  }

  /** The upstream takes no more requests, now or ever. */
  #refuse(exchange: Http2Exchange): void {
    if (this.#upstreamState === 'draining') exchange.refuse('upstream-draining', null);
    else if (this.#options.upstream === null) exchange.refuse('no-upstream', null);
    else exchange.refuse(this.#isNotHttp2() ? 'upstream-not-http2' : 'upstream-closed', this.#upstreamError?.message ?? null);
  }

  /** It took our preface and had another answer than SETTINGS. One that cannot be reached is only that. */
  #isNotHttp2(): boolean {
    const error = this.#upstreamError;
    if (this.#spokeHttp2 || !(error instanceof Http2Error)) return false;
    return error.code !== 'WEFT_HTTP2_CONNECTION_LOST' || error.cause === null || error.cause === undefined;
  }

  // The application.

  #moveUpstream(to: UpstreamState): void {
    if (!FORWARD[this.#upstreamState].includes(to)) {
      throw new Http2Error('WEFT_HTTP2_STATE', ErrorCode.internalError, `an upstream cannot go from ${this.#upstreamState} to ${to}`, {
        nextStep: 'report this as a bug of Weft',
      });
    }
    this.#upstreamState = to;
  }

  #keepEarly(chunk: Buffer, upstream: ByteStream): void {
    this.#early.push(chunk);
    this.#earlyBytes += chunk.length;
    if (this.#earlyBytes > MAX_EARLY_BYTES) upstream.pause();
  }

  #openUpstream(): void {
    const { limits } = this.#options;
    this.#moveUpstream('starting');
    const connection = new Http2Connection(
      'client',
      this.#options.upstream as ByteStream,
      {
        onReady: () => {
          this.#spokeHttp2 = true;
          this.#moveUpstream('ready');
          this.#forwardWaiting();
        },
        onStreamClosed: () => this.#forwardWaiting(),
        onGoaway: () => {
          if (this.#upstreamState !== 'ready') return;
          this.#moveUpstream('draining');
          this.#stopWaiting();
          this.drain();
        },
        onClose: (error) => {
          this.#upstreamLeft(error);
          this.#upstreamClosed = true;
          this.#closeIfDone();
        },
      },
      {
        ...shared(limits),
        maxOpenStreams: limits.concurrentStreams,
        settingsTimeoutMs: limits.upstreamReadyMillis,
        keepAliveMs: 0,
      },
    );
    this.#upstream = connection;
    const early = this.#early;
    this.#early = [];
    for (const chunk of early) connection.onData(chunk);
  }

  #forwardWaiting(): void {
    const upstream = this.#upstream;
    if (this.#upstreamState !== 'ready' || upstream === null) return;
    const waiting = this.#waiting;
    while (waiting.length > 0 && upstream.availableStreams > 0) {
      const exchange = waiting.shift() as Http2Exchange;
      if (exchange.state === ExchangeState.waiting) exchange.open(upstream);
    }
  }

  #stopWaiting(): void {
    for (const exchange of this.#waiting.splice(0)) if (exchange.state === ExchangeState.waiting) this.#refuse(exchange);
  }

  /** The upstream has ended, in order or not: what waits for it is refused, and the client is sent to a new connection. */
  #upstreamLeft(error: Error | null): void {
    if (this.#upstreamState === 'gone') return;
    this.#moveUpstream('gone');
    this.#upstreamError = error;
    this.#early = [];
    this.#stopWaiting();
    if (this.#downstreamClosed) return;
    this.#error ??= error;
    this.drain();
  }

  #leaveUpstream(error: Error | null): void {
    if (this.#upstreamState !== 'gone') this.#moveUpstream('gone');
    if (this.#upstream !== null) this.#upstream.destroy();
    else if (error !== null) this.#options.upstream?.destroy(error);
    else this.#endUnusedUpstream();
    this.#stopWaiting();
  }

  /** It was never spoken to: it has the end of a connection that carried nothing. */
  #endUnusedUpstream(): void {
    const { upstream } = this.#options;
    if (upstream === null || this.#upstreamClosed || this.#linger !== null) return;
    upstream.end();
    this.#linger = setTimeout(() => upstream.destroy(), LINGER_MILLIS).unref();
  }

  #closeIfDone(): void {
    if (this.#closed || !this.#downstreamClosed || !this.#upstreamClosed) return;
    this.#closed = true;
    this.#timer.disarm();
    if (this.#linger !== null) clearTimeout(this.#linger);
    this.#options.onClose(this.#error);
  }
}

function shared(limits: Http2SessionLimits): Partial<Http2Options> {
  return {
    streamWindow: limits.streamWindow,
    connectionWindow: limits.connectionWindow,
    maxFrameSize: limits.frameBytes,
    maxHeaderListSize: limits.headBytes,
    maxHeaderCount: limits.fields,
    // What is over the limit by a little has its answer; what is over it by far ends the connection.
    maxHeaderBlock: limits.headBytes * 2,
  };
}

/** The connection ended for what the client did, not for what happened to it. */
function isMisconduct({ code }: Http2Error): boolean {
  return (
    code === 'WEFT_HTTP2_PROTOCOL' || code === 'WEFT_HTTP2_FLOOD' || code === 'WEFT_HTTP2_COMPRESSION' || code === 'WEFT_HTTP2_MALFORMED'
  );
}
