import { ignored } from './json-schema.ts';
import { DNS_LABEL } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

/** v1 Namespace. */
export const NAMESPACE: KindSchema = defineKind({
  kind: 'Namespace',
  apiVersions: ['v1'],
  namespaced: false,
  description: 'A namespace; its label weft.dev/mode (off, permissive, strict) says how far its workloads are in the mesh.',
  name: DNS_LABEL,
  specRequired: false,
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: { finalizers: ignored('bookkeeping of the API server') },
  },
});
