/**
 * The part of JSON Schema (draft 2020-12, as Kubernetes' structural schemas use it) that describes our kinds, with a few annotations of
 * our own. Plain data: what validates files here can be turned into CRDs and reference pages. Every annotation starts with `weft`.
 */
export interface JsonSchema {
  readonly description?: string;
  readonly type?: JsonType | readonly JsonType[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: false | JsonSchema;
  readonly propertyNames?: JsonSchema;
  readonly minProperties?: number;
  readonly items?: JsonSchema;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly pattern?: string;
  readonly enum?: readonly string[];
  /** What a value must look like, in words: the end of the sentence "must be …". */
  readonly weftForm?: string;
  /** A real field of this kind that Weft does not support yet: refused, with this text. */
  readonly weftUnsupported?: string;
  /** Real values of this field that Weft does not support yet, with the reason. */
  readonly weftUnsupportedValues?: Readonly<Record<string, string>>;
  /** A standard field that is accepted and not used, with why that is harmless. Its content is not looked at. */
  readonly weftIgnored?: string;
}

export type JsonType = 'object' | 'array' | 'string' | 'integer' | 'boolean' | 'null';

/** A field that is accepted and not used. */
export function ignored(why: string): JsonSchema {
  return { weftIgnored: why };
}

/** A field that exists elsewhere and is refused here by name. */
export function unsupported(why: string): JsonSchema {
  return { weftUnsupported: why };
}
