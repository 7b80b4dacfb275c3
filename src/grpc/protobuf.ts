import { AuthorisationError } from '../../proxy/external-authorisation/authorisation-error.ts';

/** Wire types (protobuf encoding, "Message structure"). Groups (3 and 4) are refused. */
const VARINT = 0;
const FIXED64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;
const MAX_FIELD_NUMBER = 2 ** 29 - 1;

function malformed(what: string): AuthorisationError {
  return new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', `the authoriser's answer is malformed: ${what}`);
}

/** Writes one protobuf message. Fields with their default value are left out, as proto3 does. */
export class ProtobufWriter {
  readonly #parts: Buffer[] = [];

  string(field: number, value: string): this {
    return value === '' ? this : this.bytes(field, Buffer.from(value, 'utf8'));
  }

  /** A message, or bytes: written even when empty, which says that it is there. */
  bytes(field: number, value: Uint8Array): this {
    this.#parts.push(varint(field * 8 + LENGTH_DELIMITED), varint(value.length), Buffer.from(value.buffer, value.byteOffset, value.length));
    return this;
  }

  message(field: number, fill: (writer: ProtobufWriter) => void): this {
    const inner = new ProtobufWriter();
    fill(inner);
    return this.bytes(field, inner.finish());
  }

  /** A whole number that is not negative. */
  number(field: number, value: number): this {
    if (value !== 0) this.#parts.push(varint(field * 8 + VARINT), varint(value));
    return this;
  }

  /** An entry of a map<string, string>. */
  entry(field: number, key: string, value: string): this {
    return this.message(field, (entry) => entry.string(1, key).string(2, value));
  }

  finish(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** One field of a message. `bytes` is empty for numbers, `number` is 0 for bytes; a number beyond 2^53 is not exact. */
export interface ProtobufField {
  readonly field: number;
  readonly isBytes: boolean;
  readonly bytes: Buffer;
  readonly number: number;
}

const NO_BYTES = Buffer.alloc(0);

/**
 * The fields of a message in order.
 * @throws AuthorisationError WEFT_EXTAUTHZ_ANSWER for anything that is not a message, or has more than `maxFields` fields
 */
export function readProtobuf(bytes: Buffer, maxFields: number): ProtobufField[] {
  const fields: ProtobufField[] = [];
  const cursor = { at: 0 };
  while (cursor.at < bytes.length) {
    if (fields.length >= maxFields) throw malformed('too many fields');
    const tag = readVarint(bytes, cursor);
    const field = Math.floor(tag / 8);
    if (field === 0 || field > MAX_FIELD_NUMBER) throw malformed('a field number out of range');
    switch (tag % 8) {
      case VARINT:
        fields.push({ field, isBytes: false, bytes: NO_BYTES, number: readVarint(bytes, cursor) });
        break;
      case FIXED64:
        fields.push({ field, isBytes: false, bytes: take(bytes, cursor, 8), number: 0 });
        break;
      case FIXED32:
        fields.push({ field, isBytes: false, bytes: take(bytes, cursor, 4), number: 0 });
        break;
      case LENGTH_DELIMITED:
        fields.push({ field, isBytes: true, bytes: take(bytes, cursor, readVarint(bytes, cursor)), number: 0 });
        break;
      default:
        throw malformed('an unknown wire type');
    }
  }
  return fields;
}

function take(bytes: Buffer, cursor: { at: number }, length: number): Buffer {
  const end = cursor.at + length;
  if (end > bytes.length) throw malformed('it is cut');
  const taken = bytes.subarray(cursor.at, end);
  cursor.at = end;
  return taken;
}

function readVarint(bytes: Buffer, cursor: { at: number }): number {
  let value = 0;
  for (let i = 0; i < 10; i++) {
    const byte = bytes[cursor.at++];
    if (byte === undefined) throw malformed('it is cut');
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return value;
  }
  throw malformed('a number that does not end');
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A string field. @throws AuthorisationError WEFT_EXTAUTHZ_ANSWER when it is not UTF-8 */
export function protobufText(bytes: Buffer): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw malformed('text that is not UTF-8');
  }
}
