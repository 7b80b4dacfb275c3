import type { ByteStream, ByteStreamHandler } from '../../src/model/byte-stream.ts';
import type { ConnectionPolicy, Decision } from '../../src/model/policy.ts';
import { type CoarseTimer, type CoarseTimers, sharedCoarseTimers } from '../coarse-timer.ts';
import { BodyFraming, MALFORMED } from './body-framing.ts';
import { INCOMPLETE, REFUSED } from './field-section.ts';
import { HeadBuffer } from './head-buffer.ts';
import { Http1Error } from './http1-error.ts';
import type { Http1Limits } from './limits.ts';
import { deniedResponse, refusalResponse } from './local-response.ts';
import { normalisePath } from './normalise-path.ts';
import { REFUSAL_STATUS, type RefusalReason } from './refusal.ts';
import { CHUNKED_BODY, parseRequestHead, RequestHead } from './request-head.ts';
import { parseResponseHead, ResponseHead, responseBodyLength } from './response-head.ts';

/** One request and what became of it. The session has one such object and fills it again: copy what is kept after the callback. */
export interface HttpExchange {
  /** '' when the head could not be read. */
  readonly method: string;
  /** Normalised, without query; '' when the head could not be read. */
  readonly path: string;
  /** Lower-cased Host. */
  readonly host: string;
  /** What the client was answered, by the upstream or by us; 0 when the exchange was cut. */
  readonly status: number;
  /** Head and body bytes received from the client for this request. */
  readonly requestBytes: number;
  /** Bytes sent to the client in answer, interim responses included. */
  readonly responseBytes: number;
  /** `clock()` when the head was complete (for a refused head: when it was refused). */
  readonly startedAt: number;
  readonly durationMicros: number;
  /** For requests that never came to policy: a denial without a policy that says so. */
  readonly decision: Decision;
  /** Why the upstream's own answer did not reach the client whole; null when it did. */
  readonly refusal: RefusalReason | null;
}

/** What a session is given. It owns both streams from construction until `onClose`. */
export interface Http1SessionOptions {
  /** The client's end. */
  readonly downstream: ByteStream;
  /** The server's end; may still be connecting. null: nothing can be forwarded, so every request is refused. */
  readonly upstream: ByteStream | null;
  /** The policy in force. Read for every request; a new object means a new policy. */
  readonly policy: () => ConnectionPolicy;
  /** Called once for each request, in order. For an upgraded connection: at the 101. */
  readonly onExchange: (exchange: HttpExchange) => void;
  /** Both streams are gone; exactly once and last. */
  readonly onClose: (error: Error | null) => void;
  readonly limits: Http1Limits;
  /** Name the policy in `x-weft-denied-by`. */
  readonly deniedByHeader: boolean;
  /** Microseconds, monotonic. */
  readonly clock: () => number;
  /** Deadlines; the thread's own when not given. */
  readonly timers?: CoarseTimers;
}

/** What the next byte from the client is. */
const RequestState = {
  /** Part of a request head, or nothing has come yet. */
  head: 0,
  /** Body of the request that is being forwarded. */
  body: 1,
  /** The request is forwarded whole. The next byte belongs to the next request, and waits. */
  sent: 2,
  /** Body of a denied request: dropped. */
  discard: 3,
  /** Not HTTP any more: forwarded. */
  tunnel: 4,
  /** No further request is taken: dropped until the connection is closed. */
  linger: 5,
} as const;

/** What the next byte from the upstream is. */
const ResponseState = {
  /** Nobody asked: an error. */
  idle: 0,
  /** Part of a response head. */
  head: 1,
  body: 2,
  /** The response is forwarded whole, while the request's body still comes. A byte is an error. */
  done: 3,
  tunnel: 4,
  /** Dropped. */
  closed: 5,
} as const;

type RequestState = (typeof RequestState)[keyof typeof RequestState];
type ResponseState = (typeof ResponseState)[keyof typeof ResponseState];

const STATE_COUNT = 6;
const REQUEST_STATE_NAMES = Object.keys(RequestState);
const RESPONSE_STATE_NAMES = Object.keys(ResponseState);

/** The pairs of states there are. */
const LEGAL_PAIRS = new Uint8Array(STATE_COUNT * STATE_COUNT);
for (const [request, response] of [
  [RequestState.head, ResponseState.idle],
  [RequestState.discard, ResponseState.idle],
  [RequestState.body, ResponseState.head],
  [RequestState.body, ResponseState.body],
  [RequestState.body, ResponseState.done],
  [RequestState.sent, ResponseState.head],
  [RequestState.sent, ResponseState.body],
  [RequestState.tunnel, ResponseState.tunnel],
  [RequestState.linger, ResponseState.closed],
] as const) {
  LEGAL_PAIRS[request * STATE_COUNT + response] = 1;
}

const NOT_DECIDED: Decision = { verdict: 'deny', policy: null, rule: null, reason: 'refused before policy' };
const POLICY_FAILED: Decision = { verdict: 'deny', policy: null, rule: null, reason: 'policy evaluation failed' };

/** Heads up to this size are remembered, to be recognised when they come again. */
const REMEMBERED_HEAD_BYTES = 1024;

interface MutableAttributes {
  method: string;
  path: string;
  host: string;
}

/**
 * An HTTP/1.1 connection between a client and one server, with policy asked for every request.
 *
 * Bytes pass as they came, in slices of the chunks they came in, after they have been validated. Invariants:
 * - a byte goes upstream only as part of a request whose whole head was valid and allowed by the policy in force at that moment;
 * - at most one exchange is in flight. What a pipelining client sends ahead waits, unparsed, and the client is paused;
 * - a byte goes downstream only in answer to the exchange in flight, so that answers are in the order of the requests;
 * - once framing is in doubt in either direction, nothing more is forwarded in it, and the connection ends;
 * - the pair of states is always one of LEGAL_PAIRS.
 *
 * Memory: one head in pieces per direction (limits.headBytes), one chunk that waits, the two remembered heads, and what the streams buffer.
 */
export class Http1Session {
  readonly #options: Http1SessionOptions;
  readonly #limits: Http1Limits;
  readonly #downstream: ByteStream;
  readonly #upstream: ByteStream | null;
  readonly #timer: CoarseTimer;

  #requestState: RequestState = RequestState.head;
  #responseState: ResponseState = ResponseState.idle;

  readonly #requestHead = new RequestHead();
  readonly #responseHead = new ResponseHead();
  readonly #requestBody: BodyFraming;
  readonly #responseBody: BodyFraming;
  readonly #partialRequest = new HeadBuffer();
  readonly #partialResponse = new HeadBuffer();
  /** Bytes of later requests, while an exchange is in flight or a stream is full. */
  #held: Buffer | null = null;

  // The last heads: clients and servers repeat themselves, and comparing is several times cheaper than parsing.
  #knownRequest: Buffer | null = null;
  #knownRequestLength = 0;
  #knownResponse: Buffer | null = null;
  #knownResponseLength = 0;

  /** Request line to send instead of the one received, or null when the received one is in normal form. */
  #rewrittenLine: string | null = null;
  readonly #attributes: MutableAttributes = { method: '', path: '', host: '' };
  #policy: ConnectionPolicy | null = null;
  #decision: Decision = NOT_DECIDED;

  readonly #exchange = {
    method: '',
    path: '',
    host: '',
    status: 0,
    requestBytes: 0,
    responseBytes: 0,
    startedAt: 0,
    durationMicros: 0,
    decision: NOT_DECIDED,
    refusal: null as RefusalReason | null,
  };
  /** The final response's head was (at least in part) sent to the client. */
  #answered = false;

  /** What the streams were last told; null until then, since a detector may have resumed them. */
  #downstreamFlowing: boolean | null = null;
  #upstreamFlowing: boolean | null = null;
  /** The last write was refused for now; onDrain follows. */
  #downstreamFull = false;
  #upstreamFull = false;
  #downstreamEnded = false;
  #upstreamEnded = false;
  #downstreamClosed = false;
  #upstreamClosed: boolean;
  /** downstream.end() is due when its buffer has drained. */
  #endDownstreamOnDrain = false;
  #draining = false;
  #closed = false;
  #error: Error | null = null;

  constructor(options: Http1SessionOptions) {
    this.#options = options;
    this.#limits = options.limits;
    this.#downstream = options.downstream;
    this.#upstream = options.upstream;
    this.#upstreamClosed = options.upstream === null;
    this.#requestBody = new BodyFraming(options.limits);
    this.#responseBody = new BodyFraming(options.limits);
    this.#timer = (options.timers ?? sharedCoarseTimers).timer(() => this.#expired());
  }

  /**
   * Takes over both streams, paused or flowing. `firstBytes` are those that were read to detect the protocol.
   */
  start(firstBytes: Buffer | null): void {
    this.#downstream.attach(this.#downstreamHandler());
    this.#upstream?.attach(this.#upstreamHandler());
    if (firstBytes !== null && firstBytes.length > 0) this.#downstreamData(firstBytes);
    this.#settle();
  }

  /** True between requests: nothing is in flight and no head has begun. */
  get idle(): boolean {
    return this.#requestState === RequestState.head && this.#partialRequest.empty && this.#held === null;
  }

  /** Ends the connection after the exchange in flight, or now when there is none. A tunnel goes on until its ends close it. */
  drain(): void {
    this.#draining = true;
    if (this.idle) this.#close(this.#limits.closeMillis);
    this.#settle();
  }

  /** Asks the policy in force again for what is in flight: a request without an answer gets its 403, all else is cut. */
  recheck(): void {
    const inFlight = this.#requestState === RequestState.body || this.#requestState === RequestState.sent;
    if (!inFlight && this.#requestState !== RequestState.tunnel) return;
    this.#policy = this.#options.policy();
    this.#decision = this.#decide(this.#policy);
    if (this.#decision.verdict === 'allow') return;
    this.#exchange.decision = this.#decision;
    const error = new Http1Error('WEFT_HTTP1_POLICY_CHANGED', 'policy no longer allows what was in flight');
    if (inFlight && !this.#answered) {
      this.#upstream?.destroy(error);
      this.#deny(true);
    } else {
      if (inFlight) this.#finishExchange(0, 'policy-changed');
      this.#cut(error);
    }
    this.#settle();
  }

  /** Cuts both streams now. An exchange in flight is reported as cut. */
  destroy(error: Error): void {
    this.#finishIfInFlight('session-closed');
    this.#cut(error);
  }

  // The streams' events.

  #downstreamHandler(): ByteStreamHandler {
    return {
      onData: (chunk) => {
        this.#downstreamData(chunk);
        this.#settle();
      },
      onEnd: () => {
        this.#downstreamEnded = true;
        this.#downstreamEnd();
        this.#settle();
      },
      onDrain: () => {
        this.#downstreamDrained();
        this.#settle();
      },
      onClose: (error) => this.#downstreamClose(error),
    };
  }

  #upstreamHandler(): ByteStreamHandler {
    return {
      onData: (chunk) => {
        this.#upstreamData(chunk);
        this.#settle();
      },
      onEnd: () => {
        this.#upstreamEnded = true;
        this.#upstreamEnd();
        this.#settle();
      },
      onDrain: () => {
        this.#upstreamFull = false;
        this.#settle();
      },
      onClose: (error) => this.#upstreamClose(error),
    };
  }

  /** The one transition function. */
  #move(request: RequestState, response: ResponseState): void {
    if (LEGAL_PAIRS[request * STATE_COUNT + response] === 0) {
      const names = `${REQUEST_STATE_NAMES[request]}/${RESPONSE_STATE_NAMES[response]}`;
      throw new Http1Error('WEFT_HTTP1_STATE', `no such pair of states: ${names}`);
    }
    this.#requestState = request;
    this.#responseState = response;
  }

  /** After every event: takes what was held if it may go on now, acts on a client's end that waited, and sets the flow. */
  #settle(): void {
    if (this.#requestState === RequestState.head) {
      if (this.#held !== null && !this.#downstreamFull && !this.#upstreamFull) {
        const held = this.#held;
        this.#held = null;
        this.#take(held, 0);
      }
      if (this.#downstreamEnded && this.#held === null && this.#requestState === RequestState.head) this.#downstreamEnd();
    }
    const downstreamFlows =
      this.#held === null &&
      !(this.#upstreamFull && (this.#requestState === RequestState.body || this.#requestState === RequestState.tunnel));
    if (downstreamFlows !== this.#downstreamFlowing) {
      this.#downstreamFlowing = downstreamFlows;
      if (downstreamFlows) this.#downstream.resume();
      else this.#downstream.pause();
    }
    const upstreamFlows = !this.#downstreamFull || this.#responseState === ResponseState.closed;
    if (upstreamFlows !== this.#upstreamFlowing) {
      this.#upstreamFlowing = upstreamFlows;
      if (upstreamFlows) this.#upstream?.resume();
      else this.#upstream?.pause();
    }
  }

  // From the client.

  #downstreamData(chunk: Buffer): void {
    if (this.#held !== null) {
      // Only a stream that delivers although it is paused comes here. The order of bytes is not its to break.
      this.#held = Buffer.concat([this.#held, chunk]);
      return;
    }
    if (this.#requestState !== RequestState.head || this.#partialRequest.empty) {
      this.#take(chunk, 0);
      return;
    }
    this.#partialRequest.append(chunk, 0);
    if (!this.#partialRequest.shouldParse(this.#limits.headBytes)) return;
    const bytes = this.#partialRequest.view();
    const next = this.#takeHead(bytes, 0);
    if (next === INCOMPLETE) return;
    this.#partialRequest.clear();
    this.#take(bytes, next);
  }

  /** Takes the bytes of `chunk` from `start`, request by request. */
  #take(chunk: Buffer, start: number): void {
    let at = start;
    while (at < chunk.length) {
      switch (this.#requestState) {
        case RequestState.head: {
          if (this.#downstreamFull || this.#upstreamFull) {
            this.#held = chunk.subarray(at);
            return;
          }
          const next = this.#takeHead(chunk, at);
          if (next === INCOMPLETE) {
            this.#partialRequest.append(chunk, at);
            this.#partialRequest.shouldParse(this.#limits.headBytes);
            this.#timer.arm(this.#limits.headTimeoutMillis);
            return;
          }
          at = next;
          break;
        }
        case RequestState.body:
          at = this.#takeBody(chunk, at);
          break;
        case RequestState.discard: {
          const end = this.#requestBody.advance(chunk, at, chunk.length);
          this.#exchange.requestBytes += end - at;
          at = end;
          if (this.#requestBody.done) {
            this.#report();
            this.#afterExchange(true);
          }
          break;
        }
        case RequestState.sent:
          this.#held = at === 0 ? chunk : chunk.subarray(at);
          return;
        case RequestState.tunnel:
          this.#sendUpstream(at === 0 ? chunk : chunk.subarray(at));
          return;
        default:
          return;
      }
    }
  }

  /**
   * Takes a request head at `start` and what of its body is there.
   * @returns the offset after both (the chunk's end after a refusal), or INCOMPLETE
   */
  #takeHead(chunk: Buffer, start: number): number {
    const head = this.#requestHead;
    const knownLength = this.#knownRequestLength;
    const isKnown =
      knownLength !== 0 &&
      chunk.length - start >= knownLength &&
      chunk.compare(this.#knownRequest as Buffer, 0, knownLength, start, start + knownLength) === 0;
    let headEnd = start + knownLength;
    if (!isKnown) {
      this.#knownRequestLength = 0;
      headEnd = parseRequestHead(chunk, start, chunk.length, head, this.#limits);
      if (headEnd === INCOMPLETE) return INCOMPLETE;
      if (headEnd === REFUSED) return this.#refuseHead(head.refusal as RefusalReason, chunk, start);
      const normal = normalisePath(head.target);
      if (typeof normal === 'string') return this.#refuseHead('bad-path', chunk, start);
      const attributes = this.#attributes;
      attributes.method = head.method;
      attributes.path = normal.path;
      attributes.host = head.host;
      this.#rewrittenLine = normal.changed || head.absoluteForm ? `${head.method} ${normal.path}${normal.query}` : null;
      this.#rememberRequest(chunk, start, headEnd);
    }

    const policy = this.#options.policy();
    if (!isKnown || policy !== this.#policy) {
      this.#policy = policy;
      this.#decision = this.#decide(policy);
    }
    this.#beginExchange(headEnd - start);
    if (this.#decision.verdict !== 'allow') {
      this.#deny(false);
      return headEnd;
    }
    const upstream = this.#upstream;
    if (upstream === null || this.#upstreamClosed || this.#upstreamEnded) {
      this.#refuse(upstream === null ? 'no-upstream' : 'upstream-closed');
      return chunk.length;
    }

    let end = headEnd;
    let isWhole = true;
    if (head.bodyLength !== 0) {
      this.#requestBody.start(head.bodyLength);
      end = this.#requestBody.advance(chunk, headEnd, chunk.length);
      if (end === MALFORMED) {
        // Nothing of this request has been forwarded, and nothing will be.
        this.#refuse(this.#requestBody.refusal);
        return chunk.length;
      }
      this.#exchange.requestBytes += end - headEnd;
      isWhole = this.#requestBody.done;
    }
    this.#answered = false;
    this.#move(isWhole ? RequestState.sent : RequestState.body, ResponseState.head);
    if (this.#rewrittenLine !== null) {
      const rest = chunk.subarray(start + head.targetEnd, end);
      this.#sendUpstream(Buffer.concat([Buffer.from(this.#rewrittenLine, 'latin1'), rest]));
    } else {
      this.#sendUpstream(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    }
    return end;
  }

  #takeBody(chunk: Buffer, start: number): number {
    const end = this.#requestBody.advance(chunk, start, chunk.length);
    if (end === MALFORMED) {
      this.#refuse(this.#requestBody.refusal);
      return chunk.length;
    }
    this.#exchange.requestBytes += end - start;
    this.#sendUpstream(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    if (this.#requestBody.done) {
      if (this.#responseState === ResponseState.done) {
        this.#finishExchange(this.#exchange.status, null);
        this.#afterExchange(this.#requestHead.keepAlive && this.#responseHead.keepAlive);
      } else {
        this.#move(RequestState.sent, this.#responseState);
      }
    }
    return end;
  }

  #rememberRequest(chunk: Buffer, start: number, end: number): void {
    const length = end - start;
    if (length > REMEMBERED_HEAD_BYTES) return;
    if (this.#knownRequest === null || this.#knownRequest.length < length) this.#knownRequest = Buffer.allocUnsafeSlow(roundUp(length));
    chunk.copy(this.#knownRequest, 0, start, end);
    this.#knownRequestLength = length;
  }

  #decide(policy: ConnectionPolicy): Decision {
    try {
      return policy.request(this.#attributes);
    } catch {
      // Whatever went wrong, the answer is no.
      return POLICY_FAILED;
    }
  }

  #downstreamEnd(): void {
    switch (this.#requestState) {
      case RequestState.head:
        if (this.#held !== null) return;
        if (this.#partialRequest.empty) this.#close(this.#limits.closeMillis);
        else this.#refuseHead('truncated-head', this.#partialRequest.view(), 0);
        break;
      case RequestState.body:
        this.#refuse('truncated-body');
        break;
      case RequestState.discard:
        this.#report();
        this.#close(this.#limits.closeMillis);
        break;
      case RequestState.tunnel:
        this.#upstream?.end();
        break;
      default:
      // sent: the answer is still owed. linger: on the way out already.
    }
  }

  #downstreamDrained(): void {
    this.#downstreamFull = false;
    if (!this.#endDownstreamOnDrain) return;
    this.#endDownstreamOnDrain = false;
    this.#downstream.end();
    this.#timer.arm(this.#limits.closeMillis);
  }

  #downstreamClose(error: Error | null): void {
    this.#downstreamClosed = true;
    this.#error ??= error;
    if (this.#requestState === RequestState.linger) {
      if (!this.#upstreamClosed) this.#timer.arm(this.#limits.lingerMillis);
    } else if (error !== null || this.#isInFlight()) {
      this.#finishIfInFlight('downstream-closed');
      this.#cut(error ?? new Http1Error('WEFT_HTTP1_ABORTED', 'exchange cut: downstream-closed'));
    } else {
      this.#close(this.#limits.lingerMillis);
    }
    this.#closeIfDone();
  }

  // From the server.

  #upstreamData(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      switch (this.#responseState) {
        case ResponseState.head:
          at = this.#partialResponse.empty ? this.#takeResponseHead(chunk, at, false) : this.#continueResponseHead(chunk);
          break;
        case ResponseState.body:
          at = this.#takeResponseBody(chunk, at);
          break;
        case ResponseState.tunnel:
          this.#sendDownstream(at === 0 ? chunk : chunk.subarray(at));
          return;
        case ResponseState.idle:
          // An answer to nothing, or more than the answer. Passed on, it would be taken for the answer to the next request.
          this.#upstream?.destroy();
          this.#close(this.#limits.closeMillis);
          return;
        case ResponseState.done:
          this.#upstream?.destroy();
          this.#finishExchange(this.#exchange.status, null);
          this.#close(this.#limits.lingerMillis);
          return;
        default:
          return;
      }
    }
  }

  /** @returns the offset in `chunk` after what was taken; its end when the head is incomplete or bad */
  #continueResponseHead(chunk: Buffer): number {
    const partial = this.#partialResponse;
    partial.append(chunk, 0);
    if (!partial.shouldParse(this.#limits.headBytes)) return chunk.length;
    const bytes = partial.view();
    // What follows the head in `bytes` is the end of `chunk`.
    const next = this.#takeResponseHead(bytes, 0, true);
    return chunk.length - (bytes.length - next);
  }

  /**
   * Takes a response head at `start` and what of its body is there.
   * @param isCollected `chunk` is the view of the partial response
   * @returns the offset after both; the chunk's end when the head is incomplete or bad
   */
  #takeResponseHead(chunk: Buffer, start: number, isCollected: boolean): number {
    const head = this.#responseHead;
    const knownLength = this.#knownResponseLength;
    let headEnd = start + knownLength;
    const isKnown =
      knownLength !== 0 && chunk.length >= headEnd && chunk.compare(this.#knownResponse as Buffer, 0, knownLength, start, headEnd) === 0;
    if (!isKnown) {
      this.#knownResponseLength = 0;
      headEnd = parseResponseHead(chunk, start, chunk.length, head, this.#limits);
      if (headEnd === INCOMPLETE) {
        if (!isCollected) {
          this.#partialResponse.append(chunk, start);
          this.#partialResponse.shouldParse(this.#limits.headBytes);
        }
        return chunk.length;
      }
      if (headEnd === REFUSED) {
        this.#refuse('upstream-malformed');
        return chunk.length;
      }
      this.#rememberResponse(chunk, start, headEnd);
    }
    if (isCollected) this.#partialResponse.clear();
    if (head.status < 200) return this.#takeInterimResponse(chunk, start, headEnd);

    const bodyLength = responseBodyLength(head, this.#requestHead.method);
    let end = headEnd;
    this.#responseBody.start(bodyLength);
    if (bodyLength !== 0) {
      // RFC 9112 section 6.1: a client of HTTP/1.0 cannot read chunks.
      const unreadable = bodyLength === CHUNKED_BODY && this.#requestHead.minorVersion === 0;
      end = unreadable ? MALFORMED : this.#responseBody.advance(chunk, headEnd, chunk.length);
      if (end === MALFORMED) {
        this.#refuse('upstream-malformed');
        return chunk.length;
      }
    }
    this.#answered = true;
    this.#exchange.status = head.status;
    this.#sendDownstream(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    this.#exchange.responseBytes += end - start;
    if (this.#responseBody.done) this.#responseComplete();
    else this.#move(this.#requestState, ResponseState.body);
    return end;
  }

  #takeInterimResponse(chunk: Buffer, start: number, end: number): number {
    const head = this.#requestHead;
    const isUpgrade = this.#responseHead.status === 101;
    // No interim responses for HTTP/1.0 (RFC 9110 section 15.2).
    if (head.minorVersion === 0) {
      this.#refuse('upstream-malformed');
      return chunk.length;
    }
    if (!isUpgrade) {
      this.#sendDownstream(chunk.subarray(start, end));
      this.#exchange.responseBytes += end - start;
      return end;
    }
    // HTTP/2 by upgrade would carry requests that policy never sees.
    const hidesRequests = head.fields.upgradeToHttp2 && this.#policy?.scope !== 'allow';
    if (!head.upgrade || hidesRequests || this.#requestState !== RequestState.sent) {
      this.#refuse('upstream-unexpected-upgrade');
      return chunk.length;
    }
    this.#answered = true;
    this.#sendDownstream(chunk.subarray(start, end));
    this.#exchange.responseBytes += end - start;
    this.#finishExchange(101, null);
    this.#move(RequestState.tunnel, ResponseState.tunnel);
    if (this.#held !== null) {
      const held = this.#held;
      this.#held = null;
      this.#sendUpstream(held);
    }
    if (this.#downstreamEnded) this.#upstream?.end();
    return end;
  }

  #rememberResponse(chunk: Buffer, start: number, end: number): void {
    const length = end - start;
    if (length > REMEMBERED_HEAD_BYTES) return;
    if (this.#knownResponse === null || this.#knownResponse.length < length) this.#knownResponse = Buffer.allocUnsafeSlow(roundUp(length));
    chunk.copy(this.#knownResponse, 0, start, end);
    this.#knownResponseLength = length;
  }

  #takeResponseBody(chunk: Buffer, start: number): number {
    const end = this.#responseBody.advance(chunk, start, chunk.length);
    if (end === MALFORMED) {
      this.#refuse('upstream-malformed');
      return chunk.length;
    }
    this.#sendDownstream(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    this.#exchange.responseBytes += end - start;
    if (this.#responseBody.done) this.#responseComplete();
    return end;
  }

  /** The response has been forwarded whole. */
  #responseComplete(): void {
    const keepAlive = this.#requestHead.keepAlive && this.#responseHead.keepAlive && !this.#upstreamEnded;
    if (this.#requestState === RequestState.body) {
      // After a final answer to `Expect`, the next bytes may be the body or, if the client gave it up, a new request: only closing is safe.
      if (keepAlive && !this.#requestHead.fields.expect) {
        this.#move(RequestState.body, ResponseState.done);
        return;
      }
      this.#finishExchange(this.#exchange.status, null);
      this.#upstream?.destroy();
      this.#close(this.#limits.lingerMillis);
      return;
    }
    this.#finishExchange(this.#exchange.status, null);
    this.#afterExchange(keepAlive);
  }

  #upstreamEnd(): void {
    switch (this.#responseState) {
      case ResponseState.idle:
        if (this.#requestState === RequestState.discard) this.#report();
        this.#close(this.#limits.closeMillis);
        break;
      case ResponseState.head:
        this.#refuse(this.#partialResponse.empty ? 'upstream-closed' : 'upstream-malformed');
        break;
      case ResponseState.body:
        if (this.#responseBody.untilClose) this.#responseComplete();
        else this.#refuse('upstream-truncated');
        break;
      case ResponseState.done:
        this.#finishExchange(this.#exchange.status, null);
        this.#close(this.#limits.lingerMillis);
        break;
      case ResponseState.tunnel:
        this.#downstream.end();
        break;
      default:
      // closed: on the way out already.
    }
  }

  #upstreamClose(error: Error | null): void {
    this.#upstreamClosed = true;
    this.#upstreamEnded = true;
    this.#upstreamFull = false;
    this.#error ??= error;
    if (this.#responseState === ResponseState.tunnel && error !== null) this.#cut(error);
    else if (this.#responseState === ResponseState.body && error !== null) this.#refuse('upstream-truncated');
    else this.#upstreamEnd();
    this.#closeIfDone();
    this.#settle();
  }

  // Exchanges.

  #isInFlight(): boolean {
    const state = this.#requestState;
    return state === RequestState.body || state === RequestState.sent || state === RequestState.discard;
  }

  #beginExchange(headBytes: number): void {
    const exchange = this.#exchange;
    const attributes = this.#attributes;
    exchange.method = attributes.method;
    exchange.path = attributes.path;
    exchange.host = attributes.host;
    exchange.status = 0;
    exchange.requestBytes = headBytes;
    exchange.responseBytes = 0;
    exchange.decision = this.#decision;
    exchange.refusal = null;
    exchange.startedAt = this.#options.clock();
  }

  #finishExchange(status: number, refusal: RefusalReason | null): void {
    this.#exchange.status = status;
    this.#exchange.refusal = refusal;
    this.#report();
  }

  #report(): void {
    this.#exchange.durationMicros = this.#options.clock() - this.#exchange.startedAt;
    this.#options.onExchange(this.#exchange);
  }

  #finishIfInFlight(reason: RefusalReason): void {
    // A denied request has its answer: that is what is reported.
    if (this.#requestState === RequestState.discard) this.#report();
    else if (this.#isInFlight()) this.#finishExchange(0, reason);
  }

  /** The exchange is over and reported: on to the next request, or to the end. */
  #afterExchange(keepAlive: boolean): void {
    if (!keepAlive || this.#draining || this.#upstreamEnded) this.#close(this.#limits.closeMillis);
    else this.#move(RequestState.head, ResponseState.idle);
  }

  // Refusals. Each is one answer at most, and none is forwarded.

  /** Refuses a request whose head cannot be trusted. Returns the chunk's end. */
  #refuseHead(reason: RefusalReason, chunk: Buffer, start: number): number {
    const attributes = this.#attributes;
    attributes.method = '';
    attributes.path = '';
    attributes.host = '';
    this.#decision = NOT_DECIDED;
    this.#beginExchange(chunk.length - start);
    this.#refuse(reason);
    return chunk.length;
  }

  /** Ends the exchange and the connection with an error answer, or by cutting it when an answer is not possible any more. */
  #refuse(reason: RefusalReason): void {
    const isForwarded = this.#responseState !== ResponseState.idle;
    const status = REFUSAL_STATUS[reason];
    const isAnswerable = status !== 0 && !(isForwarded && this.#answered);
    // What the server has of this request is not all of it, or its answer cannot be used.
    if (isForwarded) this.#upstream?.destroy(new Http1Error('WEFT_HTTP1_ABORTED', `exchange refused: ${reason}`));
    if (!isAnswerable) {
      this.#finishExchange(0, reason);
      this.#cut(new Http1Error('WEFT_HTTP1_ABORTED', `exchange cut: ${reason}`));
      return;
    }
    const answer = refusalResponse(reason, this.#exchange.method === 'HEAD');
    this.#sendDownstream(answer);
    this.#exchange.responseBytes += answer.length;
    this.#finishExchange(status, reason);
    this.#close(this.#limits.lingerMillis);
  }

  /**
   * Answers 403. The connection goes on if the request's body is short and sure to come; it is reported when that has been dropped.
   * @param isForwarded the request is at the server already, so that the connection cannot go on
   */
  #deny(isForwarded: boolean): void {
    const head = this.#requestHead;
    const isDrainable = head.bodyLength === 0 || (head.bodyLength > 0 && head.bodyLength <= this.#limits.drainBytes && !head.fields.expect);
    const goesOn = head.keepAlive && isDrainable && !isForwarded && !this.#draining;
    const answer = deniedResponse(this.#decision, this.#options.deniedByHeader, !goesOn, head.method === 'HEAD');
    this.#sendDownstream(answer);
    const exchange = this.#exchange;
    exchange.responseBytes += answer.length;
    exchange.status = 403;
    exchange.refusal = 'policy-denied';
    if (goesOn && head.bodyLength > 0) {
      this.#requestBody.start(head.bodyLength);
      this.#move(RequestState.discard, ResponseState.idle);
      this.#timer.arm(this.#limits.drainMillis);
      return;
    }
    this.#report();
    if (!goesOn) this.#close(this.#limits.lingerMillis);
  }

  #expired(): void {
    if (this.#requestState === RequestState.linger) {
      this.#cut(new Http1Error('WEFT_HTTP1_CLOSE_TIMEOUT', 'the peer did not close the connection in time'));
    } else if (this.#requestState === RequestState.head && !this.#partialRequest.empty) {
      this.#refuseHead('head-timeout', this.#partialRequest.view(), 0);
      this.#settle();
    } else if (this.#requestState === RequestState.discard) {
      this.#report();
      this.#close(this.#limits.lingerMillis);
    }
  }

  // Sending and closing.

  #sendUpstream(bytes: Buffer): void {
    if (bytes.length > 0 && !(this.#upstream as ByteStream).write(bytes)) this.#upstreamFull = true;
  }

  #sendDownstream(bytes: Buffer): void {
    if (bytes.length > 0 && !this.#downstream.write(bytes)) this.#downstreamFull = true;
  }

  /**
   * No more requests: both directions end in order. What the client still sends is read and dropped, so that its kernel does not answer
   * our close with a reset that would take the last response with it.
   * @param timeoutMillis until the connection is cut, once everything is written
   */
  #close(timeoutMillis: number): void {
    if (this.#requestState === RequestState.linger) return;
    this.#move(RequestState.linger, ResponseState.closed);
    this.#held = null;
    this.#partialRequest.clear();
    this.#partialResponse.clear();
    this.#upstream?.end();
    if (this.#downstreamFull) {
      this.#endDownstreamOnDrain = true;
      this.#timer.disarm();
      return;
    }
    this.#downstream.end();
    this.#timer.arm(timeoutMillis);
  }

  /** Both streams end at once. */
  #cut(error: Error): void {
    this.#move(RequestState.linger, ResponseState.closed);
    this.#held = null;
    this.#partialRequest.clear();
    this.#partialResponse.clear();
    this.#endDownstreamOnDrain = false;
    this.#timer.disarm();
    this.#downstream.destroy(error);
    this.#upstream?.destroy(error);
  }

  #closeIfDone(): void {
    if (this.#closed || !this.#downstreamClosed || !this.#upstreamClosed) return;
    this.#closed = true;
    this.#timer.disarm();
    this.#options.onClose(this.#error);
  }
}

function roundUp(length: number): number {
  return (length + 127) & ~127;
}
