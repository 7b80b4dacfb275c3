import type { JsonSchema } from './json-schema.ts';
import { DNS_SUBDOMAIN, WORKLOAD_SELECTOR } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const MUTUAL_TLS: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    mode: {
      description:
        'STRICT: mTLS or a peer proven by the kernel. PERMISSIVE: plaintext too. UNSET: as the next wider level says. DISABLE: read as PERMISSIVE.',
      type: 'string',
      enum: ['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT'],
    },
  },
};

/** security.istio.io/v1 PeerAuthentication. */
export const PEER_AUTHENTICATION: KindSchema = defineKind({
  kind: 'PeerAuthentication',
  apiVersions: ['security.istio.io/v1', 'security.istio.io/v1beta1', 'weft.dev/v1'],
  namespaced: true,
  description: 'What the selected workloads accept: mTLS only, or plaintext too. It does not bring workloads into the mesh; labels do.',
  name: DNS_SUBDOMAIN,
  specRequired: false,
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: {
      selector: WORKLOAD_SELECTOR,
      mtls: MUTUAL_TLS,
      portLevelMtls: {
        description: 'By workload port. Needs a selector.',
        type: 'object',
        minProperties: 1,
        propertyNames: {
          type: 'string',
          pattern: '^([1-9]\\d{0,3}|[1-5]\\d{4}|6[0-4]\\d{3}|65[0-4]\\d\\d|655[0-2]\\d|6553[0-5])$',
          weftForm: 'a port number from 1 to 65535',
        },
        additionalProperties: MUTUAL_TLS,
      },
    },
  },
});
