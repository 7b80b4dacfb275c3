import type { JsonSchema } from './json-schema.ts';
import { unsupported } from './json-schema.ts';
import { DNS_SUBDOMAIN, WORKLOAD_SELECTOR } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const REQUEST_TOKENS = 'end-user tokens (RequestAuthentication) are not checked';
const FORWARDED = 'forwarded client addresses are not read; ipBlocks matches the TCP peer';
const TRUST_DOMAINS = 'name the trust domain in principals instead, such as "example.org/ns/*"';
const TARGETS = 'there is no waypoint or gateway to attach to; use selector';

/** Istio's limit on rules and sources. */
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
    remoteIpBlocks: unsupported(FORWARDED),
    notRemoteIpBlocks: unsupported(FORWARDED),
    requestPrincipals: unsupported(REQUEST_TOKENS),
    notRequestPrincipals: unsupported(REQUEST_TOKENS),
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

/** security.istio.io/v1 AuthorizationPolicy. */
export const AUTHORIZATION_POLICY: KindSchema = defineKind({
  kind: 'AuthorizationPolicy',
  apiVersions: ['security.istio.io/v1', 'security.istio.io/v1beta1', 'weft.dev/v1'],
  namespaced: true,
  description: 'Who may do what with the selected workloads. Values match exactly, as prefix* or *suffix, or * for anything that is there.',
  name: DNS_SUBDOMAIN,
  specRequired: false,
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: {
      selector: WORKLOAD_SELECTOR,
      action: {
        description: 'Absent: ALLOW.',
        type: 'string',
        enum: ['ALLOW', 'DENY'],
        weftUnsupportedValues: {
          AUDIT: 'every request is in the access log',
          CUSTOM: 'there is no external authorizer',
        },
      },
      rules: {
        description:
          'Any rule matches. Absent or empty: the policy never matches, so that ALLOW allows nothing. One empty rule {} matches everything.',
        type: 'array',
        maxItems: MAX_RULES,
        items: {
          description: 'Any of from, and any of to.',
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
            when: unsupported('rules with conditions are refused, because a rule without its conditions would match more'),
          },
        },
      },
      provider: unsupported('there is no external authorizer'),
      targetRef: unsupported(TARGETS),
      targetRefs: unsupported(TARGETS),
    },
  },
});
