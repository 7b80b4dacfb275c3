import type { JsonSchema } from './json-schema.ts';

/** RFC 1123 label: the name of a namespace or a Service. */
export const DNS_LABEL: JsonSchema = {
  type: 'string',
  minLength: 1,
  maxLength: 63,
  pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$',
  weftForm: 'an RFC 1123 label: lower-case letters, digits and "-", at most 63, starting and ending with a letter or digit',
};

/** RFC 1123 subdomain: the name of most other resources. */
export const DNS_SUBDOMAIN: JsonSchema = {
  type: 'string',
  minLength: 1,
  maxLength: 253,
  pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$',
  weftForm: 'an RFC 1123 name: lower-case letters, digits, "-" and ".", at most 253, each part starting and ending with a letter or digit',
};

/** A label or annotation key: an optional DNS prefix and a name of at most 63 characters. */
export const LABEL_KEY: JsonSchema = {
  type: 'string',
  maxLength: 317,
  pattern: '^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$',
  weftForm: 'a label key: an optional DNS prefix and "/", then at most 63 letters, digits, "-", "_" and "."',
};

/** A label value: may be empty. */
export const LABEL_VALUE: JsonSchema = {
  type: 'string',
  maxLength: 63,
  pattern: '^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$',
  weftForm: 'a label value: at most 63 letters, digits, "-", "_" and ".", starting and ending with a letter or digit',
};

/** A set of labels. */
export const LABELS: JsonSchema = {
  type: 'object',
  propertyNames: LABEL_KEY,
  additionalProperties: LABEL_VALUE,
};

/** Which workloads a policy applies to. */
export const WORKLOAD_SELECTOR: JsonSchema = {
  description: 'Workloads with all of these labels. Absent or empty: every workload of the namespace (in the root namespace: of the mesh).',
  type: 'object',
  additionalProperties: false,
  properties: {
    matchLabels: LABELS,
    matchExpressions: unsupportedExpressions(),
  },
};

function unsupportedExpressions(): JsonSchema {
  return { weftUnsupported: 'Istio selects workloads by matchLabels only' };
}

/** A header field name: an RFC 9110 token. Pseudo-headers (`:path`) are none. */
export const HEADER_NAME: JsonSchema = {
  type: 'string',
  minLength: 1,
  maxLength: 256,
  pattern: "^[!#$%&'+.^_`|~0-9A-Za-z-]+$",
  weftForm: 'the name of a header, without wildcards',
};
