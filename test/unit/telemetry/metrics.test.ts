import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { COUNTERS, counterSlot } from '../../../proxy/telemetry/counter-table.ts';
import { CounterBlock } from '../../../proxy/telemetry/counters.ts';
import { type TrafficLabels, TrafficMetrics } from '../../../proxy/telemetry/traffic-metrics.ts';
import { kernelEvents, svidExpiry, workerMetrics } from '../../../src/agent/metrics.ts';
import { exposition } from '../../../src/metrics/exposition.ts';

const labels: TrafficLabels = {
  reporter: 'destination',
  sourceWorkload: 'web',
  sourceNamespace: 'shop',
  sourcePrincipal: 'spiffe://td/ns/shop/sa/web',
  destinationWorkload: 'items',
  destinationNamespace: 'data',
  destinationPrincipal: '',
  destinationService: 'data/items',
  security: 'mtls',
};

/** Sample lines by name and labels, checked to be of the text format. */
function parse(text: string): Map<string, number> {
  const samples = new Map<string, number>();
  const types = new Set<string>();
  for (const line of text.split('\n').filter(Boolean)) {
    if (line.startsWith('#')) {
      const [, keyword, name] = line.split(' ');
      if (keyword === 'TYPE') {
        assert.ok(!types.has(name as string), `${name} twice`);
        types.add(name as string);
      }
      continue;
    }
    const match = /^([a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\})?) (-?[0-9.e+-]+)$/.exec(line);
    assert.ok(match, line);
    assert.ok(!samples.has(match[1] as string), `${line} twice`);
    samples.set(match[1] as string, Number(match[2]));
  }
  return samples;
}

describe('the metrics page', () => {
  it('adds up the counters of all workers, and shows those that are zero', async () => {
    const blocks = [CounterBlock.create(), CounterBlock.create()];
    for (const block of blocks) block.add(counterSlot(COUNTERS.connectionsActive, 'inbound', 'local'), 2);
    const samples = parse(await exposition(workerMetrics(blocks, [])));
    const find = (name: string, ...parts: string[]): number | undefined =>
      [...samples].find(([sample]) => sample.startsWith(name) && parts.every((part) => sample.includes(part)))?.[1];
    assert.equal(find('weft_connections_active', 'side="inbound"', 'path="local"'), 4);
    assert.equal(find('weft_connections_active', 'side="outbound"', 'path="tunnel"'), 0);
  });

  it('has the request durations as a Prometheus histogram in seconds', async () => {
    const block = CounterBlock.create();
    for (const microseconds of [1, 1000, 1024, 1025, 3e9]) block.observeRequest('inbound', microseconds);
    const samples = parse(await exposition(workerMetrics([block], [])));
    const bucket = (le: string): number | undefined => samples.get(`weft_request_duration_seconds_bucket{side="inbound",le="${le}"}`);
    assert.equal(bucket('0.000001'), 1);
    assert.equal(bucket('0.000512'), 1);
    assert.equal(bucket('0.001024'), 3);
    assert.equal(bucket('0.002048'), 4);
    assert.equal(bucket('134.217728'), 4);
    assert.equal(bucket('+Inf'), 5);
    assert.equal(samples.get('weft_request_duration_seconds_count{side="inbound"}'), 5);
    assert.ok(Math.abs((samples.get('weft_request_duration_seconds_sum{side="inbound"}') ?? 0) - 3000.00305) < 1e-6);
    const counts = [...samples]
      .filter(([name]) => name.startsWith('weft_request_duration_seconds_bucket{side="inbound"'))
      .map(([, n]) => n);
    assert.deepEqual(
      counts,
      counts.toSorted((a, b) => a - b),
    );
  });

  it("has Istio's standard metrics with its label names, summed over workers", async () => {
    const workers = [1, 2].map((n) => {
      const metrics = new TrafficMetrics();
      const series = metrics.series(labels);
      series.connectionsOpened += n;
      series.requestBytes += 100;
      series.responseBytes += 1000;
      series.request(200);
      series.request(403);
      return metrics.snapshot();
    });
    const samples = parse(await exposition(workerMetrics([], workers)));
    const shared =
      'reporter="destination",source_workload="web",source_workload_namespace="shop",source_principal="spiffe://td/ns/shop/sa/web",' +
      'destination_workload="items",destination_workload_namespace="data",destination_principal="unknown",' +
      'destination_service="items.data.svc.cluster.local",destination_service_name="items",destination_service_namespace="data"';
    const tcp = `{${shared},request_protocol="tcp",connection_security_policy="mutual_tls"}`;
    assert.equal(samples.get(`istio_tcp_connections_opened_total${tcp}`), 3);
    assert.equal(samples.get(`istio_tcp_connections_closed_total${tcp}`), 0);
    // Seen from the server: it received what the client sent.
    assert.equal(samples.get(`istio_tcp_received_bytes_total${tcp}`), 200);
    assert.equal(samples.get(`istio_tcp_sent_bytes_total${tcp}`), 2000);
    const http = `${shared},request_protocol="http",connection_security_policy="mutual_tls"`;
    assert.equal(samples.get(`istio_requests_total{${http},response_code="200"}`), 2);
    assert.equal(samples.get(`istio_requests_total{${http},response_code="403"}`), 2);
  });

  it('tells a peer that the kernel attests from mTLS and from plaintext', async () => {
    const metrics = new TrafficMetrics();
    for (const security of ['mtls', 'kernel', 'plaintext'] as const) metrics.series({ ...labels, security }).connectionsOpened++;
    const text = await exposition(workerMetrics([], [metrics.snapshot()]));
    assert.deepEqual(
      [...text.matchAll(/^istio_tcp_connections_opened_total.*connection_security_policy="(\w+)"/gm)].map(([, policy]) => policy),
      ['mutual_tls', 'kernel_attested', 'unknown'],
    );
  });

  it("has main's own numbers, and joins families of one name", async () => {
    const extra = [
      kernelEvents(new Map([['captured_outbound', 12]])),
      svidExpiry([{ identity: 'spiffe://td/ns/shop/sa/web', notAfter: 61_500 }], 1500),
      { name: 'weft_connections_active', help: 'x', type: 'gauge' as const, samples: [{ labels: { side: 'kernel' }, value: 5 }] },
    ];
    const samples = parse(await exposition([...workerMetrics([CounterBlock.create()], []), ...extra]));
    assert.equal(samples.get('weft_kernel_events_total{reason="captured_outbound"}'), 12);
    assert.equal(samples.get('weft_svid_expiry_seconds{identity="spiffe://td/ns/shop/sa/web"}'), 60);
    assert.equal(samples.get('weft_connections_active{side="kernel"}'), 5);
  });

  it('stays readable whatever a label holds', async () => {
    const metrics = new TrafficMetrics();
    metrics.series({ ...labels, sourceWorkload: 'a"b\\c\nd{}' }).connectionsOpened++;
    const samples = parse(await exposition(workerMetrics([], [metrics.snapshot()])));
    assert.ok([...samples.keys()].some((name) => name.includes('source_workload="a\\"b\\\\c\\nd{}"')));
  });
});
