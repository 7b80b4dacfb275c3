import type { JsonSchema } from './json-schema.ts';
import { ignored, unsupported } from './json-schema.ts';
import { DNS_SUBDOMAIN, HEADER_NAME } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const MAX_HEADERS = 256;

function headers(description: string): JsonSchema {
  return { description, type: 'array', minItems: 1, maxItems: MAX_HEADERS, items: HEADER_NAME };
}

const PROVIDER_ADDRESS: Readonly<Record<string, JsonSchema>> = {
  service: {
    description: 'Host name or address; Istio\'s "<namespace>/" before it is read and not needed.',
    type: 'string',
    minLength: 1,
    maxLength: 317,
  },
  port: { type: 'integer', minimum: 1, maximum: 65535, weftForm: 'a port number from 1 to 65535' },
  timeout: { description: 'How long an answer may take, such as 0.5s. Absent: 5s.', type: 'string', maxLength: 32 },
  failOpen: { description: 'Requests pass when the provider cannot be asked. Absent: false.', type: 'boolean' },
  clearRouteCache: ignored('there is no routing'),
  statusOnError: unsupported('a request is refused with 403 when the provider cannot be asked'),
  includeRequestBodyInCheck: unsupported('the provider is asked before the body has arrived'),
};

const HTTP_PROVIDER: JsonSchema = {
  description: "A provider that is asked by an HTTP request like the client's: 200 allows.",
  type: 'object',
  required: ['service', 'port'],
  additionalProperties: false,
  properties: {
    ...PROVIDER_ADDRESS,
    pathPrefix: {
      description: 'Put before the path of the request.',
      type: 'string',
      maxLength: 1024,
      pattern: "^(/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?$",
      weftForm: 'a path such as /check',
    },
    includeRequestHeadersInCheck: headers(
      'Headers of the request that the provider gets, besides Host, method, path, Content-Length and Authorization.',
    ),
    includeHeadersInCheck: headers('The old name of includeRequestHeadersInCheck.'),
    headersToUpstreamOnAllow: headers('Headers of its answer that go to the application.'),
    headersToDownstreamOnDeny: headers('Headers of its answer that go to the client with the refusal. Absent: all of them.'),
    headersToDownstreamOnAllow: unsupported('headers of its answer go to the application only'),
    includeAdditionalHeadersInCheck: unsupported('the provider gets headers of the request only'),
  },
};

const GRPC_PROVIDER: JsonSchema = {
  description: 'A provider that speaks gRPC: envoy.service.auth.v3.Authorization.',
  type: 'object',
  required: ['service', 'port'],
  additionalProperties: false,
  properties: PROVIDER_ADDRESS,
};

/** weft.dev/v1 MeshConfig: fields are named as in Istio's MeshConfig. */
export const MESH_CONFIG: KindSchema = defineKind({
  kind: 'MeshConfig',
  apiVersions: ['weft.dev/v1'],
  namespaced: true,
  description: 'Settings of the whole mesh. At most one, in the root namespace.',
  name: DNS_SUBDOMAIN,
  specRequired: false,
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: {
      trustDomainAliases: {
        description: 'Trust domains whose identities mean the same as those of the mesh in policies.',
        type: 'array',
        maxItems: 64,
        items: {
          type: 'string',
          maxLength: 255,
          pattern: '^[a-z0-9._-]+$',
          weftForm: 'a trust domain: lower-case letters, digits, ".", "-" and "_"',
        },
      },
      pathNormalization: {
        type: 'object',
        additionalProperties: false,
        properties: {
          normalization: {
            description: 'How paths are normalised before a decision and on the way to the application. Absent: BASE.',
            type: 'string',
            enum: ['DEFAULT', 'BASE', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'],
            weftUnsupportedValues: { NONE: 'a rule about a path could be talked around by another spelling of it' },
          },
        },
      },
      numTrustedProxies: {
        description: 'How many of the last X-Forwarded-For entries trusted proxies wrote. Absent: 0, the header is not believed.',
        type: 'integer',
        minimum: 0,
        maximum: 100,
        weftForm: 'a number from 0 to 100',
      },
      extensionProviders: {
        description: 'External authorisers that CUSTOM policies name.',
        type: 'array',
        maxItems: 256,
        items: {
          type: 'object',
          required: ['name'],
          additionalProperties: false,
          properties: {
            name: { type: 'string', minLength: 1, maxLength: 253 },
            envoyExtAuthzHttp: HTTP_PROVIDER,
            envoyExtAuthzGrpc: GRPC_PROVIDER,
          },
        },
      },
    },
  },
});
