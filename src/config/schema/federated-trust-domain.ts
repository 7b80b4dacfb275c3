import type { JsonSchema } from './json-schema.ts';
import { ignored } from './json-schema.ts';
import { DNS_SUBDOMAIN } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const MAX_TEXT = 2048;
/** As certs/bundle/bundle-format.ts. */
const MAX_BUNDLE = 1_048_576;

const SPEC: JsonSchema = {
  type: 'object',
  required: ['trustDomain', 'bundleEndpointURL', 'bundleEndpointProfile'],
  additionalProperties: false,
  properties: {
    trustDomain: {
      description: 'The trust domain whose bundle this is.',
      type: 'string',
      maxLength: 255,
      pattern: '^[a-z0-9._-]+$',
      weftForm: 'a trust domain: lower-case letters, digits, ".", "-" and "_"',
    },
    bundleEndpointURL: { description: 'Where its bundle is fetched: an https URL.', type: 'string', minLength: 1, maxLength: MAX_TEXT },
    bundleEndpointProfile: {
      description: 'How the endpoint is authenticated.',
      type: 'object',
      required: ['type'],
      additionalProperties: false,
      properties: {
        type: { type: 'string', enum: ['https_web', 'https_spiffe'] },
        endpointSPIFFEID: {
          description: 'https_spiffe: the SPIFFE ID of the endpoint.',
          type: 'string',
          minLength: 1,
          maxLength: MAX_TEXT,
        },
        webRoots: {
          description: "https_web: PEM of the authorities that its certificate must come from. Absent: the web's.",
          type: 'string',
          minLength: 1,
          maxLength: MAX_BUNDLE,
        },
      },
    },
    trustDomainBundle: {
      description: 'Its bundle to start with: a JWK Set in the SPIFFE bundle format, as JSON text.',
      type: 'string',
      minLength: 1,
      maxLength: MAX_BUNDLE,
    },
    className: ignored('there is one controller'),
  },
};

/** weft.dev/v1 FederatedTrustDomain: fields are named as in SPIRE's ClusterFederatedTrustDomain. */
export const FEDERATED_TRUST_DOMAIN: KindSchema = defineKind({
  kind: 'FederatedTrustDomain',
  apiVersions: ['weft.dev/v1'],
  namespaced: false,
  description: 'Another trust domain whose identities are verified here.',
  name: DNS_SUBDOMAIN,
  specRequired: true,
  spec: SPEC,
});

/** The same, as the SPIRE Controller Manager has it. */
export const CLUSTER_FEDERATED_TRUST_DOMAIN: KindSchema = {
  ...FEDERATED_TRUST_DOMAIN,
  kind: 'ClusterFederatedTrustDomain',
  readAs: 'FederatedTrustDomain',
  apiVersions: ['spire.spiffe.io/v1alpha1'],
};
