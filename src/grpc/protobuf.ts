import { GrpcError } from './grpc-error.ts';

/**
 * The wire format of protobuf (protobuf.dev/programming-guides/encoding): fields by number, without their meaning. message.ts gives it
 * to them.
 */

/** Wire types that a field may have. Groups (3 and 4) are refused. */
export const WIRE_TYPE = { VARINT: 0, FIXED64: 1, LENGTH_DELIMITED: 2, FIXED32: 5 } as const;
export type WireType = (typeof WIRE_TYPE)[keyof typeof WIRE_TYPE];

export const MAX_FIELD_NUMBER: number = 2 ** 29 - 1;
/** Of 64 bits, seven in each byte. */
const MAX_VARINT_BYTES = 10;
/** Of a tag or a length, which have 32 bits. */
const MAX_SHORT_VARINT_BYTES = 5;
/** So many bytes of a varint fit into a number for bitwise operators. */
const SMALL_VARINT_BYTES = 4;
const UINT64_LIMIT = 1n << 64n;

export function malformed(what: string, cause?: unknown): GrpcError {
  return new GrpcError('WEFT_GRPC_MALFORMED', `not a protobuf message: ${what}`, { cause });
}

/** Writes the fields of one message, in the order of the calls. Every field is written, its default value too. */
export class ProtobufWriter {
  readonly #parts: Uint8Array[] = [];

  /** A whole number from 0 up to 64 bits. */
  varint(field: number, value: number | bigint): this {
    this.#parts.push(varint(field * 8 + WIRE_TYPE.VARINT), varint(value));
    return this;
  }

  double(field: number, value: number): this {
    const bytes = Buffer.allocUnsafe(8);
    bytes.writeDoubleLE(value);
    this.#parts.push(varint(field * 8 + WIRE_TYPE.FIXED64), bytes);
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    this.#parts.push(varint(field * 8 + WIRE_TYPE.LENGTH_DELIMITED), varint(value.length), value);
    return this;
  }

  string(field: number, value: string): this {
    return this.bytes(field, Buffer.from(value, 'utf8'));
  }

  message(field: number, fill: (writer: ProtobufWriter) => void): this {
    const inner = new ProtobufWriter();
    fill(inner);
    return this.bytes(field, inner.finish());
  }

  finish(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** The varint of a whole number from 0 up to 64 bits, as tags, lengths and packed numbers have it. */
export function varint(value: number | bigint): Uint8Array {
  if (value < 0x80) return Uint8Array.of(Number(value));
  const bytes: number[] = [];
  let rest = BigInt(value);
  for (; rest >= 0x80n; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}

/** One field as it is on the wire. */
export interface ProtobufField {
  readonly field: number;
  readonly wireType: WireType;
  /** Of a VARINT; 0 for others. */
  readonly value: bigint;
  /** Of all but VARINT; they are a part of the message's own memory. */
  readonly bytes: Buffer;
}

const NO_BYTES = Buffer.alloc(0);

/** Reads a message front to end. */
export class ProtobufReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get atEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** @throws GrpcError WEFT_GRPC_MALFORMED */
  field(): ProtobufField {
    const tag = this.#shortVarint();
    const field = Math.floor(tag / 8);
    if (field === 0 || field > MAX_FIELD_NUMBER) throw malformed('a field number out of range');
    const wireType = tag % 8;
    switch (wireType) {
      case WIRE_TYPE.VARINT:
        return { field, wireType, value: this.varint(), bytes: NO_BYTES };
      case WIRE_TYPE.FIXED64:
        return { field, wireType, value: 0n, bytes: this.#take(8) };
      case WIRE_TYPE.FIXED32:
        return { field, wireType, value: 0n, bytes: this.#take(4) };
      case WIRE_TYPE.LENGTH_DELIMITED:
        return { field, wireType, value: 0n, bytes: this.#take(this.#shortVarint()) };
      default:
        throw malformed('an unknown wire type');
    }
  }

  /** @throws GrpcError WEFT_GRPC_MALFORMED */
  varint(): bigint {
    let low = 0;
    for (let i = 0; i < SMALL_VARINT_BYTES; i++) {
      const byte = this.#byte();
      low |= (byte & 0x7f) << (7 * i);
      if (byte < 0x80) return BigInt(low);
    }
    let value = BigInt(low);
    for (let i = SMALL_VARINT_BYTES; i < MAX_VARINT_BYTES; i++) {
      const byte = this.#byte();
      value |= BigInt(byte & 0x7f) << BigInt(7 * i);
      if (byte >= 0x80) continue;
      if (value >= UINT64_LIMIT) break;
      return value;
    }
    throw malformed('a number of more than 64 bits');
  }

  /** @throws GrpcError WEFT_GRPC_MALFORMED */
  double(): number {
    return this.#take(8).readDoubleLE();
  }

  #shortVarint(): number {
    let value = 0;
    for (let i = 0; i < MAX_SHORT_VARINT_BYTES; i++) {
      const byte = this.#byte();
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return value;
    }
    throw malformed('a tag or a length of more than 32 bits');
  }

  #byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw malformed('it is cut');
    return byte;
  }

  #take(length: number): Buffer {
    const end = this.#at + length;
    if (end > this.#bytes.length) throw malformed('it is cut');
    const taken = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The text of a string field. @throws GrpcError WEFT_GRPC_MALFORMED when it is not UTF-8 */
export function protobufText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw malformed('text that is not UTF-8', cause);
  }
}
