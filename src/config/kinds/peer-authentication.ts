import type { MutualTlsMode, PeerAuthenticationResource } from '../../model/resources.ts';
import type { Draft } from './draft.ts';
import { selectorOf } from './draft.ts';

interface PeerAuthenticationSpec {
  readonly mtls?: { readonly mode?: MutualTlsMode };
  readonly portLevelMtls?: Readonly<Record<string, { readonly mode?: MutualTlsMode }>>;
}

/** PeerAuthentication to the model. */
export function toPeerAuthentication(draft: Draft): PeerAuthenticationResource {
  const spec = draft.spec as PeerAuthenticationSpec;
  const selector = selectorOf(draft);
  if (spec.portLevelMtls !== undefined && selector === null) {
    draft.fail(['spec', 'portLevelMtls'], 'portLevelMtls needs a selector, because ports belong to workloads', 'add selector.matchLabels');
  }
  const ports = Object.entries(spec.portLevelMtls ?? {}).map(([port, { mode }]): [number, MutualTlsMode] => [
    Number(port),
    mode ?? 'UNSET',
  ]);
  return {
    kind: 'PeerAuthentication',
    metadata: draft.metadata,
    location: draft.location,
    spec: { selector, mode: spec.mtls?.mode ?? 'UNSET', portLevel: new Map(ports) },
  };
}
