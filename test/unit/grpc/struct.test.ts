import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ANY, packAny, unpackAny } from '../../../src/grpc/any.ts';
import { GrpcError } from '../../../src/grpc/grpc-error.ts';
import { decodeMessage, encodeMessage } from '../../../src/grpc/message.ts';
import { type Json, STRUCT, structFromJson, structToJson, VALUE } from '../../../src/grpc/struct.ts';
import { EVERYTHING, NOTHING } from './message-fixture.ts';

const code = (wanted: string) => (error: unknown) => error instanceof GrpcError && error.code === wanted;

function nested(levels: number): { [key: string]: Json } {
  let json: { [key: string]: Json } = {};
  for (let level = 1; level < levels; level++) json = { a: json };
  return json;
}

describe('a Struct', () => {
  it('carries JSON through the encoding', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue({ maxDepth: 4, stringUnit: 'grapheme' })), (json) => {
        const struct = structFromJson(json as { [key: string]: Json });
        assert.equal(
          JSON.stringify(structToJson(decodeMessage(STRUCT, encodeMessage(STRUCT, struct)))),
          JSON.stringify(Object.fromEntries(Object.entries(json))),
        );
      }),
      { numRuns: 200 },
    );
  });

  it('keeps keys such as __proto__ what they are', () => {
    const json = JSON.parse('{"__proto__":{"admin":true}}') as { [key: string]: Json };
    const read = structToJson(structFromJson(json));
    assert.deepEqual([Object.keys(read), 'admin' in read], [['__proto__'], false]);
  });

  it('has thirty levels at most, and what it may have can be read', () => {
    const deep = structFromJson(nested(30));
    assert.equal(JSON.stringify(structToJson(decodeMessage(STRUCT, encodeMessage(STRUCT, deep)))), JSON.stringify(nested(30)));
    assert.throws(() => structFromJson(nested(31)), code('WEFT_GRPC_VALUE'));
    const deeper = { fields: new Map([['a', { ...decodeMessage(VALUE, new Uint8Array(0)), structValue: deep }]]) };
    assert.throws(() => structToJson(deeper), code('WEFT_GRPC_MALFORMED'));
  });

  it('has only what JSON has', () => {
    assert.throws(() => structFromJson({ a: Number.NaN }), code('WEFT_GRPC_VALUE'));
    assert.throws(() => structFromJson({ a: Number.POSITIVE_INFINITY }), code('WEFT_GRPC_VALUE'));
    const holding = (hex: string) => ({ fields: new Map([['a', decodeMessage(VALUE, Buffer.from(hex, 'hex'))]]) });
    assert.throws(() => structToJson(holding('')), code('WEFT_GRPC_MALFORMED'));
    assert.throws(() => structToJson(holding('11000000000000f07f')), code('WEFT_GRPC_MALFORMED'));
    assert.equal(structToJson(holding('0800'))['a'], null);
  });
});

describe('an Any', () => {
  it('holds a message of the type that it names, and no other', () => {
    const any = packAny(EVERYTHING, { ...NOTHING, text: 'a' });
    assert.equal(any.typeUrl, 'type.googleapis.com/test.Everything');
    assert.equal(unpackAny(EVERYTHING, decodeMessage(ANY, encodeMessage(ANY, any))).text, 'a');
    assert.throws(() => unpackAny(STRUCT, any), code('WEFT_GRPC_MALFORMED'));
    assert.throws(() => unpackAny(EVERYTHING, { ...any, typeUrl: 'test.Everything' }), code('WEFT_GRPC_MALFORMED'));
  });
});
