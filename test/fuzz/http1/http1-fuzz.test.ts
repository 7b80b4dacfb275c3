import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CORPUS } from './corpus.ts';
import { check, fuzz } from './http1-fuzz.ts';
import { RESPONSE_CORPUS } from './response-corpus.ts';
import { checkResponse, fuzzResponses } from './response-fuzz.ts';

const SECONDS = 4;

test('every seed: llhttp agrees, splitting changes nothing, nothing forbidden is forwarded', async () => {
  for (const seed of CORPUS) assert.equal(await check(seed, 1), null, JSON.stringify(seed));
});

test(`mutated requests for ${SECONDS} seconds: llhttp agrees, splitting changes nothing, nothing forbidden is forwarded`, async (context) => {
  const report = await fuzz(SECONDS, Date.now() % 2 ** 31);
  context.diagnostic(`${report.inputs} inputs, seed ${report.seed}`);
  assert.equal(report.failure, null, `seed ${report.seed}: ${JSON.stringify(report.failure)}`);
});

test('every seed response: llhttp agrees, splitting changes nothing, no answer for another request', async () => {
  for (const seed of RESPONSE_CORPUS) {
    for (const method of ['GET', 'HEAD']) assert.equal(await checkResponse(seed, 1, method), null, `${method} ${JSON.stringify(seed)}`);
  }
});

test(`mutated responses for ${SECONDS} seconds: llhttp agrees, splitting changes nothing, no answer for another request`, async (context) => {
  const report = await fuzzResponses(SECONDS, Date.now() % 2 ** 31);
  context.diagnostic(`${report.inputs} inputs, seed ${report.seed}`);
  assert.equal(report.failure, null, `seed ${report.seed}: ${JSON.stringify(report.failure)}`);
});
