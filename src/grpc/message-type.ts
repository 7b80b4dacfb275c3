import { GrpcError } from './grpc-error.ts';
import { MAX_FIELD_NUMBER } from './protobuf.ts';

/**
 * Protobuf messages (proto3) as data: an interface, and a table of its fields that the compiler holds against it. The table is all that
 * encoding, decoding and server reflection need; there is no generated code.
 *
 * | field of the interface | entry of the table |
 * | --- | --- |
 * | `string`, `Uint8Array`, `boolean` | `{ number, kind: 'string' }`, `'bytes'`, `'bool'` |
 * | `number` | `'int32'`, `'uint32'`, `'double'`, or an enumType() |
 * | `bigint` | `'int64'`, `'uint64'` |
 * | `Message \| null`, null when it is absent | `{ number, kind: MESSAGE }` |
 * | `string \| null`, and so on | the same with `optional: true` (proto3 `optional`), or `oneof: 'name'` |
 * | `readonly Value[]` | `repeated: true` |
 * | `ReadonlyMap<string, Value>` | `map: true` |
 */
export interface MessageType<Message> extends AnyMessageType {
  /** Never there: it ties the table to its interface, so that no other value can be encoded with it. */
  readonly [shape]?: (message: Message) => Message;
}

declare const shape: unique symbol;

/** A message type whose interface does not matter: for reflection, and for fields. */
export interface AnyMessageType {
  readonly type: 'message';
  /** With the package, without a leading dot: `google.protobuf.Struct`. */
  readonly name: string;
  /** The .proto file that declares it, or null: that of the service which uses it. */
  readonly file: string | null;
  /** By number, in the order of the table. */
  readonly fields: ReadonlyMap<number, Field>;
}

/** An enumeration. Its values are numbers; proto3 keeps those that it does not know. */
export interface EnumType {
  readonly type: 'enum';
  readonly name: string;
  readonly file: string | null;
  /** Names of the schema. One must be 0 (proto3). */
  readonly values: Readonly<Record<string, number>>;
}

export type ScalarKind = 'string' | 'bytes' | 'bool' | 'int32' | 'int64' | 'uint32' | 'uint64' | 'double';
export type FieldKind = ScalarKind | EnumType | AnyMessageType;

/** A field, read from a table. */
export interface Field {
  /** Of the interface. */
  readonly key: string;
  /** Of the schema: the key in snake case. */
  readonly name: string;
  readonly number: number;
  readonly kind: FieldKind;
  /** `optional` fields are null when they are absent, `implicit` ones have their default value, and it is not written. */
  readonly presence: 'implicit' | 'optional' | 'repeated' | 'map';
  readonly oneof: string | null;
}

type KindOf<Value> = [Value] extends [string]
  ? 'string'
  : [Value] extends [boolean]
    ? 'bool'
    : [Value] extends [number]
      ? 'int32' | 'uint32' | 'double' | EnumType
      : [Value] extends [bigint]
        ? 'int64' | 'uint64'
        : [Value] extends [Uint8Array]
          ? 'bytes'
          : MessageType<Value>;

interface Single<Kind> {
  readonly number: number;
  readonly kind: Kind;
}

/** What the table must say of a field with this type. A message that cannot be null has no entry: it could be absent. */
type EntryOf<Value> = [Value] extends [readonly (infer Element)[]]
  ? Single<KindOf<Element>> & { readonly repeated: true }
  : [Value] extends [ReadonlyMap<string, infer Element>]
    ? Single<KindOf<Element>> & { readonly map: true }
    : null extends Value
      ? KindOf<NonNullable<Value>> extends AnyMessageType
        ? Single<KindOf<NonNullable<Value>>> & { readonly oneof?: string }
        : Single<KindOf<NonNullable<Value>>> & ({ readonly optional: true } | { readonly oneof: string })
      : Single<Extract<KindOf<Value>, ScalarKind | EnumType>>;

/** The table of a message: one entry for each key of its interface. */
export type FieldTable<Message> = { readonly [Key in keyof Message]-?: EntryOf<Message[Key]> };

interface Entry {
  readonly number: number;
  readonly kind: FieldKind;
  readonly repeated?: true;
  readonly map?: true;
  readonly optional?: true;
  readonly oneof?: string;
}

/**
 * The type of a message. Say `messageType<X509Svid>(…)`, or annotate the constant: the table is checked against the interface.
 * @param name full name with the package: `spiffe.broker.X509SVID`
 * @param fields the table; a function of it for types that contain themselves or one declared further down
 * @param file the .proto file that declares it, when it is not that of the service; for reflection
 * @throws GrpcError WEFT_GRPC_DEFINITION for field numbers out of range or used twice (on first use)
 */
export function messageType<Message>(
  name: string,
  fields: NoInfer<FieldTable<Message>> | (() => NoInfer<FieldTable<Message>>),
  file: string | null = null,
): MessageType<Message> {
  let read: ReadonlyMap<number, Field> | null = null;
  return {
    type: 'message',
    name,
    file,
    get fields(): ReadonlyMap<number, Field> {
      read ??= readTable(name, (typeof fields === 'function' ? fields() : fields) as Readonly<Record<string, Entry>>);
      return read;
    },
  };
}

/** The type of an enumeration; see messageType for the parameters. */
export function enumType(name: string, values: Readonly<Record<string, number>>, file: string | null = null): EnumType {
  return { type: 'enum', name, file, values };
}

function readTable(message: string, table: Readonly<Record<string, Entry>>): ReadonlyMap<number, Field> {
  const fields = new Map<number, Field>();
  for (const [key, entry] of Object.entries(table)) {
    const { number, kind, oneof = null } = entry;
    if (!Number.isInteger(number) || number < 1 || number > MAX_FIELD_NUMBER || fields.has(number)) {
      throw new GrpcError('WEFT_GRPC_DEFINITION', `${message}.${key}: the number ${number} is out of range, or taken`);
    }
    fields.set(number, { key, name: snakeCase(key), number, kind, presence: presenceOf(entry), oneof });
  }
  return fields;
}

function presenceOf({ kind, repeated, map, optional, oneof }: Entry): Field['presence'] {
  if (repeated === true) return 'repeated';
  if (map === true) return 'map';
  const mayBeAbsent = optional === true || oneof !== undefined || isMessageType(kind);
  return mayBeAbsent ? 'optional' : 'implicit';
}

/** True for the kind of a field that holds a message. */
export function isMessageType(kind: FieldKind): kind is AnyMessageType {
  return typeof kind !== 'string' && kind.type === 'message';
}

function snakeCase(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
