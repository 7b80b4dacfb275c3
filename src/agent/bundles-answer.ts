import { formatBundle } from '../../certs/bundle/bundle-format.ts';
import type { FederationStatus } from '../../certs/bundle/federation-client.ts';
import type { SpiffeBundle } from '../../certs/bundle/trust-state.ts';
import type { BundleInfo, BundlesAnswer } from '../model/admin-api.ts';

export interface BundlesInForce {
  readonly trustDomain: string;
  /** Null until it is known. */
  readonly own: SpiffeBundle | null;
  /** Those that the identity provider brings. */
  readonly provided: readonly SpiffeBundle[];
  readonly federation: readonly FederationStatus[];
}

/** GET /v1/bundles: the own trust domain first. */
export function bundlesAnswer({ trustDomain, own, provided, federation }: BundlesInForce): BundlesAnswer {
  return {
    bundles: [
      bundleInfo(trustDomain, own, true, null),
      ...provided.map((bundle) => bundleInfo(bundle.trustDomain, bundle, false, null)),
      ...federation.map((status) => bundleInfo(status.trustDomain, status.bundle, false, status)),
    ],
  };
}

function bundleInfo(trustDomain: string, bundle: SpiffeBundle | null, own: boolean, status: FederationStatus | null): BundleInfo {
  return {
    trustDomain,
    own,
    document: bundle === null ? null : formatBundle(bundle),
    sequence: bundle?.sequence?.toString() ?? null,
    x509Authorities: bundle?.x509Authorities.length ?? 0,
    jwtAuthorities: bundle?.jwtAuthorities.length ?? 0,
    federation: status === null ? null : federationOf(status),
  };
}

function federationOf({ url, profile, source, refreshedAt, nextFetch, failures, lastFailure }: FederationStatus): BundleInfo['federation'] {
  const time = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());
  return { url, profile, source, refreshedAt: time(refreshedAt), nextFetch: time(nextFetch), failures, error: lastFailure };
}
