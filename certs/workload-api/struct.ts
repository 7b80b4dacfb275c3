import { type EnumType, enumType, type MessageType, messageType } from '../../src/grpc/message.ts';

/** JSON in protobuf (google/protobuf/struct.proto): an object. */
export interface Struct {
  readonly fields: ReadonlyMap<string, Value>;
}

/** One JSON value: exactly one member is not null. */
export interface Value {
  readonly nullValue: number | null;
  readonly numberValue: number | null;
  readonly stringValue: string | null;
  readonly boolValue: boolean | null;
  readonly structValue: Struct | null;
  readonly listValue: ListValue | null;
}

/** A JSON array. */
export interface ListValue {
  readonly values: readonly Value[];
}

const FILE = 'google/protobuf/struct.proto';

const NULL_VALUE: EnumType = enumType('google.protobuf.NullValue', { NULL_VALUE: 0 }, FILE);

export const STRUCT: MessageType<Struct> = messageType<Struct>(
  'google.protobuf.Struct',
  () => ({ fields: { number: 1, kind: VALUE, map: true } }),
  FILE,
);

const VALUE: MessageType<Value> = messageType<Value>(
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

const LIST_VALUE: MessageType<ListValue> = messageType<ListValue>(
  'google.protobuf.ListValue',
  () => ({ values: { number: 1, kind: VALUE, repeated: true } }),
  FILE,
);

const EMPTY: Value = { nullValue: null, numberValue: null, stringValue: null, boolValue: null, structValue: null, listValue: null };

/** A JSON object as a Struct. Numbers become doubles, which is all that a Struct can hold. */
export function structOf(object: Readonly<Record<string, unknown>>): Struct {
  return { fields: new Map(Object.entries(object).map(([key, value]) => [key, valueOf(value)])) };
}

function valueOf(value: unknown): Value {
  switch (typeof value) {
    case 'string':
      return { ...EMPTY, stringValue: value };
    case 'boolean':
      return { ...EMPTY, boolValue: value };
    case 'number':
    case 'bigint':
      return { ...EMPTY, numberValue: Number(value) };
    case 'object':
      if (value === null) return { ...EMPTY, nullValue: 0 };
      if (Array.isArray(value)) return { ...EMPTY, listValue: { values: value.map(valueOf) } };
      return { ...EMPTY, structValue: structOf(value as Record<string, unknown>) };
    default:
      return { ...EMPTY, nullValue: 0 };
  }
}

/** The JSON object of a Struct. */
export function objectOf({ fields }: Struct): Record<string, unknown> {
  return Object.fromEntries([...fields].map(([key, value]) => [key, jsonOf(value)]));
}

function jsonOf({ numberValue, stringValue, boolValue, structValue, listValue }: Value): unknown {
  if (structValue !== null) return objectOf(structValue);
  if (listValue !== null) return listValue.values.map(jsonOf);
  return numberValue ?? stringValue ?? boolValue;
}
