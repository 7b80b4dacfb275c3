import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Http2Error } from '../../../src/transport/http2/errors.ts';
import { FrameReader, FrameType, type FrameSink, writeFrameHeader } from '../../../src/transport/http2/frame.ts';

/** Writes down what it is told; pieces of one DATA frame are joined. */
class Log implements FrameSink {
  readonly events: string[] = [];
  #data: { id: number; bytes: number[]; flow: number } | null = null;

  onDataFrame(id: number, payload: Buffer, flow: number, end: boolean): void {
    this.#data ??= { id, bytes: [], flow: 0 };
    this.#data.bytes.push(...payload);
    this.#data.flow += flow;
    if (end) this.seal(true);
  }
  /** DATA without END_STREAM: what came up to the next frame is one body. */
  seal(end = false): void {
    if (this.#data === null) return;
    const { id, bytes, flow } = this.#data;
    this.#data = null;
    this.events.push(`data ${id} ${Buffer.from(bytes).toString('hex')} flow=${flow} ${end}`);
  }
  #add(text: string): void {
    this.seal();
    this.events.push(text);
  }
  onHeaders(id: number, fragment: Buffer, endStream: boolean, endHeaders: boolean): void {
    this.#add(`headers ${id} ${fragment.toString('hex')} ${endStream} ${endHeaders}`);
  }
  onContinuation(fragment: Buffer, endHeaders: boolean): void {
    this.#add(`continuation ${fragment.toString('hex')} ${endHeaders}`);
  }
  onReset(id: number, code: number): void {
    this.#add(`reset ${id} ${code}`);
  }
  onSettings(payload: Buffer): void {
    this.#add(`settings ${payload.toString('hex')}`);
  }
  onSettingsAck(): void {
    this.#add('settings ack');
  }
  onPing(payload: Buffer): void {
    this.#add(`ping ${payload.toString('hex')}`);
  }
  onPingAck(payload: Buffer): void {
    this.#add(`ping ack ${payload.toString('hex')}`);
  }
  onGoaway(last: number, code: number, debug: string): void {
    this.#add(`goaway ${last} ${code} ${debug}`);
  }
  onWindowUpdate(id: number, increment: number): void {
    this.#add(`window ${id} ${increment}`);
  }
  onIgnored(type: number): void {
    this.#add(`ignored ${type}`);
  }
  onStreamError(id: number, code: number): void {
    this.#add(`stream error ${id} ${code}`);
  }
}

const LIMITS = { maxFrameSize: 16_384, maxHeaderBlock: 8192 };

function frame(type: number, flags: number, id: number, payload: string | Buffer = ''): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload.replaceAll(' ', ''), 'hex') : payload;
  const bytes = Buffer.alloc(9 + body.length);
  writeFrameHeader(bytes, 0, body.length, type, flags, id);
  body.copy(bytes, 9);
  return bytes;
}

function read(...chunks: Buffer[]): string[] {
  const log = new Log();
  const reader = new FrameReader(log, LIMITS);
  for (const chunk of chunks) reader.read(chunk);
  log.seal();
  return log.events;
}

function refuses(code: number, ...chunks: Buffer[]): void {
  assert.throws(
    () => read(...chunks),
    (error: Error) => error instanceof Http2Error && error.http2Code === code,
  );
}

const EVERY = Buffer.concat([
  frame(FrameType.settings, 0, 0, '0003 00000064 0004 00100000'),
  frame(FrameType.settings, 1, 0),
  frame(FrameType.headers, 4, 1, '828684'),
  frame(FrameType.headers, 0x8 | 0x20 | 4, 3, '02 80000001ff 82 0000'),
  frame(FrameType.headers, 1, 5, '82'),
  frame(FrameType.continuation, 0, 5, '86'),
  frame(FrameType.continuation, 4, 5, '84'),
  frame(FrameType.data, 0, 1, 'aabbccddee'),
  frame(FrameType.priority, 0, 1, '0000000010'),
  frame(FrameType.data, 0x8 | 1, 1, '03 ffee 000000'),
  frame(FrameType.data, 0x8, 3, '00'),
  frame(FrameType.resetStream, 0, 3, '00000008'),
  frame(FrameType.ping, 0, 0, '0102030405060708'),
  frame(FrameType.ping, 1, 0, '0102030405060708'),
  frame(FrameType.windowUpdate, 0, 0, '7fffffff'),
  frame(FrameType.windowUpdate, 0, 7, '80000001'),
  frame(0xfa, 0xff, 9, '00112233'),
  frame(FrameType.windowUpdate, 0, 7, '00000000'),
  frame(FrameType.goaway, 0, 0, '80000005 0000000b 6279 65'),
]);
const EVENTS = [
  'settings 000300000064000400100000',
  'settings ack',
  'headers 1 828684 false true',
  'headers 3 82 false true',
  'headers 5 82 true false',
  'continuation 86 false',
  'continuation 84 true',
  'data 1 aabbccddee flow=5 false',
  'ignored 2',
  'data 1 ffee flow=6 true',
  'data 3  flow=1 false',
  'reset 3 8',
  'ping 0102030405060708',
  'ping ack 0102030405060708',
  'window 0 2147483647',
  'window 7 1',
  'ignored 250',
  'stream error 7 1',
  'goaway 5 11 bye',
];

describe('frame reader', () => {
  it('reads every type', () => {
    assert.deepEqual(read(EVERY), EVENTS);
  });

  it('reads the same however the bytes are cut', () => {
    for (let cut = 1; cut < EVERY.length; cut++) assert.deepEqual(read(EVERY.subarray(0, cut), EVERY.subarray(cut)), EVENTS);
    assert.deepEqual(read(...Array.from(EVERY, (_, i) => EVERY.subarray(i, i + 1))), EVENTS);
  });

  it('passes DATA on as it comes, without copying', () => {
    const seen: Buffer[] = [];
    const log = new Log();
    log.onDataFrame = (_id, payload) => void seen.push(payload);
    const reader = new FrameReader(log, LIMITS);
    const whole = frame(FrameType.data, 0, 1, Buffer.alloc(10_000, 1));
    const first = whole.subarray(0, 4000);
    reader.read(first);
    assert.equal(seen.length, 1);
    assert.equal(seen[0]?.length, 3991);
    assert.equal(seen[0]?.buffer, first.buffer);
  });

  it('refuses wrong sizes with FRAME_SIZE_ERROR', () => {
    refuses(6, frame(FrameType.data, 0, 1, Buffer.alloc(16_385)).subarray(0, 9));
    refuses(6, frame(FrameType.ping, 0, 0, '00'));
    refuses(6, frame(FrameType.resetStream, 0, 1, '0000'));
    refuses(6, frame(FrameType.windowUpdate, 0, 1, '00'));
    refuses(6, frame(FrameType.settings, 0, 0, '0003000000'));
    refuses(6, frame(FrameType.settings, 1, 0, '000300000064'));
    refuses(6, frame(FrameType.goaway, 0, 0, '00000000'));
    refuses(6, frame(FrameType.data, 8, 1, ''));
    refuses(6, frame(FrameType.headers, 8, 1, ''));
    refuses(6, frame(FrameType.headers, 0x20, 1, '000000'));
  });

  it('refuses wrong streams, padding and order with PROTOCOL_ERROR', () => {
    for (const type of [FrameType.data, FrameType.headers, FrameType.priority, FrameType.resetStream])
      refuses(1, frame(type, 0, 0, '00000000'));
    for (const type of [FrameType.settings, FrameType.ping, FrameType.goaway]) refuses(1, frame(type, 0, 1, '0000000000000000'));
    refuses(1, frame(FrameType.data, 8, 1, '02 aa'));
    refuses(1, frame(FrameType.headers, 8, 1, '02 aa'));
    refuses(1, frame(FrameType.continuation, 4, 1, '82'));
    refuses(1, frame(FrameType.pushPromise, 4, 1, '00000002 82'));
    refuses(1, frame(FrameType.windowUpdate, 0, 0, '00000000'));
    const open = frame(FrameType.headers, 0, 1, '82');
    refuses(1, open, frame(FrameType.data, 0, 1, 'aa'));
    refuses(1, open, frame(FrameType.continuation, 4, 3, '82'));
    refuses(1, open, frame(0xfa, 0, 1, '82'));
    refuses(1, open, frame(FrameType.ping, 0, 0, '0000000000000000'));
  });

  it('refuses header blocks and control frames that are too large before they came', () => {
    refuses(11, frame(FrameType.headers, 4, 1, Buffer.alloc(8193)).subarray(0, 9));
    refuses(11, frame(FrameType.headers, 0, 1, '82'), frame(FrameType.continuation, 4, 1, Buffer.alloc(8193)).subarray(0, 9));
  });

  it('a PRIORITY of the wrong size costs its stream only', () => {
    assert.deepEqual(read(frame(FrameType.priority, 0, 3, '00'), frame(FrameType.ping, 0, 0, '0000000000000000')), [
      'stream error 3 6',
      'ping 0000000000000000',
    ]);
  });

  it('survives any bytes with an Http2Error at worst', () => {
    const anyFrame = fc
      .tuple(
        fc.integer({ min: 0, max: 10 }),
        fc.integer({ min: 0, max: 255 }),
        fc.integer({ min: 0, max: 5 }),
        fc.uint8Array({ maxLength: 20 }),
      )
      .map(([type, flags, id, payload]) => frame(type, flags, id, Buffer.from(payload)));
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            anyFrame,
            fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
          ),
          { maxLength: 8 },
        ),
        (chunks) => {
          try {
            read(...chunks);
          } catch (error) {
            assert.ok(error instanceof Http2Error);
          }
        },
      ),
      { numRuns: 3000 },
    );
  });
});
