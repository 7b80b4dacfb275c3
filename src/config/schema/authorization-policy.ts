import type { JsonSchema } from './json-schema.ts';
import { unsupported } from './json-schema.ts';
import { DNS_SUBDOMAIN, WORKLOAD_SELECTOR } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const TRUST_DOMAINS = 'write principals such as "example.org/ns/*", or a condition on source.trustDomain';
const TARGETS = 'there is no waypoint or gateway to attach to, policy is enforced at the workload itself; use selector';

/** Istio's limit on rules and on the entries of from; here of to and when too. */
const MAX_RULES = 512;
const MAX_VALUES = 4096;
const MAX_VALUE_LENGTH = 8192;

function values(description: string): JsonSchema {
  return {
    description,
    type: 'array',
    minItems: 1,
    maxItems: MAX_VALUES,
    items: { type: 'string', minLength: 1, maxLength: MAX_VALUE_LENGTH },
  };
}

function serviceAccounts(description: string): JsonSchema {
  return { description, type: 'array', minItems: 1, maxItems: 16, items: { type: 'string', minLength: 1, maxLength: 320 } };
}

function ports(description: string): JsonSchema {
  return { description, type: 'array', minItems: 1, maxItems: MAX_VALUES, items: { type: ['string', 'integer'] } };
}

const SOURCE: JsonSchema = {
  description: 'All fields must match.',
  type: 'object',
  minProperties: 1,
  additionalProperties: false,
  properties: {
    principals: values('<trust domain>/ns/<namespace>/sa/<service account>, without spiffe://'),
    notPrincipals: values('None of these principals; true for peers without identity.'),
    namespaces: values('Namespaces of the peer.'),
    notNamespaces: values('None of these namespaces; true for peers without identity.'),
    serviceAccounts: serviceAccounts('<namespace>/<service account>, or <service account> in the namespace of the policy; no wildcards.'),
    notServiceAccounts: serviceAccounts('None of these service accounts; true for peers without identity.'),
    ipBlocks: values('CIDR blocks or addresses of the TCP peer.'),
    notIpBlocks: values('None of these CIDR blocks.'),
    remoteIpBlocks: values('CIDR blocks or addresses of the client that a trusted X-Forwarded-For names, else of the TCP peer.'),
    notRemoteIpBlocks: values('None of these CIDR blocks.'),
    requestPrincipals: values('<issuer>/<subject> of a verified token.'),
    notRequestPrincipals: values('None of these; true for requests without a token.'),
    trustDomains: unsupported(TRUST_DOMAINS),
    notTrustDomains: unsupported(TRUST_DOMAINS),
  },
};

const OPERATION: JsonSchema = {
  description: 'All fields must match.',
  type: 'object',
  minProperties: 1,
  additionalProperties: false,
  properties: {
    hosts: values('Host of the request, without regard to case; a port in Host is part of it.'),
    notHosts: values('None of these hosts.'),
    ports: ports('Workload ports, not Service ports.'),
    notPorts: ports('None of these workload ports.'),
    methods: values('HTTP methods, with regard to case. gRPC is always POST.'),
    notMethods: values('None of these methods.'),
    paths: values('Paths after normalisation, without the query.'),
    notPaths: values('None of these paths.'),
  },
};

const CONDITION: JsonSchema = {
  description: 'The attribute has one of values, and none of notValues. At least one of the two is there.',
  type: 'object',
  required: ['key'],
  additionalProperties: false,
  properties: {
    key: { description: 'Such as request.headers[x-version], source.ip or request.auth.claims[iss].', type: 'string', maxLength: 1024 },
    values: conditionValues('Any of these.'),
    notValues: conditionValues('None of these; true where there is nothing to compare.'),
  },
};

function conditionValues(description: string): JsonSchema {
  return {
    description,
    type: 'array',
    minItems: 1,
    maxItems: MAX_VALUES,
    items: { type: ['string', 'integer'], minLength: 1, maxLength: MAX_VALUE_LENGTH },
  };
}

/** security.istio.io/v1 AuthorizationPolicy. Its rules are admitted one by one. */
export const AUTHORIZATION_POLICY: KindSchema = defineKind({
  kind: 'AuthorizationPolicy',
  apiVersions: ['security.istio.io/v1', 'security.istio.io/v1beta1', 'weft.dev/v1'],
  namespaced: true,
  description: 'Who may do what with the selected workloads. Values match exactly, as prefix* or *suffix, or * for anything that is there.',
  name: DNS_SUBDOMAIN,
  specRequired: false,
  admittedByItem: 'rules',
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: {
      selector: WORKLOAD_SELECTOR,
      action: {
        description: 'Absent: ALLOW. AUDIT records what matches. CUSTOM asks the provider, before anything else is decided.',
        type: 'string',
        enum: ['ALLOW', 'DENY', 'AUDIT', 'CUSTOM'],
      },
      mode: {
        description: 'weft.dev/v1 only. audit: decided and recorded, but nothing is refused for it. Absent: enforce.',
        type: 'string',
        enum: ['enforce', 'audit'],
      },
      rules: {
        description:
          'Any rule matches. Absent or empty: the policy never matches, so that ALLOW allows nothing. One empty rule {} matches everything.',
        type: 'array',
        maxItems: MAX_RULES,
        items: {
          description: 'Any of from, any of to, and all of when.',
          type: 'object',
          additionalProperties: false,
          properties: {
            from: {
              type: 'array',
              minItems: 1,
              maxItems: MAX_RULES,
              items: { type: 'object', required: ['source'], additionalProperties: false, properties: { source: SOURCE } },
            },
            to: {
              type: 'array',
              minItems: 1,
              maxItems: MAX_RULES,
              items: { type: 'object', required: ['operation'], additionalProperties: false, properties: { operation: OPERATION } },
            },
            when: { type: 'array', minItems: 1, maxItems: MAX_RULES, items: CONDITION },
          },
        },
      },
      provider: {
        description: 'CUSTOM only: an extension provider of the MeshConfig.',
        type: 'object',
        required: ['name'],
        additionalProperties: false,
        properties: { name: { type: 'string', minLength: 1, maxLength: 253 } },
      },
      targetRef: unsupported(TARGETS),
      targetRefs: unsupported(TARGETS),
    },
  },
});
