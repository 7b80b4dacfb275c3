import type { ByteStream, ByteStreamHandler } from '../../src/model/byte-stream.ts';
import type { GateAnswer, HeaderChange, RequestGate } from '../../src/model/request-gate.ts';
import { type CoarseTimer, type CoarseTimers, sharedCoarseTimers } from '../coarse-timer.ts';
import { type HttpExchange, NOT_DECIDED } from '../http-exchange.ts';
import { BodyFraming, MALFORMED } from './body-framing.ts';
import { INCOMPLETE, REFUSED } from './field-section.ts';
import { HeadBuffer } from './head-buffer.ts';
import { headerChangeProblem } from './header-change.ts';
import { Http1Error } from './http1-error.ts';
import type { Http1Limits } from './limits.ts';
import { deniedResponse, gateResponse, refusalResponse, refusalStatus } from './local-response.ts';
import { type NormalisedPath, normalisePath, type PathNormalisation } from './normalise-path.ts';
import { REFUSAL_STATUS, type RefusalReason } from './refusal.ts';
import { CHUNKED_BODY, parseRequestHead, RequestHead } from './request-head.ts';
import { RequestView } from './request-view.ts';
import { rewriteForNextHop, rewriteHead } from './rewrite-head.ts';
import { parseResponseHead, ResponseHead, responseBodyLength } from './response-head.ts';

/** What a session is given. It owns both streams from construction until `onClose`. */
export interface Http1SessionOptions {
  /** The client's end. */
  readonly downstream: ByteStream;
  /** The server's end; may still be connecting. null: nothing can be forwarded, so every request is refused. */
  readonly upstream: ByteStream | null;
  /**
   * The gate in force. Read for every request, and asked unless the head's bytes, the gate and its basis are those of the last answer.
   * A change of policy must be followed by `recheck()`.
   */
  readonly gate: () => RequestGate;
  /** How far paths are normalised. Read for every request. */
  readonly normalisation: () => PathNormalisation;
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
  /** Part of a request whose head waits for the gate's answer: it waits too. */
  authorising: 6,
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

const STATE_COUNT = 7;
const REQUEST_STATE_NAMES = Object.keys(RequestState);
const RESPONSE_STATE_NAMES = Object.keys(ResponseState);

/** The pairs of states there are. */
const LEGAL_PAIRS = new Uint8Array(STATE_COUNT * STATE_COUNT);
for (const [request, response] of [
  [RequestState.head, ResponseState.idle],
  [RequestState.authorising, ResponseState.idle],
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

function denial(reason: string): GateAnswer {
  return { decision: { ...NOT_DECIDED, reason }, refusal: null, change: null, shadow: [] };
}

const NOT_ASKED = denial(NOT_DECIDED.reason);
const NOT_ANSWERED = denial('the policy has not answered');
// Whatever goes wrong, the answer is no.
const GATE_FAILED = denial('the policy could not be evaluated');
const CHANGE_FAILED = denial('the headers that the policy sets are not valid');

const NO_BYTES = Buffer.alloc(0);

/** Heads up to this size are remembered, to be recognised when they come again. */
const REMEMBERED_HEAD_BYTES = 1024;

/**
 * An HTTP/1.1 connection between a client and one server, with a gate that is asked for every request.
 *
 * Bytes pass as they came, in slices of the chunks they came in, after they have been validated; a head is written anew only where its
 * path was not normal, it had fields for one hop only, or the gate changes it. Invariants:
 * - a byte goes upstream only as part of a request whose whole head was valid and allowed by the gate in force at that moment;
 * - what the gate sees of a head is what goes upstream, but for the changes that it asks for itself;
 * - at most one exchange is in flight. What a pipelining client sends ahead waits, unparsed, and the client is paused;
 * - a byte goes downstream only in answer to the exchange in flight, so that answers are in the order of the requests;
 * - once framing is in doubt in either direction, nothing more is forwarded in it, and the connection ends;
 * - the pair of states is always one of LEGAL_PAIRS.
 *
 * Memory: one head in pieces per direction (limits.headBytes), one chunk that waits, the two remembered heads with what they were made
 * into, the chunk of a head in flight that is too long to be remembered, and what the streams buffer.
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

  /** The response head to send instead of the one received, or null. */
  #sentResponse: Buffer | null = null;

  // The request in hand.
  readonly #view = new RequestView();
  /** Its head in normal form and for the next hop, or null when it came so. */
  #normalHead: Buffer | null = null;
  /** The head to send instead of the one received, or null. */
  #sentHead: Buffer | null = null;
  #level: PathNormalisation = 'base';
  #answer: GateAnswer = NOT_ASKED;
  /** What the answer stands on. Without a basis it is good for one request. */
  #gate: RequestGate | null = null;
  #basis: object | null = null;
  /** Which question the gate's answer is awaited for: an answer to any other comes too late. */
  #ticket = 0;

  readonly #exchange = {
    method: '',
    path: '',
    host: '',
    status: 0,
    requestBytes: 0,
    responseBytes: 0,
    startedAt: 0,
    durationMicros: 0,
    decision: NOT_ASKED.decision,
    shadow: NOT_ASKED.shadow,
    refusal: null as RefusalReason | null,
    detail: null,
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

  /**
   * Asks the gate in force again for what is in flight: a request without an answer gets its refusal, all else is cut. Headers stay as
   * they were sent.
   */
  recheck(): void {
    this.#basis = null;
    if (!this.#isUndecided() && this.#requestState !== RequestState.tunnel) return;
    const answer = this.#ask(this.#options.gate());
    if (answer instanceof Promise) {
      this.#await(answer);
      return;
    }
    this.#ticket++;
    this.#takeAnswer(answer);
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
        case RequestState.authorising:
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
    const level = this.#options.normalisation();
    const knownLength = this.#knownRequestLength;
    const isKnown =
      knownLength !== 0 &&
      level === this.#level &&
      chunk.length - start >= knownLength &&
      chunk.compare(this.#knownRequest as Buffer, 0, knownLength, start, start + knownLength) === 0;
    let headEnd = start + knownLength;
    if (!isKnown) {
      this.#knownRequestLength = 0;
      headEnd = parseRequestHead(chunk, start, chunk.length, head, this.#limits);
      if (headEnd === INCOMPLETE) return INCOMPLETE;
      if (headEnd === REFUSED) return this.#refuseHead(head.refusal as RefusalReason, chunk, start);
      const normal = normalisePath(head.target, level);
      if (typeof normal === 'string') return this.#refuseHead('bad-path', chunk, start);
      this.#level = level;
      this.#lookAt(chunk, start, headEnd, normal);
    }
    this.#beginExchange(headEnd - start);

    const gate = this.#options.gate();
    const basis = gate.basis?.() ?? null;
    if (!isKnown || basis === null || basis !== this.#basis || gate !== this.#gate) {
      this.#gate = gate;
      const answer = this.#ask(gate);
      if (answer instanceof Promise) {
        this.#basis = null;
        this.#adopt(NOT_ANSWERED);
        this.#move(RequestState.authorising, ResponseState.idle);
        this.#timer.arm(this.#limits.authorisationMillis);
        this.#await(answer);
        return headEnd;
      }
      this.#basis = basis;
      this.#adopt(answer);
    }
    if (this.#answer.decision.verdict !== 'allow') {
      this.#deny(false);
      return headEnd;
    }
    return this.#forward(chunk, start, headEnd, this.#sentHead);
  }

  /** Makes a parsed head the one in hand. */
  #lookAt(chunk: Buffer, start: number, headEnd: number, normal: NormalisedPath): void {
    const head = this.#requestHead;
    const view = this.#view;
    const fieldsStart = start + head.fieldsOffset;
    view.method = head.method;
    view.path = normal.path;
    view.host = head.host;
    view.hasTrustHeaders = head.fields.hasTrustFields;
    const isRemembered = this.#rememberRequest(chunk, start, headEnd);
    if (normal.changed || head.absoluteForm || head.needsRewrite) {
      const line = `${head.method} ${normal.path}${normal.query} HTTP/1.${head.minorVersion}\r\n`;
      const rewritten = head.needsRewrite
        ? rewriteForNextHop(line, chunk, fieldsStart, headEnd, head.fields, head.upgrade)
        : rewriteHead(line, chunk, fieldsStart, headEnd, null, '');
      this.#normalHead = rewritten;
      view.point(rewritten, 0, line.length, rewritten.length, normal.query);
      return;
    }
    this.#normalHead = null;
    if (isRemembered) view.point(this.#knownRequest as Buffer, 0, head.fieldsOffset, headEnd - start, normal.query);
    else view.point(chunk, start, fieldsStart, headEnd, normal.query);
  }

  /**
   * Sends the allowed request: its head, and what of its body is in `chunk` from `bodyStart`.
   * @param sentHead null: the head is what stands in `chunk` from `start` to `bodyStart`
   * @returns the offset after what was taken; the chunk's end after a refusal
   */
  #forward(chunk: Buffer, start: number, bodyStart: number, sentHead: Buffer | null): number {
    const upstream = this.#upstream;
    if (upstream === null || this.#upstreamClosed || this.#upstreamEnded) {
      this.#refuse(upstream === null ? 'no-upstream' : 'upstream-closed');
      return chunk.length;
    }
    const { bodyLength } = this.#requestHead;
    let end = bodyStart;
    let isWhole = true;
    if (bodyLength !== 0) {
      this.#requestBody.start(bodyLength);
      end = this.#requestBody.advance(chunk, bodyStart, chunk.length);
      if (end === MALFORMED) {
        // Nothing of this request has been forwarded, and nothing will be.
        this.#refuse(this.#requestBody.refusal);
        return chunk.length;
      }
      this.#exchange.requestBytes += end - bodyStart;
      isWhole = this.#requestBody.done;
    }
    this.#answered = false;
    this.#move(isWhole ? RequestState.sent : RequestState.body, ResponseState.head);
    if (sentHead !== null) this.#sendUpstream(end === bodyStart ? sentHead : Buffer.concat([sentHead, chunk.subarray(bodyStart, end)]));
    else this.#sendUpstream(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    return end;
  }

  // The gate.

  #ask(gate: RequestGate): GateAnswer | Promise<GateAnswer> {
    try {
      return gate.ask(this.#view);
    } catch {
      return GATE_FAILED;
    }
  }

  #await(asked: Promise<GateAnswer>): void {
    const ticket = ++this.#ticket;
    const take = (answer: GateAnswer): void => {
      if (ticket === this.#ticket) this.#takeAnswer(answer);
    };
    asked.then(take, () => take(GATE_FAILED));
  }

  /** Something of a request is in hand or on its way, and its answer has not been passed on whole. */
  #isUndecided(): boolean {
    const state = this.#requestState;
    return state === RequestState.authorising || state === RequestState.body || state === RequestState.sent;
  }

  /** Takes an answer that came late, or was asked for again. */
  #takeAnswer(answer: GateAnswer): void {
    if (this.#requestState === RequestState.authorising) this.#authorised(answer);
    else this.#rechecked(answer);
    this.#settle();
  }

  /** Makes the answer the one for the request in hand. */
  #adopt(answer: GateAnswer): void {
    this.#sentHead = this.#normalHead;
    let adopted = answer;
    if (answer.change !== null && answer.decision.verdict === 'allow') {
      if (headerChangeProblem(answer.change) === null) this.#sentHead = this.#changedHead(answer.change);
      else adopted = CHANGE_FAILED;
    }
    this.#answer = adopted;
    this.#exchange.decision = adopted.decision;
    this.#exchange.shadow = adopted.shadow;
  }

  /** Removal is by the reading of sloppy servers too, to which `X_Forwarded_For` is X-Forwarded-For. */
  #changedHead({ remove, set }: HeaderChange): Buffer {
    const dropped = new Set<string>();
    for (const name of remove) dropped.add(name.replaceAll('_', '-'));
    let added = '';
    for (const [name, value] of set) added += `${name}: ${value}\r\n`;
    return this.#view.rewritten(dropped, added);
  }

  /** The answer that the request was waiting for. */
  #authorised(answer: GateAnswer): void {
    this.#timer.disarm();
    const held = this.#held ?? NO_BYTES;
    this.#held = null;
    this.#adopt(answer);
    let next = 0;
    if (this.#answer.decision.verdict === 'allow') next = this.#forward(held, 0, 0, this.#sentHead ?? this.#view.copy());
    else this.#deny(false);
    if (next < held.length) this.#take(held, next);
    // The client's end may have come while nothing could be said about it.
    const isBodyDue = this.#requestState === RequestState.body || this.#requestState === RequestState.discard;
    if (isBodyDue && this.#downstreamEnded && this.#held === null) this.#downstreamEnd();
  }

  /** The gate has been asked again about what is on its way. */
  #rechecked(answer: GateAnswer): void {
    const isUndecided = this.#isUndecided();
    if (!isUndecided && this.#requestState !== RequestState.tunnel) return;
    if (answer.decision.verdict === 'allow') return;
    this.#answer = answer;
    this.#exchange.decision = answer.decision;
    this.#exchange.shadow = answer.shadow;
    const error = new Http1Error('WEFT_HTTP1_POLICY_CHANGED', 'policy no longer allows what was in flight');
    if (isUndecided && !this.#answered) {
      this.#upstream?.destroy(error);
      this.#deny(true);
    } else {
      if (isUndecided) this.#finishExchange(0, 'policy-changed');
      this.#cut(error);
    }
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

  /** @returns false if it is too long for that */
  #rememberRequest(chunk: Buffer, start: number, end: number): boolean {
    const length = end - start;
    if (length > REMEMBERED_HEAD_BYTES) return false;
    if (this.#knownRequest === null || this.#knownRequest.length < length) this.#knownRequest = Buffer.allocUnsafeSlow(roundUp(length));
    chunk.copy(this.#knownRequest, 0, start, end);
    this.#knownRequestLength = length;
    return true;
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
      // authorising, sent: the answer is still owed. linger: on the way out already.
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
          if (this.#requestState === RequestState.authorising) this.#refuse('upstream-malformed');
          else this.#close(this.#limits.closeMillis);
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
      this.#sentResponse = head.needsRewrite ? this.#responseForNextHop(chunk, start, headEnd) : null;
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
    this.#passResponseHead(chunk, start, headEnd, end);
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
      this.#passResponseHead(chunk, start, end, end);
      return end;
    }
    // What was offered hides no requests; what was not offered might.
    const hidesRequests = this.#responseHead.fields.upgradeHidesRequests;
    if (!head.upgrade || hidesRequests || this.#requestState !== RequestState.sent) {
      this.#refuse('upstream-unexpected-upgrade');
      return chunk.length;
    }
    this.#answered = true;
    this.#passResponseHead(chunk, start, end, end);
    // The head stays in hand, for rechecks, for as long as the tunnel is open.
    if (this.#knownRequestLength === 0) this.#view.compact();
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

  #responseForNextHop(chunk: Buffer, start: number, end: number): Buffer {
    const head = this.#responseHead;
    const fieldsStart = start + head.fieldsOffset;
    return rewriteForNextHop(chunk.latin1Slice(start, fieldsStart), chunk, fieldsStart, end, head.fields, head.keepsUpgrade);
  }

  /** Sends a response head and what of its body follows it in `chunk`, up to `end`. */
  #passResponseHead(chunk: Buffer, start: number, headEnd: number, end: number): void {
    let bytes = this.#sentResponse;
    if (bytes === null) bytes = start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end);
    else if (end > headEnd) bytes = Buffer.concat([bytes, chunk.subarray(headEnd, end)]);
    this.#sendDownstream(bytes);
    this.#exchange.responseBytes += bytes.length;
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
        // The request may yet be denied, and is not forwarded if it is not.
        if (this.#requestState === RequestState.authorising) break;
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
    return this.#isUndecided() || state === RequestState.discard;
  }

  #beginExchange(headBytes: number): void {
    const exchange = this.#exchange;
    const view = this.#view;
    this.#ticket++;
    exchange.method = view.method;
    exchange.path = view.path;
    exchange.host = view.host;
    exchange.status = 0;
    exchange.requestBytes = headBytes;
    exchange.responseBytes = 0;
    exchange.decision = this.#answer.decision;
    exchange.shadow = this.#answer.shadow;
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
    if (this.#knownRequestLength !== 0 || this.#exchange.status === 101) return;
    this.#view.clear();
    this.#normalHead = null;
    this.#sentHead = null;
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
    const view = this.#view;
    view.method = '';
    view.path = '';
    view.host = '';
    this.#answer = NOT_ASKED;
    this.#basis = null;
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
   * Answers as the gate says, or with 403. The connection goes on if the request's body is short and sure to come; it is reported when that
   * has been dropped.
   * @param isForwarded the request is at the server already, so that the connection cannot go on
   */
  #deny(isForwarded: boolean): void {
    const head = this.#requestHead;
    const isDrainable = head.bodyLength === 0 || (head.bodyLength > 0 && head.bodyLength <= this.#limits.drainBytes && !head.fields.expect);
    const goesOn = head.keepAlive && head.minorVersion === 1 && isDrainable && !isForwarded && !this.#draining;
    const { decision, refusal } = this.#answer;
    const { deniedByHeader } = this.#options;
    const toHead = head.method === 'HEAD';
    const answer =
      refusal === null
        ? deniedResponse(decision, deniedByHeader, !goesOn, toHead)
        : gateResponse(refusal, decision, deniedByHeader, !goesOn, toHead);
    this.#sendDownstream(answer);
    const exchange = this.#exchange;
    exchange.responseBytes += answer.length;
    exchange.status = refusal === null ? 403 : refusalStatus(refusal);
    exchange.refusal = 'policy-denied';
    if (goesOn && head.bodyLength > 0) {
      this.#requestBody.start(head.bodyLength);
      this.#move(RequestState.discard, ResponseState.idle);
      this.#timer.arm(this.#limits.drainMillis);
      return;
    }
    this.#report();
    if (goesOn) this.#move(RequestState.head, ResponseState.idle);
    else this.#close(this.#limits.lingerMillis);
  }

  #expired(): void {
    if (this.#requestState === RequestState.linger) {
      this.#cut(new Http1Error('WEFT_HTTP1_CLOSE_TIMEOUT', 'the peer did not close the connection in time'));
    } else if (this.#requestState === RequestState.authorising) {
      this.#ticket++;
      this.#refuse('authorisation-timeout');
      this.#settle();
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
