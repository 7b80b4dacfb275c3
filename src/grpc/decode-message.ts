import { isPackable, MAP_KEY, MAP_VALUE } from './encode-message.ts';
import { type AnyMessageType, type Field, type FieldKind, isMessageType, type MessageType } from './message-type.ts';
import { malformed, type ProtobufField, ProtobufReader, protobufText, WIRE_TYPE, type WireType } from './protobuf.ts';

/** What one message may hold, so that few bytes cannot become much memory. */
export interface DecodeLimits {
  readonly maxBytes: number;
  /** Fields and packed numbers, those of nested messages included. */
  readonly maxFields: number;
  /** Messages within messages. */
  readonly maxDepth: number;
}

/** A depth of 100 is what other implementations of protobuf have. */
export const DEFAULT_DECODE_LIMITS: DecodeLimits = { maxBytes: 4 * 1024 * 1024, maxFields: 65_536, maxDepth: 100 };

type Values = Record<string, unknown>;

/**
 * Reads a message: every key is there, with proto3's default where the field was not sent. Unknown fields are skipped, of several values
 * for one that is not repeated the last counts, and parts of one message are merged. Bytes are copied out of the input.
 * @throws GrpcError WEFT_GRPC_MALFORMED
 */
export function decodeMessage<Message>(
  type: MessageType<Message>,
  bytes: Uint8Array,
  limits: DecodeLimits = DEFAULT_DECODE_LIMITS,
): Message {
  if (bytes.length > limits.maxBytes) throw malformed(`more than ${limits.maxBytes} bytes`);
  const message = emptyMessage(type);
  new Decoding(limits).merge(type, message, bytes, 1);
  return message as Message;
}

/** One message with all that is nested in it, and what is left of its limits. */
class Decoding {
  readonly #maxDepth: number;
  #fieldsLeft: number;

  constructor({ maxDepth, maxFields }: DecodeLimits) {
    this.#maxDepth = maxDepth;
    this.#fieldsLeft = maxFields;
  }

  merge(type: AnyMessageType, message: Values, bytes: Uint8Array, depth: number): void {
    if (depth > this.#maxDepth) throw malformed('nested too deeply');
    for (const reader = new ProtobufReader(bytes); !reader.atEnd; ) {
      this.#count();
      const part = reader.field();
      const field = type.fields.get(part.field);
      if (field !== undefined) this.#read(type, message, field, part, depth);
    }
  }

  #count(): void {
    if (--this.#fieldsLeft < 0) throw malformed('too many fields');
  }

  #read(type: AnyMessageType, message: Values, field: Field, part: ProtobufField, depth: number): void {
    const { key, kind, presence } = field;
    if (presence === 'map') {
      this.#readEntry(message[key] as Map<string, unknown>, kind, part, depth);
    } else if (presence === 'repeated') {
      const values = message[key] as unknown[];
      if (part.wireType === WIRE_TYPE.LENGTH_DELIMITED && isPackable(kind)) this.#readPacked(values, kind, part.bytes);
      else values.push(this.#value(kind, part, null, depth));
    } else {
      if (field.oneof !== null) clearOthers(type, message, field);
      message[key] = this.#value(kind, part, message[key], depth);
    }
  }

  #readEntry(map: Map<string, unknown>, kind: FieldKind, part: ProtobufField, depth: number): void {
    expectWireType(part, WIRE_TYPE.LENGTH_DELIMITED);
    let key = '';
    let value: unknown = isMessageType(kind) ? emptyMessage(kind) : defaultOf(kind);
    for (const reader = new ProtobufReader(part.bytes); !reader.atEnd; ) {
      this.#count();
      const each = reader.field();
      if (each.field === MAP_KEY) key = this.#value('string', each, null, depth) as string;
      else if (each.field === MAP_VALUE) value = this.#value(kind, each, value, depth + 1);
    }
    map.set(key, value);
  }

  #readPacked(values: unknown[], kind: FieldKind, bytes: Uint8Array): void {
    for (const reader = new ProtobufReader(bytes); !reader.atEnd; ) {
      this.#count();
      values.push(kind === 'double' ? reader.double() : numberOf(kind, reader.varint()));
    }
  }

  /** `before` is what an earlier part of the field said: messages are merged into it. */
  #value(kind: FieldKind, part: ProtobufField, before: unknown, depth: number): unknown {
    if (kind === 'double') {
      expectWireType(part, WIRE_TYPE.FIXED64);
      return part.bytes.readDoubleLE();
    }
    if (isPackable(kind)) {
      expectWireType(part, WIRE_TYPE.VARINT);
      return numberOf(kind, part.value);
    }
    expectWireType(part, WIRE_TYPE.LENGTH_DELIMITED);
    if (kind === 'string') return protobufText(part.bytes);
    if (!isMessageType(kind)) return new Uint8Array(part.bytes);
    const message = (before ?? emptyMessage(kind)) as Values;
    this.merge(kind, message, part.bytes, depth + 1);
    return message;
  }
}

function expectWireType({ wireType, field }: ProtobufField, expected: WireType): void {
  if (wireType !== expected) throw malformed(`field ${field} has another type`);
}

function clearOthers(type: AnyMessageType, message: Values, chosen: Field): void {
  for (const { key, oneof } of type.fields.values()) if (oneof === chosen.oneof && key !== chosen.key) message[key] = null;
}

/** A number that does not fit is refused: cut to its low bits, an error code of 2^32 would be a zero, and mean OK. */
function numberOf(kind: FieldKind, value: bigint): unknown {
  switch (kind) {
    case 'bool':
      return value !== 0n;
    case 'uint32':
      if (BigInt.asUintN(32, value) !== value) throw malformed('a number of more than 32 bits');
      return Number(value);
    case 'int64':
      return BigInt.asIntN(64, value);
    case 'uint64':
      return value;
    default: {
      const signed = BigInt.asIntN(64, value);
      if (BigInt.asIntN(32, signed) !== signed) throw malformed('a number of more than 32 bits');
      return Number(signed);
    }
  }
}

function emptyMessage(type: AnyMessageType): Values {
  const message: Values = {};
  for (const { key, kind, presence } of type.fields.values()) {
    if (presence === 'repeated') message[key] = [];
    else if (presence === 'map') message[key] = new Map();
    else message[key] = presence === 'optional' ? null : defaultOf(kind);
  }
  return message;
}

function defaultOf(kind: FieldKind): unknown {
  switch (kind) {
    case 'string':
      return '';
    case 'bytes':
      return new Uint8Array(0);
    case 'bool':
      return false;
    case 'int64':
    case 'uint64':
      return 0n;
    default:
      return 0;
  }
}
