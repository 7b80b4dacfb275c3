import assert from 'node:assert/strict';
import { afterEach, it } from 'node:test';
import fc from 'fast-check';
import { CLIENT_PREFACE, FrameFlag, FrameType, writeFrameHeader } from '../../../src/transport/http2/frame.ts';
import { HpackEncoder } from '../../../src/transport/http2/hpack.ts';
import { settle } from '../../kit/stream-recorder.ts';
import { closeSessions, get, grpc, post, startSession } from './session-fixture.ts';

afterEach(closeSessions);

function frame(type: number, flags: number, id: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(9 + payload.length);
  writeFrameHeader(bytes, 0, payload.length, type, flags, id);
  payload.copy(bytes, 9);
  return bytes;
}

/** What a client sends for five requests, one of them denied. */
function conversation(): Buffer[] {
  const encoder = new HpackEncoder();
  const { endHeaders, endStream } = FrameFlag;
  const head = (id: number, fields: readonly string[], flags: number): Buffer =>
    frame(FrameType.headers, flags, id, Buffer.from(encoder.encode(fields)));
  return [
    CLIENT_PREFACE,
    frame(FrameType.settings, 0, 0, Buffer.from('000400010000', 'hex')),
    head(1, get('/a', 'x-a', '1'), endHeaders | endStream),
    head(3, post('/b', 'content-length', '5'), endHeaders),
    frame(FrameType.data, endStream, 3, Buffer.from('hello')),
    head(5, grpc('/shop.Items/Get'), endHeaders),
    frame(FrameType.data, 0, 5, Buffer.alloc(100)),
    frame(FrameType.windowUpdate, 0, 0, Buffer.from('00010000', 'hex')),
    head(5, ['x-trailer', '1'], endHeaders | endStream),
    head(7, get('/admin'), endHeaders | endStream),
    frame(FrameType.ping, 0, 0, Buffer.alloc(8)),
    head(9, post('/c'), endHeaders),
    frame(FrameType.resetStream, 0, 9, Buffer.from('00000008', 'hex')),
  ];
}

interface Edit {
  readonly kind: 'flip' | 'cut' | 'repeat' | 'drop' | 'swap';
  readonly at: number;
  readonly value: number;
}

function mutate(frames: readonly Buffer[], edits: readonly Edit[]): Buffer {
  const list = frames.map((bytes) => Buffer.from(bytes));
  let cut = Number.POSITIVE_INFINITY;
  for (const { kind, at, value } of edits) {
    const index = 1 + (at % (list.length - 1));
    const bytes = list[index] as Buffer;
    if (kind === 'flip') bytes[value % bytes.length] = (bytes[value % bytes.length] as number) ^ (1 << (at & 7));
    else if (kind === 'repeat') list.splice(index, 0, Buffer.from(bytes));
    else if (kind === 'drop' && list.length > 2) list.splice(index, 1);
    else if (kind === 'swap') list.push(...list.splice(index, 1));
    else cut = value;
  }
  const whole = Buffer.concat(list);
  return whole.subarray(0, Math.min(cut, whole.length));
}

const edit: fc.Arbitrary<Edit> = fc.record({
  kind: fc.constantFrom('flip', 'flip', 'flip', 'cut', 'repeat', 'drop', 'swap'),
  at: fc.nat(1000),
  value: fc.nat(2000),
});

it('whatever a client sends: nothing throws, nothing is forwarded that the gate did not allow, and every request is accounted for once', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { maxLength: 4 }), fc.integer({ min: 1, max: 200 }), async (edits, chunkSize) => {
      const { clientEnd, gate, application, session, exchanges, closes } = startSession({
        rawClient: true,
        downstream: { chunkSize },
        upstream: { chunkSize: 1 + (chunkSize % 50) },
      });
      clientEnd.write(mutate(conversation(), edits));
      await settle(4);
      const seen = application.arrived.length;
      const allowed = gate.asked.filter((asked) => !asked.includes(' /admin')).length;
      assert.ok(seen <= allowed, `${seen} arrived of ${allowed} that were allowed`);
      assert.ok(application.arrived.every(({ fields }) => !fields.some((field) => field.startsWith('/admin'))));
      assert.deepEqual(application.malformed, [], 'what is forwarded is well-formed');
      clientEnd.destroy();
      await settle(4);
      assert.equal(session.activeStreams, 0);
      assert.ok(exchanges.length >= gate.asked.length);
      assert.equal(closes.length, 1);
      if (edits.length === 0) assert.equal(exchanges.length, 5);
      closeSessions();
    }),
    { numRuns: 300 },
  );
});
