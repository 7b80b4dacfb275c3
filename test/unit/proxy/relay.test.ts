import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { relay } from '../../../proxy/relay.ts';
import { type MemoryStream, type MemoryStreamOptions, memoryStreamPair } from '../../kit/memory-stream.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';

interface Relayed {
  readonly left: StreamRecorder;
  readonly right: StreamRecorder;
  readonly leftEnd: MemoryStream;
  readonly rightEnd: MemoryStream;
  /** The errors that `done` was called with. */
  readonly done: (Error | null)[];
}

function relayed(options: MemoryStreamOptions = {}, rightFlowing = true): Relayed {
  const [leftEnd, a] = memoryStreamPair(options);
  const [rightEnd, b] = memoryStreamPair(options);
  const left = new StreamRecorder(leftEnd);
  const right = new StreamRecorder(rightEnd, rightFlowing);
  const done: (Error | null)[] = [];
  relay(a, b, (error) => done.push(error));
  return { left, right, leftEnd, rightEnd, done };
}

describe('a relay', () => {
  it('carries bytes both ways, in order', async () => {
    const { left, right } = relayed({ chunkSize: 3 });
    left.send('a request');
    right.send('an answer');
    await settle();
    assert.equal(right.text(), 'a request');
    assert.equal(left.text(), 'an answer');
  });

  it('passes a half-close on, while the other direction goes on', async () => {
    const { left, right, done } = relayed();
    left.send('all I have');
    left.stream.end();
    await settle();
    assert.equal(right.ended, true);
    assert.equal(left.ended, false);
    right.send('late answer');
    await settle();
    assert.equal(left.text(), 'late answer');
    assert.deepEqual(done, []);
    right.stream.end();
    await settle();
    assert.deepEqual(done, [null]);
    assert.equal(left.error, null);
  });

  it('aborts the other side when one is aborted, and says so once', async () => {
    const { left, right, done } = relayed();
    left.stream.destroy();
    await settle();
    assert.equal(right.closed, true);
    assert.notEqual(right.error, null);
    assert.equal(done.length, 1);
    assert.match(String(done[0]), /reset/);
  });

  it('aborts a half-closed connection whose other half is aborted', async () => {
    const { left, right, done } = relayed();
    left.stream.end();
    await settle();
    right.stream.destroy();
    await settle();
    assert.equal(left.closed, true);
    assert.equal(done.length, 1);
  });

  it('holds no more than a reader that stops reading lets it', async () => {
    const limit = 1_000;
    const { left, right, rightEnd, leftEnd } = relayed({ highWaterMark: limit }, false);
    let sent = 0;
    while (sent < 20_000 && left.send('x'.repeat(500))) {
      sent += 500;
      await settle(2);
    }
    assert.ok(sent < 4 * limit, `${sent} bytes were taken`);
    assert.equal(right.text(), '');
    rightEnd.resume();
    await settle(20);
    assert.equal(right.bytes().length, leftEnd.bytesWritten);
    assert.ok(left.drains > 0, 'the writer was told to go on');
  });

  it('loses and reorders nothing, whatever the chunks and the limits', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ minLength: 1, maxLength: 40 }), { maxLength: 30 }),
        fc.integer({ min: 1, max: 64 }),
        fc.integer({ min: 1, max: 16 }),
        async (texts, highWaterMark, chunkSize) => {
          const { left, right, done } = relayed({ highWaterMark, chunkSize });
          const bytes = Buffer.concat(texts.map((text) => Buffer.from(text)));
          for (const text of texts) left.stream.write(Buffer.from(text));
          left.stream.end();
          right.stream.end();
          for (let turn = 0; turn < 200 && done.length === 0; turn++) await settle(1);
          assert.deepEqual(right.bytes(), bytes);
          assert.deepEqual(done, [null]);
        },
      ),
      { numRuns: 60 },
    );
  });
});
