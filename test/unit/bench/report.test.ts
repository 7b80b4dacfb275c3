import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DecisionFigure, nanosecondsPerDecision, preparePolicy } from '../../../bench/decisions.ts';
import { parseCalls, parseLatencies } from '../../../bench/h2load.ts';
import { GRPC_POLICY, serverService } from '../../../bench/peers/policy-peers.ts';
import { POLICY } from '../../../bench/peers/weft.ts';
import { type Sample, median, policyTable, summarize, summarizePolicy, table } from '../../../bench/report.ts';
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

function figures(...ns: readonly number[]): DecisionFigure[] {
  return ns.map((each, i) => ({ rules: [1, 100, 10_000][i] ?? 0, per_second: Math.round(1e9 / each), ns: each }));
}

test('the report on policy has decisions, the slowest pattern, and ratios by number of connections', () => {
  const cpu = (microseconds: number): Partial<Sample> => ({ cpu_us_per_req: microseconds, rss_mb: 80 });
  const report = summarizePolicy(
    new Map([
      ['suffix', figures(100, 140, 240)],
      ['mixed', figures(100, 120, 150)],
      ['exact', figures(100, 110, 120)],
    ]),
    [
      // A machine that gets slower does so for both of a round.
      ...[20, 80, 30].map((each) => sample('opaque', 16, 40_000, cpu(each))),
      ...[30, 84, 33].map((each) => sample('l7', 16, 30_000, cpu(each))),
      sample('opaque', 64, 40_000, cpu(10)),
      sample('l7', 64, 30_000, cpu(11)),
      sample('grpc-direct', 1, 10_000),
      sample('grpc-weft', 1, 4_000, cpu(40)),
      sample('grpc-direct', 64, 20_000),
      sample('grpc-weft', 64, 10_000, cpu(40)),
    ],
  );
  assert.equal(report.scenario, 'policy');
  assert.deepEqual(report.decisions[2], { rules: 10_000, per_second: 6_666_667, ns: 150 });
  assert.deepEqual(
    report.decisions.map((each) => each.rules),
    [1, 100, 10_000],
  );
  assert.deepEqual([report.worst_pattern.name, report.worst_pattern.over_1], ['suffix', 2.4]);
  assert.deepEqual(report.ratios, {
    decision_10000_rules_over_1: { 1: 1.5 },
    cpu_l7_over_opaque: { 16: 1.1, 64: 1.1 },
    grpc_weft_over_direct: { 1: 0.4, 64: 0.5 },
  });
  assert.equal(report.runs.length, 8);
  const text = policyTable(report);
  assert.match(text, /^mixed +10000 +6666667 +150$/m);
  assert.match(text, /^suffix \(worst\) +10000 +4166667 +240$/m);
  assert.match(text, /^grpc-weft +64 +10000 +0\.50 /m);
  assert.match(text, /^cpu_l7_over_opaque +16 +1\.10$/m);
});

test('half of the requests of a measured policy are allowed, whatever the number of rules', () => {
  for (const rules of [1, 100]) {
    const prepared = preparePolicy('mixed with suffixes', rules);
    assert.equal(prepared.run(), 512);
  }
  const allowing = { ...preparePolicy('mixed', 1), run: () => 1024 };
  assert.throws(() => nanosecondsPerDecision([allowing]), /mixed, 1 rules: 1 of the requests are allowed, not half/);
});

test('calls are read from what h2load says, and a failed one is no figure', () => {
  const said = (counts: string): string => `finished in 2.00s, 30204.50 req/s, 3.31MB/s\nrequests: ${counts}\nstatus codes: 60409 2xx\n`;
  const good = said('60409 total, 60413 started, 60409 done, 60409 succeeded, 0 failed, 0 errored, 0 timeout');
  assert.deepEqual(parseCalls(good, '', 2), { requests: 60_409, requestsPerSecond: 30_204.5 });
  const bad = said('60409 total, 60413 started, 60409 done, 60408 succeeded, 1 failed, 0 errored, 0 timeout');
  assert.throws(() => parseCalls(bad, '', 2), /calls failed/);
  assert.throws(() => parseCalls('', 'connection refused', 2), /connection refused/);
  const log = Array.from({ length: 100 }, (_, i) => `17954254792172${i}\t200\t${100 - i}\n`).join('');
  assert.deepEqual(parseLatencies(log), { p50Microseconds: 51, p99Microseconds: 100 });
  assert.throws(() => parseLatencies(''), /no calls/);
});

test('the resources that are measured with are ones that Weft accepts', () => {
  for (const document of [POLICY, GRPC_POLICY, serverService('tcp', ['10.96.0.1'], 8080)]) {
    assert.deepEqual(parseResources(JSON.stringify(document), 'resources.yaml').problems, []);
  }
});
