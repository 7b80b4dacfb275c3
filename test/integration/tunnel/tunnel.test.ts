import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import tls from 'node:tls';
import { TunnelError } from '../../../proxy/tunnel/tunnel-error.ts';
import type { TunnelConnect } from '../../../proxy/tunnel/tunnel-server.ts';
import { forge, forgeRoot, rawExtension } from '../../unit/certs/forge.ts';
import { Recorder } from '../../unit/tunnel/recorder.ts';
import { CLIENT_ID, connect, echo, SERVER_ID, TunnelHost, TunnelWorld } from './tunnel-world.ts';

describe('a tunnel', () => {
  let world: TunnelWorld;
  before(async () => {
    world = await TunnelWorld.make();
  });
  after(() => world[Symbol.dispose]());

  it('carries a connection both ways and half-closes, and the server learns who asks for what', async () => {
    const seen: TunnelConnect[] = [];
    await using host = await new TunnelHost(world, (connect, responder) => {
      seen.push(connect);
      echo(connect, responder);
    }).listen();
    const client = connect(world, host);
    const stream = await client.open('10.244.0.42:8080', { forwarded: 'for="10.244.0.24:46238"', traceparent: '00-ab-cd-00' });
    const reader = new Recorder(stream);
    stream.resume();
    stream.write(Buffer.from('hello'));
    await reader.until(() => reader.text() === 'hello');
    stream.end();
    await reader.closed();
    assert.equal(reader.ended, true);
    assert.equal(reader.error, null);
    const [connected] = seen;
    assert.equal(connected?.host, '10.244.0.42');
    assert.equal(connected?.port, 8080);
    assert.equal(connected?.peer.text, CLIENT_ID);
    assert.equal(connected?.remoteAddress, '127.0.0.1');
    assert.equal(connected?.localAddress, '127.0.0.1');
    assert.equal(connected?.headers.get('forwarded'), 'for="10.244.0.24:46238"');
    assert.equal(connected?.headers.get('traceparent'), '00-ab-cd-00');
    assert.equal(connected?.headers.get('baggage'), null);
    assert.equal(client.stats().peer, SERVER_ID);
    client.destroy();
  });

  it('is byte-exact for 32 MiB in random pieces', async () => {
    await using host = await new TunnelHost(world).listen();
    const client = connect(world, host);
    const stream = await client.open('10.0.0.1:80');
    const total = 32 * 1024 * 1024;
    const source = Buffer.allocUnsafe(1 << 20);
    for (let i = 0; i < source.length; i++) source[i] = (i * 31 + (i >> 8)) & 0xff;
    let sent = 0;
    let received = 0;
    let wrong = 0;
    const done = Promise.withResolvers<Error | null>();
    const pump = (): void => {
      while (sent < total) {
        const at = sent % source.length;
        const piece = source.subarray(at, Math.min(source.length, at + 1 + ((sent * 7919) % 90_000), at + total - sent));
        sent += piece.length;
        if (!stream.write(piece)) return;
      }
      stream.end();
    };
    stream.attach({
      onData: (chunk) => {
        const at = received % source.length;
        const first = Math.min(chunk.length, source.length - at);
        if (source.compare(chunk, 0, first, at, at + first) !== 0) wrong++;
        if (first < chunk.length && source.compare(chunk, first, chunk.length, 0, chunk.length - first) !== 0) wrong++;
        received += chunk.length;
      },
      onEnd: () => {},
      onDrain: pump,
      onClose: (error) => done.resolve(error),
    });
    stream.resume();
    pump();
    assert.equal(await done.promise, null);
    assert.equal(received, total);
    assert.equal(wrong, 0);
    client.destroy();
  });

  it('holds a sender that faces a reader who does not read, and other streams go on', async () => {
    await using host = await new TunnelHost(world, (connect, responder) => {
      if (connect.port === 80) {
        echo(connect, responder);
        return;
      }
      const stream = responder.accept();
      stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
    }).listen();
    const client = connect(world, host);
    const stuck = await client.open('10.0.0.1:81');
    const chunk = Buffer.alloc(65_536);
    let accepted = 0;
    const fill = (): void => {
      do accepted += chunk.length;
      while (stuck.write(chunk));
    };
    stuck.attach({ onData() {}, onEnd() {}, onDrain: fill, onClose() {} });
    fill();
    await new Promise((resolve) => setTimeout(resolve, 150));
    // The window of 1 MiB, and the chunk whose write said stop.
    assert.ok(accepted > 900_000 && accepted <= (1 << 20) + 65_536, `${accepted} bytes were taken`);
    const other = await client.open('10.0.0.1:80');
    const reader = new Recorder(other);
    other.resume();
    other.write(Buffer.from('through'));
    await reader.until(() => reader.text() === 'through');
    client.destroy();
  });

  it('passes a reset on as a reset', async () => {
    await using host = await new TunnelHost(world, (_connect, responder) => {
      const stream = responder.accept();
      stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
      setTimeout(() => stream.destroy(), 10);
    }).listen();
    const client = connect(world, host);
    const stream = await client.open('10.0.0.1:80');
    const reader = new Recorder(stream);
    stream.resume();
    await reader.closed();
    assert.equal((reader.error as { code?: string }).code, 'WEFT_HTTP2_STREAM_RESET');
    client.destroy();
  });

  it('reports a refusal with status and policy', async () => {
    await using host = await new TunnelHost(world, (_connect, responder) => {
      responder.refuse(401, { 'x-weft-denied-by': 'shop/deny-all' });
    }).listen();
    const client = connect(world, host);
    await assert.rejects(client.open('10.0.0.1:80'), (error: TunnelError) => {
      assert.equal(error.code, 'WEFT_TUNNEL_REFUSED');
      assert.equal(error.status, 401);
      assert.equal(error.deniedBy, 'shop/deny-all');
      return true;
    });
    client.destroy();
  });

  it('tells the server when the client gives up before the answer', async () => {
    const aborted = Promise.withResolvers<void>();
    await using host = await new TunnelHost(world, (_connect, responder) => responder.onAbort(aborted.resolve)).listen();
    const client = connect(world, host, { limits: { openTimeoutMs: 50 } });
    await assert.rejects(client.open('10.0.0.1:80'), { code: 'WEFT_TUNNEL_OPEN_TIMEOUT' });
    await aborted.promise;
    client.destroy();
  });

  it('does not talk to a peer with another identity', async () => {
    await using host = await new TunnelHost(world).listen();
    const client = connect(world, host, { expectedIdentities: ['spiffe://example.org/ns/shop/sa/other'] });
    await assert.rejects(client.open('10.0.0.1:80'), { code: 'WEFT_TUNNEL_PEER_IDENTITY' });
    assert.equal(host.server.stats().acceptedStreams, 0);
  });

  it('keeps connection refused recognisable', async () => {
    const host = await new TunnelHost(world).listen();
    const { port } = host;
    await host[Symbol.asyncDispose]();
    const client = connect(world, { port } as TunnelHost);
    await assert.rejects(client.open('10.0.0.1:80'), (error: TunnelError) => {
      assert.equal(error.code, 'WEFT_TUNNEL_DIAL');
      assert.equal((error.cause as NodeJS.ErrnoException).code, 'ECONNREFUSED');
      return true;
    });
  });

  it('drains: open streams finish, new ones are turned away, then both ends close in order', async () => {
    await using host = await new TunnelHost(world).listen();
    const closed = Promise.withResolvers<Error | null>();
    const retired = Promise.withResolvers<void>();
    const client = connect(world, host, { onClosed: closed.resolve, onRetired: retired.resolve });
    const stream = await client.open('10.0.0.1:80');
    const reader = new Recorder(stream);
    stream.resume();
    const drained = host.server.drain(5000);
    await retired.promise;
    await assert.rejects(client.open('10.0.0.1:80'), { code: 'WEFT_TUNNEL_BUSY' });
    stream.write(Buffer.from('still here'));
    await reader.until(() => reader.text() === 'still here');
    stream.end();
    await reader.closed();
    assert.equal(reader.error, null);
    await drained;
    assert.equal(await closed.promise, null);
  });

  it('drains: a connection that was accepted before is served, also when its handshake comes after', async () => {
    await using host = await new TunnelHost(world).listen();
    let drained: Promise<void> | null = null;
    host.listener.once('connection', () => {
      drained = host.server.drain(5000);
    });
    const client = connect(world, host);
    const stream = await client.open('10.0.0.1:80');
    const reader = new Recorder(stream);
    stream.resume();
    stream.write(Buffer.from('in time'));
    await reader.until(() => reader.text() === 'in time');
    stream.end();
    await reader.closed();
    await drained;
    assert.deepEqual(host.refused, []);
  });

  it('ends what is open at the drain deadline', async () => {
    await using host = await new TunnelHost(world).listen();
    const client = connect(world, host);
    const stream = await client.open('10.0.0.1:80');
    const reader = new Recorder(stream);
    stream.resume();
    await host.server.drain(50);
    await reader.closed();
    assert.ok(reader.error !== null);
  });
});

/** Sends bytes without TLS; returns why the server closed the connection. */
async function raw(host: TunnelHost, bytes: string | null): Promise<string> {
  const socket = net.connect({ host: '127.0.0.1', port: host.port });
  socket.on('error', () => {});
  if (bytes !== null) socket.write(bytes, 'latin1');
  socket.resume();
  const refused = await host.firstRefusal();
  if (!socket.closed) await once(socket, 'close');
  return refused.reason;
}

describe('a tunnel server refuses, and says why,', () => {
  let world: TunnelWorld;
  before(async () => {
    world = await TunnelWorld.make();
  });
  after(() => world[Symbol.dispose]());

  for (const [how, limits] of [
    ['', {}],
    [', TLS waiting for its first byte', { eagerHandshakes: 0 }],
  ] as const) {
    it(`a client that says nothing${how}`, async () => {
      await using host = await new TunnelHost(world, echo, { ...limits, handshakeTimeoutMs: 60 }).listen();
      assert.equal(await raw(host, null), 'handshake_timeout');
    });

    it(`half a hello and then nothing${how}`, async () => {
      await using host = await new TunnelHost(world, echo, { ...limits, handshakeTimeoutMs: 60 }).listen();
      assert.equal(await raw(host, '\x16\x03\x01\x02\x00\x01'), 'handshake_timeout');
    });

    it(`plaintext HTTP${how}`, async () => {
      await using host = await new TunnelHost(world, echo, limits).listen();
      assert.equal(await raw(host, 'GET / HTTP/1.1\r\nhost: x\r\n\r\n'), 'plaintext');
    });

    it(`a plaintext CONNECT${how}`, async () => {
      await using host = await new TunnelHost(world, echo, limits).listen();
      assert.equal(await raw(host, 'CONNECT 10.0.0.1:80 HTTP/1.1\r\nhost: x\r\n\r\n'), 'plaintext');
    });

    it(`garbage${how}`, async () => {
      await using host = await new TunnelHost(world, echo, limits).listen();
      assert.equal(await raw(host, '\x00\x01garbage garbage garbage garbage garbage'), 'not_tls');
    });

    it(`a client that leaves at once${how}`, async () => {
      await using host = await new TunnelHost(world, echo, limits).listen();
      net.connect({ host: '127.0.0.1', port: host.port }).on('connect', function (this: net.Socket) {
        this.end();
      });
      assert.equal((await host.firstRefusal()).reason, 'closed');
    });
  }

  it('the oldest of too many half-open connections, never the newest', async () => {
    for (const [bytes, limit] of [
      [null, { maxSilent: 3, eagerHandshakes: 0 }],
      [null, { maxHandshakes: 3 }],
      ['\x16\x03\x01\x02\x00\x01', { maxHandshakes: 3, eagerHandshakes: 0 }],
    ] as const) {
      await using host = await new TunnelHost(world, echo, limit).listen();
      const sockets = await Promise.all(
        Array.from({ length: 9 }, async () => {
          const socket = net.connect({ host: '127.0.0.1', port: host.port });
          socket.on('error', () => {});
          await once(socket.resume(), 'connect');
          if (bytes !== null) socket.write(bytes, 'latin1');
          return socket;
        }),
      );
      const client = connect(world, host);
      const stream = await client.open('10.0.0.1:80');
      stream.destroy();
      client.destroy();
      const reasons = host.refused.map(({ reason }) => reason);
      assert.ok(reasons.length >= 6 && reasons.every((reason) => reason === 'limit'), reasons.join());
      for (const socket of sockets) socket.destroy();
    }
  });

  it('a client without a certificate', async () => {
    await using host = await new TunnelHost(world).listen();
    const client = connect(world, host, { context: tls.createSecureContext({ ca: world.root.pem }) });
    await assert.rejects(client.open('10.0.0.1:80'), /no certificate/);
    assert.equal((await host.firstRefusal()).reason, 'no_certificate');
  });

  for (const [what, options, code] of [
    [
      'an expired certificate',
      { uris: [CLIENT_ID], notBefore: Date.now() - 7_200_000, notAfter: Date.now() - 3_600_000 },
      /EXPIRED|VALIDITY/,
    ],
    ['a certificate with two URI SANs', { uris: [CLIENT_ID, SERVER_ID] }, /SAN|URI/],
    ['a certificate of another trust domain', { uris: ['spiffe://evil.test/ns/shop/sa/web'] }, /TRUST_DOMAIN|BUNDLE|ROOT/],
    ['a certificate without a SPIFFE ID', { uris: ['https://example.org/'] }, /./],
  ] as const) {
    it(what, async () => {
      await using host = await new TunnelHost(world).listen();
      const client = connect(world, host, { context: await world.forged(options) });
      await assert.rejects(client.open('10.0.0.1:80'), (error: TunnelError) => {
        assert.match(error.message, /WEFT_IDENTITY_PEER_/);
        return true;
      });
      const refused = await host.firstRefusal();
      assert.equal(refused.reason, 'certificate');
      assert.match(refused.code ?? '', code);
      assert.equal(host.server.stats().acceptedStreams, 0);
    });
  }

  it('a certificate of somebody else’s root', async () => {
    await using host = await new TunnelHost(world).listen();
    const context = await world.forged({ uris: [CLIENT_ID], issuer: await forgeRoot() });
    await assert.rejects(connect(world, host, { context }).open('10.0.0.1:80'), TunnelError);
    assert.equal((await host.firstRefusal()).reason, 'certificate');
  });

  it('a certificate that nobody signed, with a valid one inside of it as PEM', async () => {
    await using host = await new TunnelHost(world).listen();
    const own = await forge({ issuer: world.root, uris: [CLIENT_ID] });
    const extra = [rawExtension('1.2.3.4', false, Buffer.from(`\n${own.pem}`))];
    const context = await world.forged({ uris: ['spiffe://example.org/ns/shop/sa/admin'], issuer: await forgeRoot(), extra });
    await assert.rejects(connect(world, host, { context }).open('10.0.0.1:80'), TunnelError);
    assert.equal((await host.firstRefusal()).reason, 'certificate');
  });

  it('TLS 1.2', async () => {
    await using host = await new TunnelHost(world).listen();
    const socket = tls.connect({
      host: '127.0.0.1',
      port: host.port,
      maxVersion: 'TLSv1.2',
      minVersion: 'TLSv1.2',
      rejectUnauthorized: false,
    });
    socket.on('error', () => {});
    assert.equal((await host.firstRefusal()).reason, 'tls');
  });

  for (const protocols of [['http/1.1'], []]) {
    it(`a client that does not offer h2 but ${protocols[0] ?? 'nothing'}`, async () => {
      await using host = await new TunnelHost(world).listen();
      const socket = tls.connect({
        host: '127.0.0.1',
        port: host.port,
        secureContext: world.context(CLIENT_ID),
        rejectUnauthorized: false,
        ...(protocols.length === 0 ? {} : { ALPNProtocols: protocols }),
      });
      socket.on('error', () => {});
      assert.equal((await host.firstRefusal()).reason, 'tls');
    });
  }

  it('garbage instead of an HTTP/2 preface', async () => {
    await using host = await new TunnelHost(world).listen();
    const socket = tls.connect({
      host: '127.0.0.1',
      port: host.port,
      secureContext: world.context(CLIENT_ID),
      rejectUnauthorized: false,
      ALPNProtocols: ['h2'],
    });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    socket.write('GET / HTTP/1.1\r\n\r\n');
    socket.resume();
    const refused = await host.firstRefusal();
    assert.equal(refused.reason, 'http2');
    assert.equal(refused.code, 'WEFT_HTTP2_PROTOCOL');
    await once(socket, 'close');
  });

  it('a workload without an SVID', async () => {
    await using host = await new TunnelHost(world, echo, {}, 'spiffe://example.org/ns/shop/sa/nobody').listen();
    await assert.rejects(connect(world, host).open('10.0.0.1:80'), { code: 'WEFT_TUNNEL_TLS' });
    assert.equal((await host.firstRefusal()).reason, 'no_identity');
  });

  for (const authority of [
    '10.0.0.1',
    '10.0.0.1:0',
    '10.0.0.1:99999',
    'user@10.0.0.1:80',
    '[::1%lo]:80',
    '10.1:80',
    'a b:80',
    ':80',
    '[10.0.0.1]:80',
  ]) {
    it(`CONNECT to ${authority}`, async () => {
      await using host = await new TunnelHost(world).listen();
      const client = connect(world, host);
      await assert.rejects(client.open(authority), (error: TunnelError) => error.status === 400);
      assert.equal((await host.firstRefusal()).reason, 'authority');
      client.destroy();
    });
  }
});
