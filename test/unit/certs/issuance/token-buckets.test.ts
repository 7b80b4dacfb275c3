import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TokenBuckets } from '../../../../certs/issuance/token-buckets.ts';

test('a caller may do its burst at once, and then so many a second', () => {
  let now = 0;
  const buckets = new TokenBuckets({ perSecond: 2, burst: 3 }, { now: () => now });
  const takes = (count: number): boolean[] => Array.from({ length: count }, () => buckets.take('node-a'));
  assert.deepEqual(takes(4), [true, true, true, false]);
  now += 1_000;
  assert.deepEqual(takes(3), [true, true, false]);
  now += 60_000;
  assert.deepEqual(takes(4), [true, true, true, false]);
});

test('one caller does not use what another has', () => {
  const buckets = new TokenBuckets({ perSecond: 1, burst: 1 }, { now: () => 0 });
  assert.deepEqual([buckets.take('a'), buckets.take('a'), buckets.take('b')], [true, false, true]);
});

test('a clock that is set back fills nothing', () => {
  let now = 100_000;
  const buckets = new TokenBuckets({ perSecond: 1, burst: 1 }, { now: () => now });
  assert.equal(buckets.take('a'), true);
  now = 0;
  assert.equal(buckets.take('a'), false);
});

test('ever new callers do not use ever more memory', () => {
  const buckets = new TokenBuckets({ perSecond: 1, burst: 1 }, { now: () => 0 });
  for (let caller = 0; caller < 20_000; caller++) buckets.take(`address ${caller}`);
  assert.equal(buckets.size, 16_384);
});
