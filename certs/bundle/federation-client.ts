import { createHash } from 'node:crypto';
import { errorText } from '../../src/model/errors.ts';
import type { Log } from '../../src/model/log.ts';
import type { FederatedTrustDomain } from '../../src/model/resources.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { type Clock, systemClock } from '../clock.ts';
import { parseBundle } from './bundle-format.ts';
import { type EndpointBundle, fetchBundle, type FetchBundleOptions, type RedirectTargets } from './bundle-fetcher.ts';
import type { BundleStore } from './bundle-store.ts';
import { checkSuccession, haveSameKeys } from './bundle-succession.ts';
import type { SpiffeBundle, TrustState } from './trust-state.ts';

export interface FederationClientOptions {
  readonly store: BundleStore;
  /** This node's own trust domain, for endpoints that have an SVID of it; null until it is known. */
  readonly ownTrust: () => TrustState | null;
  readonly redirectTargets: RedirectTargets;
  readonly log: Pick<Log, 'info' | 'warn'>;
  /** Default: fetchBundle. */
  readonly fetch?: (options: FetchBundleOptions) => Promise<string>;
  readonly clock?: Clock;
  /** 0 to 1, for jitter. Default: Math.random. */
  readonly random?: () => number;
}

/**
 * Where one relationship stands. loading: the stored bundle is read. fetching: the endpoint is asked. waiting: a timer runs to the next fetch.
 * ended: the configuration has it no more; final. Moves: loading -> fetching -> waiting -> fetching; any -> ended.
 */
export type FederationState = 'loading' | 'fetching' | 'waiting' | 'ended';

/** One relationship, for status and metrics. Times in milliseconds since the epoch. */
export interface FederationStatus {
  readonly trustDomain: string;
  readonly url: string;
  readonly profile: 'https_web' | 'https_spiffe';
  readonly state: FederationState;
  /** Where the bundle in force comes from; null: there is none, and nobody of the trust domain is believed. */
  readonly source: 'configuration' | 'stored' | 'endpoint' | null;
  readonly bundle: SpiffeBundle | null;
  /** When the bundle in force was last fetched, or found to be the latest; null: never. */
  readonly refreshedAt: number | null;
  /** When the endpoint is asked again; null while it is asked. */
  readonly nextFetch: number | null;
  /** Failures in a row. */
  readonly failures: number;
  /** Failures since the start. */
  readonly failuresTotal: number;
  readonly lastFailure: string | null;
}

interface Relationship {
  readonly parameters: FederatedTrustDomain;
  readonly startedFrom: string;
  readonly abort: AbortController;
  state: FederationState;
  source: FederationStatus['source'];
  bundle: SpiffeBundle | null;
  refreshedAt: number | null;
  failures: number;
  failuresTotal: number;
  lastFailure: string | null;
  due: number | null;
  /** Invariant: set exactly in waiting, together with `due`. */
  cancelTimer: (() => void) | null;
}

/** SPIFFE_Federation.md section 4.1: where the bundle does not say how often to look. */
const DEFAULT_INTERVAL_SECONDS = 300;
/** What a bundle asks for is kept within these: neither a flood of fetches, nor a revocation that is seen a month later. */
const LEAST_INTERVAL_SECONDS = 30;
const MOST_INTERVAL_SECONDS = 24 * 3600;
/** Share by which an interval is longer or shorter, so that nodes do not come all at once. */
const JITTER = 0.1;

const MOVES: Readonly<Record<FederationState, readonly FederationState[]>> = {
  loading: ['fetching', 'ended'],
  fetching: ['waiting', 'ended'],
  waiting: ['fetching', 'ended'],
  ended: [],
};

/**
 * The bundles of the trust domains that this one federates with, kept fresh from their endpoints (SPIFFE_Federation.md). Bundles are never merged:
 * each stands for its own trust domain. A failure changes nothing but the status: the last good bundle stays in force, also over a
 * restart, and the endpoint is asked again at the next interval.
 */
export class FederationClient implements AsyncDisposable {
  readonly #options: FederationClientOptions;
  readonly #clock: Clock;
  readonly #notifier = new ChangeNotifier();
  readonly #relationships = new Map<string, Relationship>();
  /** By trust domain: resolves when its relationship has done what it was about. One follows the other, so that they do not meet in the store. */
  readonly #work = new Map<string, Promise<void>>();
  #disposed = false;

  constructor(options: FederationClientOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /**
   * The relationships that there are from now on. New and changed ones are started at once; those that are gone are ended, and their bundles
   * forgotten (section 6.3). Each trust domain once.
   */
  setRelationships(wanted: readonly FederatedTrustDomain[]): void {
    if (this.#disposed) return;
    const byTrustDomain = new Map(wanted.map((parameters) => [parameters.trustDomain, parameters]));
    for (const [trustDomain, relationship] of this.#relationships) {
      const parameters = byTrustDomain.get(trustDomain);
      if (parameters !== undefined && JSON.stringify(parameters) === JSON.stringify(relationship.parameters)) continue;
      this.#end(relationship, parameters === undefined);
    }
    for (const parameters of wanted) if (!this.#relationships.has(parameters.trustDomain)) this.#start(parameters);
  }

  /** The bundle in force of a foreign trust domain; null when there is none, and so for every trust domain that is not federated with. */
  bundle(trustDomain: string): SpiffeBundle | null {
    return this.#relationships.get(trustDomain)?.bundle ?? null;
  }

  bundles(): SpiffeBundle[] {
    return [...this.#relationships.values()].flatMap(({ bundle }) => (bundle === null ? [] : [bundle]));
  }

  status(): FederationStatus[] {
    return [...this.#relationships.values()].map(
      ({
        parameters: { trustDomain, bundleEndpointUrl, profile },
        due,
        state,
        source,
        bundle,
        refreshedAt,
        failures,
        failuresTotal,
        lastFailure,
      }) => ({
        trustDomain,
        url: bundleEndpointUrl,
        profile: profile.type,
        state,
        source,
        bundle,
        refreshedAt,
        nextFetch: due,
        failures,
        failuresTotal,
        lastFailure,
      }),
    );
  }

  /** Calls back after the bundles changed. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  /** Ends every fetch and timer. What is stored stays. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    for (const relationship of this.#relationships.values()) this.#end(relationship, false);
    await Promise.all(this.#work.values());
    this.#notifier[Symbol.dispose]();
  }

  #start(parameters: FederatedTrustDomain): void {
    const { trustDomain, initialBundle } = parameters;
    const relationship: Relationship = {
      parameters,
      startedFrom: createHash('sha256')
        .update(initialBundle ?? '')
        .digest('hex'),
      abort: new AbortController(),
      state: 'loading',
      source: null,
      bundle: null,
      refreshedAt: null,
      failures: 0,
      failuresTotal: 0,
      lastFailure: null,
      due: null,
      cancelTimer: null,
    };
    this.#relationships.set(trustDomain, relationship);
    this.#then(trustDomain, async () => {
      await this.#load(relationship);
      if (relationship.state !== 'ended') await this.#fetch(relationship);
    });
  }

  #end(relationship: Relationship, forget: boolean): void {
    const { trustDomain } = relationship.parameters;
    this.#move(relationship, 'ended');
    relationship.abort.abort();
    this.#relationships.delete(trustDomain);
    if (relationship.bundle !== null) this.#notifier.changed();
    if (forget) this.#then(trustDomain, () => this.#options.store.delete(trustDomain));
  }

  /** Does one thing of a trust domain after the other. A failure is told, and ends nothing. */
  #then(trustDomain: string, work: () => Promise<void>): void {
    const before = this.#work.get(trustDomain) ?? Promise.resolve();
    const done = before.then(work).catch((error: unknown) => this.#options.log.warn({ trustDomain }, errorText(error)));
    this.#work.set(trustDomain, done);
    void done.then(() => {
      if (this.#work.get(trustDomain) === done) this.#work.delete(trustDomain);
    });
  }

  /** The only place where a state changes. It leaves the old state without its timer. */
  #move(relationship: Relationship, to: FederationState): void {
    const { state, parameters } = relationship;
    if (!MOVES[state].includes(to)) throw new Error(`the federation with ${parameters.trustDomain} cannot go from ${state} to ${to}`);
    relationship.cancelTimer?.();
    relationship.cancelTimer = null;
    relationship.due = null;
    relationship.state = to;
  }

  /** What the last run left, unless the operator has said since what to start from; else what the configuration says. */
  async #load(relationship: Relationship): Promise<void> {
    const { trustDomain, initialBundle } = relationship.parameters;
    try {
      const stored = await this.#options.store.read(trustDomain);
      if (stored?.startedFrom === relationship.startedFrom) {
        relationship.refreshedAt = stored.fetchedAt;
        this.#hold(relationship, stored.bundle, 'stored');
        return;
      }
    } catch (error) {
      this.#options.log.warn({ trustDomain }, errorText(error));
    }
    if (initialBundle === null) return;
    try {
      this.#hold(relationship, this.#parse(initialBundle, trustDomain), 'configuration');
    } catch (error) {
      this.#fail(relationship, error);
    }
  }

  async #fetch(relationship: Relationship): Promise<void> {
    const { trustDomain, bundleEndpointUrl: url, profile } = relationship.parameters;
    this.#move(relationship, 'fetching');
    try {
      const text = await (this.#options.fetch ?? fetchBundle)({
        url,
        profile,
        bundle: (endpointTrustDomain) => this.#endpointBundle(endpointTrustDomain),
        redirectTargets: this.#options.redirectTargets,
        now: () => this.#clock.now(),
        signal: relationship.abort.signal,
      });
      if (relationship.abort.signal.aborted) return;
      await this.#take(relationship, text);
    } catch (error) {
      if (!relationship.abort.signal.aborted) this.#fail(relationship, error);
    }
    if (!relationship.abort.signal.aborted) this.#wait(relationship, trustDomain);
  }

  async #take(relationship: Relationship, text: string): Promise<void> {
    const { trustDomain } = relationship.parameters;
    const bundle = this.#parse(text, trustDomain);
    if (relationship.bundle !== null) checkSuccession(relationship.bundle, bundle);
    const fetchedAt = this.#clock.now();
    relationship.refreshedAt = fetchedAt;
    relationship.failures = 0;
    relationship.lastFailure = null;
    this.#hold(relationship, bundle, 'endpoint');
    try {
      await this.#options.store.write({ bundle, text, fetchedAt, startedFrom: relationship.startedFrom });
    } catch (error) {
      this.#options.log.warn({ trustDomain }, errorText(error));
    }
  }

  #parse(text: string, trustDomain: string): SpiffeBundle {
    const ignored: string[] = [];
    const bundle = parseBundle(text, trustDomain, { onIgnored: (index, why) => ignored.push(`entry ${index} ${why}`) });
    const known = this.bundle(trustDomain);
    if (ignored.length > 0 && (known === null || known.sequence !== bundle.sequence || !haveSameKeys(known, bundle))) {
      this.#options.log.warn({ trustDomain, ignored }, 'entries of a federated bundle are ignored');
    }
    return bundle;
  }

  #hold(relationship: Relationship, bundle: SpiffeBundle, source: NonNullable<FederationStatus['source']>): void {
    const before = relationship.bundle;
    relationship.source = source;
    relationship.bundle = bundle;
    if (before !== null && before.sequence === bundle.sequence && haveSameKeys(before, bundle)) return;
    const { trustDomain, x509Authorities, jwtAuthorities, sequence } = bundle;
    const fields = {
      trustDomain,
      source,
      sequence: sequence?.toString() ?? null,
      x509Authorities: x509Authorities.length,
      jwtAuthorities: jwtAuthorities.length,
    };
    const isEmpty = x509Authorities.length === 0 && jwtAuthorities.length === 0;
    if (isEmpty) this.#options.log.warn(fields, 'a trust domain has revoked all of its identities');
    else this.#options.log.info(fields, 'the bundle of a trust domain changed');
    this.#notifier.changed();
  }

  /** The latest bundle of the trust domain that an endpoint's SVID is of: the one it serves itself, another federated one, or our own. */
  #endpointBundle(trustDomain: string): EndpointBundle | null {
    const own = this.#options.ownTrust();
    if (own?.bundle.trustDomain === trustDomain) return { roots: own.bundle.x509Authorities, revokedKeys: own.revokedKeys };
    const foreign = this.bundle(trustDomain);
    return foreign === null ? null : { roots: foreign.x509Authorities, revokedKeys: [] };
  }

  #fail(relationship: Relationship, error: unknown): void {
    relationship.failures++;
    relationship.failuresTotal++;
    relationship.lastFailure = errorText(error);
    this.#options.log.warn(
      { trustDomain: relationship.parameters.trustDomain, failures: relationship.failures, error: relationship.lastFailure },
      'the bundle of a trust domain could not be refreshed',
    );
  }

  /** Until the next interval, after a failure as after a success (section 6.2). */
  #wait(relationship: Relationship, trustDomain: string): void {
    const hint = relationship.bundle?.refreshHintSeconds ?? DEFAULT_INTERVAL_SECONDS;
    const seconds = Math.min(Math.max(hint, LEAST_INTERVAL_SECONDS), MOST_INTERVAL_SECONDS);
    const delay = seconds * 1000 * (1 + JITTER * (2 * (this.#options.random ?? Math.random)() - 1));
    this.#move(relationship, 'waiting');
    relationship.due = this.#clock.now() + delay;
    relationship.cancelTimer = this.#clock.after(delay, () => this.#then(trustDomain, () => this.#fetch(relationship)));
  }
}
