import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { GrpcError } from '../../../src/grpc/grpc-error.ts';
import { DEFAULT_DECODE_LIMITS, decodeMessage, encodeMessage, type MessageType, messageType } from '../../../src/grpc/message.ts';
import { type Everything, EVERYTHING, NOTHING } from './message-fixture.ts';
import { everythings } from './message-values.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const decode = (text: string): Everything => decodeMessage(EVERYTHING, Buffer.from(text.replaceAll(' ', ''), 'hex'));
const encode = (part: Partial<Everything>): string => hex(encodeMessage(EVERYTHING, { ...NOTHING, ...part }));
const refused = (run: () => unknown, what: string): void =>
  assert.throws(run, (error) => error instanceof GrpcError && error.code === 'WEFT_GRPC_MALFORMED', what);

describe('a message', () => {
  it('is read back as it was written', () => {
    fc.assert(
      fc.property(everythings, (message) => assert.deepEqual(decodeMessage(EVERYTHING, encodeMessage(EVERYTHING, message)), message)),
      { numRuns: 300 },
    );
  });

  it('has the bytes of the protobuf encoding guide', () => {
    // protobuf.dev/programming-guides/encoding: "A Simple Message", "Length-Delimited Records", "Packed Repeated Fields", "Signed Integers".
    const test1 = messageType<{ a: number }>('Test1', { a: { number: 1, kind: 'int32' } });
    const test2 = messageType<{ b: string }>('Test2', { b: { number: 2, kind: 'string' } });
    const test3 = messageType<{ c: { a: number } | null }>('Test3', { c: { number: 3, kind: test1 } });
    const test5 = messageType<{ f: readonly number[] }>('Test5', { f: { number: 6, kind: 'int32', repeated: true } });
    assert.equal(hex(encodeMessage(test1, { a: 150 })), '089601');
    assert.equal(hex(encodeMessage(test2, { b: 'testing' })), '120774657374696e67');
    assert.equal(hex(encodeMessage(test3, { c: { a: 150 } })), '1a03089601');
    assert.equal(hex(encodeMessage(test5, { f: [3, 270, 86942] })), '3206038e029ea705');
    assert.equal(hex(encodeMessage(test1, { a: -2 })), '08feffffffffffffffff01');
  });

  it('leaves defaults out, and keeps what is absent apart from what is empty', () => {
    assert.equal(encode({}), '');
    assert.deepEqual(decode(''), NOTHING);
    assert.equal(encode({ maybeText: '' }), '5200');
    assert.equal(decode('5200').maybeText, '');
    assert.equal(encode({ child: NOTHING }), '6200');
    assert.deepEqual(decode('6200').child, NOTHING);
    assert.equal(encode({ real: -0 }), '410000000000000080');
  });

  it('takes the last of several values, and merges the parts of a message', () => {
    assert.equal(decode('0a0161 0a0162').text, 'b');
    const { child } = decode('6203 0a0161 6202 1801');
    assert.deepEqual([child?.text, child?.flag], ['a', true]);
    assert.deepEqual(decode('9201060a016b120131 9201060a016b120132').labels, new Map([['k', '2']]));
  });

  it('holds one member of a oneof: the last', () => {
    const either = decode('aa010161 f8ffffff0f07');
    assert.deepEqual([either.eitherText, either.eitherNumber], [null, 7]);
    const other = decode('f8ffffff0f07 aa010161');
    assert.deepEqual([other.eitherText, other.eitherNumber], ['a', null]);
  });

  it('takes numbers packed and one by one, also mixed', () => {
    assert.deepEqual(decode('7001 720202 03 7004').numbers, [1, 2, 3, 4]);
    assert.deepEqual(decode('79000000000000f03f 7a08 0000000000000040').reals, [1, 2]);
  });

  it('skips unknown fields of every wire type', () => {
    const { text: found, flag } = decode('a80601 a906 0102030405060708 aa0602ffff ad06 01020304 0a0161 1801');
    assert.deepEqual([found, flag], ['a', true]);
  });

  it('gives entries of a map without key or value their defaults', () => {
    assert.deepEqual(decode('920100').labels, new Map([['', '']]));
    assert.deepEqual(decode('a20100').named, new Map([['', NOTHING]]));
    assert.deepEqual(decode('9201 0d 0a095f5f70726f746f5f5f 1200'.replaceAll(' ', '')).labels, new Map([['__proto__', '']]));
  });

  it('copies its bytes out of the input', () => {
    const input = Buffer.from('12020102', 'hex');
    const { someBytes } = decodeMessage(EVERYTHING, input);
    input.fill(0);
    assert.deepEqual([...someBytes], [1, 2]);
    assert.equal(someBytes.buffer.byteLength, 2);
  });

  it('refuses what is malformed', () => {
    const cases: Record<string, string> = {
      'a cut tag': '80',
      'a cut number': '2080',
      'a cut length': '0a80',
      'cut text': '0a0561',
      'field number 0': '0001',
      'a field number that is too large': '80808080 10',
      'a tag of more than 32 bits': '88808080 8000',
      'a group': '0b0c',
      'wire type 6': '0e',
      'eleven bytes of number': '20 ffffffffffffffffffff01',
      'a number of 65 bits': '38 ffffffffffffffffff02',
      'text that is not UTF-8': '0a01ff',
      'an encoded surrogate': '0a03eda080',
      'overlong UTF-8': '0a02c080',
      'a key that is not UTF-8': '9201030a01ff',
      'text as a number': '0801',
      'a number as text': '220161',
      'a message as a number': '6001',
      'an int32 of 33 bits': '208080808010',
      'a uint32 of 33 bits': '288080808010',
      'a cut packed number': '720180',
      'a packed double of seven bytes': '7a0700000000000000',
      'a length beyond the message': '0affffffff0f',
    };
    for (const [what, bytes] of Object.entries(cases)) refused(() => decode(bytes), what);
  });

  it('is bounded in bytes, fields and depth', () => {
    refused(() => decodeMessage(EVERYTHING, Buffer.alloc(11), { ...DEFAULT_DECODE_LIMITS, maxBytes: 10 }), 'bytes');
    const four = { ...DEFAULT_DECODE_LIMITS, maxFields: 4 };
    assert.deepEqual(decodeMessage(EVERYTHING, Buffer.from('7203010203', 'hex'), four).numbers, [1, 2, 3]);
    refused(() => decodeMessage(EVERYTHING, Buffer.from('720401020304', 'hex'), four), 'packed numbers');
    refused(() => decodeMessage(EVERYTHING, Buffer.from('6208 1801180118011801', 'hex'), four), 'nested fields');
    refused(() => decode('6800'.repeat(70_000)), 'fields');
    let nested = '';
    const wrap = (inner: string): string =>
      hex(Buffer.concat([Buffer.from([0x62]), lengthOf(inner.length / 2), Buffer.from(inner, 'hex')]));
    for (let depth = 1; depth < 100; depth++) nested = wrap(nested);
    decode(nested);
    refused(() => decode(wrap(nested)), 'depth');
  });

  it('never fails but with its own error, whatever the bytes', () => {
    const mutated = everythings.chain((message) => {
      const bytes = encodeMessage(EVERYTHING, message);
      return fc
        .tuple(fc.nat(Math.max(0, bytes.length - 1)), fc.nat(255), fc.nat(bytes.length))
        .map(([at, byte, cut]) => Uint8Array.from(bytes.subarray(0, cut), (old, index) => (index === at ? byte : old)));
    });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
        try {
          decodeMessage(EVERYTHING, bytes);
        } catch (error) {
          assert.ok(error instanceof GrpcError, String(error));
        }
      }),
      { numRuns: 3_000 },
    );
  });

  it('is not sent with values that its fields cannot have', () => {
    const cases: Partial<Everything>[] = [
      { small: 2 ** 31 },
      { small: 1.5 },
      { small: Number.NaN },
      { smallUnsigned: -1 },
      { large: 2n ** 63n },
      { largeUnsigned: -1n },
      { numbers: [2 ** 31] },
      { text: 'half a pair: \ud800' },
      { labels: new Map([['\udc00', '']]) },
    ];
    for (const part of cases) {
      assert.throws(
        () => encode(part),
        (error) => error instanceof GrpcError && error.code === 'WEFT_GRPC_VALUE',
        JSON.stringify(Object.keys(part)),
      );
    }
  });
});

describe('the table of a message', () => {
  it('is held against the interface by the compiler', () => {
    interface Pair {
      readonly name: string;
      readonly size: bigint;
      readonly next: Pair | null;
    }
    const name = { number: 1, kind: 'string' } as const;
    const size = { number: 2, kind: 'uint64' } as const;
    const pair: MessageType<Pair> = messageType('test.Pair', () => ({ name, size, next: { number: 3, kind: pair } }));
    // @ts-expect-error: a field is missing
    messageType<Pair>('test.Pair', { name, size });
    // @ts-expect-error: a field has another type
    messageType<Pair>('test.Pair', { name, size: { number: 2, kind: 'uint32' }, next: { number: 3, kind: pair } });
    // @ts-expect-error: a message of another type
    messageType<Pair>('test.Pair', { name, size, next: { number: 3, kind: EVERYTHING } });
    // @ts-expect-error: a message that may be absent, but not in the interface
    messageType<{ pair: Pair }>('test.Holder', { pair: { number: 1, kind: pair } });
    // @ts-expect-error: null needs presence
    messageType<{ name: string | null }>('test.Holder', { name });
    // @ts-expect-error: a list is repeated
    messageType<{ name: readonly string[] }>('test.Holder', { name });
    // @ts-expect-error: not a Pair
    assert.throws(() => encodeMessage(pair, { name: 'a' }));
    assert.equal(hex(encodeMessage(pair, { name: 'a', size: 1n, next: null })), '0a01611001');
  });

  it('has each number once, and none that protobuf does not have', () => {
    const twice = messageType<{ a: string; b: string }>('test.Twice', {
      a: { number: 1, kind: 'string' },
      b: { number: 1, kind: 'string' },
    });
    const zero = messageType<{ a: string }>('test.Zero', { a: { number: 0, kind: 'string' } });
    for (const run of [() => twice.fields, () => zero.fields]) {
      assert.throws(run, (error) => error instanceof GrpcError && error.code === 'WEFT_GRPC_DEFINITION');
    }
  });
});

function lengthOf(value: number): Buffer {
  return value < 0x80 ? Buffer.from([value]) : Buffer.from([(value & 0x7f) | 0x80, value >> 7]);
}
