import type { SvidMaterial } from '../../src/model/data-plane.ts';
import type { SpiffeBundle, TrustState } from '../bundle/trust-state.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { type Clock, systemClock } from '../clock.ts';
import { CertsError } from '../errors.ts';
import type { IdentityProvider, IdentityProviderStatus, JwtSvid, SvidStanding } from '../identity-provider.ts';
import type { JwtBundlesResponse, JwtSvidResponse, X509BundlesResponse } from '../workload-api/messages.ts';
import { WorkloadApiClient } from '../workload-api/workload-api-client.ts';
import { BrokerConnection, KEEPALIVE_INTERVAL_MS } from './broker-connection.ts';
import { BrokerSubscriptions } from './broker-subscriptions.ts';
import { readJwtBundles, readX509Bundles } from './read-bundles.ts';
import { readJwtSvid } from './read-jwt-svid.ts';
import { SpireBundles } from './spire-bundles.ts';
import { callProblem, noSvid, withdrawn } from './spire-error.ts';
import { Subscription } from './subscription.ts';
import { SvidSubscription } from './svid-subscription.ts';
import type { WorkloadProcesses } from './workload-processes.ts';

export interface SpireBrokerOptions {
  /** Of the Broker API. */
  readonly socketPath: string;
  /** SPIFFE IDs that may serve it; none: any SPIRE agent of the trust domain. */
  readonly servers: readonly string[];
  readonly processes: WorkloadProcesses;
}

export interface SpireProviderOptions {
  readonly trustDomain: string;
  /** Of the SPIRE agent's Workload API. */
  readonly socketPath: string;
  /** Null: the agent's own registration entries are those of its workloads. */
  readonly broker: SpireBrokerOptions | null;
  readonly clock?: Clock;
  /** 0 to 1, for jitter. Default: Math.random. */
  readonly random?: () => number;
  /** How long x509Svid() waits for a first SVID, in ms. Default 5,000: the caller asks again anyway. */
  readonly firstSvidMs?: number;
}

const FIRST_SVID_MS = 5_000;

/**
 * An upstream SPIRE agent as the source of identities. Bundles and the agent's own SVIDs come from its Workload API. Those of workloads do so
 * too, where the operator gave the agent's process their registration entries; or they come from its Broker API, for which each workload is
 * attested by itself.
 */
export class SpireProvider implements IdentityProvider {
  readonly #options: SpireProviderOptions;
  readonly #clock: Clock;
  readonly #workloadApi: WorkloadApiClient;
  readonly #bundles: SpireBundles;
  /** Of this process: its workloads', or with a broker its own. */
  readonly #ownSvids: SvidSubscription;
  readonly #x509Bundles: Subscription<X509BundlesResponse>;
  readonly #jwtBundles: Subscription<JwtBundlesResponse>;
  readonly #broker: { readonly connection: BrokerConnection; readonly subscriptions: BrokerSubscriptions } | null;
  readonly #notifier = new ChangeNotifier();
  /** Calls that wait for a first SVID. */
  readonly #waiters = new Set<() => void>();
  #disposed = false;

  constructor(options: SpireProviderOptions) {
    this.#options = options;
    const { trustDomain, broker } = options;
    const clock = (this.#clock = options.clock ?? systemClock);
    const random = options.random ?? Math.random;
    const onChange = (): void => this.#changed();
    const api = (this.#workloadApi = new WorkloadApiClient({
      endpoint: { kind: 'unix', path: options.socketPath },
      keepaliveIntervalMs: KEEPALIVE_INTERVAL_MS,
    }));
    const bundles = (this.#bundles = new SpireBundles(trustDomain, clock));
    const changedIf = (changed: boolean): void => {
      if (changed) this.#changed();
    };
    this.#ownSvids = new SvidSubscription({ open: (signal) => api.x509Svids(signal), trustDomain, onChange, clock, random });
    this.#x509Bundles = new Subscription({
      open: (signal) => api.x509Bundles(signal),
      onMessage: (message) => changedIf(bundles.setX509(readX509Bundles(message.bundles, trustDomain))),
      onDenied: () => changedIf(bundles.setX509(new Map())),
      onProblem: onChange,
      clock,
      random,
    });
    this.#jwtBundles = new Subscription({
      open: (signal) => api.jwtBundles(signal),
      onMessage: (message) => changedIf(bundles.setJwt(readJwtBundles(message.bundles, trustDomain))),
      onDenied: () => changedIf(bundles.setJwt(new Map())),
      onProblem: onChange,
      clock,
      random,
    });
    this.#broker = broker === null ? null : this.#openBroker(broker, { onChange, clock, random });
  }

  async x509Svid(identity: string, _ttlSeconds: number): Promise<SvidMaterial> {
    using limit = new WaitLimit(this.#clock, this.#options.firstSvidMs ?? FIRST_SVID_MS, this.#waiters);
    for (;;) {
      this.#checkOpen();
      const svids = this.#svidsOf(identity);
      const svid = svids.current(identity);
      if (svid !== null) return { ...svid, privateKey: svid.privateKey.slice() };
      if (svids.isWithdrawn(identity)) throw withdrawn(identity);
      if (limit.reached) throw noSvid(identity, svids.problem ?? 'it has not sent one yet');
      await limit.nextChange();
    }
  }

  async jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    this.#checkOpen();
    let response: JwtSvidResponse;
    try {
      response = await (this.#broker === null
        ? this.#workloadApi.jwtSvids({ audience, spiffeId: identity })
        : this.#broker.connection.jwtSvid(running(this.#broker.subscriptions.of(identity), identity).pid, identity, audience));
    } catch (error) {
      throw error instanceof CertsError ? error : noSvid(identity, callProblem(error));
    }
    return readJwtSvid(response, identity, audience, this.#clock.now());
  }

  standing(identity: string, held: SvidMaterial | null): SvidStanding {
    if (this.#disposed) return 'current';
    const newest = (this.#broker?.subscriptions ?? this.#ownSvids).current(identity);
    // Gone from the last message, expired, or of a process that exited.
    if (newest === null) return held === null ? 'current' : 'withdrawn';
    return newest.certificateChain === held?.certificateChain ? 'current' : 'replaced';
  }

  /** Null until SPIRE sent it, and again once SPIRE says that this agent is entitled to no bundle (SPIFFE_Workload_API.md section 5.2.2). */
  trust(): TrustState | null {
    return this.#bundles.trust;
  }

  /**
   * What this agent's own registration entries federate with. With a broker those of its own identity, not its workloads': a bundle that a
   * workload is given is for that workload alone (SPIFFE_Broker_API.md section 4.2), and these hold for all of the node.
   */
  federatedBundles(): readonly SpiffeBundle[] {
    return this.#bundles.federated;
  }

  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  /** SPIRE does not ask. */
  acknowledge(_sequence: bigint): void {}

  status(): IdentityProviderStatus {
    const { socketPath, broker } = this.#options;
    return {
      kind: 'spire',
      from: broker === null ? socketPath : `${broker.socketPath} (own identity: ${socketPath})`,
      problem:
        this.#ownSvids.problem ?? this.#x509Bundles.problem ?? this.#jwtBundles.problem ?? this.#broker?.subscriptions.problem ?? null,
      clockSkewSeconds: null,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const each of [this.#x509Bundles, this.#jwtBundles, this.#ownSvids, this.#broker?.subscriptions]) each?.[Symbol.dispose]();
    this.#changed();
    this.#notifier[Symbol.dispose]();
    await Promise.all([this.#broker?.connection[Symbol.asyncDispose](), this.#workloadApi[Symbol.asyncDispose]()]);
  }

  #openBroker(
    { socketPath, servers, processes }: SpireBrokerOptions,
    common: { readonly onChange: () => void; readonly clock: Clock; readonly random: () => number },
  ): { connection: BrokerConnection; subscriptions: BrokerSubscriptions } {
    const { trustDomain } = this.#options;
    const connection = new BrokerConnection({
      socketPath,
      trustDomain,
      servers,
      ownSvid: () => this.#ownSvids.first(),
      trust: () => this.#bundles.trust,
    });
    const open = connection.x509Svids.bind(connection);
    return { connection, subscriptions: new BrokerSubscriptions({ open, processes, trustDomain, ...common }) };
  }

  #svidsOf(identity: string): SvidSubscription {
    return this.#broker === null ? this.#ownSvids : running(this.#broker.subscriptions.of(identity), identity).svids;
  }

  #checkOpen(): void {
    if (this.#disposed)
      throw new CertsError('WEFT_CERTS_SPIRE_CLOSED', 'the agent is stopping', { nextStep: 'ask again after it started' });
  }

  #changed(): void {
    this.#notifier.changed();
    for (const wake of this.#waiters) wake();
  }
}

/** @throws CertsError WEFT_CERTS_SPIRE_NO_SVID when there is no subscription for want of a process */
function running<Subscribed>(subscription: Subscribed | null, identity: string): Subscribed {
  if (subscription === null) throw noSvid(identity, 'no process of the workload runs');
  return subscription;
}

/** Waits for changes, for so long in all. */
class WaitLimit implements Disposable {
  readonly #waiters: Set<() => void>;
  readonly #cancel: () => void;
  #wake: () => void = () => {};
  #reached = false;

  constructor(clock: Clock, ms: number, waiters: Set<() => void>) {
    this.#waiters = waiters;
    this.#cancel = clock.after(ms, () => {
      this.#reached = true;
      this.#wake();
    });
  }

  get reached(): boolean {
    return this.#reached;
  }

  /** Resolves after the next change, or when the limit is reached. */
  async nextChange(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    this.#waiters.add(resolve);
    await promise;
    this.#waiters.delete(resolve);
  }

  [Symbol.dispose](): void {
    this.#cancel();
  }
}
