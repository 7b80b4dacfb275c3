import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { AuthorisationError } from '../../../proxy/external-authorisation/authorisation-error.ts';
import { ANSWER_LIMITS, type CheckAnswer, checkRequest, readCheckResponse } from '../../../proxy/external-authorisation/check-messages.ts';
import { CHECK } from '../../../proxy/external-authorisation/check-types.ts';
import { GrpcError } from '../../../src/grpc/grpc-error.ts';
import { decodeMessage, encodeMessage } from '../../../src/grpc/message.ts';
import { type ProtobufField, ProtobufWriter } from '../../../src/grpc/protobuf.ts';
import { protobufFields } from '../../kit/protobuf-fields.ts';
import { CONNECTION, head } from '../gate/fixtures.ts';

function decodeCheckResponse(bytes: Uint8Array): CheckAnswer {
  return readCheckResponse(decodeMessage(CHECK.response, bytes, ANSWER_LIMITS));
}

/** A CheckResponse as other people's encoder makes it: bytes in hexadecimal. */
function decode(hex: string): CheckAnswer {
  return decodeCheckResponse(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
}

function headerOption(name: string, value: string, append = false): (writer: ProtobufWriter) => void {
  return (option) => {
    option.message(1, (header) => header.string(1, name).string(2, value));
    if (append) option.message(2, (flag) => flag.varint(1, 1));
  };
}

/** The value of the field that a path of field numbers leads to. */
function at(bytes: Uint8Array, ...path: number[]): ProtobufField | undefined {
  const [field, ...rest] = path;
  const found = protobufFields(bytes).find((each) => each.field === field);
  return found === undefined || rest.length === 0 ? found : at(found.bytes, ...rest);
}

describe('a CheckRequest', () => {
  const request = head(
    [
      ['accept', 'a'],
      ['accept', 'b'],
      ['cookie', 'x=1'],
      ['cookie', 'y=2'],
      ['x-request-id', 'r-1'],
    ],
    { method: 'POST', path: '/items', query: 'a=1&b=2' },
  );
  const bytes = encodeMessage(
    CHECK.request,
    checkRequest(request, { ...CONNECTION, destinationIdentity: 'spiffe://cluster.local/ns/shop/sa/items' }),
  );
  const text = (...path: number[]): string | undefined => at(bytes, 1, ...path)?.bytes.toString();

  it('says who asks whom', () => {
    assert.equal(text(1, 1, 1, 2), '10.1.2.3');
    assert.equal(text(1, 4), 'spiffe://cluster.local/ns/shop/sa/web');
    assert.equal(text(2, 1, 1, 2), '10.9.9.9');
    assert.equal(at(bytes, 1, 2, 1, 1, 3)?.value, 8080n);
    assert.equal(text(2, 4), 'spiffe://cluster.local/ns/shop/sa/items');
  });

  it('says what is asked for, with each header once', () => {
    assert.equal(text(4, 2, 1), 'r-1');
    assert.equal(text(4, 2, 2), 'POST');
    assert.equal(text(4, 2, 4), '/items?a=1&b=2');
    assert.equal(text(4, 2, 5), 'items.shop');
    assert.equal(text(4, 2, 6), 'http');
    assert.equal(at(bytes, 1, 4, 2, 7), undefined);
    const http = at(bytes, 1, 4, 2)?.bytes as Buffer;
    const headers = protobufFields(http)
      .filter(({ field }) => field === 3)
      .map((entry) => [at(entry.bytes, 1)?.bytes.toString(), at(entry.bytes, 2)?.bytes.toString()]);
    assert.deepEqual(Object.fromEntries(headers), {
      ':authority': 'items.shop',
      ':method': 'POST',
      ':path': '/items?a=1&b=2',
      ':scheme': 'http',
      accept: 'a,b',
      cookie: 'x=1; y=2',
      'x-request-id': 'r-1',
    });
    assert.equal(headers.length, 7);
  });

  it('names no principal of a plaintext peer', () => {
    const plaintext = encodeMessage(CHECK.request, checkRequest(request, { ...CONNECTION, sourceIdentity: null }));
    assert.equal(at(plaintext, 1, 1, 4), undefined);
    assert.equal(at(plaintext, 1, 2, 4), undefined);
  });
});

describe('a CheckResponse', () => {
  it('allows with status OK, also when its zero is left out', () => {
    const yes = { allow: true, change: null, refusal: null };
    assert.deepEqual(decode('0a00'), yes);
    assert.deepEqual(decode('0a02 0800'), yes);
    assert.deepEqual(decode('1a00'), yes);
  });

  it('denies with any other status', () => {
    const no = { allow: false, change: null, refusal: null };
    assert.deepEqual(decode('0a02 0807'), no);
    // -1, in ten bytes.
    assert.deepEqual(decode('0a0b 08ffffffffffffffffff01'), no);
    assert.deepEqual(decode('0a02 0807 1a00'), no);
    // A status in two parts, one of which says 7.
    assert.deepEqual(decode('0a00 0a02 0807'), no);
    assert.deepEqual(decode('0a02 0807 0a00'), no);
  });

  it('denies when it contradicts itself, and says nothing when it is empty', () => {
    assert.equal(decode('0a00 1200').allow, false);
    assert.throws(() => decode(''), AuthorisationError);
    assert.throws(() => decode('2200'), AuthorisationError);
  });

  it("brings the client's answer: status, headers, body", () => {
    const bytes = new ProtobufWriter()
      .message(1, (status) => status.varint(1, 16))
      .message(2, (denied) =>
        denied
          .message(1, (status) => status.varint(1, 401))
          .message(2, headerOption('WWW-Authenticate', 'Basic'))
          .message(2, headerOption('Content-Length', '7'))
          .message(2, headerOption('x-name', 'Zoë'))
          .string(3, 'no'),
      )
      .finish();
    assert.deepEqual(decodeCheckResponse(bytes).refusal, {
      status: 401,
      headers: [
        ['www-authenticate', 'Basic'],
        ['x-name', Buffer.from('Zoë').toString('latin1')],
      ],
      body: 'no',
    });
  });

  it('never lets a denial out with a status that ends nothing', () => {
    for (const code of [0, 1, 100, 101, 199, 600, 2 ** 40]) {
      const bytes = new ProtobufWriter()
        .message(1, (status) => status.varint(1, 7))
        .message(2, (denied) => denied.message(1, (status) => status.varint(1, code)))
        .finish();
      assert.equal(decodeCheckResponse(bytes).refusal?.status, 403);
    }
  });

  it('changes the request: replaced, appended and removed, never what frames or routes it', () => {
    const bytes = new ProtobufWriter()
      .message(1, () => {})
      .message(3, (ok) =>
        ok
          .message(2, headerOption('X-User', 'ann'))
          .message(2, headerOption('x-more', 'b', true))
          .message(2, headerOption('host', 'evil'))
          .message(2, headerOption(':path', '/admin'))
          .message(2, headerOption('transfer-encoding', 'chunked'))
          .string(5, 'Authorization')
          .string(5, 'Host')
          .string(5, ':method'),
      )
      .finish();
    const { change } = decodeCheckResponse(bytes);
    assert.deepEqual([...(change?.remove ?? [])], ['authorization', 'x-user']);
    assert.deepEqual(
      [...(change?.set ?? [])],
      [
        ['x-user', 'ann'],
        ['x-more', 'b'],
      ],
    );
  });

  it('is refused whole for a header with a line end in it', () => {
    const bytes = new ProtobufWriter()
      .message(1, () => {})
      .message(3, (ok) => ok.message(2, headerOption('x-a', 'b\r\nx-admin: yes')))
      .finish();
    assert.throws(() => decodeCheckResponse(bytes), AuthorisationError);
  });

  it('is refused when it is cut, of another type, or too much', () => {
    for (const hex of [
      '0a',
      '0aff',
      '0a05 0800',
      '08',
      '0800',
      '0d00',
      '0b',
      '0a02 0a00',
      'ffffffffffffffffffffff',
      '00',
      '0a06 08ffffffff',
      `${'2200'.repeat(2_100)}0a00`,
    ]) {
      assert.throws(() => decode(hex), GrpcError, hex.slice(0, 20));
    }
  });

  it('never throws anything but its own errors, and never allows random bytes without a word of OK', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          const answer = decodeCheckResponse(Buffer.from(bytes));
          if (answer.allow) assert.ok(protobufFields(bytes).some(({ field }) => field === 1 || field === 3));
        } catch (error) {
          assert.ok(error instanceof AuthorisationError || error instanceof GrpcError, String(error));
        }
      }),
      { numRuns: 5_000 },
    );
  });
});
