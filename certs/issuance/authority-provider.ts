import type { SvidMaterial } from '../../src/model/data-plane.ts';
import type { SpiffeBundle, TrustState } from '../bundle/trust-state.ts';
import { type Clock, systemClock } from '../clock.ts';
import type { IdentityProvider, IdentityProviderStatus, JwtSvid, SvidStanding } from '../identity-provider.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { obtainSvid } from './issued-chain.ts';
import type { IssuingAuthority } from './issuing-authority.ts';
import { OwnBundle } from './own-bundle.ts';

export interface AuthorityProviderOptions {
  readonly authority: IssuingAuthority;
  /** Whose agent this is. */
  readonly nodeName: string;
  /** Where the authority is kept, for status. */
  readonly from: string;
  readonly clock?: Clock;
}

/** Identities from the authority in this process. */
export class AuthorityProvider implements IdentityProvider {
  readonly #authority: IssuingAuthority;
  readonly #nodeName: string;
  readonly #from: string;
  readonly #verifier: SvidVerifier;
  readonly #unsubscribes = new Set<() => void>();

  constructor(options: AuthorityProviderOptions) {
    const { authority, clock = systemClock } = options;
    this.#authority = authority;
    this.#nodeName = options.nodeName;
    this.#from = options.from;
    this.#verifier = new SvidVerifier(new OwnBundle(() => authority.trust()), { now: () => clock.now(), cacheSize: 0 });
  }

  x509Svid(identity: string, ttlSeconds: number): Promise<SvidMaterial> {
    return obtainSvid(
      identity,
      this.#verifier,
      async (csr) => (await this.#authority.issue(csr, { identity, ttlSeconds })).certificateChain,
    );
  }

  jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    return this.#authority.issueJwt({ identity, audience });
  }

  standing(): SvidStanding {
    return 'current';
  }

  trust(): TrustState {
    return this.#authority.trust();
  }

  federatedBundles(): readonly SpiffeBundle[] {
    return [];
  }

  onChange(listener: () => void): () => void {
    let { sequence } = this.#authority;
    const unsubscribe = this.#authority.onChange(() => {
      // It also tells of every node that it hears of, which is none of the trust state.
      if (this.#authority.sequence === sequence) return;
      ({ sequence } = this.#authority);
      listener();
    });
    this.#unsubscribes.add(unsubscribe);
    return () => {
      this.#unsubscribes.delete(unsubscribe);
      unsubscribe();
    };
  }

  acknowledge(sequence: bigint): void {
    this.#authority.nodeSeen({ name: this.#nodeName, acknowledged: sequence });
  }

  status(): IdentityProviderStatus {
    return { kind: 'authority', from: this.#from, problem: null, clockSkewSeconds: 0 };
  }

  /** The authority stays: whoever opened it closes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const unsubscribe of this.#unsubscribes) unsubscribe();
    this.#unsubscribes.clear();
  }
}
