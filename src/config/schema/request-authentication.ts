import type { JsonSchema } from './json-schema.ts';
import { ignored, unsupported } from './json-schema.ts';
import { DNS_SUBDOMAIN, HEADER_NAME, WORKLOAD_SELECTOR } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

const MAX_RULES = 4096;
const MAX_PLACES = 64;
const MAX_CLAIM_HEADERS = 64;
const MAX_URI = 2048;
/** Some hundred keys. */
const MAX_KEY_SET = 262_144;

/** A query parameter or cookie: a cookie's name is an RFC 9110 token, and a parameter needs no more. */
const PLACE: JsonSchema = {
  type: 'string',
  maxLength: 256,
  pattern: "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
  weftForm: 'a name such as access_token',
};

const RULE: JsonSchema = {
  description: 'Tokens of one issuer.',
  type: 'object',
  required: ['issuer'],
  additionalProperties: false,
  properties: {
    issuer: { description: 'iss of its tokens, exactly.', type: 'string', minLength: 1, maxLength: MAX_URI },
    audiences: {
      description: 'A token must name one of these in aud. Absent: aud is not checked.',
      type: 'array',
      minItems: 1,
      maxItems: MAX_RULES,
      items: { type: 'string', minLength: 1, maxLength: MAX_URI },
    },
    jwks: { description: 'Its public keys: a JWK Set (RFC 7517) as JSON text.', type: 'string', minLength: 1, maxLength: MAX_KEY_SET },
    jwksUri: { description: 'Where its JWK Set is fetched, by http or https.', type: 'string', minLength: 1, maxLength: MAX_URI },
    jwks_uri: { description: 'The same, as older files have it.', type: 'string', minLength: 1, maxLength: MAX_URI },
    fromHeaders: {
      description:
        'Headers that may carry the token. None of the three from… fields: "Authorization: Bearer", then the parameter access_token.',
      type: 'array',
      minItems: 1,
      maxItems: MAX_PLACES,
      items: {
        type: 'object',
        required: ['name'],
        additionalProperties: false,
        properties: { name: HEADER_NAME, prefix: { description: 'What comes before the token.', type: 'string', maxLength: 256 } },
      },
    },
    fromParams: {
      description: 'Query parameters that may carry the token.',
      type: 'array',
      minItems: 1,
      maxItems: MAX_PLACES,
      items: PLACE,
    },
    fromCookies: { description: 'Cookies that may carry the token.', type: 'array', minItems: 1, maxItems: MAX_PLACES, items: PLACE },
    forwardOriginalToken: { description: 'The application gets the token too. Absent: false.', type: 'boolean' },
    outputPayloadToHeader: { ...HEADER_NAME, description: 'The header in which the application gets the payload, base64url.' },
    outputClaimToHeaders: {
      description: 'Headers in which the application gets single claims.',
      type: 'array',
      minItems: 1,
      maxItems: MAX_CLAIM_HEADERS,
      items: {
        type: 'object',
        required: ['header', 'claim'],
        additionalProperties: false,
        properties: { header: HEADER_NAME, claim: { description: 'a.b is b inside of a.', type: 'string', minLength: 1, maxLength: 512 } },
      },
    },
    timeout: ignored('keys are fetched within a fixed time, away from requests'),
    spaceDelimitedClaims: unsupported('only scope and permission are split at spaces'),
  },
};

/** security.istio.io/v1 RequestAuthentication. */
export const REQUEST_AUTHENTICATION: KindSchema = defineKind({
  kind: 'RequestAuthentication',
  apiVersions: ['security.istio.io/v1', 'security.istio.io/v1beta1', 'weft.dev/v1'],
  namespaced: true,
  description:
    'Which tokens (JWT) the selected workloads take. A token that is there must be valid; a request without one passes: an AuthorizationPolicy asks for it.',
  name: DNS_SUBDOMAIN,
  specRequired: false,
  spec: {
    type: 'object',
    additionalProperties: false,
    properties: {
      selector: WORKLOAD_SELECTOR,
      jwtRules: { type: 'array', maxItems: MAX_RULES, items: RULE },
      targetRef: unsupported('there is no waypoint or gateway to attach to; use selector'),
      targetRefs: unsupported('there is no waypoint or gateway to attach to; use selector'),
    },
  },
});
