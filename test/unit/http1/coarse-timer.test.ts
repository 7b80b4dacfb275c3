import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CoarseTimers } from '../../../proxy/coarse-timer.ts';

test('a timer expires once, after its time and within two ticks more', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const timers = new CoarseTimers(10);
  let expired = 0;
  const timer = timers.timer(() => expired++);
  timer.arm(25);
  context.mock.timers.tick(25);
  assert.equal(expired, 0);
  context.mock.timers.tick(20);
  assert.equal(expired, 1);
  assert.equal(timer.armed, false);
  context.mock.timers.tick(1000);
  assert.equal(expired, 1);
});

test('a timer armed just before a tick does not expire early', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const timers = new CoarseTimers(10);
  let expired = 0;
  timers.timer(() => {}).arm(1000);
  context.mock.timers.tick(9);
  timers.timer(() => expired++).arm(10);
  context.mock.timers.tick(9);
  assert.equal(expired, 0);
  context.mock.timers.tick(12);
  assert.equal(expired, 1);
});

test('a timer that was disarmed or moved does not expire at the old time', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const timers = new CoarseTimers(10);
  const expired: string[] = [];
  const disarmed = timers.timer(() => expired.push('disarmed'));
  const moved = timers.timer(() => expired.push('moved'));
  disarmed.arm(20);
  moved.arm(20);
  disarmed.disarm();
  context.mock.timers.tick(15);
  moved.arm(200);
  context.mock.timers.tick(150);
  assert.deepEqual(expired, []);
  context.mock.timers.tick(100);
  assert.deepEqual(expired, ['moved']);
});

test('a timer may be armed again from its own expiry', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const timers = new CoarseTimers(10);
  let expired = 0;
  const timer = timers.timer(() => {
    expired++;
    if (expired < 3) timer.arm(10);
  });
  timer.arm(10);
  context.mock.timers.tick(500);
  assert.equal(expired, 3);
});

test('the interval runs only while a timer is armed', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const started = context.mock.method(globalThis, 'setInterval');
  const stopped = context.mock.method(globalThis, 'clearInterval');
  const timers = new CoarseTimers(10);
  const timer = timers.timer(() => {});
  const running = (): number => started.mock.callCount() - stopped.mock.callCount();
  assert.equal(running(), 0);
  timer.arm(10);
  timer.arm(20);
  assert.equal(running(), 1);
  context.mock.timers.tick(100);
  assert.equal(running(), 0);
  timer.arm(10);
  assert.equal(running(), 1);
  timer.disarm();
  context.mock.timers.tick(20);
  assert.equal(running(), 0);
});
