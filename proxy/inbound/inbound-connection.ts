import type { ByteStream, ByteStreamHandler } from '../../src/model/byte-stream.ts';
import type { ConnectionAttributes, ConnectionPolicy, Decision } from '../../src/model/policy.ts';
import type { WorkloadEntry } from '../../src/model/snapshot.ts';
import type { SpiffeId } from '../../src/model/identity.ts';
import { continueWord, DETECT_MAX_BYTES, detectProtocol } from '../detect/detect-protocol.ts';
import type { ExternalAuthorisers } from '../external-authorisation/external-authorisers.ts';
import { WorkloadGate } from '../gate/workload-gate.ts';
import type { HttpExchange } from '../http-exchange.ts';
import { DEFAULT_HTTP1_LIMITS } from '../http1/limits.ts';
import { normalisationLevel, type PathNormalisation } from '../http1/normalise-path.ts';
import { Http1Session } from '../http1/session.ts';
import { looksLikeServerPreface } from '../http2/server-preface.ts';
import { DEFAULT_HTTP2_SESSION_LIMITS } from '../http2/session-limits.ts';
import { Http2Session } from '../http2/session.ts';
import type { TokenVerifier } from '../jwt/token-verifier.ts';
import type { ConnectionRecord } from '../telemetry/connection-record.ts';
import type { Refusal } from '../telemetry/counter-table.ts';
import type { MeshView } from '../mesh-view.ts';
import { FRAME_HEADER_BYTES } from '../../src/transport/http2/frame.ts';
import { modeDeniedPolicy } from '../policy/mode-decision.ts';
import { relay } from '../relay.ts';
import { ProxyError } from '../proxy-error.ts';

/** How the client's identity is known. */
export type Security = 'mtls' | 'kernel' | 'plaintext';

/** A connection that has arrived for a workload of this node, whichever way it came. */
export interface InboundArrival {
  readonly workload: WorkloadEntry;
  readonly stream: ByteStream;
  readonly security: Security;
  /** null exactly when security is 'plaintext'. */
  readonly peer: SpiffeId | null;
  readonly source: { readonly address: string; readonly port: number };
  readonly destination: { readonly address: string; readonly port: number };
}

/** What requests are checked with besides policy. null: what asks for it is refused. */
export interface RequestChecks {
  readonly tokens: TokenVerifier | null;
  readonly authorisers: ExternalAuthorisers | null;
}

/**
 * detecting: waiting for the bytes that tell the protocol; the upstream may already be connecting, since a server may speak first.
 * http: an HTTP/1 or HTTP/2 session owns both streams. opaque: a relay owns both. refused: nothing reaches the application.
 * Invariant: in `detecting` this object is the handler of both streams, and no byte has gone to the upstream.
 */
export type InboundState = 'detecting' | 'http' | 'opaque' | 'refused' | 'closed';

/** How long a client may take to show its protocol once it has begun to speak, or at all when the answer can only be a refusal. */
export const DETECTION_TIMEOUT_MS = 5_000;
/**
 * The same where no request could be refused: text without a line's end, which may be the beginning of a request, goes on to the application
 * after this, and is cut if it turns out to be one.
 */
const UNDECIDED_TEXT_MS = 200;
/**
 * How long a client may say nothing where only HTTP would be allowed: until then its connection may be one of a pool that was opened ahead.
 * Where bytes of any protocol are allowed, the application decides.
 */
export const SILENCE_TIMEOUT_MS = 30_000;
/** After an orderly end both sides have this long to close. */
const LINGER_MS = 1_000;
/** A server that says more than this before its client spoke waits. */
const MAX_SERVER_FIRST_BYTES = 65_536;
const NO_BYTES = Buffer.alloc(0);
/** First byte of a TLS record that carries a handshake (RFC 8446 section 5.1). */
const TLS_HANDSHAKE = 0x16;

function refusal(reason: string): Decision {
  return { verdict: 'deny', policy: null, rule: null, reason };
}
const NOT_AS_DECLARED = refusal('not the protocol that the Service declares');
const ANSWER_FIRST = refusal('the application answered before there was an HTTP/1 request');
const TOO_SLOW = refusal('an HTTP request whose first line came too slowly');
const SILENT_CLIENT = refusal('the application speaks HTTP/2, and the client did not speak in time');

const FORWARDED: Record<InboundState, readonly InboundState[]> = {
  detecting: ['http', 'opaque', 'refused', 'closed'],
  http: ['closed'],
  opaque: ['refused', 'closed'],
  refused: ['closed'],
  closed: [],
};

/** The policy point: one arrived connection, decided by the destination's policy with the client's own identity. */
export class InboundConnection {
  arrival: InboundArrival;
  readonly record: ConnectionRecord;
  state: InboundState = 'detecting';
  #policy: ConnectionPolicy;
  readonly #attributes: ConnectionAttributes;
  readonly #upstream: ByteStream | null;
  readonly #deniedByHeader: boolean;
  readonly #done: (connection: InboundConnection) => void;
  readonly #gate: WorkloadGate;
  /** Declared `http2` or `grpc`: what is neither HTTP nor TLS is refused. */
  readonly #mustBeHttp: boolean;
  #normalisation: PathNormalisation;
  #session: Http1Session | Http2Session | null = null;
  #seen: Buffer | null = null;
  /** What the application said before the client: the beginning of HTTP/2, since many send their SETTINGS when they accept. */
  #serverSaid: Buffer | null = null;
  #timer: NodeJS.Timeout | null = null;
  /** About the connection as a whole; null when it ends for a reason that is not policy's. */
  #decision: Decision | null;
  /** Relayed as bytes although it began as HTTP may: for as long as no request could be refused. */
  #mayBeHttp = false;
  /** What such a client has said, until it is clear that it is not HTTP. */
  #undecided: Buffer | null = null;
  /** Relayed as bytes after a first word that is too long to be kept, and has not ended yet. */
  #inLongWord = false;

  /**
   * @param upstream towards the application; null when the policy's scope is 'deny', so that nothing can reach it
   */
  constructor(
    arrival: InboundArrival,
    view: MeshView,
    upstream: ByteStream | null,
    record: ConnectionRecord,
    deniedByHeader: boolean,
    checks: RequestChecks,
    done: (connection: InboundConnection) => void,
  ) {
    this.#deniedByHeader = deniedByHeader;
    this.arrival = arrival;
    this.record = record;
    this.#upstream = upstream;
    this.#done = done;
    this.#attributes = attributesOf(arrival);
    this.#policy = bindPolicy(view, arrival, this.#attributes);
    this.#decision = this.#policy.tcp;
    const { settings } = view.snapshot;
    this.#normalisation = normalisationLevel(settings.pathNormalisation);
    this.#gate = new WorkloadGate({
      policy: () => this.#policy,
      connection: this.#attributes,
      authentications: view.authenticationsOf(arrival.workload),
      settings,
      ...checks,
    });
    const declared = view.protocolOf(arrival.workload, arrival.destination.port);
    if (declared === 'tcp' || declared === 'tls') {
      this.#mustBeHttp = false;
      this.#becomeOpaque(declared);
      return;
    }
    this.#mustBeHttp = declared === 'http2' || declared === 'grpc';
    if (upstream === null) this.#startTimer();
    else if (this.#policy.tcp.verdict === 'deny') this.#timer = setTimeout(() => this.#endSilent(upstream), SILENCE_TIMEOUT_MS).unref();
    arrival.stream.attach(this.#downstreamHandler);
    upstream?.attach(this.#upstreamHandler);
    arrival.stream.resume();
    upstream?.resume();
  }

  #move(to: InboundState): void {
    if (!FORWARDED[this.state].includes(to))
      throw new ProxyError('WEFT_PROXY_STATE', `an inbound connection cannot go from ${this.state} to ${to}`);
    this.state = to;
    this.#stopTimer();
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #startTimer(): void {
    // What has the whole head of a SETTINGS frame is HTTP/2 almost surely, and its client may be far away.
    const isDoubtful = this.#serverSaid === null || this.#serverSaid.length < FRAME_HEADER_BYTES;
    const patience = this.#policy.scope === 'allow' && isDoubtful ? UNDECIDED_TEXT_MS : DETECTION_TIMEOUT_MS;
    this.#timer ??= setTimeout(() => this.#undetected(), patience).unref();
  }

  /**
   * The client took too long, or ended, before its protocol was clear. What may be the beginning of an HTTP head is HTTP's to refuse: as
   * bytes of no protocol it would get past the policy of requests. Without such a policy it is the application's to read.
   */
  #undetected(clientEnded = false): void {
    // The client's end may come before its time is up.
    this.#stopTimer();
    const seen = this.#seen;
    if (this.#serverSaid !== null && this.#policy.scope !== 'allow') {
      this.#decision = SILENT_CLIENT;
      this.#refuse('timeout');
    } else if ((seen === null && this.#serverSaid === null) || seen?.[0] === TLS_HANDSHAKE) this.#becomeOpaque('tcp', { clientEnded });
    else if (this.#policy.scope === 'allow') {
      this.#mayBeHttp = true;
      this.#becomeOpaque('tcp', { clientEnded });
    } else if (clientEnded || seen === null) this.#refuse('other');
    else this.#becomeHttp(seen);
  }

  readonly #downstreamHandler: ByteStreamHandler = {
    onData: (chunk) => {
      if (this.#seen === null) this.#stopTimer();
      const seen = this.#seen === null ? chunk : Buffer.concat([this.#seen, chunk]);
      this.#seen = seen;
      const protocol = detectProtocol(seen);
      if (protocol === 'incomplete') this.#startTimer();
      else if (protocol === 'http1') this.#becomeHttp(seen);
      else if (protocol === 'http2') this.#becomeHttp2(seen);
      else if (protocol === 'opaque' && this.#endsLongWord(seen)) this.#becomeHttp(seen);
      else this.#becomeOpaque(protocol === 'opaque' ? 'tcp' : protocol);
    },
    onEnd: () => this.#undetected(true),
    onDrain: () => {},
    onClose: (error) => {
      this.#upstream?.destroy();
      this.#close(error);
    },
  };

  readonly #upstreamHandler: ByteStreamHandler = {
    // The server spoke first: no HTTP/1 client is waiting.
    onData: (chunk) => {
      const said = this.#serverSaid === null ? chunk : Buffer.concat([this.#serverSaid, chunk]);
      this.#serverSaid = said;
      if (!looksLikeServerPreface(said)) {
        this.#becomeOpaque('tcp');
        return;
      }
      if (said.length > MAX_SERVER_FIRST_BYTES) this.#upstream?.pause();
      // It may still be another protocol, whose client waits for more of it.
      if (!this.#mustBeHttp) {
        this.#stopTimer();
        this.#startTimer();
      }
    },
    onEnd: () => this.#becomeOpaque('tcp', { serverEnded: true }),
    onDrain: () => {},
    onClose: (error) => {
      // The client left first, and the application's end was closed for that.
      if (this.state === 'closed') return;
      const failure =
        error ?? new ProxyError('WEFT_PROXY_UPSTREAM_CLOSED', 'the application closed the connection before the client spoke');
      this.record.refused('dial-failed');
      this.arrival.stream.destroy(failure);
    },
  };

  #becomeHttp(first: Buffer): void {
    if (this.#serverSaid !== null) {
      this.#decision = ANSWER_FIRST;
      this.#refuse('other');
      return;
    }
    this.#move('http');
    this.#seen = null;
    this.record.protocol('http1');
    this.#session = new Http1Session({
      downstream: this.arrival.stream,
      upstream: this.#upstream,
      gate: () => this.#gate,
      normalisation: () => this.#normalisation,
      onExchange: (exchange) => this.#exchange(exchange),
      onClose: (error) => this.#close(error),
      limits: DEFAULT_HTTP1_LIMITS,
      deniedByHeader: this.#deniedByHeader,
      clock: microseconds,
    });
    this.#session.start(first);
  }

  #becomeHttp2(first: Buffer): void {
    this.#move('http');
    this.#seen = null;
    const serverSaid = this.#serverSaid;
    this.#serverSaid = null;
    this.record.protocol('http2');
    const session = new Http2Session({
      downstream: this.arrival.stream,
      upstream: this.#upstream,
      gate: () => this.#gate,
      normalisation: () => this.#normalisation,
      onExchange: (exchange) => this.#exchange(exchange),
      onMalformed: () => this.record.malformed('http2'),
      onClose: (error) => this.#close(error),
      limits: DEFAULT_HTTP2_SESSION_LIMITS,
      deniedByHeader: this.#deniedByHeader,
      clock: microseconds,
    });
    this.#session = session;
    session.start(first, serverSaid);
  }

  #exchange(exchange: HttpExchange): void {
    this.#decision = exchange.decision;
    this.record.exchange(exchange);
  }

  #becomeOpaque(protocol: string, before: { clientEnded?: boolean; serverEnded?: boolean } = {}): void {
    this.record.protocol(protocol);
    const isEmpty = before.clientEnded === true && this.#seen === null && this.#serverSaid === null;
    if (this.#mustBeHttp && protocol !== 'tls' && !isEmpty) {
      this.#decision = NOT_AS_DECLARED;
      this.#refuse('other');
      return;
    }
    const decision = this.#policy.tcp;
    this.#decision = decision;
    if (decision.verdict === 'deny' || this.#upstream === null) {
      this.#refuse(decision.policy === this.arrival.workload.modeSource ? 'strict-mode' : 'policy');
      return;
    }
    this.#move('opaque');
    const upstream = this.#upstream;
    const seen = this.#seen;
    this.#seen = null;
    const fromServer = this.#serverSaid;
    this.#serverSaid = null;
    this.#undecided = this.#mayBeHttp ? (seen ?? NO_BYTES) : null;
    const mayTurnOut = this.#undecided !== null || this.#inLongWord;
    relay(this.arrival.stream, upstream, (error) => this.#close(error), mayTurnOut ? (chunk) => this.#isStillNotHttp(chunk) : null);
    if (seen !== null && !upstream.write(seen)) this.arrival.stream.pause();
    if (fromServer !== null && !this.arrival.stream.write(fromServer)) upstream.pause();
    if (before.clientEnded) upstream.end();
    if (before.serverEnded) this.arrival.stream.end();
  }

  /**
   * A request that begins slowly must not bring headers past the gate, which takes out those that only the mesh may write: it is cut where
   * its first line shows what it is.
   */
  #isStillNotHttp(chunk: Buffer): boolean {
    if (this.#undecided === null && !this.#inLongWord) return true;
    const seen = this.#undecided === null ? chunk : Buffer.concat([this.#undecided, chunk]);
    const protocol = this.#inLongWord ? 'opaque' : detectProtocol(seen);
    this.#undecided = protocol === 'incomplete' ? seen : null;
    const isRequest = protocol === 'http1' || protocol === 'http2' || (protocol === 'opaque' && this.#endsLongWord(seen));
    if (!isRequest) return true;
    this.#decision = TOO_SLOW;
    this.#refuse('timeout');
    return false;
  }

  /** True if a first word that was too long for a method is one all the same. */
  #endsLongWord(bytes: Buffer): boolean {
    if (!this.#inLongWord && bytes.length < DETECT_MAX_BYTES) return false;
    const next = continueWord(bytes);
    this.#inLongWord = next === 'word';
    return next === 'request';
  }

  /** An orderly end, as an idle connection may have at any time: a pool that opened it ahead makes another one. */
  #endSilent(upstream: ByteStream): void {
    const { stream } = this.arrival;
    const silent = new ProxyError('WEFT_PROXY_SILENT', `the client said nothing for ${SILENCE_TIMEOUT_MS / 1000} s`);
    this.#move('refused');
    this.#decision = null;
    this.record.refused('timeout');
    const linger = setTimeout(() => this.destroy(silent), LINGER_MS).unref();
    const closed = (): void => {
      clearTimeout(linger);
      upstream.destroy(silent);
      this.#close(silent);
    };
    stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose: closed });
    upstream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
    upstream.end();
    stream.end();
  }

  /** A reset, with the reason in the log: what is not HTTP has no better answer. */
  #refuse(reason: Refusal): void {
    this.#move('refused');
    this.record.refused(reason);
    const error = new ProxyError('WEFT_PROXY_REFUSED', `refused: ${(this.#decision ?? this.#policy.tcp).reason}`);
    // Their ends are reported here from now on.
    this.arrival.stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose: () => this.#close(error) });
    this.#upstream?.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
    this.#upstream?.destroy(error);
    this.arrival.stream.destroy(error);
  }

  #close(error: Error | null): void {
    if (this.state === 'closed') return;
    const wasHttp = this.state === 'http';
    this.#move('closed');
    this.record.close(error, wasHttp ? null : this.#decision);
    this.#done(this);
  }

  /** The mesh changed: decide again. What is no longer allowed ends; an HTTP session asks again with each request. */
  reconsider(view: MeshView, workload: WorkloadEntry): void {
    this.arrival = { ...this.arrival, workload };
    this.#policy = bindPolicy(view, this.arrival, this.#attributes);
    const { settings } = view.snapshot;
    this.#normalisation = normalisationLevel(settings.pathNormalisation);
    this.#gate.update(view.authenticationsOf(workload), settings);
    this.#session?.recheck();
    const undecidable = this.#mayBeHttp && this.#policy.scope !== 'allow';
    if (this.state === 'opaque' && (undecidable || this.#policy.tcp.verdict === 'deny')) {
      this.#decision = this.#policy.tcp;
      this.destroy(new ProxyError('WEFT_PROXY_POLICY_CHANGED', 'the policy changed and no longer allows this connection'));
    }
  }

  /** No new requests: HTTP clients are told to go elsewhere, and what is open may finish. Other connections go on. */
  drain(): void {
    this.#session?.drain();
  }

  /** Ends the connection at once. */
  destroy(error: Error): void {
    this.arrival.stream.destroy(error);
    this.#upstream?.destroy(error);
  }
}

function attributesOf(arrival: InboundArrival): ConnectionAttributes {
  return {
    sourceIdentity: arrival.peer,
    sourceAddress: arrival.source.address,
    destinationAddress: arrival.destination.address,
    destinationIdentity: arrival.workload.identity,
    destinationPort: arrival.destination.port,
  };
}

/** The policy of a connection by the view: the mode first, since plaintext in strict is refused whatever policies say. */
export function bindPolicy(
  view: MeshView,
  arrival: InboundArrival,
  attributes: ConnectionAttributes = attributesOf(arrival),
): ConnectionPolicy {
  const { workload } = arrival;
  if (arrival.security === 'plaintext' && view.modeOf(workload, arrival.destination.port) === 'strict')
    return modeDeniedPolicy(workload.modeSource);
  return view.policyOf(workload).bind(attributes);
}

function microseconds(): number {
  return performance.now() * 1000;
}
