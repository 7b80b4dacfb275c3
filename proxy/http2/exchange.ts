import { GRPC_STATUS } from '../../src/grpc/grpc-error.ts';
import { encodeGrpcMessage } from '../../src/grpc/wire-status.ts';
import type { ByteStreamHandler } from '../../src/model/byte-stream.ts';
import type { Decision, ShadowDecision } from '../../src/model/policy.ts';
import type { GateAnswer, HeaderChange, RequestHead as GateRequestHead } from '../../src/model/request-gate.ts';
import { GATE_FAILED, plainAnswer } from '../gate/gate-answers.ts';
import { type HttpExchange, NOT_DECIDED } from '../http-exchange.ts';
import { IS_METHOD } from '../http1/bytes.ts';
import { headerChangeProblem } from '../http1/header-change.ts';
import { normalisePath, type PathNormalisation } from '../http1/normalise-path.ts';
import type { Http2Connection } from '../../src/transport/http2/connection.ts';
import { ErrorCode, Http2Error } from '../../src/transport/http2/errors.ts';
import { isGrpcContentType, parseGrpcStatus } from './grpc.ts';
import type { HeaderList } from '../../src/transport/http2/hpack.ts';
import { deniedAnswer, type LocalAnswer, refusalAnswer } from './local-answer.ts';
import { fieldValue, type RequestHead, type ResponseHead } from '../../src/transport/http2/message.ts';
import { HTTP2_REFUSAL_STATUS, type Http2RefusalReason } from './refusal.ts';
import { forwardedFields, forwardedTrailers, isAuthority, readRequestFields } from './request-fields.ts';
import { StreamState } from '../../src/transport/http2/stream-state.ts';
import type { Http2Stream } from '../../src/transport/http2/stream.ts';

/** What an exchange asks of its session. */
export interface ExchangeOwner {
  readonly deniedByHeader: boolean;
  readonly pathNormalisation: PathNormalisation;
  readonly maxTargetBytes: number;
  clock(): number;
  /** The gate's answer. A gate that throws has its answer too: no. */
  ask(exchange: Http2Exchange): GateAnswer | Promise<GateAnswer>;
  /** The gate answers later: there is something to be given up some day. */
  awaits(): void;
  /** The exchange may go on: `exchange.open` follows when the upstream takes another stream, or a refusal. */
  forward(exchange: Http2Exchange): void;
  /** The exchange is over. */
  ended(exchange: Http2Exchange): void;
}

/** The states of one request on its way. */
export const ExchangeState = {
  /** The gate has not answered yet. */
  asking: 0,
  /** Allowed; the upstream takes no further stream yet. */
  waiting: 1,
  /** The request is on its way upstream; no final response head came. */
  forwarded: 2,
  /** The response's head went to the client. */
  answered: 3,
  /** Weft answered, or reset the stream: what else comes is dropped. */
  refused: 4,
  /** Reported. */
  ended: 5,
} as const;
export type ExchangeState = (typeof ExchangeState)[keyof typeof ExchangeState];

const { asking, waiting, forwarded, answered, refused, ended } = ExchangeState;
const STATE_NAMES = Object.keys(ExchangeState);
const NEXT: readonly (readonly ExchangeState[])[] = [
  [waiting, refused, ended],
  [forwarded, refused, ended],
  [answered, refused, ended],
  [refused, ended],
  [ended],
  [],
];

const NO_SHADOW: readonly ShadowDecision[] = Object.freeze([]);
const CHANGE_FAILED: Decision = { verdict: 'deny', policy: null, rule: null, reason: 'the headers that the policy sets are not valid' };
const QUESTION_MARK = 0x3f;
const MAX_METHOD_BYTES = 32;

/** Codes that speak about one hop only; what the other hop hears instead is that somebody gave up. */
function crossesHops(code: number): boolean {
  switch (code) {
    case ErrorCode.protocolError:
    case ErrorCode.internalError:
    case ErrorCode.refusedStream:
    case ErrorCode.cancel:
    case ErrorCode.enhanceYourCalm:
    case ErrorCode.inadequateSecurity:
    case ErrorCode.http11Required:
      return true;
    default:
      return false;
  }
}

function codeOf(error: Error | null): string {
  return error instanceof Http2Error ? error.code : '';
}

/**
 * One request of a client, joined to one stream towards the application: the handler of the client's stream, the head that the gate is shown,
 * and the record of what happened, in one object, because there is one of them for each request.
 *
 * Invariants. Nothing of the request goes upstream before the gate allowed its head, and what goes is what was asked about. The upstream
 * stream exists from `forwarded` on, and never outlives the client's. The client's stream is paused until `forwarded` or `refused`, so that
 * at most its window waits; later each stream is paused while the other does not take its bytes.
 */
export class Http2Exchange implements ByteStreamHandler, GateRequestHead, HttpExchange {
  // The head, as the gate sees it.
  method = '';
  path = '';
  query = '';
  host = '';
  scheme: 'http' | 'https' = 'http';
  hasTrustHeaders = false;

  // The record.
  status = 0;
  grpcStatus?: number | null;
  requestBytes = 0;
  responseBytes = 0;
  startedAt: number;
  durationMicros = 0;
  decision: Decision = NOT_DECIDED;
  shadow: readonly ShadowDecision[] = NO_SHADOW;
  refusal: Http2RefusalReason | null = null;
  detail: string | null = null;

  state: ExchangeState = asking;
  readonly #owner: ExchangeOwner;
  readonly #down: Http2Stream;
  #up: Http2Stream | null = null;
  #fields: HeaderList;
  /** The request's end came with its head. */
  readonly #endsWithHead: boolean;
  #hasHopFields = false;
  /** The request's content-type if it is gRPC. */
  #grpcType: string | null = null;
  #change: HeaderChange | null = null;
  /** An interim answer went to the client. */
  #hadInterim = false;
  /** The response is complete as far as the upstream is concerned. */
  #responseEnded = false;
  /** Grows with every question to the gate: only the last one's answer counts. */
  #question = 0;
  /** When the question that is open was asked. */
  #askedAt = 0;

  constructor(owner: ExchangeOwner, down: Http2Stream, fields: HeaderList, endsWithHead: boolean) {
    this.#owner = owner;
    this.#down = down;
    this.#fields = fields;
    this.#endsWithHead = endsWithHead;
    this.startedAt = owner.clock();
    // A client that reset its request wants no answer, whatever part of it was not forwarded yet.
    down.cancelAtOnce = true;
  }

  // What the gate asks.

  header(name: string): readonly string[] {
    const fields = this.#fields;
    const values: string[] = [];
    for (let i = 0; i + 1 < fields.length; i += 2) if (fields[i] === name) values.push(fields[i + 1] as string);
    // HTTP/2 has it as a pseudo-header, which no name reaches: `host` is what everybody calls it.
    if (values.length === 0 && name === 'host') return this.header(':authority');
    return values;
  }

  *headers(): Generator<readonly [name: string, value: string]> {
    const fields = this.#fields;
    for (let i = 0; i + 1 < fields.length; i += 2) {
      const name = fields[i] as string;
      if (name.charCodeAt(0) !== 0x3a) yield [name, fields[i + 1] as string];
    }
  }

  // The request.

  /** Checks the head, asks the gate, and goes on. The connection has checked what RFC 9113 says of heads in general. */
  start(head: RequestHead): void {
    const down = this.#down;
    const facts = readRequestFields(this.#fields);
    this.requestBytes = facts.size;
    this.method = head.method;
    if (isGrpcContentType(facts.contentType)) {
      this.#grpcType = facts.contentType;
      this.grpcStatus = null;
    }
    this.hasTrustHeaders = facts.hasTrustFields;
    this.#hasHopFields = facts.hasHopFields;
    const authority = head.authority === '' ? facts.host : head.authority;
    this.host = authority.toLowerCase();
    const reason = this.#headRefusal(head, authority, facts.isAmbiguous, facts.pathAt);
    down.attach(this);
    if (reason === null) this.#ask();
    else this.refuse(reason, null);
  }

  /** Sets path and query. */
  #headRefusal(head: RequestHead, authority: string, isAmbiguous: boolean, pathAt: number): Http2RefusalReason | null {
    const { method } = head;
    if (method === 'CONNECT') return 'connect-refused';
    if (method === 'TRACE') return 'trace-refused';
    if (method.length > MAX_METHOD_BYTES) return 'bad-method';
    for (let i = 0; i < method.length; i++) if (IS_METHOD[method.charCodeAt(i)] !== 1) return 'bad-method';
    if (head.scheme === 'https') this.scheme = 'https';
    else if (head.scheme !== 'http') return 'bad-scheme';
    if (authority === '') return 'missing-host';
    if (!isAuthority(authority)) return 'bad-host';
    if (isAmbiguous) return 'ambiguous-field-name';
    if (head.path.length > this.#owner.maxTargetBytes) return 'target-too-long';
    const normal = normalisePath(head.path, this.#owner.pathNormalisation);
    if (typeof normal === 'string') {
      this.detail = normal;
      return 'bad-path';
    }
    this.path = normal.path;
    // With its question mark it is what is forwarded; without, what is asked about.
    const { query } = normal;
    this.query = query.charCodeAt(0) === QUESTION_MARK ? query.slice(1) : query;
    if (normal.changed) this.#fields[pathAt + 1] = normal.path + query;
    return null;
  }

  #ask(): void {
    const question = ++this.#question;
    const answer = this.#owner.ask(this);
    if (!(answer instanceof Promise)) this.#decided(answer);
    else {
      this.#askedAt = this.#owner.clock();
      this.#owner.awaits();
      void answer.then(
        (late) => this.#late(question, late),
        () => this.#late(question, plainAnswer(GATE_FAILED)),
      );
    }
  }

  #late(question: number, answer: GateAnswer): void {
    if (question === this.#question && this.state < refused) this.#decided(answer);
  }

  #decided(answer: GateAnswer): void {
    this.decision = answer.decision;
    this.shadow = answer.shadow;
    if (answer.decision.verdict !== 'allow') {
      this.#deny(answer);
      return;
    }
    // Asked again, and still allowed.
    if (this.state >= forwarded) return;
    if (answer.change !== null && headerChangeProblem(answer.change) !== null) {
      this.decision = CHANGE_FAILED;
      this.#deny(plainAnswer(CHANGE_FAILED));
      return;
    }
    this.#change = answer.change;
    if (this.state === waiting) return;
    if (this.#down.state === StreamState.closed) return;
    this.#move(waiting);
    this.#owner.forward(this);
  }

  /** The upstream takes the request: exactly once, and only in `waiting`. */
  open(connection: Http2Connection): void {
    const down = this.#down;
    this.#move(forwarded);
    const up = connection.request(forwardedFields(this.#fields, this.#change, this.#hasHopFields), this.#endsWithHead);
    this.#up = up;
    up.onResponse = (head, fields, endStream) => this.#response(head, fields, endStream);
    up.onTrailers = (fields) => this.#responseTrailers(fields);
    up.attach(new UpstreamSide(this, up, down));
    down.onTrailers = (fields) => {
      this.requestBytes += sizeOf(fields);
      up.endWithTrailers(forwardedTrailers(fields, this.#change));
    };
    up.resume();
    down.resume();
  }

  /**
   * Gives up a question that was asked before `limit` (by `clock`).
   * @returns true while the gate's first answer is awaited
   */
  expire(limit: number): boolean {
    if (this.state !== asking) return false;
    if (this.#askedAt > limit) return true;
    this.#question++;
    this.refuse('authorisation-timeout', null);
    return false;
  }

  /** Asks again, since the policy changed. */
  recheck(): void {
    if (this.state < refused) this.#ask();
  }

  #move(next: ExchangeState): void {
    if (!(NEXT[this.state] as readonly ExchangeState[]).includes(next)) {
      throw new Http2Error(
        'WEFT_HTTP2_STATE',
        ErrorCode.internalError,
        `an exchange cannot go from ${STATE_NAMES[this.state]} to ${STATE_NAMES[next]}`,
        { nextStep: 'report this as a bug of Weft' },
      );
    }
    this.state = next;
  }

  // The client's stream.

  onData(chunk: Buffer): void {
    this.requestBytes += chunk.length;
    if (this.#up !== null && !this.#up.write(chunk)) this.#down.pause();
  }

  onEnd(): void {
    this.#up?.end();
  }

  onDrain(): void {
    this.#up?.resume();
  }

  onClose(error: Error | null): void {
    const up = this.#up;
    this.#up = null;
    if (up !== null && !up.destroyed) {
      const code = error instanceof Http2Error ? error.http2Code : ErrorCode.cancel;
      const isOwn = codeOf(error) === 'WEFT_HTTP2_STREAM_RESET';
      up.reset(isOwn && crossesHops(code) ? code : ErrorCode.cancel);
    }
    if (this.state !== refused && !(this.#responseEnded && this.#down.endSent)) {
      this.status = 0;
      this.refusal = closeReason(error);
      if (error !== null) this.detail = error.message;
    }
    this.#end();
  }

  #end(): void {
    this.#move(ended);
    this.durationMicros = this.#owner.clock() - this.startedAt;
    this.#owner.ended(this);
  }

  // The response.

  #response(head: ResponseHead, fields: HeaderList, endStream: boolean): void {
    if (this.state !== forwarded) return;
    this.responseBytes += sizeOf(fields);
    if (head.status < 200) {
      // No window holds them back: of more than one, those that a client does not read are left out.
      if (this.#hadInterim && this.#down.connection.congested) return;
      this.#hadInterim = true;
      this.#down.respond(fields);
      return;
    }
    this.#move(answered);
    this.status = head.status;
    if (endStream) {
      this.#responseEnded = true;
      if (this.#grpcType !== null) this.grpcStatus = parseGrpcStatus(fieldValue(fields, 'grpc-status'));
    }
    this.#down.respond(fields, endStream);
  }

  #responseTrailers(fields: HeaderList): void {
    if (this.state !== answered) return;
    this.responseBytes += sizeOf(fields);
    if (this.#grpcType !== null) this.grpcStatus = parseGrpcStatus(fieldValue(fields, 'grpc-status'));
    this.#down.endWithTrailers(fields);
  }

  /** @internal The upstream ended its response. */
  responseEnded(): void {
    if (this.state !== answered) return;
    this.#responseEnded = true;
    this.#down.end();
  }

  /** @internal The upstream's stream is gone, in order or not. */
  upstreamClosed(error: Error | null): void {
    this.#up = null;
    // The client may have to be read on: what it still sends has nowhere to go.
    this.#down.resume();
    if (this.state >= refused) return;
    if (this.#responseEnded) {
      this.#down.finish();
      return;
    }
    const isEarly = this.state === forwarded;
    const detail = error?.message ?? null;
    switch (codeOf(error)) {
      case 'WEFT_HTTP2_STREAM_RESET':
      case 'WEFT_HTTP2_STREAM_REFUSED': {
        const { http2Code } = error as Http2Error;
        this.cut(crossesHops(http2Code) ? http2Code : ErrorCode.internalError, 'upstream-reset', detail);
        return;
      }
      case 'WEFT_HTTP2_MALFORMED':
        if (isEarly) this.refuse('upstream-malformed', detail);
        else this.cut(ErrorCode.internalError, 'upstream-malformed', detail);
        return;
      default:
        if (isEarly) this.refuse('upstream-closed', detail);
        else this.#truncated(detail);
    }
  }

  /** The upstream was lost in the middle of a response. gRPC has a way to say so. */
  #truncated(detail: string | null): void {
    if (this.#grpcType === null) {
      this.cut(ErrorCode.internalError, 'upstream-truncated', detail);
      return;
    }
    this.#move(refused);
    this.refusal = 'upstream-truncated';
    this.detail = detail;
    this.grpcStatus = GRPC_STATUS.UNAVAILABLE;
    this.#down.endWithTrailers([
      'grpc-status',
      String(GRPC_STATUS.UNAVAILABLE),
      'grpc-message',
      encodeGrpcMessage('weft: upstream-truncated'),
    ]);
    this.#down.finish();
  }

  // Refusals. Each is one answer, or one reset.

  #deny(answer: GateAnswer): void {
    if (this.state === answered) {
      // Both ends are told: the application has no one left to answer.
      this.cut(ErrorCode.cancel, 'policy-changed', null);
      return;
    }
    this.#answer(deniedAnswer(answer.decision, answer.refusal, this.#grpcType, this.#owner.deniedByHeader), 'policy-denied', null);
  }

  /** Answers in the application's place; a reason without a status resets the stream. */
  refuse(reason: Http2RefusalReason, detail: string | null): void {
    const why = detail ?? this.detail;
    if (HTTP2_REFUSAL_STATUS[reason] === 0) this.cut(ErrorCode.refusedStream, reason, why);
    // What went wrong with the upstream is for the log; what is wrong with the request is for the client too.
    else this.#answer(refusalAnswer(reason, detail === null ? why : null, this.#grpcType), reason, why);
  }

  #answer(answer: LocalAnswer, reason: Http2RefusalReason, detail: string | null): void {
    const down = this.#down;
    this.#move(refused);
    this.#leaveUpstream();
    this.refusal = reason;
    this.detail = detail;
    this.status = answer.status;
    if (this.#grpcType !== null) this.grpcStatus = answer.grpcStatus;
    const body = down.isHead ? 0 : answer.body.length;
    this.responseBytes += sizeOf(answer.fields) + body;
    down.respond(answer.fields, body === 0);
    if (body > 0) {
      down.write(answer.body);
      down.end();
    }
    if (!this.#endsWithHead) down.finish();
    down.resume();
  }

  /** Ends the client's stream with RST_STREAM. */
  cut(code: number, reason: Http2RefusalReason, detail: string | null): void {
    this.#move(refused);
    this.#leaveUpstream();
    this.refusal = reason;
    this.detail = detail;
    this.status = 0;
    this.#down.reset(code);
  }

  #leaveUpstream(): void {
    const up = this.#up;
    this.#up = null;
    up?.reset(ErrorCode.cancel);
  }
}

/** Why the client's stream ended before its exchange was complete. */
function closeReason(error: Error | null): Http2RefusalReason {
  switch (codeOf(error)) {
    case 'WEFT_HTTP2_MALFORMED':
      return 'malformed-message';
    case 'WEFT_HTTP2_DRAIN_DEADLINE':
    case 'WEFT_HTTP2_CONNECTION_CLOSED':
      return 'session-closed';
    default:
      // What is no HTTP/2 error is what this side ended the session with.
      return error instanceof Http2Error || error === null ? 'downstream-closed' : 'session-closed';
  }
}

function sizeOf(fields: HeaderList): number {
  let size = 0;
  for (let i = 0; i < fields.length; i++) size += (fields[i] as string).length;
  return size;
}

/** The handler of the stream towards the application. */
class UpstreamSide implements ByteStreamHandler {
  readonly #exchange: Http2Exchange;
  readonly #up: Http2Stream;
  readonly #down: Http2Stream;

  constructor(exchange: Http2Exchange, up: Http2Stream, down: Http2Stream) {
    this.#exchange = exchange;
    this.#up = up;
    this.#down = down;
  }

  onData(chunk: Buffer): void {
    this.#exchange.responseBytes += chunk.length;
    if (!this.#down.write(chunk)) this.#up.pause();
  }

  onEnd(): void {
    this.#exchange.responseEnded();
  }

  onDrain(): void {
    this.#down.resume();
  }

  onClose(error: Error | null): void {
    this.#exchange.upstreamClosed(error);
  }
}
