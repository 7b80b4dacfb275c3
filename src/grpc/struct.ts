import { GrpcError } from './grpc-error.ts';
import { type EnumType, enumType, type MessageType, messageType } from './message.ts';

/** google/protobuf/struct.proto: JSON as protobuf. */

const FILE = 'google/protobuf/struct.proto';
/** Objects and lists within each other; each takes up to three levels of the encoding, which has a limit of its own. */
const MAX_DEPTH = 30;

/** google.protobuf.Struct: a JSON object. */
export interface Struct {
  readonly fields: ReadonlyMap<string, Value>;
}

/** google.protobuf.Value: exactly one member is not null. */
export interface Value {
  /** 0 for JSON's null. */
  readonly nullValue: number | null;
  readonly numberValue: number | null;
  readonly stringValue: string | null;
  readonly boolValue: boolean | null;
  readonly structValue: Struct | null;
  readonly listValue: ListValue | null;
}

export interface ListValue {
  readonly values: readonly Value[];
}

/** A value of JSON. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const NULL_VALUE: EnumType = enumType('google.protobuf.NullValue', { NULL_VALUE: 0 }, FILE);

export const STRUCT: MessageType<Struct> = messageType(
  'google.protobuf.Struct',
  () => ({ fields: { number: 1, kind: VALUE, map: true } }),
  FILE,
);

export const VALUE: MessageType<Value> = messageType(
  'google.protobuf.Value',
  () => ({
    nullValue: { number: 1, kind: NULL_VALUE, oneof: 'kind' },
    numberValue: { number: 2, kind: 'double', oneof: 'kind' },
    stringValue: { number: 3, kind: 'string', oneof: 'kind' },
    boolValue: { number: 4, kind: 'bool', oneof: 'kind' },
    structValue: { number: 5, kind: STRUCT, oneof: 'kind' },
    listValue: { number: 6, kind: LIST_VALUE, oneof: 'kind' },
  }),
  FILE,
);

export const LIST_VALUE: MessageType<ListValue> = messageType(
  'google.protobuf.ListValue',
  { values: { number: 1, kind: VALUE, repeated: true } },
  FILE,
);

const NO_VALUE: Value = { nullValue: null, numberValue: null, stringValue: null, boolValue: null, structValue: null, listValue: null };

/**
 * @throws GrpcError WEFT_GRPC_VALUE for numbers that JSON does not have (NaN, infinities), and for more than 30 levels
 */
export function structFromJson(object: { readonly [key: string]: Json }): Struct {
  return structOf(object, 1);
}

/**
 * The object has no prototype: its keys are the peer's.
 * @throws GrpcError WEFT_GRPC_MALFORMED for a value without a kind, numbers that JSON does not have, and more than 30 levels
 */
export function structToJson(struct: Struct): { [key: string]: Json } {
  return objectOf(struct, 1);
}

function structOf(object: { readonly [key: string]: Json }, depth: number): Struct {
  return { fields: new Map(Object.entries(object).map(([key, value]) => [key, valueOf(value, depth)])) };
}

function valueOf(json: Json, depth: number): Value {
  if (json === null) return { ...NO_VALUE, nullValue: 0 };
  if (typeof json === 'boolean') return { ...NO_VALUE, boolValue: json };
  if (typeof json === 'string') return { ...NO_VALUE, stringValue: json };
  if (typeof json === 'number') {
    if (!Number.isFinite(json)) throw new GrpcError('WEFT_GRPC_VALUE', 'a number that JSON does not have');
    return { ...NO_VALUE, numberValue: json };
  }
  if (depth >= MAX_DEPTH) throw new GrpcError('WEFT_GRPC_VALUE', 'JSON that is nested too deeply');
  if (isList(json)) return { ...NO_VALUE, listValue: { values: json.map((each) => valueOf(each, depth + 1)) } };
  return { ...NO_VALUE, structValue: structOf(json, depth + 1) };
}

function isList(json: readonly Json[] | { readonly [key: string]: Json }): json is readonly Json[] {
  return Array.isArray(json);
}

function objectOf({ fields }: Struct, depth: number): { [key: string]: Json } {
  if (depth > MAX_DEPTH) throw new GrpcError('WEFT_GRPC_MALFORMED', 'a Struct that is nested too deeply');
  const object: { [key: string]: Json } = Object.create(null);
  for (const [key, value] of fields) object[key] = jsonOf(value, depth);
  return object;
}

function jsonOf({ nullValue, numberValue, stringValue, boolValue, structValue, listValue }: Value, depth: number): Json {
  if (numberValue !== null) {
    if (!Number.isFinite(numberValue)) throw new GrpcError('WEFT_GRPC_MALFORMED', 'a Value with a number that JSON does not have');
    return numberValue;
  }
  if (stringValue !== null) return stringValue;
  if (boolValue !== null) return boolValue;
  if (structValue !== null) return objectOf(structValue, depth + 1);
  if (listValue !== null) {
    if (depth >= MAX_DEPTH) throw new GrpcError('WEFT_GRPC_MALFORMED', 'a Struct that is nested too deeply');
    return listValue.values.map((each) => jsonOf(each, depth + 1));
  }
  if (nullValue === null) throw new GrpcError('WEFT_GRPC_MALFORMED', 'a Value without a kind');
  return null;
}
