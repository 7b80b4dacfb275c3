import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FrameFlag, FrameType, writeFrameHeader } from '../../src/transport/http2/frame.ts';
import { HpackEncoder } from '../../src/transport/http2/hpack.ts';
import type { CountersAnswer, StateAnswer } from '../../src/model/admin-api.ts';
import { Conversation } from '../kit/conversation.ts';
import { CounterWatch, handshakeCounter, httpRefusalCounter, malformedCounter, refusedCounter } from '../kit/counters.ts';
import { dialTls, HboneClient, LabAuthority, type TlsMaterial, TUNNEL_PORT } from '../kit/hbone.ts';
import { Caller, HTTP_PORT, Mesh } from '../kit/mesh.ts';
import { PodNetwork } from '../kit/pod-network.ts';
import { forgeRoot } from '../unit/certs/forge.ts';

const CLIENT_ID = 'spiffe://cluster.local/ns/shop/sa/client';
const RECORDER_PORT = 9090;
const PUBLIC = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: public, namespace: shop}
spec:
  action: ALLOW
  rules:
  - to: [{operation: {methods: [GET, HEAD, POST], paths: [/public/*]}}]
`;

/** An application that keeps every byte that reaches it, and answers each head with 200. */
class RecordingApplication implements AsyncDisposable {
  text = '';
  connections = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(network: PodNetwork) {
    this.#server = createServer((socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket));
      socket.on('data', (chunk: Buffer) => {
        const text = chunk.toString('latin1');
        this.text += text;
        for (let heads = text.split('\r\n\r\n').length - 1; heads > 0; heads--)
          socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      });
    });
    this.#server.listen({ fd: network.listener(RECORDER_PORT) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

describe('a permissive workload with a policy of requests, among hostile peers', () => {
  let mesh: Mesh;
  let caller: Caller;
  let authority: LabAuthority;
  /** In the pod `stranger`, which is not in the mesh. */
  let outside: PodNetwork;
  let inside: PodNetwork;
  let application: RecordingApplication;
  let valid: TlsMaterial;
  let residentBefore = 0;

  before(async () => {
    mesh = await Mesh.start({ mode: 'permissive', config: { policy: PUBLIC } });
    authority = await LabAuthority.open(mesh.lab);
    valid = await authority.issue('shop', 'client');
    outside = new PodNetwork(mesh.stranger);
    inside = new PodNetwork(mesh.far);
    application = new RecordingApplication(inside);
    // Somebody who notices: a new connection each time, through the mesh and in plaintext.
    caller = new Caller(async (index) => {
      await sleep(150);
      return (await mesh.curl(index % 4 === 3 ? mesh.stranger : mesh.client, mesh.url(mesh.far, '/public/caller'))).status;
    });
    // Until each worker of its node has its tunnel, so that no handshake of the caller's is counted among those of the peers.
    const { workers } = await mesh.agentA.json<StateAnswer>('/v1/state');
    for (let calls = 0; (await handshakes()) < workers; calls += 4) {
      assert.ok(calls < 400, 'one worker got no connection');
      await caller.more(4);
    }
    residentBefore = mesh.nodeB.agentResidentBytes();
  });

  async function handshakes(): Promise<number> {
    return (await mesh.agentB.json<CountersAnswer>('/v1/counters')).proxy[handshakeCounter('ok')] ?? 0;
  }

  after(async () => {
    await caller?.stop();
    await application?.[Symbol.asyncDispose]();
    await mesh?.[Symbol.asyncDispose]();
  });

  const dial = (port: number): Conversation => new Conversation(outside.dial(mesh.far.addresses.v4, port));

  function tunnel(material: Partial<TlsMaterial> = valid, options: ConnectionOptions = {}): Conversation {
    return new Conversation(dialTls(outside, mesh.far.addresses.v4, material, options));
  }

  const far = (port: number): string => `${mesh.far.addresses.v4}:${port}`;

  function hbone(): HboneClient {
    return new HboneClient(outside, mesh.far.addresses.v4, valid);
  }

  /** The line that the agent wrote about it: what, and who. */
  async function logged(pattern: RegExp): Promise<Record<string, unknown>> {
    const match = await mesh.agentB.process.waitForLine(pattern, 5_000);
    return JSON.parse(match.input) as Record<string, unknown>;
  }

  describe('in plaintext', () => {
    const notHttp: readonly (readonly [string, string])[] = [
      ['garbage', '\x00\x01\x02\xff\xfe garbage that is nothing\r\n\r\n'],
      ['a TLS hello', '\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00'],
    ];
    for (const [what, bytes] of notHttp) {
      it(`${what}: cut, and nothing of it reaches the application`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        application.text = '';
        using connection = dial(RECORDER_PORT).send(bytes);
        assert.notEqual(await connection.ended(), 'open');
        assert.equal(connection.text, '');
        assert.equal(application.text, '');
        await watch.reached(refusedCounter('plaintext', 'policy'));
        const line = await mesh.accessLog(mesh.agentB, ({ kind, verdict, destination }) => {
          return kind === 'connection' && verdict === 'deny' && destination.port === RECORDER_PORT;
        });
        assert.equal(line.source.address, mesh.stranger.addresses.v4);
        assert.equal(line.security, 'plaintext');
      });
    }

    it('garbage after an HTTP/2 preface: ended and counted, and nothing of it reaches the application', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      application.text = '';
      using connection = dial(RECORDER_PORT).send(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${'smuggled '.repeat(20)}`);
      assert.notEqual(await connection.ended(), 'open');
      assert.equal(application.text.includes('smuggled'), false);
      await watch.reached(malformedCounter('http2'));
    });

    const badHttp: readonly (readonly [string, string, number, string])[] = [
      ['a control character in a field', 'GET /public/x HTTP/1.1\r\nHost: far\r\nX: a\x01b\r\n\r\n', 400, 'control-character'],
      ['a CONNECT', 'CONNECT far:80 HTTP/1.1\r\nHost: far:80\r\n\r\n', 405, 'connect-refused'],
      ['a head without an end', `GET /public/x HTTP/1.1\r\nHost: far\r\nX: ${'x'.repeat(70_000)}`, 431, 'head-too-large'],
      ['a target without an end', `GET /public/${'x'.repeat(20_000)}`, 414, 'target-too-long'],
    ];
    for (const [what, bytes, status, reason] of badHttp) {
      it(`${what}: ${status}`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        application.text = '';
        using connection = dial(RECORDER_PORT).send(bytes);
        await connection.received(new RegExp(`^HTTP/1.1 ${status} `));
        assert.equal(application.text, '');
        await watch.reached(httpRefusalCounter(reason));
      });
    }
  });

  describe('smuggling', () => {
    const inner = 'GET /admin/smuggled HTTP/1.1\r\nHost: far\r\n\r\n';
    const post = 'POST /public/x HTTP/1.1\r\nHost: far\r\n';
    const chunked = `0\r\n\r\n${inner}`;
    const attempts: readonly (readonly [string, string])[] = [
      ['CL.TE', `${post}Content-Length: ${chunked.length}\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`],
      ['TE.CL', `${post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2c\r\n${inner}\r\n0\r\n\r\n`],
      ['TE.TE, obfuscated', `${post}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: 4\r\n\r\n${chunked}`],
      ['TE with a space before the colon', `${post}Transfer-Encoding : chunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['TE with a vertical tab', `${post}Transfer-Encoding:\x0bchunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['TE on a folded line', `${post}X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['TE as an underscore name', `${post}Transfer_Encoding: chunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['two lengths', `${post}Content-Length: 0\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`],
      ['a list of lengths', `${post}Content-Length: 0, ${inner.length}\r\n\r\n${inner}`],
      ['a signed length', `${post}Content-Length: +${inner.length}\r\n\r\n${inner}`],
      ['a length with an underscore', `${post}Content-Length: 0_${inner.length}\r\n\r\n${inner}`],
      ['a bare line feed in the head', `${post}X: y\nTransfer-Encoding: chunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['a bare carriage return', `${post}X: y\rTransfer-Encoding: chunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['a NUL in a field name', `${post}Transfer-Encoding\x00: chunked\r\nContent-Length: ${chunked.length}\r\n\r\n${chunked}`],
      ['TE in HTTP/1.0', `POST /public/x HTTP/1.0\r\nHost: far\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`],
      ['length and TE hidden by Connection', `${post}Connection: Content-Length\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`],
      ['a chunk size that overflows', `${post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\n${inner}`],
      ['a chunk size ended by a line feed', `${post}Transfer-Encoding: chunked\r\n\r\n0\n\n${inner}`],
      ['a chunk extension with a line feed', `${post}Transfer-Encoding: chunked\r\n\r\n2;x\nxx\r\n0\r\n\r\n${inner}`],
      ['two hosts', `GET /public/x HTTP/1.1\r\nHost: far\r\nHost: admin\r\n\r\n${inner}`],
      ['an absolute target beside another host', `GET http://admin/public/x HTTP/1.1\r\nHost: far\r\n\r\n${inner}`],
      ['a path that climbs', `GET /public/%2e%2E/admin/smuggled HTTP/1.1\r\nHost: far\r\n\r\n`],
      ['a path with an encoded NUL', `GET /public/%00/../../admin/smuggled HTTP/1.1\r\nHost: far\r\n\r\n`],
      ['a pipelined request that policy denies', `GET /public/x HTTP/1.1\r\nHost: far\r\n\r\n${inner}`],
    ];

    it('the application would see it: the recorder records', async () => {
      application.text = '';
      using connection = dial(RECORDER_PORT).send('GET /public/control HTTP/1.1\r\nHost: far\r\n\r\n');
      await connection.received(/^HTTP\/1\.1 200 /);
      assert.match(application.text, /GET \/public\/control /);
    });

    for (const [what, bytes] of attempts) {
      it(`${what}: refused or denied, and the hidden request reaches nobody`, async () => {
        await attempt(application, bytes, async () => dial(RECORDER_PORT));
        using client = hbone();
        await attempt(application, bytes, () => client.connect(far(RECORDER_PORT)));
      });
    }
  });

  describe('on the tunnel port', () => {
    const notTls: readonly (readonly [string, string, string, string])[] = [
      ['garbage', '\x00\x01\x02\xff\xfe nothing that anybody knows', 'not_tls', 'protocol'],
      ['HTTP in plaintext', 'GET /public/x HTTP/1.1\r\nHost: far\r\n\r\n', 'plaintext', 'protocol'],
      ['an HTTP/2 preface in plaintext', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'plaintext', 'protocol'],
      ['a TLS record that is no hello', `\x16\x03\x01\x00\x20${'\xff'.repeat(32)}`, 'tls', 'protocol'],
      ['a TLS record that is too long', '\x16\x03\x01\xff\xff', 'not_tls', 'protocol'],
    ];
    for (const [what, bytes, reason, result] of notTls) {
      it(`${what}: cut, counted and logged`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        using connection = dial(TUNNEL_PORT).send(bytes);
        assert.notEqual(await connection.ended(), 'open');
        assert.equal(connection.text.includes('HTTP'), false);
        await watch.reached(handshakeCounter(result));
        await watch.reached(refusedCounter('tunnel', 'tls-failed'));
        const line = await logged(new RegExp(`"reason":"${reason}".*a tunnel was refused`));
        assert.equal(line['remoteAddress'], mesh.stranger.addresses.v4);
        assert.equal(line['identity'], 'spiffe://cluster.local/ns/shop/sa/far');
      });
    }

    const HOUR = 3_600_000;
    const badPeers: readonly (readonly [string, () => Promise<Partial<TlsMaterial>>, string, string])[] = [
      ['no certificate', async () => ({ ca: authority.roots }), 'no_certificate', 'no-certificate'],
      [
        'an expired certificate',
        () => authority.forge({ uris: [CLIENT_ID], notBefore: Date.now() - 2 * HOUR, notAfter: Date.now() - HOUR }),
        'WEFT_IDENTITY_PEER_EXPIRED',
        'expired',
      ],
      [
        'a certificate of tomorrow',
        () => authority.forge({ uris: [CLIENT_ID], notBefore: Date.now() + HOUR, notAfter: Date.now() + 2 * HOUR }),
        'WEFT_IDENTITY_PEER_NOT_YET_VALID',
        'expired',
      ],
      ['two URI SANs', () => authority.forge({ uris: [CLIENT_ID, `${CLIENT_ID}2`] }), 'WEFT_IDENTITY_PEER_SAN', 'peer-identity'],
      ['no URI SAN', () => authority.forge({ uris: [], subject: 'CN=client' }), 'WEFT_IDENTITY_PEER_SAN', 'peer-identity'],
      [
        'another trust domain',
        () => authority.forge({ uris: ['spiffe://example.org/ns/shop/sa/client'] }),
        'WEFT_IDENTITY_PEER_TRUST_DOMAIN',
        'untrusted',
      ],
      ['a CA certificate', () => authority.forge({ uris: [CLIENT_ID], ca: true }), 'WEFT_IDENTITY_PEER_CA', 'peer-identity'],
      ['a self-signed certificate', () => authority.forge({ issuer: null, uris: [CLIENT_ID] }), 'WEFT_IDENTITY_PEER_CHAIN', 'untrusted'],
      [
        'a certificate of a CA of the same name',
        async () => {
          const root = await forgeRoot({ subject: authority.subject, uris: ['spiffe://cluster.local'] });
          return authority.forge({ issuer: root, uris: [CLIENT_ID] });
        },
        'WEFT_IDENTITY_PEER_CHAIN',
        'untrusted',
      ],
      [
        'a certificate for servers only',
        () => authority.forge({ uris: [CLIENT_ID], extendedKeyUsage: ['1.3.6.1.5.5.7.3.1'] }),
        'WEFT_IDENTITY_PEER_KEY_USAGE',
        'peer-identity',
      ],
    ];
    for (const [what, material, code, result] of badPeers) {
      it(`a peer with ${what}: sent away, counted and logged`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        using connection = tunnel(await material());
        // It may send what it likes: nobody reads it.
        connection.send(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`);
        assert.notEqual(await connection.ended(), 'open');
        await watch.reached(handshakeCounter(result));
        await watch.reached(refusedCounter('tunnel', 'peer-identity'));
        assert.equal(await watch.grown(handshakeCounter('ok')), 0);
        const line = await logged(new RegExp(`"${code}".*a tunnel was refused`));
        assert.equal(line['remoteAddress'], mesh.stranger.addresses.v4);
      });
    }

    const badTls: readonly (readonly [string, ConnectionOptions, string])[] = [
      ['TLS 1.2 only', { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }, 'protocol'],
      ['another ALPN', { ALPNProtocols: ['http/1.1'] }, 'alpn'],
      ['no ALPN', { ALPNProtocols: [] }, 'protocol'],
      ['a cipher suite that is not offered', { ciphers: 'TLS_CHACHA20_POLY1305_SHA256' }, 'protocol'],
    ];
    for (const [what, options, result] of badTls) {
      it(`${what}: no tunnel, counted`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        using connection = tunnel(valid, options);
        assert.notEqual(await connection.ended(), 'open');
        assert.equal(connection.text, '');
        await watch.reached(handshakeCounter(result));
        await watch.reached(refusedCounter('tunnel', 'tls-failed'));
        assert.equal(await watch.grown(handshakeCounter('ok')), 0);
      });
    }

    it('garbage instead of the HTTP/2 preface: GOAWAY, counted, and logged with the peer’s identity', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      using connection = tunnel().send('GET / HTTP/1.1\r\nHost: far\r\n\r\n');
      assert.notEqual(await connection.ended(), 'open');
      assert.match(connection.text, /not the HTTP\/2 preface/);
      await watch.reached(malformedCounter('http2'));
      const line = await logged(/not the HTTP\/2 preface.*a tunnel was refused/);
      assert.equal(line['peer'], CLIENT_ID);
    });
  });

  describe('with a valid SVID', () => {
    const badTargets: readonly (readonly [string, () => string, number, string])[] = [
      ['the agent’s outbound port', () => far(15_001), 503, refusedCounter('tunnel', 'forbidden-port')],
      ['the agent’s inbound port', () => far(15_006), 503, refusedCounter('tunnel', 'forbidden-port')],
      ['the tunnel port itself', () => far(15_008), 503, refusedCounter('tunnel', 'forbidden-port')],
      ['the tunnel port, by IPv6', () => `[${mesh.far.addresses.v6}]:15008`, 503, refusedCounter('tunnel', 'forbidden-port')],
      ['another pod', () => `${mesh.near.addresses.v4}:${HTTP_PORT}`, 400, refusedCounter('tunnel', 'unknown-destination')],
      ['the loopback address', () => '127.0.0.1:8080', 400, refusedCounter('tunnel', 'unknown-destination')],
      ['the loopback address, mapped', () => '[::ffff:127.0.0.1]:8080', 400, refusedCounter('tunnel', 'unknown-destination')],
      ['any address', () => '0.0.0.0:8080', 400, refusedCounter('tunnel', 'unknown-destination')],
      ['a host name', () => 'far.shop.svc.cluster.local:8080', 400, refusedCounter('tunnel', 'unknown-destination')],
      ['localhost', () => 'localhost:8080', 400, refusedCounter('tunnel', 'unknown-destination')],
      ['no port', () => mesh.far.addresses.v4, 400, malformedCounter('tunnel-request')],
      ['port 0', () => far(0), 400, malformedCounter('tunnel-request')],
      ['a port that is none', () => far(65_536), 400, malformedCounter('tunnel-request')],
      ['an address in octal', () => '0177.0.0.1:8080', 400, malformedCounter('tunnel-request')],
      ['an address as one number', () => '2130706433:8080', 400, malformedCounter('tunnel-request')],
      ['an address with a zone', () => '[fe80::1%25eth0]:8080', 400, malformedCounter('tunnel-request')],
      ['user information', () => `root@${far(8080)}`, 400, malformedCounter('tunnel-request')],
    ];
    for (const [what, authorityOf, status, counter] of badTargets) {
      it(`a CONNECT to ${what}: ${status}`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        using client = hbone();
        assert.equal((await client.request({ ':authority': authorityOf() })).status, status);
        await watch.reached(counter);
        // The tunnel itself is as good as before.
        using connection = await client.connect(far(HTTP_PORT));
        await connection.send('GET /public/x HTTP/1.1\r\nHost: far\r\n\r\n').received(/^HTTP\/1\.1 200 /);
      });
    }

    it('tells in the log who asked for what', async () => {
      for (const [reason, destination] of [
        ['forbidden-port', /^10\..*:150(?:01|06|08)$/],
        ['unknown-destination', /:8080$/],
      ] as const) {
        const line = await logged(new RegExp(`"reason":"${reason}".*a CONNECT was refused`));
        assert.match(String(line['destination']), destination);
        assert.equal(line['peer'], CLIENT_ID);
        assert.equal(line['remoteAddress'], mesh.stranger.addresses.v4);
      }
    });

    it('a CONNECT to a port where nobody listens: 503', async () => {
      using client = hbone();
      assert.equal((await client.request({ ':authority': far(9) })).status, 503);
    });

    it('a GET instead of a CONNECT: 400, counted', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      using client = hbone();
      const answer = await client.request({ ':method': 'GET', ':path': '/public/x', ':scheme': 'https', ':authority': 'far' });
      assert.equal(answer.status, 400);
      await watch.reached(malformedCounter('tunnel-request'));
    });

    it('an extended CONNECT (RFC 8441), which nobody offered: refused', async () => {
      const raw = new RawHttp2(tunnel());
      using connection = raw.connection;
      const fields = [':method', 'CONNECT', ':protocol', 'websocket', ':scheme', 'https', ':path', '/', ':authority', far(8080)];
      raw.headers(1, fields);
      await connection.received(RawHttp2.frame(FrameType.resetStream, 1));
    });

    it('headers over the limit: 431 or the end of the connection, and never more memory than they may take', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      const raw = new RawHttp2(tunnel());
      using connection = raw.connection;
      raw.headers(1, [':method', 'CONNECT', ':authority', far(8080), 'x-large', 'y'.repeat(200_000)]);
      assert.notEqual(await connection.ended(), 'open');
      await watch.reached(malformedCounter('http2'));
    });

    it('many small headers: the stream is refused', async () => {
      const raw = new RawHttp2(tunnel());
      using connection = raw.connection;
      const many = Array.from({ length: 500 }, (_, index) => [`x-${index}`, 'y']).flat();
      raw.headers(1, [':method', 'CONNECT', ':authority', far(8080), ...many]);
      await connection.received(RawHttp2.frame(FrameType.headers, 1));
    });

    it('10,000 CONNECTs: a bounded number reaches the application, then the connection ends', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      application.connections = 0;
      const raw = new RawHttp2(tunnel());
      using connection = raw.connection;
      await flood(connection, 10_000, (index) => raw.headers(2 * index + 1, [':method', 'CONNECT', ':authority', far(RECORDER_PORT)]));
      assert.match(connection.text, /too many streams/);
      await watch.reached(malformedCounter('http2'));
      assert.ok(application.connections <= 200, `${application.connections} connections`);
    });

    it('10,000 CONNECTs, each reset at once: the connection ends', async () => {
      application.connections = 0;
      const raw = new RawHttp2(tunnel());
      using connection = raw.connection;
      await flood(connection, 10_000, (index) => {
        raw.headers(2 * index + 1, [':method', 'CONNECT', ':authority', far(RECORDER_PORT)]);
        raw.send(FrameType.resetStream, 0, 2 * index + 1, Buffer.from([0, 0, 0, 8]));
      });
      assert.match(connection.text, /opened only to be reset/);
    });

    const floods: readonly (readonly [string, (raw: RawHttp2, index: number) => void])[] = [
      ['PING', (raw) => raw.send(FrameType.ping, 0, 0, Buffer.alloc(8))],
      ['SETTINGS', (raw) => raw.send(FrameType.settings, 0, 0, Buffer.from([0, 3, 0, 0, 0, 100]))],
      ['PRIORITY', (raw) => raw.send(FrameType.priority, 0, 1, Buffer.alloc(5))],
      ['unknown', (raw) => raw.send(0xbb, 0, 0, Buffer.alloc(1))],
      [
        'CONTINUATION',
        (raw, index) => {
          if (index === 0) raw.send(FrameType.headers, 0, 1, Buffer.from([0x82]));
          else raw.send(FrameType.continuation, 0, 1, Buffer.from([0x82]));
        },
      ],
    ];
    for (const [what, send] of floods) {
      it(`20,000 ${what} frames: the connection ends`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        const raw = new RawHttp2(tunnel());
        using connection = raw.connection;
        await flood(connection, 20_000, (index) => send(raw, index));
        await watch.reached(malformedCounter('http2'));
      });
    }

    it('one who asks and never reads is ended, not buffered for', async () => {
      const raw = new RawHttp2(tunnel());
      using connection = raw.connection;
      connection.stream.pause();
      for (let index = 0; index < 5_000 && connection.stream.writable; index++) raw.send(FrameType.ping, 0, 0, Buffer.alloc(8));
      connection.stream.resume();
      assert.notEqual(await connection.ended(), 'open');
    });
  });

  // These wait for timeouts, all at once.
  describe('silence', { concurrency: true }, () => {
    const FIN_OR_RESET: ReadonlySet<string> = new Set(['end', 'reset']);

    it('on the tunnel port: the end after 10 s, counted', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      using silent = dial(TUNNEL_PORT);
      using oneByte = dial(TUNNEL_PORT).send('\x16');
      assert.ok(FIN_OR_RESET.has(await silent.ended(15_000)));
      assert.ok(FIN_OR_RESET.has(await oneByte.ended(15_000)));
      assert.ok(silent.lasted > 9_000 && silent.lasted < 14_000, `${silent.lasted}`);
      await watch.reached(refusedCounter('tunnel', 'timeout'), 2);
      await watch.reached(handshakeCounter('timeout'), 2);
    });

    it('on the tunnel port, one byte at a time: the end after 10 s all the same', async () => {
      using slow = dial(TUNNEL_PORT);
      for (const byte of '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaa') {
        slow.send(byte);
        await sleep(500);
      }
      assert.ok(FIN_OR_RESET.has(await slow.ended(5_000)));
      assert.ok(slow.lasted < 14_000, `${slow.lasted}`);
    });

    it('after the handshake: the end after 10 s, since no HTTP/2 came', async () => {
      using silent = tunnel();
      assert.ok(FIN_OR_RESET.has(await silent.ended(15_000)));
      assert.match(silent.text, /no HTTP\/2 preface in time/);
    });

    it('in plaintext: an orderly end after 30 s, counted and logged', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      using silent = dial(HTTP_PORT);
      assert.equal(await silent.ended(45_000), 'end');
      await watch.reached(refusedCounter('plaintext', 'timeout'));
      await mesh.accessLog(mesh.agentB, ({ reason }) => reason?.includes('WEFT_PROXY_SILENT') === true);
    });

    it('in a tunnelled connection: the same, and the tunnel goes on', async () => {
      const watch = await CounterWatch.start(mesh.agentB);
      using client = hbone();
      using silent = await client.connect(far(HTTP_PORT));
      assert.equal(await silent.ended(45_000), 'end');
      await watch.reached(refusedCounter('tunnel', 'timeout'));
      using next = await client.connect(far(HTTP_PORT));
      await next.send('GET /public/x HTTP/1.1\r\nHost: far\r\n\r\n').received(/^HTTP\/1\.1 200 /);
    });

    for (const [what, first, next] of [
      ['after one byte', 'G', ''],
      ['after half a head', 'GET /public/x HTTP/1.1\r\nHost: far\r\nX: ', ''],
      ['but for a drop now and then', 'GET /public/x HTTP/1.1\r\nHost: far\r\nX: ', 'y'],
    ] as const) {
      it(`${what}: 408 within half a minute, and nothing of it reaches the application`, async () => {
        const watch = await CounterWatch.start(mesh.agentB);
        using slow = dial(RECORDER_PORT).send(first);
        const drops = setInterval(() => slow.send(next), 500);
        try {
          await slow.received(/^HTTP\/1\.1 408 /, 40_000);
        } finally {
          clearInterval(drops);
        }
        await watch.reached(httpRefusalCounter('head-timeout'));
      });
    }
  });

  it('4,500 half-open connections keep nobody out, and cost little', async () => {
    const open = Array.from({ length: 4_500 }, (_, index) => dial(index % 3 === 2 ? HTTP_PORT : TUNNEL_PORT));
    try {
      await Promise.all(open.map(({ stream }) => ((stream as Socket).connecting ? once(stream, 'connect') : null)));
      // Half of them begin a handshake.
      for (const [index, { stream }] of open.entries()) if (index % 3 === 1) stream.write('\x16\x03\x01\x02\x00\x01');
      await sleep(500);
      using client = hbone();
      using connection = await client.connect(far(HTTP_PORT));
      await connection.send('GET /public/x HTTP/1.1\r\nHost: far\r\n\r\n').received(/^HTTP\/1\.1 200 /);
      assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far, '/public/x'))).status, 200);
      const grown = (mesh.nodeB.agentResidentBytes() - residentBefore) / 2 ** 20;
      assert.ok(grown < 250, `${grown} MiB more`);
    } finally {
      for (const { stream } of open) (stream as Socket).resetAndDestroy();
    }
  });

  it('meanwhile nobody else noticed, and nothing is left', async () => {
    await caller.stop();
    assert.deepEqual([...caller.statuses.keys()], [200], JSON.stringify([...caller.statuses]));
    assert.equal(mesh.agentB.process.status, null);
    const { enrolments } = await mesh.agentB.json<StateAnswer>('/v1/state');
    assert.ok(enrolments.every(({ state }) => state === 'enrolled'));
    for (const gauge of [
      'weft_connections_active{side="inbound",path="plaintext"}',
      'weft_connections_active{side="inbound",path="tunnel"}',
    ]) {
      const deadline = Date.now() + 10_000;
      for (;;) {
        const { proxy } = await mesh.agentB.json<CountersAnswer>('/v1/counters');
        const open = proxy[gauge] ?? 0;
        if (open === 0) break;
        assert.ok(Date.now() < deadline, `${gauge} ${open}: ${(await mesh.agentB.get('/v1/connections')).body}`);
        await sleep(50);
      }
    }
    const grown = (mesh.nodeB.agentResidentBytes() - residentBefore) / 2 ** 20;
    assert.ok(grown < 250, `${grown} MiB more`);
    assert.doesNotMatch(mesh.agentB.process.stderr, /worker (?:failed|ended)|uncaught/i);
  });
});

/** Once as one piece, once in small ones. */
async function attempt(application: RecordingApplication, bytes: string, open: () => Promise<Conversation>): Promise<void> {
  for (const pieces of [[bytes], bytes.match(/[^]{1,7}/g) ?? []]) {
    application.text = '';
    using connection = await open();
    for (const piece of pieces) connection.send(piece);
    await connection.received(/HTTP\/1\.1 4\d\d /);
    assert.equal(application.text.includes('smuggled'), false, application.text);
  }
}

/** Sends until the connection is ended for it. Returns how often `send` was called. */
async function flood(connection: Conversation, most: number, send: (index: number) => void): Promise<number> {
  for (let index = 0; index < most; index++) {
    send(index);
    if (index % 100 !== 99) continue;
    await new Promise((resolve) => setImmediate(resolve));
    if (connection.ending !== 'open') return index;
  }
  assert.notEqual(await connection.ended(), 'open', 'the flood was endured');
  return most;
}

/** HTTP/2 frames as a hostile client writes them, over TLS that is as it should be. */
class RawHttp2 {
  readonly connection: Conversation;
  readonly #encoder = new HpackEncoder();

  constructor(connection: Conversation) {
    this.connection = connection.send('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    this.send(FrameType.settings, 0, 0, Buffer.alloc(0));
  }

  send(type: number, flags: number, stream: number, payload: Uint8Array): void {
    const frame = Buffer.alloc(9 + payload.length);
    writeFrameHeader(frame, 0, payload.length, type, flags, stream);
    frame.set(payload, 9);
    this.connection.send(frame);
  }

  /** A request in as many frames as it needs. */
  headers(stream: number, fields: readonly string[]): void {
    const block = this.#encoder.encode(fields);
    for (let at = 0; at < block.length; at += 16_384) {
      const last = at + 16_384 >= block.length ? FrameFlag.endHeaders : 0;
      this.send(at === 0 ? FrameType.headers : FrameType.continuation, last, stream, block.subarray(at, at + 16_384));
    }
  }

  /** The header of such a frame within what was received. */
  static frame(type: number, stream: number): RegExp {
    const [, , high, low] = [stream >>> 24, stream >>> 16, stream >>> 8, stream].map((byte) => String.fromCharCode(byte & 0xff));
    return new RegExp(`[^]{3}${String.fromCharCode(type)}[^]\\0\\0${RegExp.escape(`${high}${low}`)}`);
  }
}
