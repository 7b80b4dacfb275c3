import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { AccessLog } from '../../../proxy/telemetry/access-log.ts';
import { AccessLog as RealAccessLog } from '../../../proxy/telemetry/access-log.ts';
import {
  type ConnectionRecord,
  type RecordedConnection,
  type RecordedExchange,
  Telemetry,
} from '../../../proxy/telemetry/connection-record.ts';
import { CounterBlock, counterValues, sumBlocks } from '../../../proxy/telemetry/counters.ts';
import { TrafficMetrics, type TrafficSnapshot } from '../../../proxy/telemetry/traffic-metrics.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import { WeftError } from '../../../src/model/errors.ts';
import type { Decision } from '../../../src/model/policy.ts';
import type { WorkloadEntry } from '../../../src/model/snapshot.ts';

function workload(name: string): WorkloadEntry {
  return {
    id: 1,
    name,
    namespace: 'shop',
    serviceAccount: name,
    identity: `spiffe://td/ns/shop/sa/${name}`,
    node: 'a',
    local: true,
    labels: {},
    addresses: [],
    mode: 'strict',
    portModes: [],
    modeSource: 'default',
    enrolled: true,
    policies: [],
    authentications: [],
  };
}

/** A client's end that has carried some bytes. */
interface Carried {
  bytesRead: number;
  bytesWritten: number;
}

interface Scene {
  readonly telemetry: Telemetry;
  readonly record: ConnectionRecord;
  readonly stream: Carried;
  counters(): Record<string, number>;
  lines(): Promise<Record<string, unknown>[]>;
  traffic(): TrafficSnapshot[];
}

function open(change: Partial<RecordedConnection> = {}): Scene {
  const block = CounterBlock.create();
  let text = '';
  const log: AccessLog = new RealAccessLog(-1, {
    write: (_fd, buffer, offset, length, _position, callback) => {
      text += buffer.toString('latin1', offset, offset + length);
      setImmediate(() => callback(null, length));
    },
  });
  const telemetry = new Telemetry(block, new TrafficMetrics(), log);
  const stream: Carried = { bytesRead: 0, bytesWritten: 0 };
  const record = telemetry.open({
    direction: 'inbound',
    security: 'mtls',
    path: 'tunnel',
    source: { address: '10.0.0.1', port: 1000, workload: workload('web'), identity: 'spiffe://td/ns/shop/sa/web' },
    destination: {
      address: 'fd00::2',
      port: 80,
      workload: workload('items'),
      service: 'shop/items',
      identity: 'spiffe://td/ns/shop/sa/items',
    },
    stream: stream as unknown as ByteStream,
    ...change,
  });
  return {
    telemetry,
    record,
    stream,
    counters: () => counterValues(sumBlocks([block])),
    lines: async () => {
      await log.close();
      return text
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    },
    traffic: () => telemetry.snapshotTraffic(),
  };
}

const allowed: Decision = { verdict: 'allow', policy: 'shop/read', rule: 0, reason: 'matched an ALLOW rule' };
const denied: Decision = { verdict: 'deny', policy: 'shop/read', rule: null, reason: 'no ALLOW rule matched' };

function exchange(change: Partial<RecordedExchange> = {}): RecordedExchange {
  return {
    method: 'GET',
    path: '/',
    host: 'items',
    status: 200,
    requestBytes: 10,
    responseBytes: 20,
    durationMicros: 300,
    decision: allowed,
    shadow: [],
    refusal: null,
    ...change,
  };
}

describe('the record of a connection', () => {
  it('counts and logs what dry-run policies would have denied, and lets the verdict be what it was', async () => {
    const scene = open();
    const shadow = [
      { policy: 'shop/stricter', rule: 0, effect: 'deny', reason: 'matched a DENY rule' },
      { policy: 'shop/watch', rule: 1, effect: 'audit', reason: 'matched an AUDIT rule' },
    ] as const;
    scene.record.exchange(exchange({ shadow }));
    scene.record.exchange(exchange({ shadow: shadow.slice(0, 1) }));
    scene.record.exchange(exchange());
    assert.equal(scene.counters()['weft_dry_run_total{effect="deny"}'], 2);
    assert.equal(scene.counters()['weft_dry_run_total{effect="audit"}'], 1);
    assert.equal(scene.counters()['weft_requests_total{side="inbound",response_class="2xx",verdict="allow"}'], 3);
    const [first, , third] = await scene.lines();
    assert.deepEqual(first?.['dry_run'], shadow);
    assert.equal(first?.['verdict'], 'allow');
    assert.equal(third !== undefined && 'dry_run' in third, false);
  });

  it('counts it open, then closed with its bytes, once', async () => {
    const scene = open();
    assert.equal(scene.counters()['weft_connections_active{side="inbound",path="tunnel"}'], 1);
    scene.stream.bytesRead = 100;
    scene.stream.bytesWritten = 2000;
    scene.record.protocol('tcp');
    scene.record.close(null, allowed);
    scene.record.close(new Error('again'), null);
    assert.deepEqual(scene.counters(), {
      'weft_connections_opened_total{side="inbound",path="tunnel"}': 1,
      'weft_connections_closed_total{side="inbound",path="tunnel"}': 1,
      'weft_client_bytes_total{side="inbound",path="tunnel"}': 100,
      'weft_server_bytes_total{side="inbound",path="tunnel"}': 2000,
      'weft_protocols_detected_total{side="inbound",protocol="tcp"}': 1,
    });
    const lines = await scene.lines();
    assert.equal(lines.length, 1);
    assert.equal(lines[0]?.['kind'], 'connection');
    assert.equal(lines[0]?.['protocol'], 'tcp');
    assert.equal(lines[0]?.['policy'], 'shop/read');
    assert.equal(lines[0]?.['request_bytes'], 100);
    assert.equal(lines[0]?.['response_bytes'], 2000);
    assert.deepEqual(lines[0]?.['source'], {
      address: '10.0.0.1',
      port: 1000,
      workload: 'web',
      namespace: 'shop',
      identity: 'spiffe://td/ns/shop/sa/web',
    });
  });

  it('counts and logs each request, by what became of it', async () => {
    const scene = open();
    scene.record.protocol('http1');
    scene.record.exchange(exchange());
    scene.record.exchange(exchange({ method: 'DELETE', status: 403, decision: denied, refusal: 'policy-denied' }));
    scene.record.exchange(exchange({ status: 503, refusal: 'no-upstream' }));
    scene.record.close(null, null);
    const counters = scene.counters();
    assert.equal(counters['weft_requests_total{side="inbound",response_class="2xx",verdict="allow"}'], 1);
    assert.equal(counters['weft_requests_total{side="inbound",response_class="4xx",verdict="deny"}'], 1);
    assert.equal(counters['weft_requests_total{side="inbound",response_class="5xx",verdict="error"}'], 1);
    assert.equal(counters['weft_http_refusals_total{side="inbound",reason="policy-denied"}'], 1);
    assert.equal(counters['weft_http_refusals_total{side="inbound",reason="no-upstream"}'], 1);
    assert.equal(counters['weft_request_duration_seconds_count{side="inbound"}'], 3);
    assert.deepEqual(
      (await scene.lines()).map(({ kind, method, status, verdict, error }) => [kind, method, status, verdict, error]),
      [
        ['request', 'GET', 200, 'allow', undefined],
        ['request', 'DELETE', 403, 'deny', undefined],
        ['request', 'GET', 503, 'allow', 'no-upstream'],
        ['connection', undefined, undefined, 'none', undefined],
      ],
    );
  });

  it('says of gRPC what its own status was, and of a refusal what is known beyond its name', async () => {
    const scene = open();
    scene.record.protocol('http2');
    scene.record.exchange(exchange({ grpcStatus: 0 }));
    scene.record.exchange(
      exchange({ grpcStatus: null, status: 0, refusal: 'upstream-reset', detail: 'the peer reset stream 1 with CANCEL' }),
    );
    scene.record.exchange(exchange({ status: 0, refusal: 'malformed-message', detail: 'two hosts' }));
    scene.record.malformed('http2');
    const counters = scene.counters();
    assert.equal(counters['weft_malformed_total{side="inbound",reason="http2"}'], 1);
    assert.equal(counters['weft_http_refusals_total{side="inbound",reason="upstream-reset"}'], 1);
    assert.equal(counters['weft_http_refusals_total{side="inbound",reason="malformed-message"}'], 1);
    assert.deepEqual(
      (await scene.lines()).map((line) => [line['protocol'], line['status'], line['grpc_status'], line['error']]),
      [
        ['grpc', 200, 0, undefined],
        ['grpc', null, null, 'upstream-reset: the peer reset stream 1 with CANCEL'],
        ['http2', null, undefined, 'malformed-message: two hosts'],
      ],
    );
  });

  it('counts a refusal once, by its first reason', () => {
    const scene = open({ path: 'plaintext', security: 'plaintext' });
    scene.record.refused('strict-mode');
    scene.record.close(new Error('reset'), denied);
    const counters = scene.counters();
    assert.equal(counters['weft_connections_refused_total{side="inbound",path="plaintext",reason="strict-mode"}'], 1);
    assert.equal(counters['weft_connections_refused_total{side="inbound",path="plaintext",reason="policy"}'], undefined);
    assert.equal(scene.traffic()[0]?.connectionsFailed, 1);
  });

  it('takes the reason from the error when nobody gave one, and logs its code', async () => {
    const scene = open({ direction: 'outbound', path: 'passthrough' });
    scene.record.close(new WeftError('WEFT_PROXY_NO_ENDPOINT', 'service shop/items has no endpoint'), null);
    assert.equal(scene.counters()['weft_connections_refused_total{side="outbound",path="passthrough",reason="no-endpoint"}'], 1);
    const [line] = await scene.lines();
    assert.equal(line?.['verdict'], 'error');
    assert.equal(line?.['reason'], 'WEFT_PROXY_NO_ENDPOINT: service shop/items has no endpoint');
  });

  it('says plaintext after a tunnel was given up for it', async () => {
    const scene = open({ direction: 'outbound' });
    scene.stream.bytesRead = 7;
    scene.record.fellBack();
    scene.stream.bytesRead = 10;
    scene.record.close(null, null);
    assert.equal((await scene.lines())[0]?.['security'], 'plaintext');
    assert.equal(scene.counters()['weft_tunnel_fallbacks_total'], 1);
    const bySecurity = new Map(scene.traffic().map((series) => [series.labels.security, series]));
    assert.deepEqual([bySecurity.get('mtls')?.requestBytes, bySecurity.get('plaintext')?.requestBytes], [7, 3]);
    assert.deepEqual([bySecurity.get('mtls')?.connectionsClosed, bySecurity.get('plaintext')?.connectionsClosed], [1, 1]);
  });
});

describe('traffic between workloads', () => {
  it('includes what open connections have carried so far, and counts no byte twice', () => {
    const scene = open();
    scene.stream.bytesRead = 5;
    assert.equal(scene.traffic()[0]?.requestBytes, 5);
    scene.stream.bytesRead = 8;
    assert.equal(scene.traffic()[0]?.requestBytes, 8);
    scene.record.close(null, null);
    assert.equal(scene.traffic()[0]?.requestBytes, 8);
  });

  it('on one node is reported for both ends', () => {
    const scene = open({ security: 'kernel', path: 'local' });
    scene.record.exchange(exchange());
    scene.record.close(null, null);
    const traffic = scene.traffic();
    assert.deepEqual(traffic.map(({ labels }) => labels.reporter).toSorted(), ['destination', 'source']);
    for (const series of traffic) {
      assert.deepEqual(series.responses, [[200, 1]]);
      assert.deepEqual([series.connectionsOpened, series.connectionsClosed], [1, 1]);
    }
  });

  it('does not keep a connection that has ended', () => {
    const scene = open();
    scene.record.close(null, null);
    scene.stream.bytesRead = 1000;
    assert.equal(scene.traffic()[0]?.requestBytes, 0);
  });
});

it('a connection refused before it has a record is counted', () => {
  const scene = open();
  scene.telemetry.refused('inbound', 'tunnel', 'forbidden-port');
  assert.equal(scene.counters()['weft_connections_refused_total{side="inbound",path="tunnel",reason="forbidden-port"}'], 1);
});

it('the admin endpoint sees an open connection as it is', () => {
  const scene = open();
  scene.record.protocol('http1');
  scene.stream.bytesWritten = 3;
  const { openedAt, ...info } = scene.record.info(2, 'http');
  assert.ok(Math.abs(Date.parse(openedAt) - Date.now()) < 10_000);
  assert.deepEqual(info, {
    worker: 2,
    direction: 'inbound',
    state: 'http',
    protocol: 'http1',
    security: 'mtls',
    source: '10.0.0.1:1000',
    sourceIdentity: 'spiffe://td/ns/shop/sa/web',
    destination: '[fd00::2]:80',
    destinationIdentity: 'spiffe://td/ns/shop/sa/items',
    bytesReceived: 0,
    bytesSent: 3,
  });
});
