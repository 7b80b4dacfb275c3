import { ignored, unsupported } from './json-schema.ts';
import type { JsonSchema } from './json-schema.ts';
import { DNS_LABEL, LABELS } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const OUTSIDE = 'concerns traffic that enters from outside the cluster, which reaches the mesh as any other client';
const ONE_FAMILY = 'the addresses themselves say which families there are';

const PORT_NUMBER: JsonSchema = { type: 'integer', minimum: 1, maximum: 65535, weftForm: 'a port number from 1 to 65535' };
const ADDRESS_OR_NONE: JsonSchema = { type: 'string', maxLength: 64 };

const PORT: JsonSchema = {
  type: 'object',
  required: ['port'],
  additionalProperties: false,
  properties: {
    name: {
      ...DNS_LABEL,
      description: 'Its prefix declares the protocol where appProtocol does not: http-, http2-, grpc-, tls-, https-, tcp-.',
    },
    port: PORT_NUMBER,
    targetPort: {
      ...PORT_NUMBER,
      description: 'The workload port. Absent: port.',
      weftForm: 'a port number from 1 to 65535; named target ports are not supported yet',
    },
    protocol: {
      type: 'string',
      enum: ['TCP'],
      weftUnsupportedValues: { UDP: 'the mesh carries TCP only', SCTP: 'the mesh carries TCP only' },
    },
    appProtocol: {
      description:
        'http, http2, kubernetes.io/h2c, grpc, https, tls, tcp. Other protocol names of RFC 6335 are detected from their first bytes.',
      type: 'string',
      minLength: 1,
      maxLength: 317,
      pattern: '^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$',
      weftForm: 'a protocol name such as http, grpc or kubernetes.io/h2c',
    },
    nodePort: ignored(OUTSIDE),
  },
};

/** v1 Service. */
export const SERVICE: KindSchema = defineKind({
  kind: 'Service',
  apiVersions: ['v1'],
  namespaced: true,
  description: 'Virtual addresses in front of the workloads that its selector picks.',
  name: DNS_LABEL,
  specRequired: true,
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: {
      clusterIP: { ...ADDRESS_OR_NONE, description: 'The virtual address, or None for a headless Service.' },
      clusterIPs: {
        description: 'At most one address of each family; the first is clusterIP.',
        type: 'array',
        maxItems: 2,
        items: ADDRESS_OR_NONE,
      },
      selector: { ...LABELS, description: 'Workloads of this namespace with all of these labels. Absent or empty: none.' },
      ports: { type: 'array', maxItems: 1024, items: PORT },
      type: {
        type: 'string',
        enum: ['ClusterIP', 'NodePort', 'LoadBalancer'],
        weftUnsupportedValues: { ExternalName: 'a name outside the mesh has no workloads behind it' },
      },
      sessionAffinity: {
        type: 'string',
        enum: ['None'],
        weftUnsupportedValues: { ClientIP: 'clients are not pinned to endpoints' },
      },
      internalTrafficPolicy: {
        type: 'string',
        enum: ['Cluster'],
        weftUnsupportedValues: { Local: 'traffic is not kept to the node' },
      },
      sessionAffinityConfig: unsupported('clients are not pinned to endpoints'),
      externalIPs: unsupported('list the addresses that clients in the mesh dial under clusterIPs'),
      externalName: unsupported('a name outside the mesh has no workloads behind it'),
      ipFamilies: ignored(ONE_FAMILY),
      ipFamilyPolicy: ignored(ONE_FAMILY),
      trafficDistribution: ignored('a preference, not a promise'),
      publishNotReadyAddresses: ignored('a Workload has no readiness'),
      externalTrafficPolicy: ignored(OUTSIDE),
      healthCheckNodePort: ignored(OUTSIDE),
      allocateLoadBalancerNodePorts: ignored(OUTSIDE),
      loadBalancerClass: ignored(OUTSIDE),
      loadBalancerIP: ignored(OUTSIDE),
      loadBalancerSourceRanges: ignored(OUTSIDE),
    },
  },
});
