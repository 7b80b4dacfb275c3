import assert from 'node:assert/strict';
import { test } from 'node:test';
import { POLICY } from '../../../bench/peers/weft.ts';
import { type Sample, median, summarize, table } from '../../../bench/report.ts';
import { parseResult } from '../../../bench/wrk.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';

function sample(name: string, connections: number, rps: number, change: Partial<Sample> = {}): Sample {
  return { name, connections, rps, p50_us: 50, p99_us: 100, cpu_us_per_req: 0, rss_mb: 0, ...change };
}

/** What wrk and its script print. */
function result(failed: number): string {
  return `Running\nRESULT {"requests":1000,"duration":2000000,"p50":40,"p99":90,"failed":${failed}}\n`;
}

test('the report has medians over the rounds, and the share of direct for each number of connections', () => {
  const cost = { cpu_us_per_req: 25.123, rss_mb: 80.04 };
  const report = summarize('same-node', [
    ...[90_000, 10, 100_000].map((rps) => sample('direct', 16, rps)),
    ...[30_000, 45_000, 99_000].map((rps) => sample('weft', 16, rps, cost)),
    sample('direct', 64, 80_000),
    sample('weft', 64, 20_000, cost),
  ]);
  assert.deepEqual(report, {
    scenario: 'same-node',
    runs: [
      { name: 'direct', connections: 16, rps: 90_000, p50_us: 50, p99_us: 100, cpu_us_per_req: 0, rss_mb: 0 },
      { name: 'weft', connections: 16, rps: 45_000, p50_us: 50, p99_us: 100, cpu_us_per_req: 25.12, rss_mb: 80 },
      { name: 'direct', connections: 64, rps: 80_000, p50_us: 50, p99_us: 100, cpu_us_per_req: 0, rss_mb: 0 },
      { name: 'weft', connections: 64, rps: 20_000, p50_us: 50, p99_us: 100, cpu_us_per_req: 25.12, rss_mb: 80 },
    ],
    ratios: { weft_over_direct: { 16: 0.5, 64: 0.25 } },
  });
  assert.match(table(report), /^weft +16 +45000 +0\.50 +50 +100 +25\.1 +80$/m);
});

test('the median of an even number of values lies between the two in the middle', () => {
  assert.equal(median([4, 1, 100, 2]), 3);
  assert.equal(median([7]), 7);
});

test('a load with failed requests is no figure', () => {
  assert.deepEqual(parseResult(result(0), ''), { requests: 1000, requestsPerSecond: 500, p50Microseconds: 40, p99Microseconds: 90 });
  assert.throws(() => parseResult(result(3), ''), /3 requests failed/);
  assert.throws(() => parseResult('', 'unable to connect'), /unable to connect/);
});

test('the policy that is measured is one that Weft accepts', () => {
  assert.deepEqual(parseResources(JSON.stringify(POLICY), 'policy.yaml').problems, []);
});
