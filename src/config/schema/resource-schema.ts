import type { JsonSchema } from './json-schema.ts';
import { ignored } from './json-schema.ts';
import { DNS_LABEL, LABEL_KEY, LABELS } from './names.ts';

const BOOKKEEPING = 'bookkeeping of the API server';

function metadata(name: JsonSchema, namespaced: boolean): JsonSchema {
  return {
    type: 'object',
    required: ['name'],
    additionalProperties: false,
    properties: {
      name,
      ...(namespaced ? { namespace: { ...DNS_LABEL, description: 'default where it is not given' } } : {}),
      labels: LABELS,
      annotations: { type: 'object', propertyNames: LABEL_KEY, additionalProperties: { type: 'string' } },
      creationTimestamp: {
        type: ['string', 'null'],
        pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?(Z|[+-]\\d\\d:\\d\\d)$',
        weftForm: 'an RFC 3339 time such as 2026-01-31T12:00:00Z',
      },
      uid: ignored(BOOKKEEPING),
      resourceVersion: ignored(BOOKKEEPING),
      generation: ignored(BOOKKEEPING),
      generateName: ignored(BOOKKEEPING),
      managedFields: ignored(BOOKKEEPING),
      selfLink: ignored(BOOKKEEPING),
      finalizers: ignored(BOOKKEEPING),
      ownerReferences: ignored(BOOKKEEPING),
      deletionTimestamp: ignored('a resource is in force until it is gone'),
      clusterName: ignored(BOOKKEEPING),
      deletionGracePeriodSeconds: ignored('a resource is in force until it is gone'),
    },
  };
}

/** What one kind is: where it comes from and what may be written in it. */
export interface KindSchema {
  readonly kind: string;
  /** The kind that this is another name of; its resources are of that kind. */
  readonly readAs?: string;
  /** The API versions it is read under, the preferred one first. */
  readonly apiVersions: readonly string[];
  readonly namespaced: boolean;
  readonly description: string;
  /** A list in `spec` whose items are admitted one by one: a bad one costs itself, not the resource. */
  readonly admittedByItem?: string;
  /** The whole resource, apiVersion and kind included. */
  readonly schema: JsonSchema;
}

/** Puts the parts that all kinds share around the schema of a kind's `spec`. */
export function defineKind(
  kind: Omit<KindSchema, 'schema'> & { readonly name: JsonSchema; readonly spec: JsonSchema; readonly specRequired: boolean },
): KindSchema {
  const { name, spec, specRequired, ...rest } = kind;
  return {
    ...rest,
    schema: {
      type: 'object',
      required: ['apiVersion', 'kind', 'metadata', ...(specRequired ? ['spec'] : [])],
      additionalProperties: false,
      properties: {
        apiVersion: { type: 'string' },
        kind: { type: 'string' },
        metadata: metadata(name, kind.namespaced),
        spec,
        status: ignored('what a controller observed, not what the author asks for'),
      },
    },
  };
}
