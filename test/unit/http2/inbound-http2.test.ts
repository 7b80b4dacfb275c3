import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { Http2Connection } from '../../../src/transport/http2/connection.ts';
import { InboundConnection } from '../../../proxy/inbound/inbound-connection.ts';
import { MeshView } from '../../../proxy/mesh-view.ts';
import { CounterBlock } from '../../../proxy/telemetry/counters.ts';
import { type ConnectionRecord, Telemetry } from '../../../proxy/telemetry/connection-record.ts';
import { TrafficMetrics } from '../../../proxy/telemetry/traffic-metrics.ts';
import { DEFAULT_MESH_SETTINGS, type DeclaredProtocol, type JwtRule, type PolicyRule } from '../../../src/model/resources.ts';
import type { MeshSnapshot, WorkloadEntry } from '../../../src/model/snapshot.ts';
import { type MemoryStream, memoryStreamPair } from '../../kit/memory-stream.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';
import { get, grpc, Response, TestApplication } from './session-fixture.ts';

const WORKLOAD: WorkloadEntry = {
  id: 1,
  name: 'web',
  namespace: 'shop',
  serviceAccount: 'web',
  identity: 'spiffe://cluster.local/ns/shop/sa/web',
  node: 'a',
  local: true,
  labels: {},
  addresses: ['10.0.0.1'],
  mode: 'permissive',
  portModes: [],
  modeSource: 'Namespace shop',
  enrolled: true,
  policies: [0],
  authentications: [],
};

function rule(paths: readonly string[]): PolicyRule {
  return { from: [], to: [{ paths }], when: [] };
}

/** A mesh with one workload that allows some paths (null: no policy at all), and what its Service says of its port. */
function viewOf(
  paths: readonly string[] | null,
  declared: DeclaredProtocol = 'auto',
  authentications: MeshSnapshot['authentications'] = [],
): MeshView {
  const snapshot: MeshSnapshot = {
    version: 1,
    trustDomain: 'cluster.local',
    nodeName: 'a',
    workloads: [{ ...WORKLOAD, policies: paths === null ? [] : [0], authentications: authentications.map((_, i) => i) }],
    services: [
      {
        name: 'web',
        namespace: 'shop',
        addresses: ['10.1.0.1'],
        ports: [{ port: 80, targetPort: 8080, protocol: declared }],
        endpoints: [1],
      },
    ],
    policies: [{ name: 'shop/paths', action: 'ALLOW', rules: [rule(paths ?? [])], provider: null, dryRun: false }],
    authentications,
    settings: DEFAULT_MESH_SETTINGS,
  };
  return new MeshView(snapshot);
}

const opened: { destroy(): void }[] = [];
afterEach(() => {
  for (const each of opened.splice(0)) each.destroy();
});

interface World {
  readonly clientEnd: MemoryStream;
  readonly applicationEnd: MemoryStream;
  readonly connection: InboundConnection;
  readonly lines: Record<string, unknown>[];
  readonly record: ConnectionRecord;
  serve(): TestApplication;
  connect(): Http2Connection;
}

function arrive(view: MeshView): World {
  const [clientEnd, stream] = memoryStreamPair();
  const [upstream, applicationEnd] = memoryStreamPair();
  const counters = CounterBlock.create();
  const telemetry = new Telemetry(counters, new TrafficMetrics(), null);
  const workload = view.workload(1) as WorkloadEntry;
  const record = telemetry.open({
    direction: 'inbound',
    security: 'plaintext',
    path: 'plaintext',
    source: { address: '10.0.0.9', port: 1, workload: null, identity: null },
    destination: { address: '10.0.0.1', port: 8080, workload, identity: workload.identity, service: null },
    stream,
  });
  const lines: Record<string, unknown>[] = [];
  const exchange = record.exchange.bind(record);
  record.exchange = (each) => {
    lines.push({ path: each.path, status: each.status, grpcStatus: each.grpcStatus, refusal: each.refusal });
    exchange(each);
  };
  const connection = new InboundConnection(
    {
      workload,
      stream,
      security: 'plaintext',
      peer: null,
      source: { address: '10.0.0.9', port: 1 },
      destination: { address: '10.0.0.1', port: 8080 },
    },
    view,
    upstream,
    record,
    true,
    { tokens: null, authorisers: null },
    () => {},
  );
  opened.push({ destroy: () => connection.destroy(new Error('the test is over')) });
  return {
    clientEnd,
    applicationEnd,
    connection,
    lines,
    record,
    serve: () => {
      const application = new TestApplication();
      opened.push(new Http2Connection('server', applicationEnd, application, { keepAliveMs: 0 }));
      return application;
    },
    connect: () => {
      const client = new Http2Connection('client', clientEnd, new TestApplication(), { keepAliveMs: 0 });
      opened.push(client);
      return client;
    },
  };
}

describe('an inbound connection that carries HTTP/2', () => {
  it('asks policy for each request', async () => {
    const world = arrive(viewOf(['/shop.Items/*', '/public']));
    const application = world.serve();
    const client = world.connect();
    const allowed = await new Response(client.request(get('/public'), true)).done();
    const denied = await new Response(client.request(get('/private'), true)).done();
    const call = await new Response(client.request(grpc('/shop.Users/Delete'), true)).done();
    assert.deepEqual([allowed.field(':status'), denied.field(':status'), call.field('grpc-status')], ['200', '403', '7']);
    assert.equal(application.arrived.length, 1);
    assert.equal(world.connection.state, 'http');
    assert.equal(world.record.info(0, '').protocol, 'http2');
    await settle();
    assert.deepEqual(world.lines, [
      { path: '/public', status: 200, grpcStatus: undefined, refusal: null },
      { path: '/private', status: 403, grpcStatus: undefined, refusal: 'policy-denied' },
      { path: '/shop.Users/Delete', status: 200, grpcStatus: 7, refusal: 'policy-denied' },
    ]);
  });

  it('is HTTP/2 too where the application sends its SETTINGS before the client spoke', async () => {
    const world = arrive(viewOf(['/public']));
    world.serve();
    await settle();
    assert.equal(world.connection.state, 'detecting');
    const client = world.connect();
    const denied = await new Response(client.request(get('/private'), true)).done();
    const allowed = await new Response(client.request(get('/public'), true)).done();
    assert.deepEqual([allowed.field(':status'), denied.field(':status')], ['200', '403']);
  });

  it('ends streams that a new policy does not allow', async () => {
    const world = arrive(viewOf(['/watch', '/other']));
    const application = world.serve();
    application.onRequest = ({ stream }) => stream.respond([':status', '200']);
    const client = world.connect();
    const watch = new Response(client.request(grpc('/watch'), true));
    const other = new Response(client.request(get('/other'), true));
    await settle();
    const view = viewOf(['/other']);
    world.connection.reconsider(view, view.workload(1) as WorkloadEntry);
    await watch.done();
    assert.equal(watch.resetCode, 8);
    assert.equal(other.body.error, null);
    application.arrived[1]?.stream.end();
    await other.done();
    assert.equal(other.body.error, null);
  });

  it('asks for tokens as soon as a new configuration says so', async () => {
    const world = arrive(viewOf(null));
    const application = world.serve();
    const client = world.connect();
    const fields = grpc('/a//b', 'authorization', 'Bearer none');
    assert.equal((await new Response(client.request(fields, true)).done()).field(':status'), '200');
    assert.ok(application.arrived[0]?.fields.includes('/a//b'));
    const rule: JwtRule = {
      issuer: 'https://issuer.example',
      audiences: [],
      jwks: '{"keys":[]}',
      jwksUri: null,
      fromHeaders: [],
      fromParams: [],
      fromCookies: [],
      forwardOriginalToken: false,
      outputPayloadToHeader: null,
      outputClaimToHeaders: [],
    };
    const view = viewOf(null, 'auto', [{ name: 'shop/tokens', rules: [rule] }]);
    world.connection.reconsider(view, view.workload(1) as WorkloadEntry);
    assert.equal((await new Response(client.request(fields, true)).done()).field('grpc-status'), '16');
    assert.equal(application.arrived.length, 1);
  });

  it('drains', async () => {
    const world = arrive(viewOf(null));
    world.serve();
    const client = world.connect();
    await new Response(client.request(get('/'), true)).done();
    world.connection.drain();
    await settle(12);
    assert.equal(world.connection.state, 'closed');
    assert.equal(client.state, 'stopped');
  });
});

describe('a server that speaks first', () => {
  it('is relayed where it is no HTTP/2', async () => {
    const world = arrive(viewOf(null));
    const client = new StreamRecorder(world.clientEnd);
    new StreamRecorder(world.applicationEnd).send('220 smtp ready\r\n');
    await settle();
    assert.equal(client.text(), '220 smtp ready\r\n');
    assert.equal(world.connection.state, 'opaque');
  });

  it('is relayed after a while where it began as HTTP/2 does and nobody could be refused', async (context) => {
    const settings = Buffer.from('000000040000000000', 'hex').latin1Slice();
    for (const [said, wait] of [
      [settings.slice(0, 5), 200],
      [settings, 5_000],
    ] as const) {
      context.mock.timers.enable({ apis: ['setTimeout'] });
      const world = arrive(viewOf(null));
      const client = new StreamRecorder(world.clientEnd);
      const server = new StreamRecorder(world.applicationEnd);
      server.send(said.slice(0, 3));
      server.send(said.slice(3));
      await settle();
      context.mock.timers.tick(wait - 1);
      assert.equal(world.connection.state, 'detecting');
      context.mock.timers.tick(1);
      await settle();
      assert.equal(client.text(), said);
      assert.equal(world.connection.state, 'opaque');
      // HTTP/2 that comes now would bring its heads past the gate.
      client.send('PRI * HTTP/2.0\r\n\r\n');
      await settle();
      client.send('SM\r\n\r\nforged');
      await settle();
      assert.equal(world.connection.state, 'closed');
      assert.doesNotMatch(server.text(), /forged/);
      context.mock.timers.reset();
    }
  });

  it('may begin as HTTP/2 does, and its client speak something else', async () => {
    const world = arrive(viewOf(null));
    const client = new StreamRecorder(world.clientEnd);
    const settings = Buffer.from('000000040000000000', 'hex').latin1Slice();
    const server = new StreamRecorder(world.applicationEnd);
    server.send(settings);
    await settle();
    client.send('\x01\x02\x03');
    await settle();
    assert.deepEqual([client.text(), server.text()], [settings, '\x01\x02\x03']);
  });
});

describe('a port that is declared grpc', () => {
  for (const [name, bytes] of [
    ['garbage', '\x01\x02garbage'],
    ['half a preface and then something else', 'PRI * HTTP/2.0\r\n\r\nXX'],
    ['text', 'EHLO example.org\r\n'],
  ] as const) {
    it(`refuses ${name}, also where no policy applies`, async () => {
      const world = arrive(viewOf(null, 'grpc'));
      const client = new StreamRecorder(world.clientEnd);
      const server = new StreamRecorder(world.applicationEnd);
      client.send(bytes);
      await settle();
      assert.equal(server.text(), '');
      assert.ok(client.closed || /^HTTP\/1.1 [45]/.test(client.text()), `${world.connection.state} ${client.text()}`);
    });
  }

  it('takes HTTP/2, and TLS as it is', async () => {
    const world = arrive(viewOf(null, 'grpc'));
    world.serve();
    const response = await new Response(world.connect().request(grpc('/x'), true)).done();
    assert.equal(response.field(':status'), '200');
    const tls = arrive(viewOf(null, 'grpc'));
    const server = new StreamRecorder(tls.applicationEnd);
    const hello = '\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00';
    new StreamRecorder(tls.clientEnd).send(hello);
    await settle();
    assert.equal(server.text(), hello);
  });

  it('waits for the client of a server that sends its SETTINGS first', async () => {
    const world = arrive(viewOf(null, 'grpc'));
    world.serve();
    await new Promise((resolve) => setTimeout(resolve, 250));
    assert.equal(world.connection.state, 'detecting');
    const response = await new Response(world.connect().request(grpc('/x'), true)).done();
    assert.equal(response.field(':status'), '200');
  });

  it('refuses a server that speaks first, and not HTTP/2', async () => {
    const world = arrive(viewOf(null, 'http2'));
    const client = new StreamRecorder(world.clientEnd);
    new StreamRecorder(world.applicationEnd).send('220 smtp ready\r\n');
    await settle();
    assert.equal(client.text(), '');
    assert.equal(client.closed, true);
  });
});
