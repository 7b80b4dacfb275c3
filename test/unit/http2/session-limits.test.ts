import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { HttpExchange } from '../../../proxy/http-exchange.ts';
import { ErrorCode } from '../../../src/transport/http2/errors.ts';
import { CLIENT_PREFACE, FrameFlag, FrameType, writeFrameHeader } from '../../../src/transport/http2/frame.ts';
import { HpackEncoder } from '../../../src/transport/http2/hpack.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';
import { Recorder } from '../tunnel/recorder.ts';
import type { GateAnswer } from '../../../src/model/request-gate.ts';
import { ALLOWED, answerOf, closeSessions, type Fixture, type FixtureOptions, get, post, startSession } from './session-fixture.ts';

afterEach(closeSessions);

/** A client that writes frames by hand. */
class RawClient {
  readonly fixture: Fixture;
  readonly received: StreamRecorder;
  readonly #encoder = new HpackEncoder();

  constructor(options: FixtureOptions = {}) {
    this.fixture = startSession({ rawClient: true, ...options });
    this.received = new StreamRecorder(this.fixture.clientEnd);
    this.fixture.clientEnd.write(CLIENT_PREFACE);
    this.frame(FrameType.settings, 0, 0);
  }

  frame(type: number, flags: number, id: number, payload: Buffer = Buffer.alloc(0)): void {
    const bytes = Buffer.alloc(9 + payload.length);
    writeFrameHeader(bytes, 0, payload.length, type, flags, id);
    payload.copy(bytes, 9);
    this.fixture.clientEnd.write(bytes);
  }

  block(fields: readonly string[]): Buffer {
    return Buffer.from(this.#encoder.encode(fields));
  }

  headers(id: number, fields: readonly string[], endStream = true): void {
    this.frame(FrameType.headers, FrameFlag.endHeaders | (endStream ? FrameFlag.endStream : 0), id, this.block(fields));
  }

  /** The error code of the GOAWAY that ended the connection. */
  async goaway(): Promise<number> {
    await settle(12);
    const bytes = this.received.bytes();
    let code = -1;
    for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
      if (bytes[at + 3] === FrameType.goaway) code = bytes.readUInt32BE(at + 13);
    }
    return code;
  }
}

const ENHANCE_YOUR_CALM = 11;

/** A hundred exchanges have ended, and nobody holds them; one or two may still be on the stack. */
async function assertCollected(ended: readonly WeakRef<HttpExchange>[]): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collectGarbage = runInNewContext('gc') as () => void;
  assert.equal(ended.length, 100);
  const left = (): number => {
    collectGarbage();
    return ended.filter((one) => one.deref() !== undefined).length;
  };
  for (let turn = 0; turn < 100 && left() > 2; turn++) await new Promise((resolve) => setImmediate(resolve));
  assert.ok(left() <= 2, `${left()} of 100 are held`);
}

describe('a hostile client of an HTTP/2 session', () => {
  it('that opens streams only to reset them is stopped, and the application with it', async () => {
    const client = new RawClient({ limits: { resetBurst: 50, resetsPerSecond: 1 } });
    const { application, malformed, closes, exchanges } = client.fixture;
    application.onRequest = () => {};
    for (let i = 0; i < 100; i++) {
      client.headers(1 + 2 * i, get('/'));
      client.frame(FrameType.resetStream, 0, 1 + 2 * i, Buffer.from([0, 0, 0, 8]));
    }
    assert.equal(await client.goaway(), ENHANCE_YOUR_CALM);
    assert.equal(malformed.length, 1);
    assert.equal(closes.length, 1);
    assert.ok(application.arrived.length <= 51);
    assert.notEqual(application.closed, undefined);
    assert.ok(exchanges.length <= 51);
  });

  it('that cancels while the gate thinks does not have its request forwarded, whenever the answer comes', async () => {
    const client = new RawClient();
    const { gate, application, exchanges } = client.fixture;
    const { promise, resolve } = Promise.withResolvers<GateAnswer>();
    gate.answer = () => promise;
    client.headers(1, get('/'));
    await settle();
    client.frame(FrameType.resetStream, 0, 1, Buffer.from([0, 0, 0, 8]));
    // The reset has been read, and its stream's close is still to be told.
    for (let i = 0; i < 5; i++) await Promise.resolve();
    resolve(answerOf(ALLOWED));
    for (let i = 0; i < 5; i++) await Promise.resolve();
    assert.equal(exchanges.length, 0);
    await settle();
    assert.deepEqual(application.arrived, []);
    assert.equal(exchanges[0]?.refusal, 'downstream-closed');
  });

  it('that sends malformed requests on and on is stopped', async () => {
    const client = new RawClient({ limits: { resetBurst: 50, resetsPerSecond: 1 } });
    for (let i = 0; i < 100; i++) client.headers(1 + 2 * i, get('/', 'Upper', 'x'));
    assert.equal(await client.goaway(), ENHANCE_YOUR_CALM);
    assert.equal(client.fixture.application.arrived.length, 0);
  });

  it('that never ends a header block is stopped', async () => {
    const client = new RawClient();
    client.frame(FrameType.headers, 0, 1, client.block(get('/')));
    for (let i = 0; i < 20; i++) client.frame(FrameType.continuation, 0, 1, Buffer.from([0, 1, 0x61, 1, 0x62]));
    assert.equal(await client.goaway(), ENHANCE_YOUR_CALM);
  });

  for (const [name, type, payload] of [
    ['SETTINGS', FrameType.settings, Buffer.alloc(0)],
    ['PING', FrameType.ping, Buffer.alloc(8)],
    ['PRIORITY', FrameType.priority, Buffer.alloc(5)],
    ['empty DATA', FrameType.data, Buffer.alloc(0)],
  ] as const) {
    it(`that floods with ${name} is stopped`, async () => {
      const client = new RawClient();
      client.fixture.application.onRequest = () => {};
      client.headers(1, post('/'), false);
      for (let i = 0; i < 2000; i++) {
        const isOfStream = type === FrameType.priority || type === FrameType.data;
        client.frame(type, 0, isOfStream ? 1 : 0, payload);
      }
      assert.equal(await client.goaway(), ENHANCE_YOUR_CALM);
    });
  }

  it('that pings once for each frame that carries something is not: gRPC libraries do', async () => {
    const client = new RawClient();
    client.fixture.application.onRequest = () => {};
    client.headers(1, post('/'), false);
    for (let i = 0; i < 5000; i++) {
      client.frame(FrameType.data, 0, 1, Buffer.alloc(10));
      client.frame(FrameType.ping, 0, 0, Buffer.alloc(8));
      if (i % 100 === 0) await settle(1);
    }
    assert.equal(await client.goaway(), -1);
    assert.deepEqual(client.fixture.malformed, []);
  });

  it('that cancels what waits for the application leaves nothing of it', async () => {
    const ended: WeakRef<HttpExchange>[] = [];
    const { client, application } = startSession({
      application: { maxConcurrentStreams: 1 },
      session: { onExchange: (exchange) => ended.push(new WeakRef(exchange)) },
    });
    application.onRequest = () => {};
    client.request(get('/endless'), true);
    await settle();
    for (let i = 0; i < 100; i++) {
      const call = client.request(get('/waits'), true);
      await settle();
      call.reset(ErrorCode.cancel);
    }
    await settle();
    assert.equal(application.arrived.length, 1);
    await assertCollected(ended);
  });

  it('that cancels answers which its connection’s window keeps back leaves nothing of them', async () => {
    const ended: WeakRef<HttpExchange>[] = [];
    const client = new RawClient({ session: { onExchange: (exchange) => ended.push(new WeakRef(exchange)) } });
    // Its streams have a window each, and all of them 65,535 bytes together.
    client.frame(FrameType.settings, 0, 0, Buffer.from('00047fffffff', 'hex'));
    client.fixture.application.onRequest = ({ stream }) => {
      stream.respond([':status', '200']);
      stream.write(Buffer.alloc(70_000));
    };
    for (let i = 0; i <= 100; i++) {
      client.headers(1 + 2 * i, get('/'));
      await settle();
      if (i > 0) client.frame(FrameType.resetStream, 0, 1 + 2 * i, Buffer.from([0, 0, 0, 8]));
    }
    await settle();
    await assertCollected(ended);
  });

  it('gets no more streams than it may have, and is refused the rest unharmed', async () => {
    const { request, client, application } = startSession({ limits: { concurrentStreams: 3 }, client: { maxOpenStreams: 5 } });
    application.onRequest = () => {};
    // The client has not seen the limit yet.
    const responses = Array.from({ length: 5 }, (_, i) => request(get(`/${i}`)));
    await Promise.all([responses[3]?.done(), responses[4]?.done()]);
    assert.deepEqual([responses[3]?.resetCode, responses[4]?.resetCode], [7, 7]);
    assert.equal(application.arrived.length, 3);
    assert.equal(client.availableStreams, 0);
  });

  it('that sends requests and never reads the refusals costs a bounded amount', async () => {
    const client = new RawClient({ downstream: { highWaterMark: 1000 }, limits: { concurrentStreams: 10 } });
    client.fixture.clientEnd.pause();
    let sent = 0;
    for (; sent < 40_000 && client.fixture.closes.length === 0; sent++) {
      client.headers(1 + 2 * sent, get('/admin'));
      if (sent % 200 === 0) await settle(1);
    }
    assert.ok(sent < 40_000, 'nobody stopped it');
    assert.equal(client.fixture.malformed.length, 1);
  });
});

describe('flow control from end to end', () => {
  const WINDOW = 65_536;

  it('the windows are exact: what a stream could not pass on counts too', async () => {
    const { client, clientEnd, application } = startSession({
      limits: { streamWindow: 16_384 },
      application: { streamWindow: 16_384, connectionWindow: 1 << 20 },
    });
    application.onRequest = ({ stream }) => stream.pause();
    const upload = client.request(post('/slow'));
    upload.attach(new Recorder());
    await settle();
    for (let i = 0; i < 16; i++) upload.write(Buffer.alloc(16_384));
    await settle(30);
    assert.ok(clientEnd.bytesWritten <= 2 * 16_384 + 1000, `${clientEnd.bytesWritten} bytes left the client`);
  });

  it('interim answers, which no window holds back, do not pile up before a client that does not read', async () => {
    const client = new RawClient({ downstream: { highWaterMark: 1000 } });
    const { application, clientEnd } = client.fixture;
    application.onRequest = () => {};
    client.headers(1, get('/'));
    await settle();
    clientEnd.pause();
    const hints = [':status', '103', 'link', 'x'.repeat(10_000)];
    for (let i = 0; i < 500; i++) {
      application.arrived[0]?.stream.respond(hints);
      await settle(1);
    }
    application.arrived[0]?.stream.respond([':status', '200'], true);
    await settle();
    assert.ok(clientEnd.unreadBytes < 50_000, `${clientEnd.unreadBytes} bytes wait for the client`);
    clientEnd.resume();
    await settle();
    // What comes last is there.
    assert.equal(client.received.bytes().at(-1), 0x88, ':status 200');
  });

  it('streams that are cancelled while they are stuck give back what they held of the connection’s window', async () => {
    const { client, request, application } = startSession({
      limits: { streamWindow: WINDOW, connectionWindow: 2 * WINDOW },
      application: { streamWindow: 1000 },
    });
    application.onRequest = ({ stream }) => stream.pause();
    for (let i = 0; i < 10; i++) {
      const upload = client.request(post('/stuck'));
      upload.attach(new Recorder());
      upload.write(Buffer.alloc(WINDOW));
      await settle();
      upload.destroy();
      await settle();
    }
    application.onRequest = ({ stream }) => stream.respond([':status', '200'], true);
    assert.equal((await request(post('/'), Buffer.alloc(2 * WINDOW)).done()).field(':status'), '200');
  });

  it('a few bytes that wait do not keep the whole read alive in which they came', async () => {
    const { client, application } = startSession({ application: { streamWindow: 10 } });
    application.onRequest = ({ stream }) => stream.pause();
    const upload = client.request(post('/'));
    await settle();
    const read = Buffer.alloc(65_536, 'a');
    upload.write(read.subarray(0, WINDOW / 4));
    upload.write(read.subarray(0, 100));
    upload.pause();
    const waiting = client.request(post('/'));
    waiting.sendWindow = 0;
    waiting.write(read.subarray(0, 100));
    // Nobody may do that; here it shows that the bytes are a copy.
    read.fill('b');
    waiting.sendWindow = 1000;
    client.enqueue(waiting);
    await settle();
    application.arrived[1]?.stream.resume();
    await application.arrived[1]?.body.until(() => application.arrived[1]?.body.bytes === 10);
    assert.equal(application.arrived[1]?.body.text(), 'a'.repeat(10));
  });

  it('an application that does not read stops the client at the windows, and other streams go on', async () => {
    const { client, clientEnd, request, application, session } = startSession({
      limits: { streamWindow: WINDOW },
      application: { streamWindow: WINDOW, connectionWindow: 1 << 20 },
    });
    application.onRequest = ({ stream }) => stream.pause();
    const upload = client.request(post('/slow'));
    upload.attach(new Recorder());
    const chunk = Buffer.alloc(16_384);
    for (let i = 0; i < 64; i++) upload.write(chunk);
    await settle(30);
    // The application's window and the session's: nothing is taken that nobody asked for.
    assert.ok(clientEnd.bytesWritten <= 2 * WINDOW + 1000, `${clientEnd.bytesWritten} bytes left the client`);
    application.onRequest = ({ stream }) => stream.respond([':status', '200'], true);
    for (let i = 0; i < 20; i++) assert.equal((await request(post('/quick'), Buffer.alloc(30_000)).done()).field(':status'), '200');
    assert.equal(session.activeStreams, 1);
    const [slow] = application.arrived;
    slow?.stream.resume();
    await slow?.body.until(() => slow.body.bytes === 64 * chunk.length);
  });

  it('a client that does not read stops the application at the windows, and other streams go on', async () => {
    const { client, applicationEnd, request, application } = startSession({
      limits: { streamWindow: WINDOW },
      client: { streamWindow: WINDOW, connectionWindow: 1 << 20 },
    });
    const chunk = Buffer.alloc(16_384);
    application.onRequest = ({ stream }) => {
      stream.respond([':status', '200']);
      for (let i = 0; i < 64; i++) stream.write(chunk);
      stream.end();
    };
    const slow = client.request(get('/slow'), true);
    const reader = new Recorder(slow);
    await settle(30);
    assert.ok(applicationEnd.bytesWritten <= 2 * WINDOW + 1000, `${applicationEnd.bytesWritten} bytes left the application`);
    for (let i = 0; i < 10; i++) {
      const response = await request(get('/quick')).done();
      assert.equal(response.body.bytes, 64 * chunk.length);
    }
    slow.resume();
    await reader.closed();
    assert.equal(reader.bytes, 64 * chunk.length);
    assert.equal(reader.error, null);
  });

  it('many slow readers hold their windows, and the quick ones have the rest', async () => {
    const { client, request, application } = startSession({
      limits: { streamWindow: WINDOW, connectionWindow: 4 << 20 },
      client: { streamWindow: WINDOW, connectionWindow: 4 << 20, maxOpenStreams: 100 },
    });
    application.onRequest = ({ stream }) => {
      stream.respond([':status', '200']);
      stream.write(Buffer.alloc(500_000));
      stream.end();
    };
    for (let i = 0; i < 40; i++) client.request(get('/slow'), true).attach(new Recorder());
    await settle(30);
    const started = performance.now();
    for (let i = 0; i < 5; i++) assert.equal((await request(get('/quick')).done()).body.bytes, 500_000);
    assert.ok(performance.now() - started < 2000);
  });
});
