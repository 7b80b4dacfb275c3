import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryStreamPair } from '../../kit/memory-stream.ts';
import { StreamRecorder, settle } from '../../kit/stream-recorder.ts';

test('bytes written to one end arrive at the other in order, after the write returned', async () => {
  const [a, b] = memoryStreamPair();
  const reader = new StreamRecorder(b);
  a.write(Buffer.from('one '));
  a.write(Buffer.from('two'));
  assert.equal(reader.text(), '');
  await settle();
  assert.equal(reader.text(), 'one two');
  assert.equal(a.bytesWritten, 7);
  assert.equal(b.bytesRead, 7);
});

test('a chunk size splits what was written', async () => {
  const [a, b] = memoryStreamPair({ chunkSize: 2 });
  const reader = new StreamRecorder(b);
  a.write(Buffer.from('hello'));
  await settle();
  assert.deepEqual(reader.chunks.map(String), ['he', 'll', 'o']);
});

test('nothing is delivered while paused, and the end waits for the data', async () => {
  const [a, b] = memoryStreamPair();
  const reader = new StreamRecorder(b, false);
  a.write(Buffer.from('x'));
  a.end();
  await settle();
  assert.equal(reader.chunks.length, 0);
  assert.equal(reader.ended, false);
  b.resume();
  await settle();
  assert.equal(reader.text(), 'x');
  assert.equal(reader.ended, true);
  assert.equal(reader.closed, false);
});

test('write reports a full buffer and drains once it was read', async () => {
  const [a, b] = memoryStreamPair({ highWaterMark: 4 });
  const writer = new StreamRecorder(a);
  const reader = new StreamRecorder(b, false);
  assert.equal(a.write(Buffer.from('123')), true);
  assert.equal(a.write(Buffer.from('45')), false);
  await settle();
  assert.equal(writer.drains, 0);
  b.resume();
  await settle();
  assert.equal(writer.drains, 1);
  assert.equal(reader.text(), '12345');
});

test('ends in both directions close both ends without error', async () => {
  const [a, b] = memoryStreamPair();
  const left = new StreamRecorder(a);
  const right = new StreamRecorder(b);
  a.end();
  await settle();
  assert.equal(right.ended, true);
  b.write(Buffer.from('still open'));
  b.end();
  await settle();
  assert.equal(left.text(), 'still open');
  assert.deepEqual([left.closed, left.error, right.closed, right.error], [true, null, true, null]);
});

test('destroy closes this end with the error given and the other with a reset, in a later turn', async () => {
  const [a, b] = memoryStreamPair();
  const left = new StreamRecorder(a);
  const right = new StreamRecorder(b);
  const reason = new Error('because');
  a.destroy(reason);
  assert.equal(left.closed, false);
  await settle();
  assert.equal(left.error, reason);
  assert.equal((right.error as NodeJS.ErrnoException).code, 'ECONNRESET');
});
