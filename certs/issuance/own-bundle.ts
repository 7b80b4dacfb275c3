import type { TrustBundle } from '../../src/model/data-plane.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import type { BundleSource } from '../svid/identity-source.ts';

/** The bundle of one trust domain, as a trust state has it now, and no other: a foreign SVID never verifies with it. */
export class OwnBundle implements BundleSource {
  readonly #trust: () => TrustState | null;
  #known: { readonly state: TrustState; readonly bundle: TrustBundle } | null = null;
  #versions = 0;

  constructor(trust: () => TrustState | null) {
    this.#trust = trust;
  }

  bundle(trustDomain: string): TrustBundle | null {
    const state = this.#trust();
    if (state === null || state.bundle.trustDomain !== trustDomain) return null;
    if (this.#known?.state.sequence !== state.sequence) {
      const roots = state.bundle.x509Authorities;
      this.#known = { state, bundle: { trustDomain, roots, revokedKeys: state.revokedKeys, sequence: ++this.#versions } };
    }
    return this.#known.bundle;
  }
}
