import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DEFAULT_HTTP2_OPTIONS, Http2Connection } from '../../../src/transport/http2/connection.ts';
import type { Http2ConnectionHandler, Http2Options } from '../../../src/transport/http2/connection.ts';
import type { Http2Error } from '../../../src/transport/http2/errors.ts';
import { CLIENT_PREFACE, FrameReader, FrameType, type FrameSink, writeFrameHeader } from '../../../src/transport/http2/frame.ts';
import { HpackDecoder, HpackEncoder } from '../../../src/transport/http2/hpack.ts';
import { nextStreamState, StreamEvent, StreamState } from '../../../src/transport/http2/stream-state.ts';
import type { Http2Stream } from '../../../src/transport/http2/stream.ts';
import type { ByteStream } from '../../../src/model/byte-stream.ts';
import { memoryStreamPair } from '../../kit/memory-stream.ts';
import { Recorder } from './recorder.ts';

const POST = [':method', 'POST', ':scheme', 'http', ':authority', 'a', ':path', '/'];
const GET = [':method', 'GET', ':scheme', 'http', ':authority', 'a', ':path', '/'];

function u32(value: number): string {
  return value.toString(16).padStart(8, '0');
}

function request(...fields: string[]): string[] {
  return [':method', 'GET', ':scheme', 'http', ':path', '/', ...fields];
}

/** Some turns of the event loop: what is in flight arrives. */
async function settle(turns = 8): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** A connection's owner that remembers. */
class Owner implements Http2ConnectionHandler {
  readonly streams: Http2Stream[] = [];
  readonly malformed: string[] = [];
  closed: Error | null | undefined = undefined;
  goaway: number | null = null;
  onEachStream: (stream: Http2Stream, fields: string[]) => void = () => {};

  onStream(stream: Http2Stream, _head: unknown, fields: string[]): void {
    this.streams.push(stream);
    this.onEachStream(stream, fields);
  }
  onMalformed(reason: string): void {
    this.malformed.push(reason);
  }
  onGoaway(code: number): void {
    this.goaway = code;
  }
  onClose(error: Error | null): void {
    assert.equal(this.closed, undefined, 'closed twice');
    this.closed = error;
  }
}

interface Pair {
  client: Http2Connection;
  server: Http2Connection;
  clientOwner: Owner;
  serverOwner: Owner;
}

function pair(clientOptions: Partial<Http2Options> = {}, serverOptions: Partial<Http2Options> = {}): Pair {
  const [a, b] = memoryStreamPair();
  const clientOwner = new Owner();
  const serverOwner = new Owner();
  const client = new Http2Connection('client', a, clientOwner, { keepAliveMs: 0, ...clientOptions });
  const server = new Http2Connection('server', b, serverOwner, { keepAliveMs: 0, ...serverOptions });
  return { client, server, clientOwner, serverOwner };
}

/** A peer that writes frames by hand and notes what comes back. */
class RawPeer {
  readonly owner = new Owner();
  readonly connection: Http2Connection;
  readonly seen: string[] = [];
  readonly #transport: ByteStream;
  readonly #encoder = new HpackEncoder();
  readonly #decoder = new HpackDecoder({ tableSize: 4096, listSize: 1 << 20, listCount: 1000 });
  readonly recorder: Recorder;

  constructor(role: 'client' | 'server', options: Partial<Http2Options> = {}, greet = true) {
    const [mine, theirs] = memoryStreamPair();
    this.#transport = mine;
    const sink: FrameSink = {
      onDataFrame: (id, payload, _flow, end) => void this.seen.push(`data ${id} ${payload.length}${end ? ' end' : ''}`),
      onHeaders: (id, fragment, end) => {
        const list: string[] = [];
        this.#decoder.decode(Buffer.from(fragment), list);
        this.seen.push(`headers ${id} ${list[1]}${end ? ' end' : ''}`);
      },
      onContinuation: () => {},
      onReset: (id, code) => void this.seen.push(`reset ${id} ${code}`),
      onSettings: () => void this.seen.push('settings'),
      onSettingsAck: () => void this.seen.push('settings ack'),
      onPing: (payload) => void this.seen.push(`ping ${payload.toString('latin1')}`),
      onPingAck: (payload) => void this.seen.push(`ping ack ${payload.toString('latin1')}`),
      onGoaway: (last, code) => void this.seen.push(`goaway ${last} ${code}`),
      onWindowUpdate: (id, increment) => void this.seen.push(`window ${id} ${increment}`),
      onIgnored: () => {},
      onStreamError: () => {},
    };
    const reader = new FrameReader(sink, { maxFrameSize: 1 << 24, maxHeaderBlock: 1 << 20 });
    this.recorder = new Recorder();
    let preface = role === 'client' ? 0 : CLIENT_PREFACE.length;
    const { recorder } = this;
    mine.attach({
      onData: (chunk) => {
        const skipped = Math.min(preface, chunk.length);
        preface -= skipped;
        reader.read(chunk.subarray(skipped));
      },
      onEnd: () => recorder.onEnd(),
      onDrain: () => recorder.onDrain(),
      onClose: (error) => recorder.onClose(error),
    });
    mine.resume();
    // The role is the raw peer's own: it dials a server under test, or answers a client.
    this.connection = new Http2Connection(role === 'client' ? 'server' : 'client', theirs, this.owner, { keepAliveMs: 0, ...options });
    if (role === 'server') preface = CLIENT_PREFACE.length;
    else preface = 0;
    if (greet) {
      if (role === 'client') this.write(CLIENT_PREFACE);
      this.frame(FrameType.settings, 0, 0);
    }
  }

  write(bytes: Buffer): void {
    this.#transport.write(bytes);
  }

  frame(type: number, flags: number, id: number, payload: Buffer | string = ''): void {
    const body = typeof payload === 'string' ? Buffer.from(payload, 'hex') : payload;
    const bytes = Buffer.alloc(9 + body.length);
    writeFrameHeader(bytes, 0, body.length, type, flags, id);
    body.copy(bytes, 9);
    this.write(bytes);
  }

  headers(id: number, fields: string[], endStream = false): void {
    this.frame(FrameType.headers, 4 | (endStream ? 1 : 0), id, Buffer.from(this.#encoder.encode(fields)));
  }

  /** The code of the GOAWAY that ended the connection. */
  async goaway(): Promise<number> {
    await settle();
    const last = this.seen.findLast((event) => event.startsWith('goaway'));
    assert.ok(last !== undefined, `no GOAWAY among ${this.seen.slice(-5).join(', ')}`);
    assert.ok(this.owner.closed instanceof Error);
    return Number(last.split(' ')[2]);
  }

  async events(): Promise<string[]> {
    await settle();
    return this.seen.filter((event) => !event.startsWith('settings') && !event.startsWith('window 0'));
  }
}

describe('stream states', () => {
  it('follow RFC 9113 figure 2, and nothing leaves closed', () => {
    const { idle, open, halfClosedLocal, halfClosedRemote, closed } = StreamState;
    const e = StreamEvent;
    assert.equal(nextStreamState(idle, e.sendHeaders), open);
    assert.equal(nextStreamState(open, e.sendEnd), halfClosedLocal);
    assert.equal(nextStreamState(open, e.receiveEnd), halfClosedRemote);
    assert.equal(nextStreamState(halfClosedLocal, e.receiveEnd), closed);
    assert.equal(nextStreamState(halfClosedRemote, e.sendEnd), closed);
    assert.equal(nextStreamState(halfClosedRemote, e.receiveHeaders), -1);
    assert.equal(nextStreamState(halfClosedLocal, e.sendEnd), -1);
    for (const event of [e.sendHeaders, e.receiveHeaders, e.sendEnd, e.receiveEnd]) assert.equal(nextStreamState(closed, event), -1);
  });
});

describe('an HTTP/2 connection', () => {
  it('carries a request with body and a response with body and trailers', async () => {
    const { client, server, serverOwner } = pair();
    serverOwner.onEachStream = (stream) => {
      const request = new Recorder(stream);
      stream.resume();
      stream.respond([':status', '200', 'content-type', 'text/plain']);
      void request
        .until(() => request.ended)
        .then(() => {
          stream.write(Buffer.from(request.text().toUpperCase()));
          stream.endWithTrailers(['grpc-status', '0']);
        });
    };
    const stream = client.request(POST);
    const events: string[] = [];
    stream.onResponse = (head, fields) => void events.push(`${head.status} ${fields.join(' ')}`);
    stream.onTrailers = (fields) => void events.push(fields.join(' '));
    const reader = new Recorder(stream);
    stream.resume();
    stream.write(Buffer.from('ab'));
    stream.write(Buffer.from('cd'));
    stream.end();
    await reader.closed();
    assert.equal(reader.error, null);
    assert.equal(reader.text(), 'ABCD');
    assert.deepEqual(events, ['200 :status 200 content-type text/plain', 'grpc-status 0']);
    assert.equal(client.activeStreams, 0);
    assert.equal(server.activeStreams, 0);
  });

  it('writes all frames of one turn at once', async () => {
    const [a, b] = memoryStreamPair();
    let writes = 0;
    const write = a.write.bind(a);
    a.write = (chunk) => {
      writes++;
      return write(chunk);
    };
    const serverOwner = new Owner();
    const client = new Http2Connection('client', a, new Owner(), { keepAliveMs: 0 });
    assert.ok(new Http2Connection('server', b, serverOwner, { keepAliveMs: 0 }).state === 'starting');
    await settle();
    writes = 0;
    for (let i = 0; i < 50; i++) client.request(POST).write(Buffer.alloc(100));
    assert.equal(writes, 0);
    await settle(1);
    assert.equal(writes, 1);
    await settle();
    assert.equal(serverOwner.streams.length, 50);
  });

  it('gives credit only for what the reader took: a paused stream stops its sender at the window', async () => {
    const { client, serverOwner } = pair({}, { streamWindow: 100_000 });
    const stream = client.request(POST);
    await settle();
    let accepted = 0;
    const chunk = Buffer.alloc(10_000);
    const fill = (): void => {
      do accepted += chunk.length;
      while (stream.write(chunk));
    };
    stream.attach({ onData() {}, onEnd() {}, onDrain: fill, onClose() {} });
    fill();
    await settle(50);
    const [held] = serverOwner.streams;
    assert.ok(held !== undefined);
    assert.ok(accepted <= 110_000, `${accepted}`);
    const reader = new Recorder(held);
    held.resume();
    await reader.until(() => reader.bytes >= 1_000_000);
    held.pause();
    const taken = reader.bytes;
    await settle(50);
    assert.equal(reader.bytes, taken);
    assert.ok(accepted - taken <= 210_000, `${accepted - taken} bytes are on their way`);
  });

  it('delivers what came before the end to a reader who was paused, then the end, then the close', async () => {
    const { client, serverOwner } = pair();
    const stream = client.request(POST);
    for (let i = 0; i < 3000; i++) stream.write(Buffer.from([i & 0xff]));
    stream.end();
    const own = new Recorder(stream);
    stream.resume();
    await settle();
    const [held] = serverOwner.streams;
    assert.ok(held !== undefined);
    held.respond([':status', '200'], true);
    await own.closed();
    const reader = new Recorder(held);
    assert.equal(reader.bytes, 0);
    held.resume();
    await reader.closed();
    assert.equal(reader.error, null);
    assert.equal(reader.ended, true);
    assert.equal(Buffer.concat(reader.chunks).length, 3000);
    assert.equal(Buffer.concat(reader.chunks)[2999], 2999 & 0xff);
    // Three thousand one-byte frames are held as a few blocks, not as three thousand buffers.
    assert.ok(reader.chunks.length < 5);
  });

  it('holds many small frames, each from its own read, as a few blocks', async () => {
    const peer = new RawPeer('client');
    peer.headers(1, POST);
    for (let i = 0; i < 2000; i++) peer.frame(FrameType.data, 0, 1, Buffer.alloc(10, i));
    await settle();
    const [held] = peer.owner.streams;
    assert.ok(held !== undefined);
    const reader = new Recorder(held);
    held.resume();
    await reader.until(() => reader.bytes === 20_000);
    assert.ok(reader.chunks.length <= 3, `${reader.chunks.length} buffers`);
    assert.equal(Buffer.concat(reader.chunks)[19_999], 1999 & 0xff);
  });

  it('does not pour data into a transport that is full', async () => {
    const { client, server } = pair();
    await settle();
    server.transport.pause();
    const before = client.transport.bytesWritten;
    for (let i = 0; i < 20; i++) {
      const stream = client.request(POST);
      let writes = 0;
      const fill = (): void => {
        while (writes++ < 60 && stream.write(Buffer.alloc(16_000)));
      };
      stream.attach({ onData() {}, onEnd() {}, onDrain: fill, onClose() {} });
      fill();
      await settle(3);
    }
    assert.ok(client.transport.bytesWritten - before < 700_000, `${client.transport.bytesWritten - before} bytes were written`);
  });

  it('shares the connection window fairly between streams', async () => {
    const { client, serverOwner } = pair({}, { streamWindow: 1 << 20, connectionWindow: 1 << 20 });
    serverOwner.onEachStream = (stream) => {
      stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
      stream.resume();
    };
    await settle();
    const streams = Array.from({ length: 4 }, () => client.request(POST));
    for (const stream of streams) {
      const chunk = Buffer.alloc(50_000);
      const fill = (): void => {
        while (stream.write(chunk));
      };
      stream.attach({ onData() {}, onEnd() {}, onDrain: fill, onClose() {} });
      fill();
    }
    await settle(60);
    const received = serverOwner.streams.map((stream) => stream.bytesRead);
    assert.equal(received.length, 4);
    assert.ok(Math.min(...received) > 200_000, received.join(' '));
    assert.ok(Math.max(...received) < 3 * Math.min(...received), received.join(' '));
    client.destroy();
  });

  it('refuses new streams beyond the peer’s limit and after GOAWAY', async () => {
    const { client, server, clientOwner, serverOwner } = pair({}, { maxConcurrentStreams: 2 });
    await settle();
    const first = client.request(POST);
    client.request(POST);
    assert.equal(client.availableStreams, 0);
    assert.throws(() => client.request(POST), { code: 'WEFT_HTTP2_NO_NEW_STREAMS' });
    await settle();
    first.destroy();
    assert.equal(client.availableStreams, 1);
    server.drain(10_000);
    await settle();
    assert.equal(clientOwner.goaway, 0);
    assert.equal(client.availableStreams, 0);
    assert.equal(clientOwner.closed, undefined);
    serverOwner.streams[1]?.destroy();
    await settle(20);
    assert.equal(clientOwner.closed, null);
    assert.equal(serverOwner.closed, null);
  });

  it('fails the streams that a GOAWAY left out as refused, so that they may be tried elsewhere', async () => {
    const peer = new RawPeer('server');
    await settle();
    const kept = new Recorder(peer.connection.request(POST));
    const left = new Recorder(peer.connection.request(POST));
    peer.frame(FrameType.goaway, 0, 0, '00000001 00000000'.replace(' ', ''));
    await left.closed();
    assert.equal((left.error as Http2Error).code, 'WEFT_HTTP2_STREAM_REFUSED');
    assert.equal(kept.closes, 0);
  });

  it('sends a PING on a silent connection, and gives up when nothing comes back', async () => {
    const peer = new RawPeer('client', { keepAliveMs: 20, keepAliveTimeoutMs: 40 });
    await new Promise((resolve) => setTimeout(resolve, 150));
    assert.ok((await peer.events()).includes('ping weftping'));
    assert.equal((peer.owner.closed as Http2Error).code, 'WEFT_HTTP2_TIMEOUT');
    const living = pair({ keepAliveMs: 20, keepAliveTimeoutMs: 40 });
    await new Promise((resolve) => setTimeout(resolve, 150));
    assert.equal(living.clientOwner.closed, undefined);
    living.client.destroy();
  });

  it('gives up on a peer that sends no preface', async () => {
    const peer = new RawPeer('client', { settingsTimeoutMs: 20 }, false);
    await new Promise((resolve) => setTimeout(resolve, 40));
    assert.equal(await peer.goaway(), 4);
  });

  it('ends its streams with the reason when the transport is lost', async () => {
    const { client, server, clientOwner } = pair();
    const stream = client.request(POST);
    const reader = new Recorder(stream);
    await settle();
    server.transport.destroy();
    await reader.closed();
    assert.equal((reader.error as Http2Error).code, 'WEFT_HTTP2_CONNECTION_LOST');
    await settle();
    assert.equal((clientOwner.closed as Http2Error).code, 'WEFT_HTTP2_CONNECTION_LOST');
  });
});

describe('an HTTP/2 server refuses with the code RFC 9113 names', () => {
  it('something else than the preface', async () => {
    const peer = new RawPeer('client', {}, false);
    peer.write(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
    assert.equal(await peer.goaway(), 1);
  });

  it('a first frame that is not SETTINGS', async () => {
    const peer = new RawPeer('client', {}, false);
    peer.write(CLIENT_PREFACE);
    peer.frame(FrameType.ping, 0, 0, '0000000000000000');
    assert.equal(await peer.goaway(), 1);
  });

  for (const [what, code, act] of [
    ['an even stream id', 1, (p: RawPeer) => p.headers(2, GET, true)],
    ['a stream id that was used', 5, (p: RawPeer) => (p.headers(5, GET, true), p.headers(3, GET, true))],
    ['DATA on an idle stream', 1, (p: RawPeer) => p.frame(FrameType.data, 0, 1, '00')],
    ['WINDOW_UPDATE on an idle stream', 1, (p: RawPeer) => p.frame(FrameType.windowUpdate, 0, 1, '00000001')],
    ['RST_STREAM on an idle stream', 1, (p: RawPeer) => p.frame(FrameType.resetStream, 0, 1, '00000008')],
    ['a connection window over 2^31-1', 3, (p: RawPeer) => p.frame(FrameType.windowUpdate, 0, 0, '7fffffff')],
    ['an initial window over 2^31-1', 3, (p: RawPeer) => p.frame(FrameType.settings, 0, 0, `0004${u32(2 ** 31)}`)],
    ['a maximum frame size under 16384', 1, (p: RawPeer) => p.frame(FrameType.settings, 0, 0, `0005${u32(16_383)}`)],
    ['ENABLE_PUSH of 2', 1, (p: RawPeer) => p.frame(FrameType.settings, 0, 0, `0002${u32(2)}`)],
    ['broken header compression', 9, (p: RawPeer) => p.frame(FrameType.headers, 5, 1, 'ff80')],
    ['PUSH_PROMISE', 1, (p: RawPeer) => p.frame(FrameType.pushPromise, 4, 1, '0000000282')],
  ] as const) {
    it(`${what}: the connection`, async () => {
      const peer = new RawPeer('client');
      act(peer);
      assert.equal(await peer.goaway(), code);
    });
  }

  for (const [what, fields] of [
    ['no method', [':scheme', 'http', ':path', '/']],
    ['no path', [':method', 'GET', ':scheme', 'http']],
    ['an empty path', [':method', 'GET', ':scheme', 'http', ':path', '']],
    ['a relative path', [':method', 'GET', ':scheme', 'http', ':path', 'x']],
    ['a repeated pseudo-header', request(':path', '/y')],
    ['an unknown pseudo-header', request(':x', 'y')],
    ['a response pseudo-header', request(':status', '200')],
    ['a pseudo-header after a field', [...request('a', 'b'), ':authority', 'x']],
    ['an upper-case name', request('Accept', 'x')],
    ['a name with a space', request('a b', 'x')],
    ['an empty name', request('', 'x')],
    ['CR LF in a value', request('a', 'x\r\ny: z')],
    ['NUL in a value', request('a', 'x\0')],
    ['white space around a value', request('a', ' x')],
    ['connection', request('connection', 'close')],
    ['transfer-encoding', request('transfer-encoding', 'chunked')],
    ['te: gzip', request('te', 'gzip')],
    ['a host that contradicts the authority', request(':authority', 'a', 'host', 'b')],
    ['two content-lengths', request('content-length', '1', 'content-length', '1')],
    ['content-length +1', request('content-length', '+1')],
    ['CONNECT with a path', [':method', 'CONNECT', ':authority', 'a:1', ':path', '/']],
    ['CONNECT without an authority', [':method', 'CONNECT']],
    ['extended CONNECT', [':method', 'CONNECT', ':protocol', 'websocket', ':authority', 'a', ':scheme', 'http', ':path', '/']],
  ] as const) {
    it(`${what}: the stream`, async () => {
      const peer = new RawPeer('client');
      peer.headers(1, [...fields]);
      assert.deepEqual(await peer.events(), ['reset 1 1']);
      assert.equal(peer.owner.streams.length, 0);
      assert.equal(peer.owner.malformed.length, 1);
      assert.equal(peer.owner.closed, undefined);
    });
  }

  it('a body longer or shorter than content-length', async () => {
    const peer = new RawPeer('client');
    peer.headers(1, request('content-length', '3'));
    peer.frame(FrameType.data, 1, 1, '0000');
    peer.headers(3, request('content-length', '1'));
    peer.frame(FrameType.data, 0, 3, '0000');
    peer.headers(5, request('content-length', '1'), true);
    assert.deepEqual(await peer.events(), ['reset 1 1', 'reset 3 1', 'reset 5 1']);
  });

  it('DATA after the end, HEADERS after the end, headers inside a tunnel', async () => {
    const peer = new RawPeer('client');
    peer.headers(1, GET, true);
    peer.frame(FrameType.data, 0, 1, '00');
    peer.headers(3, GET, true);
    peer.headers(3, GET, true);
    peer.headers(5, [':method', 'CONNECT', ':authority', 'a:1']);
    peer.headers(5, ['x', 'y'], true);
    peer.headers(7, POST);
    peer.headers(7, ['x', 'y']);
    assert.deepEqual(await peer.events(), ['reset 1 5', 'reset 3 5', 'reset 5 1', 'reset 7 1']);
  });

  it('more DATA than the window: the stream, and the connection', async () => {
    const peer = new RawPeer('client', { streamWindow: 1000 });
    peer.headers(1, POST);
    peer.frame(FrameType.data, 0, 1, Buffer.alloc(1001));
    assert.deepEqual(await peer.events(), ['reset 1 3']);
    const other = new RawPeer('client', { streamWindow: 1 << 20, connectionWindow: 65_535 });
    other.headers(1, POST);
    for (let i = 0; i < 5; i++) other.frame(FrameType.data, 0, 1, Buffer.alloc(16_000));
    assert.equal(await other.goaway(), 3);
  });

  it('a stream window over 2^31-1: the stream', async () => {
    const peer = new RawPeer('client');
    peer.headers(1, POST);
    peer.frame(FrameType.windowUpdate, 0, 1, '7fffffff');
    assert.deepEqual(await peer.events(), ['reset 1 3']);
  });

  it('streams over the limit: REFUSED_STREAM, and the others go on', async () => {
    const peer = new RawPeer('client', { maxConcurrentStreams: 1 });
    peer.headers(1, POST);
    peer.headers(3, POST);
    peer.frame(FrameType.data, 1, 3, '00');
    assert.deepEqual(await peer.events(), ['reset 3 7']);
    assert.equal(peer.owner.streams.length, 1);
  });

  it('a header list over the limit: 431', async () => {
    const peer = new RawPeer('client', { maxHeaderListSize: 500 });
    peer.headers(1, [...GET, 'x', 'y'.repeat(500)], true);
    assert.deepEqual(await peer.events(), ['headers 1 431 end', 'reset 1 0']);
  });
});

describe('an HTTP/2 server stops a flood', () => {
  for (const [what, burst, send] of [
    ['PING', 1000, (p: RawPeer) => p.frame(FrameType.ping, 0, 0, '0000000000000000')],
    ['SETTINGS', 1000, (p: RawPeer) => p.frame(FrameType.settings, 0, 0)],
    ['PRIORITY', 1000, (p: RawPeer) => p.frame(FrameType.priority, 0, 1, '0000000010')],
    ['unknown frames', 1000, (p: RawPeer) => p.frame(0xee, 0, 1)],
    ['empty DATA', 1000, (p: RawPeer) => p.frame(FrameType.data, 0, 1)],
  ] as const) {
    it(`of ${what}`, async () => {
      const peer = new RawPeer('client');
      peer.headers(1, POST);
      for (let i = 0; i < burst / 2; i++) send(peer);
      await settle();
      assert.equal(peer.owner.closed, undefined);
      for (let i = 0; i < burst; i++) send(peer);
      assert.equal(await peer.goaway(), 11);
    });
  }

  it('of streams opened and reset at once (rapid reset)', async () => {
    const { resetBurst, resetsPerSecond } = DEFAULT_HTTP2_OPTIONS;
    const started = performance.now();
    const peer = new RawPeer('client');
    for (let i = 0; i < DEFAULT_HTTP2_OPTIONS.resetBurst + 50; i++) {
      peer.headers(1 + 2 * i, GET, true);
      peer.frame(FrameType.resetStream, 0, 1 + 2 * i, '00000008');
    }
    assert.equal(await peer.goaway(), 11);
    const refilled = Math.ceil(((performance.now() - started) / 1000) * resetsPerSecond);
    assert.ok(peer.owner.streams.length <= resetBurst + 1 + refilled, `${peer.owner.streams.length} streams, ${refilled} refilled`);
  });

  it('of streams that make the server reset them', async () => {
    const peer = new RawPeer('client');
    for (let i = 0; i < DEFAULT_HTTP2_OPTIONS.resetBurst + 50; i++) {
      peer.headers(1 + 2 * i, POST);
      peer.frame(FrameType.windowUpdate, 0, 1 + 2 * i, '00000000');
    }
    assert.equal(await peer.goaway(), 11);
  });

  it('but not streams that are reset after they were answered', async () => {
    const peer = new RawPeer('client');
    peer.owner.onEachStream = (stream) => stream.respond([':status', '200']);
    for (let i = 0; i < 1000; i++) {
      peer.headers(1 + 2 * i, GET, true);
      peer.frame(FrameType.resetStream, 0, 1 + 2 * i, '00000008');
    }
    await settle();
    assert.equal(peer.owner.closed, undefined);
    assert.equal(peer.connection.activeStreams, 0);
  });

  it('of CONTINUATION frames, large or empty', async () => {
    const peer = new RawPeer('client');
    peer.frame(FrameType.headers, 0, 1, '82');
    for (let i = 0; i < 40; i++) peer.frame(FrameType.continuation, 0, 1, Buffer.alloc(8000));
    assert.equal(await peer.goaway(), 11);
    const other = new RawPeer('client');
    other.frame(FrameType.headers, 0, 1, '82');
    for (let i = 0; i < 40; i++) other.frame(FrameType.continuation, 0, 1);
    assert.equal(await other.goaway(), 11);
  });

  it('and takes a header block in several CONTINUATION frames', async () => {
    const peer = new RawPeer('client');
    const block = Buffer.from(new HpackEncoder().encode([...GET, 'x', 'y'.repeat(3000)]));
    peer.frame(FrameType.headers, 1, 1, block.subarray(0, 1000));
    peer.frame(FrameType.continuation, 0, 1, block.subarray(1000, 2000));
    peer.frame(FrameType.continuation, 4, 1, block.subarray(2000));
    await settle();
    assert.equal(peer.owner.streams.length, 1);
  });
});

describe('an HTTP/2 client', () => {
  it('splits what it sends by the peer’s frame size and windows', async () => {
    const peer = new RawPeer('server');
    await settle();
    peer.frame(FrameType.settings, 0, 0, '000400010000');
    await settle();
    const stream = peer.connection.request(POST);
    stream.write(Buffer.alloc(70_000));
    stream.end();
    assert.deepEqual(await peer.events(), ['headers 1 POST', 'data 1 16384', 'data 1 16384', 'data 1 16384', 'data 1 16383']);
    peer.frame(FrameType.windowUpdate, 0, 0, '000fffff');
    await settle();
    assert.equal(peer.seen.at(-1), 'data 1 1');
    peer.frame(FrameType.windowUpdate, 0, 1, '000fffff');
    await settle();
    assert.deepEqual(peer.seen.slice(-2), ['data 1 4464', 'data 1 0 end']);
  });

  it('takes a window that the peer shrinks under zero, and waits', async () => {
    const peer = new RawPeer('server');
    await settle();
    const stream = peer.connection.request(POST);
    stream.write(Buffer.alloc(10_000));
    await settle();
    peer.frame(FrameType.settings, 0, 0, '000400000000');
    await settle();
    assert.equal(stream.write(Buffer.alloc(10)), false);
    peer.frame(FrameType.windowUpdate, 0, 1, (10_000).toString(16).padStart(8, '0'));
    await settle();
    assert.equal(peer.seen.filter((event) => event.startsWith('data')).length, 1);
    peer.frame(FrameType.windowUpdate, 0, 1, '0000000a');
    await settle();
    assert.equal(peer.seen.at(-1), 'data 1 10');
  });

  it('resets a stream whose response is malformed', async () => {
    for (const fields of [
      [':status', '20'],
      ['x', 'y'],
      [':status', '101'],
      [':status', '200', ':status', '200'],
      [':status', '200', 'Upper', 'x'],
    ]) {
      const peer = new RawPeer('server');
      await settle();
      const reader = new Recorder(peer.connection.request(GET, true));
      peer.headers(1, fields);
      await reader.closed();
      assert.equal((reader.error as Http2Error).code, 'WEFT_HTTP2_MALFORMED');
    }
  });

  it('passes interim responses on, and takes no body before the final one', async () => {
    const peer = new RawPeer('server');
    await settle();
    const stream = peer.connection.request(GET, true);
    const statuses: number[] = [];
    stream.onResponse = (head) => void statuses.push(head.status);
    const reader = new Recorder(stream);
    peer.headers(1, [':status', '103']);
    peer.headers(1, [':status', '200']);
    await settle();
    assert.deepEqual(statuses, [103, 200]);
    assert.equal(reader.closes, 0);
    const early = new Recorder(peer.connection.request(GET, true));
    peer.frame(FrameType.data, 0, 3, '00');
    await early.closed();
    assert.equal((early.error as Http2Error).code, 'WEFT_HTTP2_MALFORMED');
  });

  it('does not let a server open streams', async () => {
    const peer = new RawPeer('server');
    peer.headers(2, [':status', '200']);
    assert.equal(await peer.goaway(), 1);
  });
});

describe('an HTTP/2 connection under hostile readers', () => {
  it('ends one that makes it answer and never reads', async () => {
    const [mine, theirs] = memoryStreamPair({ highWaterMark: 1024 });
    const owner = new Owner();
    const connection = new Http2Connection('server', theirs, owner, { keepAliveMs: 0, controlBurst: 1e9 });
    mine.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose() {} });
    mine.write(CLIENT_PREFACE);
    const settings = Buffer.alloc(9);
    writeFrameHeader(settings, 0, 0, FrameType.settings, 0, 0);
    mine.write(settings);
    const pings = Buffer.alloc(17 * 1000);
    for (let i = 0; i < 1000; i++) writeFrameHeader(pings, i * 17, 8, FrameType.ping, 0, 0);
    for (let i = 0; i < 200 && owner.closed === undefined; i++) {
      mine.write(pings);
      await settle(2);
    }
    assert.equal((owner.closed as Http2Error).code, 'WEFT_HTTP2_FLOOD');
    assert.ok(connection.transport.bytesWritten < 2 << 20);
  });
});
