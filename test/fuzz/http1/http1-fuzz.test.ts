import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CORPUS } from './corpus.ts';
import { check, fuzz } from './http1-fuzz.ts';

const SECONDS = 5;

test('every seed: llhttp agrees, splitting changes nothing, nothing forbidden is forwarded', async () => {
  for (const seed of CORPUS) assert.equal(await check(seed, 1), null, JSON.stringify(seed));
});

test(`mutated requests for ${SECONDS} seconds: llhttp agrees, splitting changes nothing, nothing forbidden is forwarded`, async (context) => {
  const report = await fuzz(SECONDS, Date.now() % 2 ** 31);
  context.diagnostic(`${report.inputs} inputs, seed ${report.seed}`);
  assert.equal(report.failure, null, `seed ${report.seed}: ${JSON.stringify(report.failure)}`);
});
