import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import http2 from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { after, before, describe, it } from 'node:test';
import { app } from '../kit/lab/index.ts';
import type { LabPod } from '../kit/lab/index.ts';
import { CounterWatch, handshakeCounter } from '../kit/counters.ts';
import { HboneClient, LabAuthority, TUNNEL_PORT, type TlsMaterial } from '../kit/hbone.ts';
import { HTTP_PORT, Mesh } from '../kit/mesh.ts';
import { PodNetwork } from '../kit/pod-network.ts';

const CLIENT_ID = 'spiffe://cluster.local/ns/shop/sa/client';
const ECHO_PORT = 7000;
/** What ztunnel sends (reference: HBONE wire protocol). */
const ZTUNNEL_HEADERS = {
  baggage: 'k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=client,service.name=client,service.version=v1',
  traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00',
};
const POLICY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: near}}
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
`;

interface Seen {
  readonly path: string;
  readonly remoteAddress: string;
  readonly remotePort: number;
}

describe('a foreign HBONE client, as ztunnel speaks it', () => {
  let mesh: Mesh;
  let pod: LabPod;
  let foreign: PodNetwork;
  let valid: TlsMaterial;

  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', config: { policy: POLICY } });
    const echo = await mesh.far.spawn(app('tcp-echo', ECHO_PORT));
    await echo.waitForLine(/listening/);
    pod = await mesh.nodeB.pod('foreign', { namespace: 'shop', inConfig: false });
    foreign = new PodNetwork(pod);
    valid = await (await LabAuthority.open(mesh.lab)).issue('shop', 'client');
  });
  after(async () => {
    foreign?.[Symbol.dispose]();
    await mesh?.[Symbol.asyncDispose]();
  });

  for (const family of ['v4', 'v6'] as const) {
    it(`gets the workload's answer through CONNECT, and its identity into the log (${family})`, async () => {
      const address = mesh.far.addresses[family];
      using client = new HboneClient(foreign, address, valid);
      const from = family === 'v4' ? pod.addresses.v4 : `[${pod.addresses.v6}]`;
      const authority = family === 'v4' ? `${address}:${HTTP_PORT}` : `[${address}]:${HTTP_PORT}`;
      using connection = await client.connect(authority, { ...ZTUNNEL_HEADERS, forwarded: `for="${from}:46238";host=far.shop` });
      connection.send(`GET /foreign-${family} HTTP/1.1\r\nHost: far\r\n\r\n`);
      const [, body = ''] = await connection.received(/^HTTP\/1\.1 200 [^]*\r\n\r\n({.*})\n/);
      const seen = JSON.parse(body) as Seen;
      assert.equal(seen.remoteAddress, pod.addresses[family]);
      assert.equal(seen.remotePort, 46_238, 'what `forwarded` says of the very peer');
      const line = await mesh.accessLog(mesh.agentB, ({ path }) => path === `/foreign-${family}`);
      assert.equal(line.security, 'mtls');
      assert.equal(line.source.identity, CLIENT_ID);
      assert.equal(line.source.address, seen.remoteAddress);
      assert.equal(line.destination.identity, 'spiffe://cluster.local/ns/shop/sa/far');
    });
  }

  it('carries 8 MiB both ways and a half-close', async () => {
    using client = new HboneClient(foreign, mesh.far.addresses.v4, valid);
    using connection = await client.connect(`${mesh.far.addresses.v4}:${ECHO_PORT}`, ZTUNNEL_HEADERS);
    connection.stream.end(Buffer.alloc(8 << 20, 'x'));
    assert.equal(await connection.ended(20_000), 'end');
    assert.equal(connection.bytes, 8 << 20);
  });

  it('has 100 connections at once in one tunnel', async () => {
    using client = new HboneClient(foreign, mesh.far.addresses.v4, valid);
    await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        using connection = await client.connect(`${mesh.far.addresses.v4}:${ECHO_PORT}`);
        await connection.send(`stream ${index};`).received(new RegExp(`^stream ${index};$`));
      }),
    );
  });

  it('gets the destination’s policy inside of the tunnel', async () => {
    using client = new HboneClient(foreign, mesh.near.addresses.v4, valid);
    using connection = await client.connect(`${mesh.near.addresses.v4}:${HTTP_PORT}`);
    await connection.send('DELETE /x HTTP/1.1\r\nHost: near\r\n\r\n').received(/^HTTP\/1\.1 403 [^]*x-weft-denied-by: shop\/no-delete/i);
    await connection.send('GET /x HTTP/1.1\r\nHost: near\r\n\r\n').received(/HTTP\/1\.1 200 /);
  });

  it('is answered its PING', async () => {
    using client = new HboneClient(foreign, mesh.far.addresses.v4, valid);
    await once(client.session, 'remoteSettings');
    await new Promise<void>((resolve, reject) => client.session.ping((error) => (error === null ? resolve() : reject(error))));
  });
});

/** An HBONE server on node:http2 with ztunnel's settings, which plays the application behind it too. */
class ForeignServer implements AsyncDisposable {
  readonly connects: http2.IncomingHttpHeaders[] = [];
  readonly peers = new Set<string>();
  received = '';
  sessions = 0;
  answer: (stream: http2.ServerHttp2Stream) => void = (stream) => this.#serve(stream);
  readonly #server: http2.Http2SecureServer;
  readonly #open = new Set<http2.ServerHttp2Session>();

  constructor(network: PodNetwork, material: TlsMaterial) {
    this.#server = http2.createSecureServer({
      ...material,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: 'TLSv1.3',
      settings: { initialWindowSize: 4 << 20, maxFrameSize: 1 << 20, maxConcurrentStreams: 200, maxHeaderListSize: 65_536 },
    });
    this.#server.on('session', (session) => {
      this.sessions++;
      this.#open.add(session);
      session.on('error', () => {}).on('close', () => this.#open.delete(session));
      this.peers.add((session.socket as TLSSocket).getPeerCertificate().subjectaltname ?? '');
    });
    this.#server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
      stream.on('error', () => {});
      this.connects.push(headers);
      this.answer(stream);
    });
    this.#server.on('sessionError', () => {}).on('tlsClientError', () => {});
    this.#server.listen({ fd: network.listener(TUNNEL_PORT) });
  }

  #serve(stream: http2.ServerHttp2Stream): void {
    stream.respond({ ':status': 200, baggage: 'service.name=foreign' });
    stream.on('data', (chunk: Buffer) => {
      this.received += chunk.toString('latin1');
      if (this.received.endsWith('\r\n\r\n')) stream.write('HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign');
    });
    stream.on('end', () => stream.end());
  }

  /** GOAWAY on every connection. */
  goAway(): void {
    for (const session of this.#open) session.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#open) session.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

describe('a foreign HBONE server, on a node without an agent of Weft', () => {
  let mesh: Mesh;
  let pod: LabPod;
  let network: PodNetwork;
  let authority: LabAuthority;

  before(async () => {
    mesh = await Mesh.start({ mode: 'strict' });
    const node = await mesh.lab.node('node-c');
    pod = await node.pod('foreign', { namespace: 'shop' });
    mesh.config.workloads(mesh.lab.pods);
    await mesh.agentA.waitForState('knows far and the foreign workload', ({ workloads }) => workloads.remote === 2);
    network = new PodNetwork(pod);
    authority = await LabAuthority.open(mesh.lab);
  });
  after(async () => {
    network?.[Symbol.dispose]();
    await mesh?.[Symbol.asyncDispose]();
  });

  const get = async (path: string, family: 'v4' | 'v6' = 'v4'): Promise<number> =>
    (await mesh.curl(mesh.client, mesh.url(pod, path, family))).status;

  for (const family of ['v4', 'v6'] as const) {
    it(`is tunnelled to, with the client's own SVID and address (${family})`, async () => {
      await using server = new ForeignServer(network, await authority.issue('shop', 'foreign'));
      const answer = await mesh.curl(mesh.client, mesh.url(pod, '/outbound', family));
      assert.equal(answer.status, 200, answer.result.stderr);
      assert.equal(answer.body, 'foreign');
      assert.deepEqual([...server.peers], [`URI:${CLIENT_ID}`]);
      const [connect] = server.connects;
      const [client, host] = [mesh.client, pod].map(({ addresses }) => (family === 'v4' ? addresses.v4 : `[${addresses.v6}]`));
      assert.equal(connect?.[':method'], 'CONNECT');
      assert.equal(connect?.[':authority'], `${host}:${HTTP_PORT}`);
      assert.match(String(connect?.['forwarded']), new RegExp(`^for="${RegExp.escape(String(client))}:\\d+"`));
      assert.equal(':path' in (connect ?? {}) || ':scheme' in (connect ?? {}), false);
    });
  }

  it('shares one tunnel among connections of a pair of pods, and makes a new one after GOAWAY', async () => {
    await using server = new ForeignServer(network, await authority.issue('shop', 'foreign'));
    for (let i = 0; i < 6; i++) assert.equal(await get('/again'), 200);
    assert.ok(server.sessions <= 4, `${server.sessions} tunnels for one pair: one for each worker at most`);
    server.goAway();
    await new Promise((resolve) => setTimeout(resolve, 50));
    for (let i = 0; i < 4; i++) assert.equal(await get('/after'), 200);
  });

  for (const status of [400, 401, 503]) {
    it(`whose answer is ${status}: the application's connection is reset, and the log says why`, async () => {
      await using server = new ForeignServer(network, await authority.issue('shop', 'foreign'));
      server.answer = (stream) => stream.respond({ ':status': status }, { endStream: true });
      assert.equal(await get('/refused'), 0);
      assert.equal(server.received, '');
      await mesh.accessLog(mesh.agentA, ({ direction, reason }) => {
        return direction === 'outbound' && reason?.includes('WEFT_TUNNEL_REFUSED') === true && reason.includes(String(status));
      });
    });
  }

  it('that is somebody else: refused before a byte of the application is sent', async () => {
    await using server = new ForeignServer(network, await authority.issue('shop', 'impostor'));
    const watch = await CounterWatch.start(mesh.agentA);
    assert.equal(await get('/secret'), 0);
    assert.equal(server.connects.length, 0);
    const line = await mesh.accessLog(mesh.agentA, ({ reason }) => reason?.includes('WEFT_TUNNEL_PEER_IDENTITY') === true);
    assert.match(String(line.reason), /sa\/impostor, not spiffe:\/\/cluster\.local\/ns\/shop\/sa\/foreign/);
    await watch.reached(handshakeCounter('peer-identity', 'outbound'));
  });

  it('with the right name from another authority: refused', async () => {
    const uris = ['spiffe://cluster.local/ns/shop/sa/foreign'];
    await using server = new ForeignServer(network, await authority.forge({ issuer: null, uris }));
    const watch = await CounterWatch.start(mesh.agentA);
    assert.equal(await get('/secret'), 0);
    assert.equal(server.connects.length, 0);
    await watch.reached(handshakeCounter('untrusted', 'outbound'));
    await mesh.accessLog(mesh.agentA, ({ reason }) => reason?.includes('WEFT_TUNNEL_PEER') === true && reason.includes('PEER_CHAIN'));
  });

  it('that speaks no TLS: refused, and nothing is sent in plaintext', async () => {
    let received = '';
    const server: Server = createServer((socket) => {
      socket.on('error', () => {}).on('data', (chunk: Buffer) => (received += chunk.toString('latin1')));
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
    }).listen({ fd: network.listener(TUNNEL_PORT) });
    try {
      assert.equal(await get('/secret'), 0);
      assert.equal(received.includes('secret'), false);
      await mesh.accessLog(mesh.agentA, ({ reason }) => reason?.includes('WEFT_TUNNEL_TLS') === true);
    } finally {
      server.close();
    }
  });

  it('that says nothing: the client waits no longer than the handshake may take', async () => {
    const server = createServer(() => {}).listen({ fd: network.listener(TUNNEL_PORT) });
    const watch = await CounterWatch.start(mesh.agentA);
    try {
      const answer = await mesh.curl(mesh.client, mesh.url(pod, '/x'), '--max-time', '14');
      assert.equal(answer.status, 0);
      assert.notEqual(answer.result.code, 28, 'not curl, but the mesh gave up');
      await mesh.accessLog(mesh.agentA, ({ reason }) => reason?.includes('the handshake timed out') === true);
      await watch.reached(handshakeCounter('timeout', 'outbound'));
    } finally {
      server.close();
    }
  });

  it('is used again as soon as it is well', async () => {
    await using server = new ForeignServer(network, await authority.issue('shop', 'foreign'));
    // A destination that failed again and again is left alone for a second.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    assert.equal(await get('/well'), 200);
    assert.match(server.received, /GET \/well /);
  });
});
