import { join } from 'node:path';
import { BundleStore } from '../../certs/bundle/bundle-store.ts';
import { FederationClient } from '../../certs/bundle/federation-client.ts';
import type { TrustState } from '../../certs/bundle/trust-state.ts';
import { isFetchable, refusedHost } from '../config/fetchable-address.ts';
import type { Log } from '../model/log.ts';

export interface FederationOptions {
  readonly stateDirectory: string;
  /** Of this node's own trust domain; null until it is known. */
  readonly ownTrust: () => TrustState | null;
  readonly log: Pick<Log, 'info' | 'warn'>;
}

/** The federation of one node: it starts with no relationship, and gets those of the configuration. */
export function startFederation({ stateDirectory, ownTrust, log }: FederationOptions): FederationClient {
  return new FederationClient({
    store: new BundleStore(join(stateDirectory, 'bundles')),
    ownTrust,
    redirectTargets: { refusedHost, isFetchable },
    log,
  });
}
