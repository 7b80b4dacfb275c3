import type { SpiffeBundle, TrustState } from '../../certs/bundle/trust-state.ts';
import type { SvidStanding } from '../../certs/identity-provider.ts';
import type { SvidMaterial } from '../model/data-plane.ts';
import { errorText } from '../model/errors.ts';
import type { Log } from '../model/log.ts';

/** Where bundles of other trust domains come from. */
export interface FederatedBundles {
  bundles(): readonly SpiffeBundle[];
  onChange(listener: () => void): () => void;
}

export interface TrustFollowerOptions {
  readonly provider: {
    trust(): TrustState | null;
    standing(identity: string, held: SvidMaterial | null): SvidStanding;
    federatedBundles(): readonly SpiffeBundle[];
    onChange(listener: () => void): () => void;
    acknowledge(sequence: bigint): void;
  };
  readonly federation: FederatedBundles;
  readonly svids: {
    readonly version: number;
    setBundles(own: TrustState, federated: readonly SpiffeBundle[]): readonly Error[];
    review(standing: (identity: string, held: SvidMaterial | null) => SvidStanding): void;
  };
  readonly log: Pick<Log, 'error'>;
}

/**
 * Has this node verify with what its identity provider and its federation say, and tells the provider how far it has come.
 * Invariant: a sequence is acknowledged only once every proxy worker goes by a version of the SVID manager that has it.
 */
export class TrustFollower implements Disposable {
  readonly #options: TrustFollowerOptions;
  readonly #unsubscribes: readonly (() => void)[];
  /** The newest trust state that is in force here, and the version of the SVID manager that has it. */
  #applied: { readonly trust: TrustState; readonly version: number } | null = null;
  #workersVersion = 0;
  #acknowledged: bigint | null = null;

  constructor(options: TrustFollowerOptions) {
    this.#options = options;
    this.#unsubscribes = [options.provider, options.federation].map((source) => source.onChange(() => this.#apply()));
    this.#apply();
  }

  /** Every worker goes by this version of the SVID manager. */
  workersHave(version: number): void {
    this.#workersVersion = Math.max(this.#workersVersion, version);
    this.#acknowledge();
  }

  [Symbol.dispose](): void {
    for (const unsubscribe of this.#unsubscribes) unsubscribe();
  }

  #apply(): void {
    const { provider, federation, svids, log } = this.#options;
    const trust = provider.trust() ?? this.#nothing();
    if (trust === null) return;
    const problems = svids.setBundles(trust, [...provider.federatedBundles(), ...federation.bundles()]);
    for (const error of problems) log.error({ err: error }, `a trust bundle cannot be used, the one before it stays: ${errorText(error)}`);
    // Whatever is wrong may be wrong with our own: an authority that waits for us shall see that we have not got there.
    if (problems.length > 0) return;
    this.#applied = { trust, version: svids.version };
    this.#acknowledge();
    svids.review((identity, held) => provider.standing(identity, held));
  }

  /** What is in force after the provider took back what it had said: nobody is trusted. Null where it has said nothing yet. */
  #nothing(): TrustState | null {
    if (this.#applied === null) return null;
    const { trust } = this.#applied;
    return { ...trust, bundle: { ...trust.bundle, x509Authorities: [], jwtAuthorities: [] } };
  }

  #acknowledge(): void {
    const applied = this.#applied;
    if (applied === null || applied.version > this.#workersVersion || applied.trust.sequence === this.#acknowledged) return;
    this.#acknowledged = applied.trust.sequence;
    this.#options.provider.acknowledge(applied.trust.sequence);
  }
}
