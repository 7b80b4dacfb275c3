import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { GRPC_STATUS, GrpcStatusError } from '../../../src/grpc/grpc-error.ts';
import { decodeBinary, encodeBinary, Metadata } from '../../../src/grpc/metadata.ts';
import { frameMessage, MessageFraming } from '../../../src/grpc/message-framing.ts';
import { formatTimeout, parseTimeout } from '../../../src/grpc/timeout.ts';
import { decodeGrpcMessage, encodeGrpcMessage, grpcStatusOfHttp, readStatusFields, statusFields } from '../../../src/grpc/wire-status.ts';

describe('framing', () => {
  it('puts messages together from chunks that are cut anywhere', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 40 })),
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
        (messages, cuts) => {
          const bytes = Buffer.concat(messages.map(frameMessage));
          const framing = new MessageFraming(40);
          const read: Uint8Array[] = [];
          for (let at = 0, i = 0; at < bytes.length; i++) {
            const size = cuts[i % cuts.length] as number;
            for (const message of framing.push(bytes.subarray(at, at + size))) read.push(new Uint8Array(message));
            at += size;
          }
          assert.deepEqual(read, messages);
          assert.equal(framing.pending, 0);
        },
      ),
    );
  });

  it('holds the bytes of an unfinished message, not the reads that they came in', async () => {
    setFlagsFromString('--expose-gc');
    const collectGarbage = runInNewContext('gc') as () => void;
    const held = (): number => {
      collectGarbage();
      return process.memoryUsage().arrayBuffers;
    };
    const framing = new MessageFraming(1 << 20);
    framing.push(frameMessage(Buffer.alloc(1 << 20)).subarray(0, 5)).next();
    const before = held();
    for (let i = 0; i < 512; i++) framing.push(Buffer.allocUnsafeSlow(65_536).subarray(0, 1)).next();
    let grown = held() - before;
    // What the collector found is given back in the background.
    for (let turn = 0; turn < 100 && grown >= 1 << 20; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
      grown = held() - before;
    }
    assert.equal(framing.pending, 517);
    assert.ok(grown < 1 << 20, `${grown} bytes are held for 517`);
  });

  it('refuses by the header, before the message is there', () => {
    const status = (hex: string): unknown => {
      try {
        return [...new MessageFraming(16).push(Buffer.from(hex, 'hex'))];
      } catch (error) {
        return (error as GrpcStatusError).status;
      }
    };
    assert.deepEqual(status('0000000010'), []);
    assert.equal(status('0000000011'), GRPC_STATUS.RESOURCE_EXHAUSTED);
    assert.equal(status('0100000001'), GRPC_STATUS.UNIMPLEMENTED);
    assert.equal(status('0200000001'), GRPC_STATUS.UNIMPLEMENTED);
  });
});

describe('metadata', () => {
  it('gives a value that is there once, and all that are there', () => {
    const metadata = new Metadata(['a', '1', 'b', '2', 'b', '3', 'c-bin', 'AP8,gA==']);
    assert.deepEqual([metadata.get('a'), metadata.get('b'), metadata.get('z')], ['1', null, null]);
    assert.deepEqual(metadata.all('b'), ['2', '3']);
    assert.deepEqual(metadata.bytes('c-bin'), [Uint8Array.of(0, 255), Uint8Array.of(128)]);
    assert.throws(() => new Metadata(['c-bin', 'not base64!']).bytes('c-bin'), GrpcStatusError);
  });

  it('takes base64 with and without padding, and sends it without', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        assert.deepEqual(decodeBinary(encodeBinary(bytes)), bytes);
        assert.deepEqual(decodeBinary(Buffer.from(bytes).toString('base64')), bytes);
        assert.doesNotMatch(encodeBinary(bytes), /=/);
      }),
    );
  });
});

describe('a timeout', () => {
  it('has eight digits and a unit', () => {
    const read = ['1H', '2M', '3S', '4m', '5u', '1n', '0m', '99999999H'].map(parseTimeout);
    assert.deepEqual(read, [3_600_000, 120_000, 3_000, 4, 1, 1, 0, 2 ** 31 - 1]);
    for (const bad of ['', '1', 'm', '-1m', '1.5S', '1 m', '123456789m', '1s', '0x1m', '1mm']) assert.equal(parseTimeout(bad), null, bad);
    assert.deepEqual([0, 0.4, 250, 1e8].map(formatTimeout), ['0m', '1m', '250m', '100000S']);
  });
});

describe('the status of a call', () => {
  it('is written so that it can be read, with text and details', () => {
    assert.equal(readStatusFields(statusFields(null)), null);
    assert.equal(readStatusFields({}), undefined);
    const details = Uint8Array.of(8, 5);
    const error = new GrpcStatusError(GRPC_STATUS.NOT_FOUND, 'no § 100%', { details });
    assert.deepEqual(statusFields(error), {
      'grpc-status': '5',
      'grpc-message': 'no %C2%A7 100%25',
      'grpc-status-details-bin': 'CAU',
    });
    const read = readStatusFields(statusFields(error)) as GrpcStatusError;
    assert.deepEqual([read.status, read.message, read.details], [GRPC_STATUS.NOT_FOUND, 'no § 100%', details]);
  });

  it('is UNKNOWN when it is none', () => {
    for (const bad of ['', 'x', '17', '-1', '0x0', '1e0', '0000']) {
      assert.equal(readStatusFields({ 'grpc-status': bad })?.status, GRPC_STATUS.UNKNOWN, bad);
    }
  });

  it('carries any text in a header field, within its limit', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 100 }), (text) => {
        const encoded = encodeGrpcMessage(text);
        assert.match(encoded, /^(?! )[\x20-\x7e]*(?<! )$/);
        if (Buffer.byteLength(text) <= 1024) assert.equal(decodeGrpcMessage(encoded), text);
      }),
    );
    assert.equal(encodeGrpcMessage('x'.repeat(5_000)).length, 1024);
    assert.equal(decodeGrpcMessage('100% %zz'), '100% %zz');
  });

  it("comes from HTTP's where there is no other", () => {
    const statuses = [400, 401, 403, 404, 429, 502, 503, 504, 500, 301].map(grpcStatusOfHttp);
    assert.deepEqual(statuses, [13, 16, 7, 12, 14, 14, 14, 14, 2, 2]);
  });
});
