import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { array, at, bytes, type Codec, struct, u8, u16, u16be, u32, u32be, u64, u64be } from '../src/index.ts';

function encoded<T>(codec: Codec<T>, value: T): Uint8Array {
  const memory = new Uint8Array(codec.size + 2).fill(0xee);
  codec.encode(value, new DataView(memory.buffer), 1);
  assert.equal(memory[0], 0xee);
  assert.equal(memory.at(-1), 0xee);
  return memory.slice(1, -1);
}

function decoded<T>(codec: Codec<T>, data: Uint8Array): T {
  return codec.decode(new DataView(data.buffer, data.byteOffset, data.byteLength), 0);
}

const refused = { code: 'LIBBPF_CODEC' };

test('integers are little-endian, and network order in the be forms', () => {
  assert.deepEqual([...encoded(u16, 0x1234)], [0x34, 0x12]);
  assert.deepEqual([...encoded(u16be, 0x1234)], [0x12, 0x34]);
  assert.deepEqual([...encoded(u32, 0x12345678)], [0x78, 0x56, 0x34, 0x12]);
  assert.deepEqual([...encoded(u32be, 0x12345678)], [0x12, 0x34, 0x56, 0x78]);
  assert.deepEqual([...encoded(u64, 0x0102n)], [2, 1, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual([...encoded(u64be, 0x0102n)], [0, 0, 0, 0, 0, 0, 1, 2]);
});

test('an integer out of range is refused', () => {
  for (const [codec, limit] of [
    [u8, 0x100],
    [u16, 0x10000],
    [u16be, 0x10000],
    [u32, 2 ** 32],
    [u32be, 2 ** 32],
  ] as const) {
    for (const value of [-1, 0.5, Number.NaN, limit]) assert.throws(() => encoded(codec, value), refused);
  }
  for (const value of [-1n, 2n ** 64n]) assert.throws(() => encoded(u64, value), refused);
  assert.throws(() => encoded(u64, 1 as unknown as bigint), refused);
});

test('bytes take exactly their length and decode to a copy', () => {
  assert.throws(() => encoded(bytes(4), new Uint8Array(3)), refused);
  const data = new Uint8Array([1, 2, 3, 4]);
  const copy = decoded(bytes(4), data);
  data[0] = 9;
  assert.deepEqual([...copy], [1, 2, 3, 4]);
});

test('an array takes exactly its length', () => {
  assert.deepEqual([...encoded(array(u16, 2), [1, 2])], [1, 0, 2, 0]);
  assert.throws(() => encoded(array(u16, 2), [1]), refused);
});

test('a struct writes its fields at their offsets and zeroes the padding', () => {
  const codec = struct(12, { port: at(8, u16be), address: at(0, u32) });
  assert.deepEqual([...encoded(codec, { address: 1, port: 0x1f90 })], [1, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0x90, 0, 0]);
});

test('a struct whose fields overlap or do not fit is refused when it is made', () => {
  assert.throws(() => struct(8, { a: at(0, u32), b: at(3, u8) }), { ...refused, message: /a and b overlap/ });
  assert.throws(() => struct(8, { a: at(6, u32) }), { ...refused, message: /does not fit/ });
  assert.throws(() => struct(8, { a: at(-1, u32) }), refused);
});

test('what a struct encodes it decodes', () => {
  const inner = struct(16, { cookie: at(8, u64), tag: at(3, u8) });
  const outer = struct(40, { key: at(0, inner), list: at(16, array(u16be, 3)), raw: at(24, bytes(8)), number: at(36, u32) });
  const value = fc.record({
    key: fc.record({ cookie: fc.bigInt(0n, 2n ** 64n - 1n), tag: fc.nat(255) }, { noNullPrototype: true }),
    list: fc.array(fc.nat(0xffff), { minLength: 3, maxLength: 3 }),
    raw: fc.uint8Array({ minLength: 8, maxLength: 8 }),
    number: fc.nat(0xffffffff),
  });
  fc.assert(
    fc.property(value, (given) => {
      const result = decoded(outer, encoded(outer, given));
      assert.deepEqual({ ...result, raw: [...result.raw] }, { ...given, raw: [...given.raw] });
    }),
  );
});
