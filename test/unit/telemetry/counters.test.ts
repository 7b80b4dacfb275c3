import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import {
  COUNTER_FAMILIES,
  COUNTERS,
  counterSlot,
  HISTOGRAM_BUCKETS,
  histogramBound,
  histogramBucket,
  requestSlot,
  RESPONSE_CLASSES,
  responseClass,
  SIDES,
  SLOT_COUNT,
  VERDICTS,
} from '../../../proxy/telemetry/counter-table.ts';
import { CounterBlock, counterValues, familySamples, requestQuantile, sumBlocks } from '../../../proxy/telemetry/counters.ts';

describe('counter slots', () => {
  it('are one for each combination of labels, and no two families share any', () => {
    const seen = new Set<number>();
    for (const family of COUNTER_FAMILIES) {
      for (const { labels, slot } of familySamples(family)) {
        assert.equal(counterSlot(family, ...family.labels.map(({ name }) => labels[name] as string)), slot);
        for (let part = 0; part < family.width; part++) {
          assert.ok(!seen.has(slot + part));
          seen.add(slot + part);
        }
      }
    }
    assert.equal(seen.size, SLOT_COUNT - 1);
    assert.ok(!seen.has(0));
  });

  it('of a request are found by arithmetic as they are by name', () => {
    for (const side of SIDES) {
      for (const verdict of VERDICTS) {
        for (const status of [0, 99, 100, 199, 200, 302, 404, 599, 600, Number.NaN]) {
          assert.equal(requestSlot(side, status, verdict), counterSlot(COUNTERS.requests, side, responseClass(status), verdict));
        }
      }
    }
    assert.deepEqual([100, 204, 301, 403, 503, 0].map(responseClass), RESPONSE_CLASSES);
  });

  it('count an unknown reason as other', () => {
    const other = counterSlot(COUNTERS.connectionsRefused, 'inbound', 'tunnel', 'other');
    assert.equal(counterSlot(COUNTERS.connectionsRefused, 'inbound', 'tunnel', 'never heard of'), other);
  });

  it('are refused for the wrong number of labels', () => {
    assert.throws(() => counterSlot(COUNTERS.connectionsOpened, 'inbound'), { code: 'WEFT_TELEMETRY_LABELS' });
  });
});

describe('a counter block', () => {
  it('shows main what a worker thread counted', async () => {
    const block = CounterBlock.create();
    const slot = counterSlot(COUNTERS.connectionsOpened, 'inbound', 'local');
    const modules = ['counters', 'counter-table'].map((name) => new URL(`../../../proxy/telemetry/${name}.ts`, import.meta.url).href);
    const source = `
      const { workerData } = require('node:worker_threads');
      Promise.all(workerData.modules.map((url) => import(url))).then(([{ CounterBlock }, { COUNTERS, counterSlot }]) => {
        const block = CounterBlock.attach(workerData.shared);
        for (let i = 0; i < 1000; i++) block.add(counterSlot(COUNTERS.connectionsOpened, 'inbound', 'local'), 1);
      });`;
    const worker = new Worker(source, { eval: true, workerData: { shared: block.shared, modules } });
    await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
    assert.equal(block.get(slot), 1000);
  });

  it('of another layout is refused', () => {
    assert.throws(() => CounterBlock.attach(new SharedArrayBuffer(64)), { code: 'WEFT_TELEMETRY_LAYOUT' });
    assert.throws(() => CounterBlock.attach(new SharedArrayBuffer(SLOT_COUNT * 8)), { code: 'WEFT_TELEMETRY_LAYOUT' });
  });

  it('adds up with others, and names what is not zero', () => {
    const blocks = [CounterBlock.create(), CounterBlock.create()];
    const active = counterSlot(COUNTERS.connectionsActive, 'outbound', 'tunnel');
    blocks[0]?.add(active, 3);
    blocks[1]?.add(active, 2);
    blocks[1]?.add(active, -1);
    blocks[1]?.observeRequest('inbound', 250);
    blocks[0]?.add(COUNTERS.accessLogLines.first, 7);
    assert.deepEqual(counterValues(sumBlocks(blocks)), {
      'weft_connections_active{side="outbound",path="tunnel"}': 4,
      weft_access_log_lines_total: 7,
      'weft_request_duration_seconds_count{side="inbound"}': 1,
    });
  });
});

describe('the latency histogram', () => {
  it('puts every latency into the bucket whose bounds hold it', () => {
    const latency = fc.oneof(
      fc.integer({ min: 0, max: 4096 }),
      fc.integer({ min: 0, max: 2 ** 28 }),
      fc.double({ min: 0, max: 1e9, noNaN: true }),
    );
    fc.assert(
      fc.property(latency, (microseconds) => {
        const bucket = histogramBucket(microseconds);
        assert.ok(microseconds <= histogramBound(bucket));
        if (bucket > 0) assert.ok(microseconds > histogramBound(bucket - 1));
      }),
      { numRuns: 2000 },
    );
  });

  it('takes what is no latency without counting outside of itself', () => {
    assert.equal(histogramBucket(Number.NaN), 0);
    assert.equal(histogramBucket(-5), 0);
    assert.equal(histogramBucket(Number.POSITIVE_INFINITY), HISTOGRAM_BUCKETS - 1);
  });

  it('gives quantiles that are at most a quarter too high', () => {
    const block = CounterBlock.create();
    for (let i = 1; i <= 1000; i++) block.observeRequest('inbound', i * 10);
    const sums = sumBlocks([block]);
    for (const [quantile, exact] of [
      [0.5, 5000],
      [0.99, 9900],
      [1, 10_000],
    ] as const) {
      const bound = requestQuantile(sums, 'inbound', quantile) ?? 0;
      assert.ok(bound >= exact && bound <= exact * 1.25, `${quantile}: ${bound}`);
    }
    assert.equal(requestQuantile(sums, 'outbound', 0.5), null);
  });
});
