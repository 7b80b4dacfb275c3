import type { TrustBundle } from '../../src/model/data-plane.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import { sameList } from '../same-list.ts';
import type { BundleSource } from '../svid/identity-source.ts';
import { sameBytes } from '../x509/certificate-fields.ts';

/** The bundle of one trust domain, as a trust state has it now, and no other: a foreign SVID never verifies with it. */
export class OwnBundle implements BundleSource {
  readonly #trust: () => TrustState | null;
  #known: TrustBundle | null = null;
  #versions = 0;

  constructor(trust: () => TrustState | null) {
    this.#trust = trust;
  }

  bundle(trustDomain: string): TrustBundle | null {
    const state = this.#trust();
    if (state === null || state.bundle.trustDomain !== trustDomain) return null;
    const { revokedKeys, bundle } = state;
    const roots = bundle.x509Authorities;
    // Not by the sequence of the state: a node that joins starts again from 0, perhaps with an authority that has other roots.
    if (this.#known === null || !sameList(this.#known.roots, roots, sameBytes) || !sameList(this.#known.revokedKeys, revokedKeys)) {
      this.#known = { trustDomain, roots, revokedKeys, sequence: ++this.#versions };
    }
    return this.#known;
  }
}
