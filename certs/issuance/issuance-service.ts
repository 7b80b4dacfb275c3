import { GRPC_STATUS, type GrpcStatus, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import type { Call, GrpcServer } from '../../src/grpc/grpc-server.ts';
import { errorText, WeftError } from '../../src/model/errors.ts';
import type { RefusalReason } from '../../src/model/authority-api.ts';
import type { Log } from '../../src/model/log.ts';
import type { Placements } from '../../src/model/placements.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import { type Clock, systemClock } from '../clock.ts';
import { CertsError } from '../errors.ts';
import { certificatesFromPem, toPem } from '../x509/pem.ts';
import { addressGroup } from './address-group.ts';
import { BoundedLog } from './bounded-log.ts';
import {
  authenticate,
  authoriseImpersonation,
  byJoinToken,
  byNodeSvid,
  type Caller,
  type CallerAuthenticator,
  type IssuancePeer,
} from './caller.ts';
import type { IssuanceCounts } from './issuance-counts.ts';
import { rootOfChain } from './issued-chain.ts';
import type { IssuingAuthority } from './issuing-authority.ts';
import {
  type CertificateRequest,
  type CertificateResponse,
  CREATE_CERTIFICATE,
  FETCH_ROOTS,
  type FetchRootsResponse,
  IMPERSONATED_IDENTITY,
  MINT_JWT_SVID,
  type MintJwtSvidRequest,
  type MintJwtSvidResponse,
  WATCH,
  type WatchRequest,
  type WatchResponse,
} from './messages.ts';
import { nodeIdentity } from './node-identity.ts';
import { isRefused, type NodeRegister, type Standing } from './node-register.ts';
import { type BucketLimits, TokenBuckets } from './token-buckets.ts';

export interface IssuanceServiceOptions {
  readonly authority: IssuingAuthority;
  readonly nodes: NodeRegister;
  readonly placements: Placements;
  readonly counts: IssuanceCounts;
  readonly log: Log;
  /** Longest life of an SVID; who asks for more gets this. Default: 24 hours. */
  readonly maxTtlSeconds?: number;
  /** Ways to prove who calls, besides node SVIDs and join tokens. */
  readonly authenticators?: readonly CallerAuthenticator[];
  /** What one node may ask for, and of JWT-SVIDs once more, which its workloads order at will. Default: 500 a second, 2,000 at once. */
  readonly perNode?: BucketLimits;
  /** What one address (an IPv6 /64) may try without a node's SVID. Default: 10 a second, 20 at once. */
  readonly perAddress?: BucketLimits;
  readonly clock?: Clock;
}

export const DEFAULT_MAX_TTL_SECONDS: number = 24 * 3600;
const DEFAULT_PER_NODE: BucketLimits = { perSecond: 500, burst: 2_000 };
const DEFAULT_PER_ADDRESS: BucketLimits = { perSecond: 10, burst: 20 };
/** How often a watching node hears something, so that it notices when its connection is dead. */
export const HEARTBEAT_MS = 20_000;
/** A node has one stream; a second one for the moment of changing over. More are closed, the oldest first. */
const MAX_STREAMS_PER_NODE = 2;
const CSR = /^\s*-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]+)-----END (?:NEW )?CERTIFICATE REQUEST-----\s*$/;

const CANNOT_ANSWER = 'the authority cannot answer now';

interface Refusal {
  readonly status: Exclude<GrpcStatus, 0>;
  /** Null: the message of the error. */
  readonly text: string | null;
  readonly reason: RefusalReason;
}

/** Our refusals. The cause goes to the caller only where it is about the caller's own request; all of them go to the log. */
const REFUSALS: Readonly<Record<string, Refusal>> = {
  WEFT_CERTS_CALLER_UNKNOWN: { status: GRPC_STATUS.UNAUTHENTICATED, text: 'the caller is not known', reason: 'unauthenticated' },
  WEFT_CERTS_CALLER_REFUSED: { status: GRPC_STATUS.PERMISSION_DENIED, text: 'the caller may not have this', reason: 'not_allowed' },
  WEFT_CERTS_CALLER_LIMIT: { status: GRPC_STATUS.RESOURCE_EXHAUSTED, text: 'too many requests', reason: 'rate_limited' },
  WEFT_CERTS_CSR: { status: GRPC_STATUS.INVALID_ARGUMENT, text: null, reason: 'malformed' },
  WEFT_CERTS_WEAK_KEY: { status: GRPC_STATUS.INVALID_ARGUMENT, text: null, reason: 'malformed' },
  WEFT_CERTS_AUDIENCE: { status: GRPC_STATUS.INVALID_ARGUMENT, text: null, reason: 'malformed' },
  WEFT_CERTS_ACKNOWLEDGED: { status: GRPC_STATUS.INVALID_ARGUMENT, text: null, reason: 'malformed' },
  WEFT_CERTS_NODE_REGISTER: { status: GRPC_STATUS.UNAVAILABLE, text: CANNOT_ANSWER, reason: 'failed' },
  WEFT_CERTS_TOO_MANY: { status: GRPC_STATUS.UNAVAILABLE, text: CANNOT_ANSWER, reason: 'failed' },
};

/** A caller with what the register of nodes says of it now. */
interface AdmittedCaller extends Caller {
  readonly standing: Standing;
}

/** The issuance service: certificates and JWT-SVIDs for nodes and for the workloads that run on them, and the trust state as it changes. */
export class IssuanceService {
  readonly #authority: IssuingAuthority;
  readonly #nodes: NodeRegister;
  readonly #placements: Placements;
  readonly #authenticators: readonly CallerAuthenticator[];
  readonly #maxTtlSeconds: number;
  readonly #clock: Clock;
  readonly #counts: IssuanceCounts;
  readonly #log: Log;
  readonly #warnings: BoundedLog;
  readonly #perNode: TokenBuckets;
  readonly #jwtSvidsPerNode: TokenBuckets;
  readonly #perAddress: TokenBuckets;
  /** Ends the streams of a node, in the order in which they began. */
  readonly #streams = new Map<string, Set<() => void>>();

  constructor(options: IssuanceServiceOptions) {
    this.#authority = options.authority;
    this.#nodes = options.nodes;
    this.#placements = options.placements;
    this.#authenticators = [byNodeSvid, ...(options.authenticators ?? []), byJoinToken(options.authority.tokens)];
    this.#maxTtlSeconds = options.maxTtlSeconds ?? DEFAULT_MAX_TTL_SECONDS;
    this.#clock = options.clock ?? systemClock;
    this.#counts = options.counts;
    this.#log = options.log;
    this.#warnings = new BoundedLog(options.log, this.#clock);
    this.#perNode = new TokenBuckets(options.perNode ?? DEFAULT_PER_NODE, this.#clock);
    this.#jwtSvidsPerNode = new TokenBuckets(options.perNode ?? DEFAULT_PER_NODE, this.#clock);
    this.#perAddress = new TokenBuckets(options.perAddress ?? DEFAULT_PER_ADDRESS, this.#clock);
  }

  /** Puts its methods on a server. */
  addTo(server: GrpcServer<IssuancePeer>): void {
    server.add(CREATE_CERTIFICATE, (request, call) => this.#answer(call, () => this.createCertificate(request, call)));
    server.add(FETCH_ROOTS, (_, call) => this.#answer(call, async () => this.fetchRoots(call)));
    server.add(MINT_JWT_SVID, (request, call) => this.#answer(call, () => this.mintJwtSvid(request, call)));
    server.addBidi(WATCH, (requests, call, send) => this.#answer(call, () => this.watch(requests, call, send)));
  }

  /**
   * Certifies the key of a request: for the caller's own node, or, with ImpersonatedIdentity, for a workload that runs on it.
   * @throws CertsError or IdentityError with the reason
   */
  async createCertificate(request: CertificateRequest, call: Call<IssuancePeer>): Promise<CertificateResponse> {
    const csr = readRequest(request.csr);
    const caller = await this.#authenticate(call);
    const impersonated = request.metadata?.fields.get(IMPERSONATED_IDENTITY);
    const identity = impersonated === undefined ? this.#ownIdentity(caller) : this.#impersonate(caller, impersonated.stringValue ?? '');
    const asked = Number(request.validityDuration);
    const ttlSeconds = asked > 0 ? Math.min(asked, this.#maxTtlSeconds) : this.#maxTtlSeconds;
    // Before the SVID begins: it must not count as one that the node had before it joined again.
    const now = this.#clock.now();
    const { certificateChain } = await this.#authority.issue(csr, { identity, ttlSeconds });
    // Last, so that whatever else is wrong leaves a node its token; and before anybody has the SVID.
    await caller.redeem();
    if (impersonated === undefined && caller.grantedNamespaces !== null)
      await this.#nodes.joined(caller.standing, caller.grantedNamespaces, now);
    if (caller.by === 'one-time-token') {
      this.#counts.joins++;
      this.#log.info({ node: caller.node, address: call.peer.address }, 'a node has joined');
    }
    const chain = certificatesFromPem(certificateChain);
    const root = rootOfChain(chain, this.#authority.trust().bundle.x509Authorities);
    return { certChain: (root === null ? chain : [...chain, root]).map((der) => toPem('CERTIFICATE', der)) };
  }

  /**
   * The roots of the trust domain, for anybody.
   * @throws CertsError WEFT_CERTS_CALLER_LIMIT
   */
  fetchRoots({ peer }: Call<IssuancePeer>): FetchRootsResponse {
    this.#takeOfAddress(peer.address);
    return { x509Authorities: this.#authority.trust().bundle.x509Authorities };
  }

  /**
   * A JWT-SVID for a workload that runs on the caller's node.
   * @throws CertsError or IdentityError with the reason
   */
  async mintJwtSvid({ identity, audience }: MintJwtSvidRequest, call: Call<IssuancePeer>): Promise<MintJwtSvidResponse> {
    const caller = await this.#authenticateJoined(call, this.#jwtSvidsPerNode);
    const svid = await this.#authority.issueJwt({ identity: this.#impersonate(caller, identity), audience });
    return { token: svid.token, issuedAt: BigInt(svid.issuedAt), expiresAt: BigInt(svid.expiresAt) };
  }

  /**
   * Sends the trust state, now and whenever it changed, until the caller leaves; takes note of what it acknowledges.
   * @throws CertsError with the reason
   */
  async watch(
    requests: AsyncIterable<WatchRequest>,
    call: Call<IssuancePeer>,
    send: (message: WatchResponse) => Promise<void>,
  ): Promise<void> {
    const caller = await this.#authenticateJoined(call);
    using stream = this.#openStream(caller.node, call.signal);
    const listening = this.#listen(requests, caller, call.peer).finally(stream.end);
    // It may fail while an answer waits to be read, long before it is looked at: an unhandled rejection would end the process.
    listening.catch(() => {});
    let changed = Promise.withResolvers<void>();
    const wake = (): void => changed.resolve();
    using _unsubscribe = disposable(this.#authority.onChange(wake));
    void stream.ended.then(wake);
    while (!stream.over) {
      this.#refuseEvicted(await this.#nodes.standing(caller.node), call.peer);
      const state = this.#authority.trust();
      await send(toMessage(state, this.#clock.now()));
      const heartbeat = { isDue: false };
      using _heartbeat = disposable(
        this.#clock.after(HEARTBEAT_MS, () => {
          heartbeat.isDue = true;
          wake();
        }),
      );
      // The authority tells of every node that it hears of: passed on, one busy node would have all others, and all of them each other, busy.
      while (!stream.over && !heartbeat.isDue && this.#authority.sequence === state.sequence) {
        changed = Promise.withResolvers<void>();
        await changed.promise;
      }
    }
    // Its failure is that of the call.
    if (!stream.replaced) await listening;
  }

  async #listen(requests: AsyncIterable<WatchRequest>, caller: Caller, peer: IssuancePeer): Promise<void> {
    for await (const { acknowledgedSequence: acknowledged, sentAt } of requests) {
      // Again with each message: a node that was evicted meanwhile is not heard of any more.
      await this.#admit(caller, peer);
      if (acknowledged !== null && acknowledged > this.#authority.trust().sequence) {
        throw new CertsError('WEFT_CERTS_ACKNOWLEDGED', `${caller.node} acknowledged ${acknowledged}, which there has not been`);
      }
      const now = this.#clock.now();
      this.#nodes.seen(caller.node, { at: now, clockSkewSeconds: (Number(sentAt) - now) / 1000 });
      this.#authority.nodeSeen({
        name: caller.node,
        acknowledged,
        ...(peer.expiresAt === null ? {} : { svidExpiresAt: peer.expiresAt }),
      });
    }
  }

  #openStream(node: string, signal: AbortSignal): Stream {
    const streams = this.#streams.get(node) ?? new Set();
    this.#streams.set(node, streams);
    const stream = new Stream(() => {
      streams.delete(stream.replace);
      if (streams.size === 0) this.#streams.delete(node);
    });
    streams.add(stream.replace);
    if (streams.size > MAX_STREAMS_PER_NODE) streams.values().next().value?.();
    return stream.follow(signal);
  }

  async #authenticate(call: Call<IssuancePeer>): Promise<AdmittedCaller> {
    // Counted before anything is looked at: guessing tokens is bounded too.
    if (call.peer.identity === null) this.#takeOfAddress(call.peer.address);
    return this.#admit(await authenticate(this.#authenticators, call.peer, call.metadata), call.peer);
  }

  /** For what a node does after it has joined: a token, which may be spent by it, is no use here. */
  async #authenticateJoined(call: Call<IssuancePeer>, limits: TokenBuckets = this.#perNode): Promise<AdmittedCaller> {
    const caller = await byNodeSvid(call.peer, call.metadata);
    if (caller === null) throw new CertsError('WEFT_CERTS_CALLER_UNKNOWN', "it did not show a node's SVID", { nextStep: 'join first' });
    return this.#admit(caller, call.peer, limits);
  }

  async #admit(caller: Caller, peer: IssuancePeer, limits: TokenBuckets = this.#perNode): Promise<AdmittedCaller> {
    if (!limits.take(caller.node)) throw limit(caller.node);
    const standing = await this.#nodes.standing(caller.node);
    // A token is newer than the eviction, or it would have been revoked.
    if (caller.by === 'svid') this.#refuseEvicted(standing, peer);
    return { ...caller, standing };
  }

  #refuseEvicted(standing: Standing, { validFrom }: IssuancePeer): void {
    if (!isRefused(standing, validFrom ?? 0)) return;
    // It may have been heard in the very moment of its eviction, by another process too.
    if (standing.evicted) this.#authority.nodeGone(standing.node);
    throw new CertsError('WEFT_CERTS_CALLER_REFUSED', `${standing.node} was evicted`, {
      nextStep: 'let it join with a new token, if it may',
    });
  }

  #takeOfAddress(address: string): void {
    if (!this.#perAddress.take(addressGroup(address))) throw limit(address);
  }

  #ownIdentity({ node }: Caller): string {
    return nodeIdentity(this.#authority.trustDomain, node).text;
  }

  #impersonate(caller: AdmittedCaller, requested: string): string {
    const { trustDomain } = this.#authority;
    const { namespaces } = caller.standing;
    return authoriseImpersonation(caller, requested, { trustDomain, placements: this.#placements, namespaces }).text;
  }

  /** Turns what is thrown into a status, and keeps the reason for the log. */
  async #answer<Answer>(call: Call<IssuancePeer>, work: () => Promise<Answer>): Promise<Answer> {
    try {
      return await work();
    } catch (error) {
      if (call.signal.aborted || error instanceof GrpcStatusError) throw error;
      const fields = { address: call.peer.address, identity: call.peer.identity?.text ?? null };
      const refusal = error instanceof WeftError ? REFUSALS[error.code] : undefined;
      this.#counts.refused[refusal?.reason ?? 'failed']++;
      if (refusal === undefined) {
        this.#log.error({ ...fields, err: error }, 'the issuance service failed');
        throw new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, CANNOT_ANSWER, { cause: error });
      }
      this.#warnings.warn({ ...fields, reason: errorText(error) }, 'the issuance service refused a call');
      throw new GrpcStatusError(refusal.status, refusal.text ?? (error as WeftError).message, { cause: error });
    }
  }
}

/** One Watch stream: over when the caller leaves, stops sending, or has newer ones. */
class Stream implements Disposable {
  readonly #closed: () => void;
  readonly #ended = Promise.withResolvers<void>();
  over = false;
  replaced = false;

  constructor(closed: () => void) {
    this.#closed = closed;
  }

  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  readonly end = (): void => {
    this.over = true;
    this.#ended.resolve();
  };

  readonly replace = (): void => {
    this.replaced = true;
    this.end();
  };

  follow(signal: AbortSignal): this {
    if (signal.aborted) this.end();
    else signal.addEventListener('abort', this.end, { once: true });
    return this;
  }

  [Symbol.dispose](): void {
    this.end();
    this.#closed();
  }
}

function disposable(dispose: () => void): Disposable {
  return { [Symbol.dispose]: dispose };
}

function limit(caller: string): CertsError {
  return new CertsError('WEFT_CERTS_CALLER_LIMIT', `${caller} asks too often`, {
    nextStep: 'find out why: a node asks once for each SVID',
  });
}

function readRequest(pem: string): Uint8Array {
  const base64 = CSR.exec(pem)?.[1];
  if (base64 === undefined) {
    throw new CertsError('WEFT_CERTS_CSR', 'the signing request is no PEM', { nextStep: 'send one PKCS#10 request in PEM' });
  }
  return new Uint8Array(Buffer.from(base64, 'base64'));
}

function toMessage(state: TrustState, now: number): WatchResponse {
  const { sequence, bundle, taintedKeys, revokedKeys } = state;
  return {
    sentAt: BigInt(now),
    trustDomain: bundle.trustDomain,
    sequence,
    x509Authorities: bundle.x509Authorities,
    jwtAuthorities: bundle.jwtAuthorities.map(({ keyId, jwk }) => ({ keyId, jwk: JSON.stringify(jwk) })),
    refreshHint: bundle.refreshHintSeconds === null ? null : BigInt(bundle.refreshHintSeconds),
    taintedKeys,
    revokedKeys,
  };
}
