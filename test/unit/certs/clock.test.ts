import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { callAt, type Clock, sleep } from '../../../certs/clock.ts';
import { ManualClock } from './manual-clock.ts';

const HOUR_MS = 3_600_000;

test('a call waits for the wall clock, also when that is set back meanwhile', async () => {
  const timers = new ManualClock(0);
  let setBackMs = 0;
  const clock: Clock = { now: () => timers.now() - setBackMs, after: (ms, callback) => timers.after(ms, callback) };
  let calls = 0;
  callAt(clock, HOUR_MS, () => calls++);
  setBackMs = HOUR_MS;
  await timers.advance(HOUR_MS);
  assert.equal(calls, 0);
  await timers.advance(HOUR_MS);
  assert.deepEqual([calls, timers.timers], [1, 0]);
});

test('a cancelled call leaves no timer, whatever time has passed', async () => {
  const clock = new ManualClock(0);
  const cancel = callAt(clock, HOUR_MS, () => assert.fail('it was cancelled'));
  await clock.advance(HOUR_MS / 2);
  cancel();
  assert.equal(clock.timers, 0);
});

test('a sleep ends with its time or its signal, and leaves neither timer nor listener', async () => {
  const clock = new ManualClock(0);
  const { signal } = new AbortController();
  const slept = sleep(clock, 1_000, signal);
  await clock.advance(1_000);
  await slept;
  assert.deepEqual([clock.timers, getEventListeners(signal, 'abort').length], [0, 0]);

  const stop = new AbortController();
  const stopped = sleep(clock, 1_000, stop.signal);
  stop.abort();
  await stopped;
  await sleep(clock, 1_000, stop.signal);
  assert.deepEqual([clock.timers, getEventListeners(stop.signal, 'abort').length], [0, 0]);
});
