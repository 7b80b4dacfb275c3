/**
 * Codecs: how a key or a value of a map lies in memory. Byte order is little-endian, that of every BPF target this package
 * supports; the `be` forms are for fields that hold network byte order.
 */
import { LibbpfError } from './errors.ts';

/** Turns a `T` into `size` bytes and back. `encode` throws LIBBPF_CODEC for a value out of range. */
export interface Codec<T> {
  /** In bytes. */
  readonly size: number;
  /** Writes `value` at `offset`. */
  encode(value: T, view: DataView, offset: number): void;
  /** Reads the value at `offset`. The result holds no reference to `view`. */
  decode(view: DataView, offset: number): T;
}

/** The type of a codec's values. */
export type Decoded<C> = C extends Codec<infer T> ? T : never;

function requireInteger(value: number, maximum: number, type: string): void {
  if (!Number.isInteger(value) || value < 0 || value > maximum) {
    throw new LibbpfError('LIBBPF_CODEC', `${value} is not a ${type}`);
  }
}

/** One unsigned byte. */
export const u8: Codec<number> = {
  size: 1,
  encode(value, view, offset) {
    requireInteger(value, 0xff, 'u8');
    view.setUint8(offset, value);
  },
  decode: (view, offset) => view.getUint8(offset),
};

function unsigned16(littleEndian: boolean): Codec<number> {
  return {
    size: 2,
    encode(value, view, offset) {
      requireInteger(value, 0xffff, 'u16');
      view.setUint16(offset, value, littleEndian);
    },
    decode: (view, offset) => view.getUint16(offset, littleEndian),
  };
}

function unsigned32(littleEndian: boolean): Codec<number> {
  return {
    size: 4,
    encode(value, view, offset) {
      requireInteger(value, 0xffffffff, 'u32');
      view.setUint32(offset, value, littleEndian);
    },
    decode: (view, offset) => view.getUint32(offset, littleEndian),
  };
}

const U64_MAXIMUM = 0xffff_ffff_ffff_ffffn;

function unsigned64(littleEndian: boolean): Codec<bigint> {
  return {
    size: 8,
    encode(value, view, offset) {
      if (typeof value !== 'bigint' || value < 0n || value > U64_MAXIMUM) {
        throw new LibbpfError('LIBBPF_CODEC', `${value} is not a u64 (a bigint is expected)`);
      }
      view.setBigUint64(offset, value, littleEndian);
    },
    decode: (view, offset) => view.getBigUint64(offset, littleEndian),
  };
}

/** `__u16`. */
export const u16: Codec<number> = unsigned16(true);
/** `__be16`: a port as it is on the wire. */
export const u16be: Codec<number> = unsigned16(false);
/** `__u32`. */
export const u32: Codec<number> = unsigned32(true);
/** `__be32`. */
export const u32be: Codec<number> = unsigned32(false);
/** `__u64`. */
export const u64: Codec<bigint> = unsigned64(true);
/** `__be64`. */
export const u64be: Codec<bigint> = unsigned64(false);

/** `length` bytes as they are. Encoding takes exactly that many; decoding gives a copy. */
export function bytes(length: number): Codec<Uint8Array> {
  return {
    size: length,
    encode(value, view, offset) {
      if (value.length !== length) throw new LibbpfError('LIBBPF_CODEC', `${length} bytes are expected, not ${value.length}`);
      new Uint8Array(view.buffer, view.byteOffset + offset, length).set(value);
    },
    decode: (view, offset) => new Uint8Array(view.buffer, view.byteOffset + offset, length).slice(),
  };
}

/** `T name[length]`. */
export function array<T>(element: Codec<T>, length: number): Codec<readonly T[]> {
  return {
    size: element.size * length,
    encode(value, view, offset) {
      if (value.length !== length) throw new LibbpfError('LIBBPF_CODEC', `${length} elements are expected, not ${value.length}`);
      for (const [index, item] of value.entries()) element.encode(item, view, offset + index * element.size);
    },
    decode: (view, offset) => Array.from({ length }, (_, index) => element.decode(view, offset + index * element.size)),
  };
}

/** A field of a struct: where it begins, and what it is. */
export interface StructField<T> {
  /** In bytes from the start of the struct, as C's `offsetof` has it. */
  readonly offset: number;
  readonly codec: Codec<T>;
}

/** A field at `offset` bytes. */
export function at<T>(offset: number, codec: Codec<T>): StructField<T> {
  return { offset, codec };
}

/** The object that a struct with these fields decodes to. */
export type StructValue<F> = { readonly [K in keyof F]: F[K] extends StructField<infer T> ? T : never };

/**
 * A C struct of `size` bytes. Offsets are given, not computed, so that padding is seen and a test can compare them with C's.
 * Bytes that no field covers are written as zero, which hash keys need. Throws LIBBPF_CODEC for fields that overlap or do not fit.
 */
export function struct<F extends Readonly<Record<string, { readonly offset: number; readonly codec: { readonly size: number } }>>>(
  size: number,
  fields: F,
): Codec<StructValue<F>> {
  const list = Object.entries(fields as unknown as Record<string, StructField<unknown>>).map(([name, field]) => ({
    name,
    offset: field.offset,
    codec: field.codec,
  }));
  const covered: (string | undefined)[] = Array.from({ length: size });
  for (const { name, offset, codec } of list) {
    if (!Number.isInteger(offset) || offset < 0 || offset + codec.size > size) {
      throw new LibbpfError('LIBBPF_CODEC', `field ${name} does not fit into a struct of ${size} bytes`);
    }
    for (let index = offset; index < offset + codec.size; index++) {
      if (covered[index] !== undefined) throw new LibbpfError('LIBBPF_CODEC', `fields ${covered[index]} and ${name} overlap`);
      covered[index] = name;
    }
  }
  const padding = Array.from({ length: size }, (_, index) => index).filter((index) => covered[index] === undefined);
  return {
    size,
    encode(value, view, offset) {
      for (const index of padding) view.setUint8(offset + index, 0);
      for (const field of list) field.codec.encode((value as Record<string, unknown>)[field.name], view, offset + field.offset);
    },
    decode(view, offset) {
      const result: Record<string, unknown> = {};
      for (const field of list) result[field.name] = field.codec.decode(view, offset + field.offset);
      return result as StructValue<F>;
    },
  };
}
