import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mergeTraffic, type TrafficLabels, TrafficMetrics } from '../../../proxy/telemetry/traffic-metrics.ts';

function labels(sourceWorkload: string): TrafficLabels {
  return {
    reporter: 'destination',
    sourceWorkload,
    sourceNamespace: 'shop',
    sourcePrincipal: 'spiffe://td/ns/shop/sa/web',
    destinationWorkload: 'items',
    destinationNamespace: 'shop',
    destinationPrincipal: 'spiffe://td/ns/shop/sa/items',
    destinationService: 'shop/items',
    security: 'mtls',
  };
}

describe('traffic metrics', () => {
  it('give equal labels one series, and each other label its own', () => {
    const metrics = new TrafficMetrics();
    const series = metrics.series(labels('web'));
    assert.equal(metrics.series(labels('web')), series);
    for (const name of Object.keys(labels('web')) as (keyof TrafficLabels)[]) {
      assert.notEqual(metrics.series({ ...labels('web'), [name]: 'x' } as TrafficLabels), series, name);
    }
  });

  it('share one series once there are too many, and say so', () => {
    let overflows = 0;
    const metrics = new TrafficMetrics(3, () => overflows++);
    for (let i = 0; i < 100; i++) metrics.series(labels(`web-${i}`)).connectionsOpened++;
    assert.equal(overflows, 97);
    const snapshot = metrics.snapshot();
    assert.equal(snapshot.length, 4);
    assert.equal(snapshot.find((series) => series.labels.sourceWorkload === 'overflow')?.connectionsOpened, 97);
    assert.equal(metrics.series(labels('web-1')).connectionsOpened, 1);
  });

  it('count requests by status, and stay bounded when a server answers with all of them', () => {
    const series = new TrafficMetrics().series(labels('web'));
    for (let round = 0; round < 2; round++) for (let status = 100; status < 600; status++) series.request(status);
    const { responses } = series.snapshot();
    assert.ok(responses.length <= 33);
    assert.equal(
      responses.reduce((sum, [, count]) => sum + count, 0),
      1000,
    );
    assert.deepEqual(responses[0], [100, 2]);
  });

  it('of several workers add up pair by pair, after a structured clone', () => {
    const workers = [1, 2].map((n) => {
      const metrics = new TrafficMetrics();
      const series = metrics.series(labels('web'));
      series.connectionsOpened += n;
      series.requestBytes += 10 * n;
      series.request(200);
      if (n === 2) series.request(403);
      metrics.series(labels(`other-${n}`)).responseBytes += n;
      return structuredClone(metrics.snapshot());
    });
    const merged = mergeTraffic(workers);
    assert.equal(merged.length, 3);
    const web = merged.find((series) => series.labels.sourceWorkload === 'web');
    assert.equal(web?.connectionsOpened, 3);
    assert.equal(web?.requestBytes, 30);
    assert.deepEqual(web?.responses, [
      [200, 2],
      [403, 1],
    ]);
  });
});
