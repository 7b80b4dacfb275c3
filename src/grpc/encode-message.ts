import { GrpcError } from './grpc-error.ts';
import { type AnyMessageType, type Field, type FieldKind, isMessageType, type MessageType } from './message-type.ts';
import { ProtobufWriter, varint } from './protobuf.ts';

/** The numbers of an entry of a map, which is a message on the wire (protobuf encoding, "Maps"). */
export const MAP_KEY = 1;
export const MAP_VALUE = 2;

type Values = Readonly<Record<string, unknown>>;

/**
 * The bytes of a message. Fields in the order of the table; implicit ones with their default value are left out, and numbers are packed.
 * @throws GrpcError WEFT_GRPC_VALUE for numbers out of range and for text that is not well-formed Unicode
 */
export function encodeMessage<Message>(type: MessageType<Message>, message: NoInfer<Message>): Uint8Array {
  const writer = new ProtobufWriter();
  writeFields(writer, type, message as Values);
  return writer.finish();
}

function writeFields(writer: ProtobufWriter, type: AnyMessageType, values: Values): void {
  for (const field of type.fields.values()) {
    const value = values[field.key];
    switch (field.presence) {
      case 'implicit':
        if (!isDefault(value)) writeValue(writer, field.number, field, value);
        break;
      case 'optional':
        if (value !== null) writeValue(writer, field.number, field, value);
        break;
      case 'repeated':
        writeRepeated(writer, field, value as readonly unknown[]);
        break;
      case 'map':
        for (const [key, each] of value as ReadonlyMap<string, unknown>) {
          writer.message(field.number, (entry) => {
            writeValue(entry, MAP_KEY, { ...field, kind: 'string' }, key);
            writeValue(entry, MAP_VALUE, field, each);
          });
        }
    }
  }
}

function isDefault(value: unknown): boolean {
  // Minus zero is not a double's default: it has other bits.
  return value === '' || value === false || value === 0n || Object.is(value, 0) || (value instanceof Uint8Array && value.length === 0);
}

function writeRepeated(writer: ProtobufWriter, field: Field, values: readonly unknown[]): void {
  if (values.length === 0) return;
  if (!isPackable(field.kind)) {
    for (const each of values) writeValue(writer, field.number, field, each);
    return;
  }
  const packed = values.map((each) => {
    if (field.kind !== 'double') return varint(varintValue(field, each));
    const bytes = Buffer.allocUnsafe(8);
    bytes.writeDoubleLE(each as number);
    return bytes;
  });
  writer.bytes(field.number, Buffer.concat(packed));
}

/** True for numbers, of which several may be in one field (protobuf encoding, "Packed Repeated Fields"). */
export function isPackable(kind: FieldKind): boolean {
  return kind !== 'string' && kind !== 'bytes' && !isMessageType(kind);
}

function writeValue(writer: ProtobufWriter, number: number, field: Field, value: unknown): void {
  const { kind } = field;
  if (kind === 'string') writer.string(number, wellFormed(field, value as string));
  else if (kind === 'bytes') writer.bytes(number, value as Uint8Array);
  else if (kind === 'double') writer.double(number, value as number);
  else if (isMessageType(kind)) writer.message(number, (inner) => writeFields(inner, kind, value as Values));
  else writer.varint(number, varintValue(field, value));
}

function wellFormed(field: Field, text: string): string {
  // Encoding would replace half a surrogate pair, and the peer would get another text.
  if (!text.isWellFormed()) throw unusable(field, 'text that is not well-formed Unicode');
  return text;
}

const INT32_LIMIT = 2 ** 31;
const UINT32_LIMIT = 2 ** 32;
const INT64_LIMIT = 1n << 63n;
const UINT64_LIMIT = 1n << 64n;

/** A number as 64 bits without sign, negative ones as their two's complement. */
function varintValue(field: Field, value: unknown): number | bigint {
  switch (field.kind) {
    case 'bool':
      return value === true ? 1 : 0;
    case 'uint32':
      return within(field, value as number, 0, UINT32_LIMIT);
    case 'int64':
      return BigInt.asUintN(64, within(field, value as bigint, -INT64_LIMIT, INT64_LIMIT));
    case 'uint64':
      return within(field, value as bigint, 0n, UINT64_LIMIT);
    default: {
      const number = within(field, value as number, -INT32_LIMIT, INT32_LIMIT);
      return number < 0 ? BigInt.asUintN(64, BigInt(number)) : number;
    }
  }
}

function within<Value extends number | bigint>(field: Field, value: Value, from: Value, below: Value): Value {
  const isWhole = typeof value === 'bigint' || Number.isInteger(value);
  if (!isWhole || value < from || value >= below) throw unusable(field, `a number that is no ${kindName(field.kind)}`);
  return value;
}

function kindName(kind: FieldKind): string {
  return typeof kind === 'string' ? kind : kind.name;
}

function unusable(field: Field, what: string): GrpcError {
  return new GrpcError('WEFT_GRPC_VALUE', `${field.name} cannot be sent: ${what}`);
}
