import { isDeepStrictEqual } from 'node:util';
import { GRPC_STATUS, type GrpcStatus, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import type { Call, GrpcServer } from '../../src/grpc/grpc-server.ts';
import { type Json, structFromJson } from '../../src/grpc/struct.ts';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import { formatJwtBundle } from '../bundle/bundle-format.ts';
import type { SpiffeBundle } from '../bundle/trust-state.ts';
import { type Clock, sleep, systemClock } from '../clock.ts';
import type { JwtSvid } from '../identity-provider.ts';
import { TokenBuckets } from '../issuance/token-buckets.ts';
import { checkAudience } from '../jwt/audience.ts';
import { verifyJwtSvid } from '../jwt/jwt-svid-verifier.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import type { Caller } from './caller.ts';
import { Changes } from './changes.ts';
import { FairPlaces, type FairPlacesOptions, type Place } from './fair-places.ts';
import { JwtSvidCache } from './jwt-svid-cache.ts';
import {
  FETCH_JWT_BUNDLES,
  FETCH_JWT_SVID,
  FETCH_WIT_BUNDLES,
  FETCH_WIT_SVID,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  type JwtBundlesResponse,
  type JwtSvidRequest,
  type JwtSvidResponse,
  SECURITY_HEADER,
  VALIDATE_JWT_SVID,
  WORKLOAD_API_SERVICE,
  type ValidateJwtSvidRequest,
  type ValidateJwtSvidResponse,
  type X509BundlesResponse,
  type X509SvidResponse,
} from './messages.ts';

/** What the Workload API hands out, and where it has it from. */
export interface WorkloadApiSource {
  /** SPIFFE ID text to its SVID now, or null; the same object until it is renewed. */
  current(identity: string): SvidMaterial | null;
  /**
   * The same, waiting for a first one.
   * @throws WeftError after `timeoutMs`
   */
  wait(identity: string, timeoutMs: number): Promise<SvidMaterial>;
  /** The node's own trust domain; null until it is known. */
  bundle(): SpiffeBundle | null;
  /** Those of other trust domains that workloads may meet. */
  federatedBundles(): readonly SpiffeBundle[];
  /** @throws WeftError when none can be had now */
  jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid>;
  /** Called after SVIDs, bundles or enrolments changed. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void;
}

export interface WorkloadApiOptions {
  readonly source: WorkloadApiSource;
  readonly clock?: Clock;
  /** 0 to 1, for jitter. Default: Math.random. */
  readonly random?: () => number;
  /** Open streams. Default: 20,000, of which one workload may hold 1,000. */
  readonly streams?: FairPlacesOptions;
  /** Unary calls under way. Default: 512, of which one workload may hold 32. */
  readonly calls?: FairPlacesOptions;
}

/** How long a first message waits for the first SVID of a workload. */
export const SVID_WAIT_MS = 5_000;
/** A change that concerns many streams reaches each within this: one more millisecond for every 10 streams, up to the limit. */
const LONGEST_JITTER_MS = 500;
const JITTER_MS_PER_STREAM = 0.1;
const DEFAULT_STREAMS: FairPlacesOptions = { total: 20_000, perAccount: 1_000 };
const DEFAULT_CALLS: FairPlacesOptions = { total: 512, perAccount: 32 };
/** New tokens of one workload, each of which costs a signature, and for most nodes a call to an authority that others need too. */
const JWT_SVIDS_PER_WORKLOAD = { perSecond: 20, burst: 200 };
const NO_BYTES: Uint8Array = new Uint8Array();

/**
 * The SPIFFE Workload API (SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md) for callers that the kernel attests. Every message of a stream
 * is the full state, sent at once and again whenever it differs from what was sent last. Tokens and keys go to the caller and nowhere else.
 * States: open -> closed, which ends every stream with Unavailable.
 */
export class WorkloadApi implements Disposable {
  readonly #source: WorkloadApiSource;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #streams: FairPlaces;
  readonly #calls: FairPlaces;
  readonly #jwtSvids: JwtSvidCache;
  readonly #jwtSvidsPerWorkload: TokenBuckets;
  readonly #changes = new Changes();
  readonly #closed = new AbortController();
  readonly #unsubscribe: () => void;
  /** What was last made of the state, for all streams that show the same. */
  readonly #x509Svids = new Map<string, X509SvidResponse>();
  #x509Bundles: X509BundlesResponse | null = null;
  #jwtBundles: JwtBundlesResponse | null = null;
  #jwtKeys = '';

  constructor(options: WorkloadApiOptions) {
    this.#source = options.source;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#streams = new FairPlaces(options.streams ?? DEFAULT_STREAMS);
    this.#calls = new FairPlaces(options.calls ?? DEFAULT_CALLS);
    this.#jwtSvids = new JwtSvidCache({
      issue: (identity, audience) => this.#issueJwtSvid(identity, audience),
      now: () => this.#clock.now(),
    });
    this.#jwtSvidsPerWorkload = new TokenBuckets(JWT_SVIDS_PER_WORKLOAD, this.#clock);
    this.#unsubscribe = this.#source.onChange(() => this.#changed());
  }

  /** Streams that are open now. */
  get openStreams(): number {
    return this.#streams.taken;
  }

  /** Puts the service on a server, with reflection. */
  serve<Peer extends Caller>(server: GrpcServer<Peer>): void {
    server
      .addServerStream(FETCH_X509_SVID, (_, call, send) => this.#stream(call, send, (identity) => this.#x509SvidsOf(identity)))
      .addServerStream(FETCH_X509_BUNDLES, (_, call, send) => this.#stream(call, send, () => this.#allX509Bundles()))
      .addServerStream(FETCH_JWT_BUNDLES, (_, call, send) => this.#stream(call, send, () => this.#allJwtBundles()))
      .add(FETCH_JWT_SVID, (request, call) => this.#unary(call, () => this.#fetchJwtSvid(request, call)))
      .add(VALIDATE_JWT_SVID, (request, call) => this.#unary(call, () => this.#validateJwtSvid(request, call)))
      .addServerStream(FETCH_WIT_SVID, async (_, call) => notImplemented(call))
      .addServerStream(FETCH_WIT_BUNDLES, async (_, call) => notImplemented(call))
      .reflect([WORKLOAD_API_SERVICE]);
  }

  /** Ends every stream with Unavailable; calls from now on are answered the same. */
  [Symbol.dispose](): void {
    this.#unsubscribe();
    this.#closed.abort();
    this.#jwtSvids.clear();
    this.#x509Svids.clear();
  }

  #changed(): void {
    const keys = JSON.stringify(this.#source.bundle()?.jwtAuthorities.map(({ keyId }) => keyId) ?? []);
    // A key that is gone may have been revoked: what it signed is not handed out again.
    if (keys !== this.#jwtKeys) this.#jwtSvids.clear();
    this.#jwtKeys = keys;
    // No key outlives the identity that it is of.
    for (const identity of this.#x509Svids.keys()) if (this.#source.current(identity) === null) this.#x509Svids.delete(identity);
    this.#changes.changed();
  }

  /** @throws GrpcStatusError */
  async #stream<Response>(
    call: Call<Caller>,
    send: (response: Response) => Promise<void>,
    state: (identity: string) => Promise<Response> | Response,
  ): Promise<void> {
    requireSecurityHeader(call);
    using place = this.#take(this.#streams, call.peer);
    const signal = AbortSignal.any([call.signal, call.peer.exited, place.withdrawn, this.#closed.signal]);
    let sent: Response | null = null;
    for (;;) {
      const seen = this.#changes.version;
      this.#requireOpen(call, place);
      if (call.signal.aborted) return;
      const response = await state(requireIdentity(call.peer));
      if (response !== sent) {
        // A client that does not read holds one message: what changes meanwhile is in the next.
        await send(response);
        sent = response;
      }
      await this.#changes.after(seen, signal);
      await this.#jitter(signal);
    }
  }

  /** Nobody's push is late by much, and not every workload of the node reloads in the same moment. */
  async #jitter(signal: AbortSignal): Promise<void> {
    const most = Math.min(LONGEST_JITTER_MS, this.#streams.taken * JITTER_MS_PER_STREAM);
    const delay = Math.floor(most * this.#random());
    if (delay >= 1) await sleep(this.#clock, delay, signal);
  }

  #requireOpen(call: Call<Caller>, place: Place): void {
    if (this.#closed.signal.aborted) throw status('UNAVAILABLE', 'the agent is stopping');
    if (place.withdrawn.aborted) throw status('UNAVAILABLE', 'this workload has more streams than others, and there are too many');
    if (call.peer.exited.aborted) throw status('PERMISSION_DENIED', 'the process that connected has exited');
  }

  async #unary<Response>(call: Call<Caller>, answer: () => Promise<Response>): Promise<Response> {
    requireSecurityHeader(call);
    using place = this.#take(this.#calls, call.peer);
    this.#requireOpen(call, place);
    return await answer();
  }

  #take(places: FairPlaces, caller: Caller): Place {
    const place = places.take(caller.account);
    if (place === null) throw status('UNAVAILABLE', 'too many calls of this workload are open');
    return place;
  }

  async #x509SvidsOf(identity: string): Promise<X509SvidResponse> {
    const svid = this.#source.current(identity) ?? (await this.#firstSvid(identity));
    const response: X509SvidResponse = {
      svids: [
        {
          spiffeId: svid.identity,
          x509Svid: Buffer.concat(certificatesFromPem(svid.certificateChain)),
          x509SvidKey: svid.privateKey,
          bundle: concatenated(this.#ownBundle()),
          hint: '',
        },
      ],
      crl: [],
      federatedBundles: new Map(this.#federatedBundles().map((bundle) => [mapKey(bundle), concatenated(bundle)])),
    };
    const known = this.#x509Svids.get(identity);
    if (known !== undefined && isDeepStrictEqual(known, response)) return known;
    this.#x509Svids.set(identity, response);
    return response;
  }

  async #firstSvid(identity: string): Promise<SvidMaterial> {
    try {
      return await this.#source.wait(identity, SVID_WAIT_MS);
    } catch (error) {
      throw status('UNAVAILABLE', 'there is no valid SVID for the workload yet', error);
    }
  }

  #allX509Bundles(): X509BundlesResponse {
    const response = { crl: [], bundles: new Map(this.#allBundles().map((bundle) => [mapKey(bundle), concatenated(bundle)])) };
    if (!isDeepStrictEqual(this.#x509Bundles, response)) this.#x509Bundles = response;
    return this.#x509Bundles as X509BundlesResponse;
  }

  #allJwtBundles(): JwtBundlesResponse {
    const keySet = (bundle: SpiffeBundle): Uint8Array => Buffer.from(formatJwtBundle(bundle));
    const response = { bundles: new Map(this.#allBundles().map((bundle) => [mapKey(bundle), keySet(bundle)])) };
    if (!isDeepStrictEqual(this.#jwtBundles, response)) this.#jwtBundles = response;
    return this.#jwtBundles as JwtBundlesResponse;
  }

  #ownBundle(): SpiffeBundle {
    const bundle = this.#source.bundle();
    if (bundle === null) throw status('UNAVAILABLE', 'the trust bundle is not known yet');
    return bundle;
  }

  #allBundles(): SpiffeBundle[] {
    return [this.#ownBundle(), ...this.#federatedBundles()];
  }

  /** One for each trust domain, the first that there is: as SvidManager.setBundles has it. A foreign bundle in our own name would speak for us. */
  #federatedBundles(): SpiffeBundle[] {
    const found = new Map<string, SpiffeBundle>();
    for (const bundle of this.#source.federatedBundles()) {
      if (bundle.trustDomain !== this.#source.bundle()?.trustDomain && !found.has(bundle.trustDomain))
        found.set(bundle.trustDomain, bundle);
    }
    return [...found.values()];
  }

  async #fetchJwtSvid({ audience, spiffeId }: JwtSvidRequest, call: Call<Caller>): Promise<JwtSvidResponse> {
    requireAudience(audience);
    const identity = requireIdentity(call.peer);
    if (spiffeId !== '' && spiffeId !== identity) throw status('PERMISSION_DENIED', 'the caller does not have the identity it asks for');
    let svid: JwtSvid;
    try {
      svid = await this.#jwtSvids.get(identity, audience);
    } catch (error) {
      throw status('UNAVAILABLE', 'no JWT-SVID can be had now', error);
    }
    // Issuing takes time: the workload may be gone by now.
    if (requireIdentity(call.peer) !== identity) throw status('UNAVAILABLE', 'the identity of the workload has changed');
    return { svids: [{ spiffeId: svid.identity, svid: svid.token, hint: '' }] };
  }

  async #issueJwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    if (!this.#jwtSvidsPerWorkload.take(identity)) throw status('UNAVAILABLE', 'this workload asks for tokens for too many audiences');
    return await this.#source.jwtSvid(identity, audience);
  }

  async #validateJwtSvid({ audience, svid }: ValidateJwtSvidRequest, call: Call<Caller>): Promise<ValidateJwtSvidResponse> {
    if (audience === '') throw status('INVALID_ARGUMENT', 'an audience must be given');
    if (svid === '') throw status('INVALID_ARGUMENT', 'a JWT-SVID must be given');
    requireIdentity(call.peer);
    const bundles = new Map(this.#allBundles().map((bundle) => [bundle.trustDomain, bundle]));
    try {
      const bundle = (trustDomain: string): SpiffeBundle | null => bundles.get(trustDomain) ?? null;
      const { id, claims } = verifyJwtSvid(svid, { audience, bundle, now: () => this.#clock.now() });
      return { spiffeId: id.text, claims: structFromJson(claims as Readonly<Record<string, Json>>) };
    } catch (error) {
      throw status('INVALID_ARGUMENT', `the JWT-SVID is not valid: ${errorText(error)}`, error);
    }
  }
}

/** @throws GrpcStatusError InvalidArgument (SPIFFE_Workload_Endpoint.md section 6.2) */
function requireSecurityHeader({ metadata }: Call<Caller>): void {
  const values = metadata.all(SECURITY_HEADER);
  if (values.length === 1 && values[0] === 'true') return;
  throw status('INVALID_ARGUMENT', `the request must carry the metadata ${SECURITY_HEADER}: true`);
}

/** @throws GrpcStatusError PermissionDenied */
function requireIdentity(caller: Caller): string {
  const identity = caller.identity();
  if (identity === null) throw status('PERMISSION_DENIED', 'the caller is part of no enrolled workload');
  return identity;
}

/** @throws GrpcStatusError InvalidArgument: what the authority would refuse for good must not look worth another try */
function requireAudience(audience: readonly string[]): void {
  try {
    checkAudience(audience);
  } catch (error) {
    throw status('INVALID_ARGUMENT', errorText(error), error);
  }
}

function notImplemented(call: Call<Caller>): never {
  requireSecurityHeader(call);
  throw status('UNIMPLEMENTED', 'WIT-SVIDs are not served');
}

function mapKey({ trustDomain }: SpiffeBundle): string {
  return `spiffe://${trustDomain}`;
}

function concatenated({ x509Authorities }: SpiffeBundle): Uint8Array {
  return x509Authorities.length === 0 ? NO_BYTES : Buffer.concat(x509Authorities);
}

function status(name: Exclude<keyof typeof GRPC_STATUS, 'OK'>, message: string, cause?: unknown): GrpcStatusError {
  return new GrpcStatusError(GRPC_STATUS[name] as Exclude<GrpcStatus, 0>, message, { cause });
}
