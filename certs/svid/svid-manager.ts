import type { SvidMaterial, TrustBundle } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import { checkTrustDomain, IdentityError, parseSpiffeId } from '../../src/model/identity.ts';
import type { SpiffeBundle, TrustState } from '../bundle/trust-state.ts';
import { type Backoff, backoffMs } from '../backoff.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { callAt, type Clock, systemClock } from '../clock.ts';
import { CertsError } from '../errors.ts';
import type { SvidStanding } from '../identity-provider.ts';
import { sameList } from '../same-list.ts';
import type { IdentityUpdate } from '../../src/model/worker-messages.ts';
import type { BundleSource, VersionedIdentitySource } from './identity-source.ts';
import { checkRoot, SvidVerifier } from './peer-verifier.ts';
import { shareKey, wipeKey } from './private-key.ts';
import { type SvidFailure, svidFailure, SvidTimeout } from './svid-failure.ts';
import { sameBytes } from '../x509/certificate-fields.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import { SvidWaiters } from './svid-waiters.ts';

/** Where SVIDs come from: IdentityProvider.x509Svid. Each answer has a key of its own, which the manager owns from then on, and wipes. */
export type ObtainSvid = (identity: string, ttlSeconds: number) => Promise<SvidMaterial>;

export interface SvidManagerOptions {
  readonly obtain: ObtainSvid;
  /** Life that is asked for. Default: 24 hours, as the other meshes use. */
  readonly ttlSeconds?: number;
  /** Requests under way at once. Default 8. */
  readonly concurrency?: number;
  /** After how many ms a request without an answer has failed. Default 30,000. */
  readonly requestTimeoutMs?: number;
  readonly clock?: Clock;
  /** 0 to 1, for jitter. Default: Math.random. */
  readonly random?: () => number;
}

/**
 * Where one identity stands. Allowed moves:
 * queued -> requesting; requesting -> held or backoff; held -> queued (time to renew); backoff -> queued; any -> forgotten, which is final.
 */
export type SvidState = 'queued' | 'requesting' | 'held' | 'backoff' | 'forgotten';

/** One identity, for the admin endpoint. */
export interface SvidStatus {
  readonly identity: string;
  readonly state: SvidState;
  /** Milliseconds since the epoch; null without an SVID. May lie in the past: then the identity is unusable. */
  readonly notAfter: number | null;
  /** When it is renewed, or tried again, in milliseconds since the epoch; null while a request is queued or under way. */
  readonly nextRequest: number | null;
  /** Failures in a row. */
  readonly failures: number;
  readonly lastFailure: string | null;
}

/** Counted since the start. */
export interface SvidCounters {
  readonly issued: number;
  readonly renewed: number;
  readonly failed: Readonly<Partial<Record<SvidFailure, number>>>;
}

const DEFAULT_SVID_TTL_SECONDS = 24 * 3600;
/** Renewal comes at half of the life that was left, give or take this share of it. */
export const RENEWAL_JITTER = 0.1;
export const BACKOFF_CAP_MS = 150_000;
/** A tainted CA may have issued the SVIDs of a whole mesh: they are replaced within this time, not all at once. */
export const TAINTED_SPREAD_MS = 30_000;
const BACKOFF: Backoff = { startMs: 500, capMs: BACKOFF_CAP_MS, jitter: 0.2 };
const DEFAULT_CONCURRENCY = 8;
const DEFAULT_REQUEST_TIMEOUT_MS = 30_000;

const MOVES: Readonly<Record<SvidState, readonly SvidState[]>> = {
  queued: ['requesting', 'forgotten'],
  requesting: ['held', 'backoff', 'forgotten'],
  held: ['queued', 'forgotten'],
  backoff: ['queued', 'forgotten'],
  forgotten: [],
};

/** Queues in order of urgency: a connection waits; no SVID yet; renewal. */
const WAITED_FOR = 0;
const WARM_UP = 1;
const RENEWAL = 2;

interface Entry {
  readonly identity: string;
  state: SvidState;
  svid: SvidMaterial | null;
  failures: number;
  lastFailure: string | null;
  /** The trust changed while a request was under way: its answer may come from the CA that is to be left. */
  outdated: boolean;
  /** When the timer is due, in milliseconds since the epoch. Set together with cancelTimer. */
  due: number | null;
  /** Invariant: set exactly in `held` (until renewal) and `backoff` (until the next try). */
  cancelTimer: (() => void) | null;
}

/**
 * Keeps SVIDs for the identities of this node's workloads: asks for them, renews them at half life, and hands them out. Lives on the main
 * thread; workers have an IdentityMirror. It owns the keys: one that is replaced or forgotten is wiped when `wipe` says that no thread uses it.
 */
export class SvidManager implements VersionedIdentitySource, Disposable {
  readonly #obtain: ObtainSvid;
  readonly #ttlSeconds: number;
  readonly #concurrency: number;
  readonly #requestTimeoutMs: number;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #verifier: SvidVerifier;
  readonly #waiters: SvidWaiters;
  readonly #notifier = new ChangeNotifier();
  readonly #entries = new Map<string, Entry>();
  readonly #bundles = new Map<string, TrustBundle>();
  /** By urgency. Invariant: an entry is in exactly one of them when `queued`, else in none. */
  readonly #queues: readonly [Set<Entry>, Set<Entry>, Set<Entry>] = [new Set(), new Set(), new Set()];
  readonly #counters: { issued: number; renewed: number; failed: Partial<Record<SvidFailure, number>> } = {
    issued: 0,
    renewed: 0,
    failed: {},
  };
  /** Keys out of use, in order of the version from which nobody is handed them any more. */
  #discarded: { readonly key: Uint8Array; readonly since: number }[] = [];
  #taintedKeys: readonly string[] = [];
  /**
   * Cancels the time limit of each request under way; their number is that of the places taken. Not in the entry, because a place
   * stays taken when the entry is forgotten.
   */
  readonly #limits = new Set<() => void>();
  #disposed = false;
  #version = 0;
  #bundleVersion = 0;

  constructor(options: SvidManagerOptions) {
    this.#obtain = options.obtain;
    this.#ttlSeconds = options.ttlSeconds ?? DEFAULT_SVID_TTL_SECONDS;
    this.#concurrency = options.concurrency ?? DEFAULT_CONCURRENCY;
    this.#requestTimeoutMs = options.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#waiters = new SvidWaiters(this.#clock);
    this.#verifier = new SvidVerifier(this, { now: () => this.#clock.now(), cacheSize: 0 });
  }

  get version(): number {
    return this.#version;
  }

  get bundleVersion(): number {
    return this.#bundleVersion;
  }

  get counters(): SvidCounters {
    return this.#counters;
  }

  /**
   * Starts to keep an SVID for an identity. Doing it again changes nothing: the workload registry counts who needs it.
   * @throws IdentityError WEFT_IDENTITY_INVALID
   */
  ensure(identity: string): void {
    if (this.#disposed || this.#entries.has(identity)) return;
    if (parseSpiffeId(identity).path === '') {
      throw new IdentityError('WEFT_IDENTITY_INVALID', `${identity} names a trust domain, not a workload`, {
        nextStep: 'use spiffe://<trust domain>/ns/<namespace>/sa/<service account>',
      });
    }
    const entry: Entry = {
      identity,
      state: 'queued',
      svid: null,
      failures: 0,
      lastFailure: null,
      outdated: false,
      due: null,
      cancelTimer: null,
    };
    this.#entries.set(identity, entry);
    this.#enqueue(entry);
    this.#pump();
  }

  /** The last workload with this identity is gone: drops its SVID and key. */
  forget(identity: string): void {
    const entry = this.#entries.get(identity);
    if (entry === undefined) return;
    this.#entries.delete(identity);
    this.#move(entry, 'forgotten');
    this.#waiters.reject(identity, 'no workload with this identity runs here any more');
    this.#drop(entry);
  }

  /**
   * Asks at once for new SVIDs in place of those that are held.
   * @param spreadMs how long the requests may be spread over, so that the nodes of a mesh do not come all at once
   */
  renewNow(which: (svid: SvidMaterial) => boolean, spreadMs = 0): void {
    for (const entry of this.#entries.values()) if (entry.svid !== null && which(entry.svid)) this.#renew(entry, spreadMs);
    this.#pump();
  }

  /** Asks at once for what the provider has anew, and gives up at once what it took back. */
  review(standing: (identity: string, held: SvidMaterial | null) => SvidStanding): void {
    for (const entry of this.#entries.values()) {
      const now = standing(entry.identity, entry.svid);
      if (now === 'current') continue;
      if (now === 'withdrawn') this.#drop(entry);
      this.#renew(entry, 0);
    }
    this.#pump();
  }

  /** Wipes the keys that nobody has been handed since `version`: every thread has said that it holds that version, or a later one. */
  wipe(version: number): void {
    const done = this.#discarded.filter(({ since }) => since <= version);
    this.#discarded = this.#discarded.filter(({ since }) => since > version);
    for (const { key } of done) wipeKey(key);
  }

  current(identity: string): SvidMaterial | null {
    const svid = this.#entries.get(identity)?.svid ?? null;
    return svid !== null && this.#clock.now() < svid.notAfter ? svid : null;
  }

  /** Moves the identity to the front of the queue. An identity that nobody asked to `ensure` is waited for, but not requested. */
  wait(identity: string, timeoutMs: number): Promise<SvidMaterial> {
    const svid = this.current(identity);
    if (svid !== null) return Promise.resolve(svid);
    const waiting = this.#waiters.wait(identity, timeoutMs, () => this.#whyNone(identity));
    if (this.#disposed) {
      this.#waiters.reject(identity, 'the agent is stopping');
      return waiting;
    }
    const entry = this.#entries.get(identity);
    if (entry?.state === 'queued') {
      this.#dequeue(entry);
      this.#enqueue(entry);
    }
    return waiting;
  }

  bundle(trustDomain: string): TrustBundle | null {
    return this.#bundles.get(trustDomain) ?? null;
  }

  bundles(): readonly TrustBundle[] {
    return [...this.#bundles.values()];
  }

  /**
   * Sets the roots of a trust domain, DER. None means that the trust domain revoked everything (SPIFFE_Trust_Domain_and_Bundle.md).
   * The sequence grows if the content changed.
   * @throws CertsError WEFT_CERTS_BUNDLE when a root cannot be used; the old bundle stays
   */
  setBundle(trustDomain: string, roots: readonly Uint8Array[], revokedKeys: readonly string[] = []): void {
    checkTrustDomain(trustDomain);
    const old = this.#bundles.get(trustDomain);
    if (old !== undefined && sameList(old.roots, roots, sameBytes) && sameList(old.revokedKeys, revokedKeys)) return;
    try {
      for (const der of roots) checkRoot(der);
    } catch (error) {
      throw new CertsError('WEFT_CERTS_BUNDLE', `the trust bundle of ${trustDomain} cannot be used: ${errorText(error)}`, {
        nextStep: 'give CA certificates with keyCertSign',
        cause: error,
      });
    }
    // Copies, since the other threads would be sent the whole of a buffer that a view is of.
    const copies = roots.map((der) => new Uint8Array(der));
    // Never reused, not even after removeBundle: a cache may remember the old content under its number.
    this.#bundles.set(trustDomain, { trustDomain, roots: copies, revokedKeys, sequence: ++this.#bundleVersion });
    this.#changed();
    this.#reconsider(trustDomain);
  }

  /**
   * Sets every bundle there is: what is not named is trusted no more. SVIDs of ours through a revoked CA key are unusable from now on;
   * those through a tainted one, or that the bundle does not verify any more, serve until they are replaced, soon.
   * @returns what is wrong with bundles that cannot be used (WEFT_CERTS_BUNDLE); the old bundle of such a trust domain stays
   */
  setBundles(own: TrustState, federated: readonly SpiffeBundle[]): CertsError[] {
    const problems: CertsError[] = [];
    const named = new Set<string>();
    const tainting = !sameList(this.#taintedKeys, own.taintedKeys);
    this.#taintedKeys = own.taintedKeys;
    for (const [bundle, revokedKeys] of [[own.bundle, own.revokedKeys] as const, ...federated.map((one) => [one, []] as const)]) {
      // A foreign bundle under our own name would be a way into the mesh.
      if (named.has(bundle.trustDomain)) continue;
      named.add(bundle.trustDomain);
      try {
        this.setBundle(bundle.trustDomain, bundle.x509Authorities, revokedKeys);
      } catch (error) {
        if (!(error instanceof CertsError)) throw error;
        problems.push(error);
      }
    }
    for (const trustDomain of this.#bundles.keys()) if (!named.has(trustDomain)) this.removeBundle(trustDomain);
    if (tainting) this.#reconsider(own.bundle.trustDomain);
    return problems;
  }

  /** Stops trusting a trust domain. */
  removeBundle(trustDomain: string): void {
    if (!this.#bundles.delete(trustDomain)) return;
    this.#bundleVersion++;
    this.#changed();
  }

  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  /** The full state for an IdentityMirror. Expired SVIDs are left out. */
  snapshot(): IdentityUpdate {
    const svids: SvidMaterial[] = [];
    for (const identity of this.#entries.keys()) {
      const svid = this.current(identity);
      if (svid !== null) svids.push(svid);
    }
    return { svids, bundles: this.bundles() };
  }

  /** Without keys. */
  status(): SvidStatus[] {
    return [...this.#entries.values()].map(({ identity, state, svid, due, failures, lastFailure }) => ({
      identity,
      state,
      notAfter: svid?.notAfter ?? null,
      nextRequest: due,
      failures,
      lastFailure,
    }));
  }

  /** Clears every timer, refuses every waiter, drops every key. Answers still under way are ignored. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const entry of this.#entries.values()) {
      this.#move(entry, 'forgotten');
      this.#drop(entry);
    }
    this.#entries.clear();
    this.wipe(Number.POSITIVE_INFINITY);
    for (const cancelLimit of this.#limits) cancelLimit();
    this.#limits.clear();
    this.#waiters.rejectAll('the agent is stopping');
    this.#notifier[Symbol.dispose]();
  }

  /** The only place where a state changes. It leaves the old state clean: out of the queue, without a timer. */
  #move(entry: Entry, to: SvidState): void {
    if (!MOVES[entry.state].includes(to)) throw new Error(`${entry.identity} cannot go from ${entry.state} to ${to}`);
    if (entry.state === 'queued') this.#dequeue(entry);
    entry.cancelTimer?.();
    entry.cancelTimer = null;
    entry.due = null;
    entry.state = to;
    if (to === 'queued') this.#enqueue(entry);
  }

  #enqueue(entry: Entry): void {
    const urgency = this.current(entry.identity) !== null ? RENEWAL : this.#waiters.has(entry.identity) ? WAITED_FOR : WARM_UP;
    this.#queues[urgency].add(entry);
  }

  #dequeue(entry: Entry): void {
    for (const queue of this.#queues) queue.delete(entry);
  }

  #next(): Entry | null {
    for (const queue of this.#queues) {
      for (const entry of queue) return entry;
    }
    return null;
  }

  /** Starts requests while there are free places. */
  #pump(): void {
    while (this.#limits.size < this.#concurrency) {
      const entry = this.#next();
      if (entry === null) return;
      this.#move(entry, 'requesting');
      this.#request(entry);
    }
  }

  #request(entry: Entry): void {
    // Runs once per request, whether it is answered, fails, or takes too long: a late answer finds its place given up.
    const settle = (result: () => SvidMaterial): void => {
      if (!this.#limits.delete(cancelLimit)) return;
      cancelLimit();
      if (entry.state === 'requesting') {
        try {
          this.#hold(entry, this.#checked(entry.identity, result()));
        } catch (error) {
          this.#backOff(entry, error);
        }
      }
      this.#pump();
    };
    const fail = (error: unknown): void =>
      settle(() => {
        throw error;
      });
    const cancelLimit = this.#clock.after(this.#requestTimeoutMs, () =>
      fail(new SvidTimeout(`no answer within ${this.#requestTimeoutMs} ms`)),
    );
    this.#limits.add(cancelLimit);
    entry.outdated = false;
    this.#obtain(entry.identity, this.#ttlSeconds).then((svid) => {
      settle(() => svid);
      // Too late, or no good.
      if (entry.svid?.certificateChain !== svid.certificateChain) wipeKey(svid.privateKey);
    }, fail);
  }

  /** What we would refuse from a peer, peers would refuse from us: notice here, with the reason, whoever the SVID comes from. */
  #checked(identity: string, svid: SvidMaterial): SvidMaterial {
    const issuedTo = this.#verifier.verify(certificatesFromPem(svid.certificateChain));
    if (issuedTo.text !== identity || svid.identity !== identity) {
      throw new CertsError('WEFT_CERTS_ISSUED_WRONG', `asked for ${identity}, the authority certified ${issuedTo.text}`, {
        nextStep: 'check the certificate authority',
      });
    }
    return svid;
  }

  #hold(entry: Entry, obtained: SvidMaterial): void {
    const svid = { ...obtained, privateKey: shareKey(obtained.privateKey) };
    const before = entry.svid;
    if (before === null) this.#counters.issued++;
    else this.#counters.renewed++;
    this.#move(entry, 'held');
    entry.svid = svid;
    entry.failures = 0;
    entry.lastFailure = null;
    const now = this.#clock.now();
    const share = 0.5 * (1 + RENEWAL_JITTER * (2 * this.#random() - 1));
    this.#sleepUntil(entry, now + (svid.notAfter - now) * share);
    this.#waiters.resolve(svid);
    this.#changed();
    // A provider may hand out what it handed out before.
    if (before !== null && before.privateKey !== svid.privateKey) this.#discard(before);
    if (entry.outdated) this.#reconsiderOne(entry, this.#withoutTainted());
  }

  /** The SVID is of no use any more. */
  #drop(entry: Entry): void {
    const { svid } = entry;
    if (svid === null) return;
    entry.svid = null;
    this.#changed();
    this.#discard(svid);
  }

  #discard({ privateKey }: SvidMaterial): void {
    this.#discarded.push({ key: privateKey, since: this.#version });
  }

  /** Looks again at the SVIDs of a trust domain, because its bundle or its tainted keys changed. */
  #reconsider(trustDomain: string): void {
    const withoutTainted = this.#withoutTainted();
    for (const entry of this.#entries.values()) {
      if (!entry.identity.startsWith(`spiffe://${trustDomain}/`)) continue;
      if (entry.state === 'requesting') entry.outdated = true;
      if (entry.svid !== null) this.#reconsiderOne(entry, withoutTainted);
    }
    this.#pump();
  }

  /** @param withoutTainted a verifier to which tainted keys are revoked ones */
  #reconsiderOne(entry: Entry, withoutTainted: SvidVerifier): void {
    const { svid } = entry;
    if (svid === null) return;
    const chain = certificatesFromPem(svid.certificateChain);
    if (problemCode(this.#verifier, chain) === 'WEFT_IDENTITY_PEER_REVOKED') {
      this.#drop(entry);
      this.#renew(entry, 0);
    } else if (problemCode(withoutTainted, chain) !== null) this.#renew(entry, TAINTED_SPREAD_MS);
  }

  #withoutTainted(): SvidVerifier {
    const source: BundleSource = {
      bundle: (trustDomain) => {
        const bundle = this.bundle(trustDomain);
        return bundle === null ? null : { ...bundle, revokedKeys: [...bundle.revokedKeys, ...this.#taintedKeys] };
      },
    };
    return new SvidVerifier(source, { now: () => this.#clock.now(), cacheSize: 0 });
  }

  /** Back to the queue within `spreadMs`, unless that happens sooner anyway, or a request is queued or under way. */
  #renew(entry: Entry, spreadMs: number): void {
    if (entry.state !== 'held' && (entry.state !== 'backoff' || spreadMs > 0)) return;
    const due = this.#clock.now() + spreadMs * this.#random();
    if (entry.due !== null && entry.due <= due) return;
    if (spreadMs === 0) {
      this.#move(entry, 'queued');
      return;
    }
    entry.cancelTimer?.();
    this.#sleepUntil(entry, due);
  }

  #backOff(entry: Entry, error: unknown): void {
    const reason = svidFailure(error);
    this.#counters.failed[reason] = (this.#counters.failed[reason] ?? 0) + 1;
    this.#move(entry, 'backoff');
    entry.failures++;
    entry.lastFailure = error instanceof SvidTimeout ? error.message : errorText(error);
    this.#sleepUntil(entry, this.#clock.now() + backoffMs(entry.failures, BACKOFF, this.#random));
  }

  /** Back to the queue at `due`, in milliseconds since the epoch. */
  #sleepUntil(entry: Entry, due: number): void {
    entry.due = due;
    entry.cancelTimer = callAt(this.#clock, due, () => {
      this.#move(entry, 'queued');
      this.#pump();
    });
  }

  #whyNone(identity: string): string {
    const entry = this.#entries.get(identity);
    if (entry === undefined) return 'no workload with this identity runs here';
    if (entry.lastFailure !== null) return `the last of ${entry.failures} requests failed: ${entry.lastFailure}`;
    return entry.state === 'queued' ? 'the request is still queued' : 'the certificate authority has not answered yet';
  }

  #changed(): void {
    this.#version++;
    this.#notifier.changed();
  }
}

/** The code of what keeps a chain from being valid; null: nothing does. */
function problemCode(verifier: SvidVerifier, chain: readonly Uint8Array[]): string | null {
  try {
    verifier.verify(chain);
    return null;
  } catch (error) {
    return error instanceof IdentityError ? error.code : '';
  }
}
