import type { IdentitySource, TrustBundle } from '../../src/model/data-plane.ts';

/** Where trust bundles are looked up: all that a verifier needs. */
export interface BundleSource {
  bundle(trustDomain: string): TrustBundle | null;
}

/** An IdentitySource that can be enumerated, as the TLS contexts need it. */
export interface VersionedIdentitySource extends IdentitySource {
  /** Every bundle there is. */
  bundles(): readonly TrustBundle[];
  /** Grows with every change of an SVID or bundle, at once (onChange comes later, once per turn of the event loop). */
  readonly version: number;
  /** Grows with every change of a bundle. */
  readonly bundleVersion: number;
}
