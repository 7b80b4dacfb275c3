import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { NO_CHECKS } from '../../../proxy/inbound/inbound.ts';
import { InboundConnection, type RequestChecks, type Security, SILENCE_TIMEOUT_MS } from '../../../proxy/inbound/inbound-connection.ts';
import { MeshView } from '../../../proxy/mesh-view.ts';
import { Telemetry } from '../../../proxy/telemetry/connection-record.ts';
import { COUNTERS, counterSlot } from '../../../proxy/telemetry/counter-table.ts';
import { CounterBlock, sumBlocks } from '../../../proxy/telemetry/counters.ts';
import { TrafficMetrics } from '../../../proxy/telemetry/traffic-metrics.ts';
import { parseSpiffeId } from '../../../src/model/identity.ts';
import type { ConnectionAttributes } from '../../../src/model/policy.ts';
import { DEFAULT_MESH_SETTINGS, type ExtensionProvider } from '../../../src/model/resources.ts';
import type { PolicyEntry, WorkloadEntry } from '../../../src/model/snapshot.ts';
import { memoryStreamPair } from '../../kit/memory-stream.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';

const ONLY_GET: PolicyEntry = {
  name: 'shop/only-get',
  action: 'ALLOW',
  rules: [{ from: [], to: [{ methods: ['GET'] }], when: [] }],
  provider: null,
  dryRun: false,
};

interface Fixture {
  readonly client: StreamRecorder;
  readonly server: StreamRecorder;
  readonly connection: InboundConnection;
  readonly refused: (reason: string) => number;
}

function arrive(
  policies: readonly PolicyEntry[],
  security: Security = 'mtls',
  mode: WorkloadEntry['mode'] = 'permissive',
  checks: RequestChecks = NO_CHECKS,
  extensionProviders: readonly ExtensionProvider[] = [],
): Fixture {
  const workload: WorkloadEntry = {
    id: 1,
    name: 'web',
    namespace: 'shop',
    serviceAccount: 'web',
    identity: 'spiffe://cluster.local/ns/shop/sa/web',
    node: 'node-a',
    local: true,
    labels: {},
    addresses: ['10.0.0.2'],
    mode,
    portModes: [],
    modeSource: 'Namespace shop',
    enrolled: true,
    policies: policies.map((_, index) => index),
    authentications: [],
  };
  const view = new MeshView({
    version: 1,
    trustDomain: 'cluster.local',
    nodeName: 'node-a',
    workloads: [workload],
    services: [],
    policies,
    authentications: [],
    settings: { ...DEFAULT_MESH_SETTINGS, extensionProviders },
  });
  const counters = CounterBlock.create();
  const telemetry = new Telemetry(counters, new TrafficMetrics(), null);
  const [clientEnd, downstream] = memoryStreamPair();
  const [upstream, serverEnd] = memoryStreamPair();
  const peer = security === 'plaintext' ? null : parseSpiffeId('spiffe://cluster.local/ns/shop/sa/client');
  const source = { address: '10.0.0.1', port: 1234 };
  const destination = { address: '10.0.0.2', port: 80 };
  const record = telemetry.open({
    direction: 'inbound',
    security,
    path: 'tunnel',
    source: { ...source, workload: null, identity: peer?.text ?? null },
    destination: { ...destination, workload, identity: workload.identity, service: null },
    stream: downstream,
  });
  const isDenied = security === 'plaintext' && mode === 'strict';
  const arrival = { workload, stream: downstream, security, peer, source, destination };
  const connection = new InboundConnection(arrival, view, isDenied ? null : upstream, record, true, checks, () => {});
  return {
    client: new StreamRecorder(clientEnd),
    server: new StreamRecorder(serverEnd),
    connection,
    refused: (reason) => sumBlocks([counters])[counterSlot(COUNTERS.connectionsRefused, 'inbound', 'tunnel', reason)] ?? 0,
  };
}

function mockTime(context: TestContext): (milliseconds: number) => Promise<void> {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  return async (milliseconds) => {
    context.mock.timers.tick(milliseconds);
    await settle();
  };
}

describe('an external authoriser', () => {
  it('is told who asks whom, and where', async () => {
    const asked: ConnectionAttributes[] = [];
    const authorisers = {
      check: async (_provider: unknown, _head: unknown, connection: ConnectionAttributes) => {
        asked.push(connection);
        return { allow: true, failed: false, reason: '', change: null, refusal: null };
      },
    };
    const custom: PolicyEntry = { ...ONLY_GET, name: 'shop/ask', action: 'CUSTOM', provider: 'authz' };
    const provider = { name: 'authz' } as ExtensionProvider;
    const { client, server } = arrive([custom], 'mtls', 'permissive', { tokens: null, authorisers }, [provider]);
    client.stream.write(Buffer.from('GET / HTTP/1.1\r\nhost: web\r\n\r\n'));
    await settle();
    assert.match(server.text(), /^GET \/ HTTP\/1\.1\r\n/);
    assert.deepEqual(asked, [
      {
        sourceIdentity: parseSpiffeId('spiffe://cluster.local/ns/shop/sa/client'),
        sourceAddress: '10.0.0.1',
        destinationAddress: '10.0.0.2',
        destinationIdentity: 'spiffe://cluster.local/ns/shop/sa/web',
        destinationPort: 80,
      },
    ]);
  });
});

describe('a client that says nothing', () => {
  it('is sent away in order after its time, where only HTTP is allowed', async (context) => {
    const pass = mockTime(context);
    const { client, server, connection, refused } = arrive([ONLY_GET]);
    await pass(SILENCE_TIMEOUT_MS - 1);
    assert.equal(connection.state, 'detecting');
    assert.equal(client.ended, false);
    await pass(1);
    assert.equal(client.ended, true, 'an orderly end');
    assert.equal(server.ended, true);
    assert.equal(server.text(), '');
    assert.equal(refused('timeout'), 1);
    client.stream.end();
    server.stream.end();
    await pass(0);
    assert.equal(connection.state, 'closed');
    assert.equal(client.error, null);
  });

  it('is cut if it does not close then', async (context) => {
    const pass = mockTime(context);
    const { connection, client } = arrive([ONLY_GET]);
    await pass(SILENCE_TIMEOUT_MS);
    await pass(1_000);
    assert.equal(connection.state, 'closed');
    assert.notEqual(client.error, null);
  });

  it('is the application’s to judge where bytes of any protocol are allowed', async (context) => {
    const pass = mockTime(context);
    const { connection, client } = arrive([]);
    await pass(10 * SILENCE_TIMEOUT_MS);
    assert.equal(connection.state, 'detecting');
    assert.equal(client.ended, false);
  });

  it('is reset soon where nothing could be allowed', async (context) => {
    const pass = mockTime(context);
    const { connection, client, refused } = arrive([], 'plaintext', 'strict');
    await pass(5_000);
    assert.equal(connection.state, 'closed');
    assert.notEqual(client.error, null);
    assert.equal(refused('strict-mode'), 1);
  });

  it('has the time of a beginning request from its first byte on', async (context) => {
    const pass = mockTime(context);
    const { connection, client } = arrive([ONLY_GET]);
    await pass(SILENCE_TIMEOUT_MS - 1);
    client.send('GET');
    await settle();
    await pass(4_999);
    assert.equal(connection.state, 'detecting');
    client.send(' / HTTP/1.1\r\nHost: web\r\n\r\n');
    await pass(0);
    assert.equal(connection.state, 'http');
    await pass(10 * SILENCE_TIMEOUT_MS);
    assert.equal(connection.state, 'http');
  });
});

describe('text that may become HTTP, where bytes of any protocol are allowed', () => {
  it('goes on to the application after a moment, whatever it turns out to be', async (context) => {
    const pass = mockTime(context);
    const { connection, client, server } = arrive([]);
    client.send('LOGIN ');
    await settle();
    await pass(200);
    assert.equal(connection.state, 'opaque');
    client.send('alice ');
    client.send('secret\r\n');
    client.send('GET / HTTP/1.1\r\n');
    await pass(0);
    assert.equal(server.text(), 'LOGIN alice secret\r\nGET / HTTP/1.1\r\n');
  });

  it('may be one endless word, and is cut when that turns out to be a method', async () => {
    const word = 'x'.repeat(5_000);
    const fine = arrive([]);
    for (const part of [word, word, ':', ' / HTTP/1.1\r\n']) fine.client.send(part);
    await settle();
    assert.equal(fine.connection.state, 'opaque');
    assert.equal(fine.server.text(), `${word}${word}: / HTTP/1.1\r\n`);
    for (const parts of [
      [word, word, ' / HTTP/1.1\r\nx-weft-peer: forged\r\n\r\n'],
      [`${word}\t/ HTTP/1.1\r\nx-weft-peer: forged\r\n\r\n`],
    ]) {
      const { connection, client, server } = arrive([]);
      for (const part of parts) client.send(part);
      await settle();
      assert.notEqual(connection.state, 'opaque');
      assert.doesNotMatch(server.text(), /forged/);
    }
  });

  it('is cut when it is HTTP, before a header that no gate has seen reaches the application', async (context) => {
    for (const parts of [
      ['GET', ' /', ' HTTP/1.1\r\nx-forwarded-client-cert: By=forged\r\n\r\n'],
      ['\r\n', 'GET / HTTP/1.1\r\nx-weft-peer: forged\r\n\r\n'],
      ['LOCK /a', 'b ', 'HT', 'TP/1.1\r\nx-weft-peer: forged\r\n\r\n'],
      ['PRI * HTTP/2.0\r\n', '\r\nSM\r\n\r\nforged'],
    ]) {
      await context.test(JSON.stringify(parts), async (inner) => {
        const pass = mockTime(inner);
        const { connection, client, server, refused } = arrive([]);
        client.send(parts[0] as string);
        await settle();
        await pass(200);
        assert.equal(connection.state, 'opaque');
        for (const part of parts.slice(1)) client.send(part);
        await pass(0);
        assert.equal(connection.state, 'closed');
        assert.doesNotMatch(server.text(), /forged/);
        assert.notEqual(server.error, null);
        assert.equal(refused('timeout'), 1);
      });
    }
  });
});
