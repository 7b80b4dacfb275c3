import type { NamespaceResource } from '../../model/resources.ts';
import type { Draft } from './draft.ts';
import { modeOf } from './draft.ts';

/** v1 Namespace to the model. */
export function toNamespace(draft: Draft): NamespaceResource {
  return { kind: 'Namespace', metadata: draft.metadata, location: draft.location, mode: modeOf(draft) };
}
