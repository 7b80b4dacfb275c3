import { open } from 'node:fs/promises';
import type { TLSSocket } from 'node:tls';
import { GRPC_STATUS, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import { GrpcClient } from '../../src/grpc/grpc-client.ts';
import { joinHostPort } from '../../src/model/address.ts';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { errorText, WeftError } from '../../src/model/errors.ts';
import type { Log } from '../../src/model/log.ts';
import { matchesPin, type ParsedToken, parseJoinToken } from '../authority/join-tokens.ts';
import type { SpiffeBundle, TrustState } from '../bundle/trust-state.ts';
import { backoffMs } from '../backoff.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { callAt, type Clock, sleep, systemClock } from '../clock.ts';
import { CertsError } from '../errors.ts';
import type { IdentityProvider, IdentityProviderStatus, JwtSvid, SvidStanding } from '../identity-provider.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { toPem } from '../x509/pem.ts';
import { type AuthorityAddress, dialAuthority, unknownAuthority, verifyAuthority } from './authority-dial.ts';
import { obtainSvid } from './issued-chain.ts';
import {
  CREATE_CERTIFICATE,
  type CertificateResponse,
  FETCH_ROOTS,
  IMPERSONATED_IDENTITY,
  MINT_JWT_SVID,
  WATCH,
  type WatchRequest,
  type WatchResponse,
} from './messages.ts';
import { nodeIdentity } from './node-identity.ts';
import { readNodeState, writeNodeState } from './node-state.ts';
import { OwnBundle } from './own-bundle.ts';
import { RequestQueue } from './request-queue.ts';

export interface RemoteProviderOptions {
  readonly server: AuthorityAddress;
  readonly trustDomain: string;
  readonly nodeName: string;
  /** Where the node keeps its own SVID and the last trust state: a directory of its own. */
  readonly stateDirectory: string;
  /** The file with a join token, for a node that has no SVID of its own (any more). */
  readonly tokenFile: string | null;
  readonly log: Log;
  readonly clock?: Clock;
  /** 0 to 1, for jitter. Default: Math.random. */
  readonly random?: () => number;
}

const READABLE_BY_OTHERS = 0o044;

/**
 * Where the node stands. Allowed moves:
 * joining -> away (it has an SVID now); away -> watching; watching -> away (the connection broke, or a new SVID is to be shown);
 * away -> joining (its SVID expired); any -> closed, which is final.
 * Invariant: in `away` and `watching` there is an SVID of the node; in `watching` there is a stream of trust states.
 */
type State = 'joining' | 'away' | 'watching' | 'closed';
const MOVES: Readonly<Record<State, readonly State[]>> = {
  joining: ['away', 'closed'],
  away: ['watching', 'joining', 'closed'],
  watching: ['away', 'closed'],
  closed: [],
};

const CALL_TIMEOUT_MS = 15_000;
const CONNECT_PATIENCE_MS = 2_000;
const BACKOFF = { startMs: 500, capMs: 30_000, jitter: 0.2 };
const RENEWAL_JITTER = 0.1;
/** The server says something every 20 s: after this without a word the connection is dead. */
const SILENCE_MS = 65_000;
/** Asked for; the authority gives what it allows. */
const NODE_TTL_SECONDS = 24 * 3600;

/**
 * Identities from our authority on another host. Joins with a token once, then shows the node's own SVID, which it renews at half of its
 * life and keeps on disk: the one key there is on disk, so that a restart needs no new token. While the authority is away, what is
 * held serves until it expires.
 */
export class RemoteProvider implements IdentityProvider {
  readonly #options: RemoteProviderOptions;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #identity: string;
  readonly #bundle: OwnBundle;
  readonly #verifier: SvidVerifier;
  readonly #notifier = new ChangeNotifier();
  readonly #closing = new AbortController();
  #state: State = 'joining';
  #svid: SvidMaterial | null = null;
  #trust: TrustState | null = null;
  #client: GrpcClient | null = null;
  /** Replaced clients whose calls are still under way. */
  readonly #draining = new Set<GrpcClient>();
  #requests: RequestQueue<WatchRequest> | null = null;
  #acknowledged: bigint | null = null;
  #problem: string | null = 'it has not joined yet';
  #clockSkewSeconds: number | null = null;
  #failures = 0;
  #running: Promise<void> = Promise.resolve();

  private constructor(options: RemoteProviderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#identity = nodeIdentity(options.trustDomain, options.nodeName).text;
    this.#bundle = new OwnBundle(() => this.#trust);
    this.#verifier = new SvidVerifier(this.#bundle, { now: () => this.#clock.now(), cacheSize: 0 });
  }

  /**
   * Comes back with what an earlier run kept, or joins. An authority that is away is waited for in the background.
   * @throws CertsError WEFT_CERTS_JOIN when this node can never join: there is no token, or it is refused; WEFT_CERTS_NODE_STATE,
   *   WEFT_CERTS_KEY_FILE, WEFT_CERTS_AUTHORITY_UNKNOWN
   */
  static async open(options: RemoteProviderOptions): Promise<RemoteProvider> {
    const provider = new RemoteProvider(options);
    const kept = await readNodeState(options.stateDirectory);
    if (kept !== null && kept.svid.identity === provider.#identity) {
      provider.#trust = kept.trust;
      if (provider.#clock.now() < kept.svid.notAfter) {
        provider.#svid = kept.svid;
        provider.#move('away');
      }
    }
    if (provider.#state === 'joining') {
      try {
        await provider.#join();
      } catch (error) {
        if (!(error instanceof CertsError) || error.code !== 'WEFT_CERTS_AUTHORITY_AWAY') {
          await provider[Symbol.asyncDispose]();
          throw error;
        }
        provider.#failed(error);
      }
    }
    provider.#running = provider.#run();
    return provider;
  }

  async x509Svid(identity: string, ttlSeconds: number): Promise<SvidMaterial> {
    return obtainSvid(identity, this.#verifier, async (csr) => this.#certify(await this.#connected(), csr, ttlSeconds, identity));
  }

  async jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    const minted = await (await this.#connected()).unary(MINT_JWT_SVID, { identity, audience }, { timeoutMs: CALL_TIMEOUT_MS });
    return { identity, token: minted.token, issuedAt: Number(minted.issuedAt), expiresAt: Number(minted.expiresAt) };
  }

  standing(): SvidStanding {
    return 'current';
  }

  trust(): TrustState | null {
    return this.#trust;
  }

  federatedBundles(): readonly SpiffeBundle[] {
    return [];
  }

  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  acknowledge(sequence: bigint): void {
    if (this.#acknowledged !== null && sequence <= this.#acknowledged) return;
    // Of the authority before: this one would take it for a lie.
    if (this.#trust === null || sequence > this.#trust.sequence) return;
    this.#acknowledged = sequence;
    this.#report();
  }

  status(): IdentityProviderStatus {
    const { host, port } = this.#options.server;
    return { kind: 'remote', from: joinHostPort(host, port), problem: this.#problem, clockSkewSeconds: this.#clockSkewSeconds };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state !== 'closed') this.#move('closed');
    this.#closing.abort();
    this.#requests?.end();
    await this.#running;
    await Promise.all([...this.#draining].map((client) => client[Symbol.asyncDispose]()));
    this.#notifier[Symbol.dispose]();
  }

  /** The only place where the state changes. */
  #move(to: State): void {
    if (!MOVES[this.#state].includes(to)) throw new Error(`a node cannot go from ${this.#state} to ${to}`);
    this.#state = to;
  }

  /** Read anew each time: it changes across every await. */
  get #closed(): boolean {
    return this.#state === 'closed';
  }

  /** Waits for the moment of connecting, at the start and after a renewal; not for an authority that is away. */
  async #connected(): Promise<GrpcClient> {
    if (this.#client === null && this.#failures === 0 && !this.#closed) await this.#nextChange(CONNECT_PATIENCE_MS);
    if (this.#client !== null) return this.#client;
    throw new CertsError('WEFT_CERTS_AUTHORITY_AWAY', this.#problem ?? 'the authority is away', { nextStep: 'see `weft status`' });
  }

  async #nextChange(patienceMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const unsubscribe = this.#notifier.subscribe(resolve);
    const cancel = this.#clock.after(patienceMs, resolve);
    await promise;
    unsubscribe();
    cancel();
  }

  /** Joins when it must, and watches, until it is closed. */
  async #run(): Promise<void> {
    while (!this.#closed) {
      if (this.#failures > 0) await sleep(this.#clock, backoffMs(this.#failures, BACKOFF, this.#random), this.#closing.signal);
      if (this.#closed) return;
      try {
        if (this.#state === 'away' && this.#clock.now() >= (this.#svid as SvidMaterial).notAfter) this.#move('joining');
        if (this.#state === 'joining') await this.#join();
        await this.#watch();
      } catch (error) {
        if (!this.#closed) this.#failed(error);
      }
    }
  }

  #failed(error: unknown): void {
    this.#failures++;
    this.#notifier.changed();
    const problem = errorText(error instanceof GrpcStatusError && error.cause instanceof WeftError ? error.cause : error);
    if (problem !== this.#problem) this.#options.log.warn({ reason: problem }, 'the authority cannot be used; trying again');
    this.#problem = problem;
  }

  /** Exchanges the token for the node's own SVID. */
  async #join(): Promise<void> {
    const { server, trustDomain, tokenFile, nodeName, log } = this.#options;
    const { token, readableByOthers } = await readToken(tokenFile);
    // Too late to refuse it, as whoever read it may have used it; and not at every attempt.
    if (readableByOthers && this.#failures === 0)
      log.warn({ file: tokenFile }, 'group or others can read the join token: write it with `weft ca token --out`, mode 0600');
    const now = (): number => this.#clock.now();
    let trust: TrustState | null = null;
    const bundle = new OwnBundle(() => trust);
    let socket: TLSSocket | null = null;
    await using client = new GrpcClient({
      connect: async () => {
        socket = await dialAuthority(server, null);
        // The first connection is for the roots; they are what every later one is verified with.
        if (trust !== null) verifyAuthority(socket, trustDomain, bundle, now);
        return socket;
      },
      authority: joinHostPort(server.host, server.port),
      scheme: 'https',
    });
    try {
      const { x509Authorities } = await client.unary(FETCH_ROOTS, {}, { timeoutMs: CALL_TIMEOUT_MS });
      if (!matchesPin(token, x509Authorities)) throw unknownAuthority('its roots are not those that the token names');
      trust = firstTrust(trustDomain, x509Authorities, this.#trust);
      verifyAuthority(socket as unknown as TLSSocket, trustDomain, bundle, now);
      // Only now does the token go out.
      const svid = await obtainSvid(this.#identity, new SvidVerifier(bundle, { now, cacheSize: 0 }), async (csr) => {
        const answer = await client.unary(
          CREATE_CERTIFICATE,
          { csr: toPem('CERTIFICATE REQUEST', csr), validityDuration: BigInt(NODE_TTL_SECONDS), metadata: null },
          { timeoutMs: CALL_TIMEOUT_MS, metadata: { authorization: `Bearer ${token.token}` } },
        );
        return chainToShow(answer);
      });
      this.#trust = trust;
      // What was acknowledged is of the authority before, if this is another one; whoever acknowledges does so again.
      this.#acknowledged = null;
      await this.#keep(svid);
      log.info({ node: nodeName }, 'this node has joined');
    } catch (error) {
      throw joinFailure(error);
    }
    if (!this.#closed) this.#move('away');
  }

  /** One connection with the node's SVID: until it breaks, or the SVID has been renewed. */
  async #watch(): Promise<void> {
    const { server, trustDomain } = this.#options;
    const svid = this.#svid as SvidMaterial;
    const client = new GrpcClient({
      connect: async () => {
        const socket = await dialAuthority(server, svid);
        verifyAuthority(socket, trustDomain, this.#bundle, () => this.#clock.now());
        return socket;
      },
      authority: joinHostPort(server.host, server.port),
      scheme: 'https',
    });
    const requests = new RequestQueue<WatchRequest>();
    this.#requests = requests;
    const renewal = new AbortController();
    const stopRenewing = this.#renewAtHalfLife(client, svid, () => renewal.abort());
    let silence = (): void => {};
    try {
      this.#report();
      const signal = AbortSignal.any([renewal.signal, this.#closing.signal]);
      for await (const state of client.bidi(WATCH, requests, { signal })) {
        if (this.#state === 'away') {
          this.#move('watching');
          this.#client = client;
          this.#failures = 0;
          this.#problem = null;
          this.#notifier.changed();
        }
        await this.#learn(state);
        silence();
        silence = this.#clock.after(SILENCE_MS, () => renewal.abort());
        this.#report();
      }
      throw new CertsError('WEFT_CERTS_AUTHORITY_AWAY', 'the authority closed the stream', { nextStep: 'see its log' });
    } catch (error) {
      // A renewed SVID is shown on a new connection, and that is no failure.
      if (this.#closed || this.#svid !== svid) return;
      throw error;
    } finally {
      silence();
      stopRenewing();
      requests.end();
      this.#requests = null;
      this.#client = null;
      this.#drain(client);
      if (this.#state === 'watching') this.#move('away');
    }
  }

  /** Its calls may end on their own; new ones go to its successor. */
  #drain(client: GrpcClient): void {
    this.#draining.add(client);
    void client.drain(CALL_TIMEOUT_MS).then(() => this.#draining.delete(client));
  }

  async #learn(message: WatchResponse): Promise<void> {
    this.#clockSkewSeconds = (this.#clock.now() - Number(message.sentAt)) / 1000;
    const state = readTrustState(message);
    if (state.bundle.trustDomain !== this.#options.trustDomain) {
      throw new CertsError('WEFT_CERTS_AUTHORITY_UNKNOWN', `the authority is that of ${state.bundle.trustDomain}`, {
        nextStep: 'check --trust-domain',
      });
    }
    if (this.#trust !== null && state.sequence === this.#trust.sequence) return;
    this.#trust = state;
    this.#notifier.changed();
    await this.#keep(this.#svid as SvidMaterial);
  }

  /** Returns the stop function. */
  #renewAtHalfLife(client: GrpcClient, svid: SvidMaterial, renewed: () => void): () => void {
    const now = this.#clock.now();
    const share = 0.5 * (1 + RENEWAL_JITTER * (2 * this.#random() - 1));
    let stopped = false;
    let cancel = (): void => {};
    const renew = async (): Promise<void> => {
      try {
        await this.#keep(await obtainSvid(this.#identity, this.#verifier, (csr) => this.#certify(client, csr, NODE_TTL_SECONDS, null)));
        renewed();
      } catch (error) {
        this.#options.log.warn({ reason: errorText(error) }, "the node's own SVID could not be renewed; trying again");
        renewAt(this.#clock.now() + BACKOFF.capMs);
      }
    };
    const renewAt = (due: number): void => {
      if (!stopped) cancel = callAt(this.#clock, due, () => void renew());
    };
    renewAt(now + (svid.notAfter - now) * share);
    return () => {
      stopped = true;
      cancel();
    };
  }

  async #certify(client: GrpcClient, csr: Uint8Array, ttlSeconds: number, workload: string | null): Promise<string> {
    const answer = await client.unary(
      CREATE_CERTIFICATE,
      {
        csr: toPem('CERTIFICATE REQUEST', csr),
        validityDuration: BigInt(ttlSeconds),
        metadata: workload === null ? null : { fields: new Map([[IMPERSONATED_IDENTITY, { stringValue: workload }]]) },
      },
      { timeoutMs: CALL_TIMEOUT_MS },
    );
    return chainToShow(answer);
  }

  /** The new SVID counts once it is on disk: else a crash would leave a node that must join again. */
  async #keep(svid: SvidMaterial): Promise<void> {
    await writeNodeState(this.#options.stateDirectory, { svid, trust: this.#trust as TrustState });
    this.#svid = svid;
  }

  #report(): void {
    this.#requests?.push({ acknowledgedSequence: this.#acknowledged, sentAt: BigInt(this.#clock.now()) });
  }
}

async function readToken(path: string | null): Promise<{ readonly token: ParsedToken; readonly readableByOthers: boolean }> {
  if (path === null) {
    throw new CertsError('WEFT_CERTS_JOIN', 'this node has no SVID of its own, and no token to join with', {
      nextStep: 'on the host of the authority run `weft ca token --node NAME`, and give its output to this agent with --ca-token-file',
    });
  }
  let text: string;
  let mode: number;
  try {
    await using file = await open(path);
    ({ mode } = await file.stat());
    text = await file.readFile('utf8');
  } catch (cause) {
    throw new CertsError('WEFT_CERTS_JOIN', `cannot read the join token: ${errorText(cause)}`, {
      cause,
      nextStep: 'correct --ca-token-file',
    });
  }
  return { token: parseJoinToken(text), readableByOthers: (mode & READABLE_BY_OTHERS) !== 0 };
}

/** What the authority refuses it refuses for good; of anything else there is hope. */
function joinFailure(error: unknown): unknown {
  if (!(error instanceof GrpcStatusError)) return error;
  // Why there was no connection.
  if (error.cause instanceof WeftError) return error.cause;
  const refused = error.status === GRPC_STATUS.UNAUTHENTICATED || error.status === GRPC_STATUS.PERMISSION_DENIED;
  if (refused) {
    return new CertsError('WEFT_CERTS_JOIN', 'the authority refused the join token', {
      cause: error,
      nextStep: 'a token works once and for a limited time: make another with `weft ca token`; the log of the authority has the reason',
    });
  }
  return new CertsError('WEFT_CERTS_AUTHORITY_AWAY', `the authority did not answer: ${errorText(error)}`, { cause: error });
}

/** The chain to show, PEM: without the root that comes last. */
function chainToShow({ certChain }: CertificateResponse): string {
  if (certChain.length >= 2) return certChain.slice(0, -1).join('');
  throw new CertsError('WEFT_CERTS_ISSUED_WRONG', 'the authority sent no chain to its root', {
    nextStep: 'check the certificate authority',
  });
}

/**
 * What a node knows before the first trust state: roots, and a sequence below every other. What it knew to be revoked when it was here before stays
 * so, until it hears more: a revoked key may stand below a root that is still there.
 */
function firstTrust(trustDomain: string, x509Authorities: readonly Uint8Array[], before: TrustState | null): TrustState {
  const bundle = { trustDomain, x509Authorities, jwtAuthorities: [], sequence: 0n, refreshHintSeconds: null };
  return { sequence: 0n, bundle, taintedKeys: before?.taintedKeys ?? [], revokedKeys: before?.revokedKeys ?? [] };
}

function readTrustState(message: WatchResponse): TrustState {
  const { trustDomain, sequence, x509Authorities, refreshHint, taintedKeys, revokedKeys } = message;
  return {
    sequence,
    bundle: {
      trustDomain,
      x509Authorities,
      jwtAuthorities: message.jwtAuthorities.map(({ keyId, jwk }) => ({ keyId, jwk: JSON.parse(jwk) })),
      sequence,
      refreshHintSeconds: refreshHint === null ? null : Number(refreshHint),
    },
    taintedKeys,
    revokedKeys,
  };
}
