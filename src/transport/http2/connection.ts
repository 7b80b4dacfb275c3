import type { ByteStream, ByteStreamHandler } from '../../model/byte-stream.ts';
import { mayMove } from '../../model/lifecycle.ts';
import type { LifecycleState } from '../../model/lifecycle.ts';
import { Budget } from './budget.ts';
import { ErrorCode, Http2Error, connectionError, errorCodeName } from './errors.ts';
import {
  CLIENT_PREFACE,
  DEFAULT_MAX_FRAME_SIZE,
  DEFAULT_WINDOW,
  FrameFlag,
  FrameReader,
  FrameType,
  LARGEST_MAX_FRAME_SIZE,
  LARGEST_WINDOW,
  Setting,
  readUint32,
  writeUint32,
} from './frame.ts';
import type { FrameSink } from './frame.ts';
import { HpackDecoder, HpackEncoder } from './hpack.ts';
import type { HeaderList } from './hpack.ts';
import { checkTrailers, fieldValue, readRequestHead, readResponseHead } from './message.ts';
import type { RequestHead } from './message.ts';
import { OutputQueue } from './output-queue.ts';
import { StreamState } from './stream-state.ts';
import { Http2Stream } from './stream.ts';

/** Limits and timers of a connection. Bytes and milliseconds. */
export interface Http2Options {
  /** What one stream's reader may leave unread. */
  readonly streamWindow: number;
  /** What all streams of the connection together may leave unread: the bound of its receive memory. */
  readonly connectionWindow: number;
  /** The largest frame accepted. DATA is passed on as it arrives, so a large frame costs no memory. */
  readonly maxFrameSize: number;
  /** Streams the peer may have open at once (server). */
  readonly maxConcurrentStreams: number;
  /** Streams we have open at once until the peer says fewer (client). */
  readonly maxOpenStreams: number;
  readonly headerTableSize: number;
  readonly maxHeaderListSize: number;
  readonly maxHeaderCount: number;
  /** Compressed bytes of one header block, CONTINUATION included. */
  readonly maxHeaderBlock: number;
  /** Idle time before a PING is sent. 0: never. */
  readonly keepAliveMs: number;
  /** Time without a byte after which the connection is given up, counted from the PING. */
  readonly keepAliveTimeoutMs: number;
  /** Time for the peer's preface and SETTINGS. */
  readonly settingsTimeoutMs: number;
  /** Streams the peer may abandon before an answer, or lose to its own errors: at once, and a second. */
  readonly resetBurst: number;
  readonly resetsPerSecond: number;
  /** Streams that the peer abandons after their answer began count too: where each of them costs us something that a body's end does not. */
  readonly countLateResets: boolean;
  /** PING, SETTINGS, empty DATA, ignored frames: at once, and a second. */
  readonly controlBurst: number;
  readonly controlPerSecond: number;
  /** Bytes of frames other than DATA that a peer may leave unread. */
  readonly maxUnreadControl: number;
}

export const DEFAULT_HTTP2_OPTIONS: Http2Options = {
  streamWindow: 1 << 20,
  connectionWindow: 16 << 20,
  maxFrameSize: 1 << 20,
  maxConcurrentStreams: 200,
  maxOpenStreams: 100,
  headerTableSize: 4096,
  maxHeaderListSize: 65_536,
  maxHeaderCount: 128,
  maxHeaderBlock: 65_536,
  keepAliveMs: 10_000,
  keepAliveTimeoutMs: 20_000,
  settingsTimeoutMs: 10_000,
  resetBurst: 200,
  resetsPerSecond: 100,
  countLateResets: false,
  controlBurst: 1000,
  controlPerSecond: 200,
  maxUnreadControl: 1 << 20,
};

/** Who owns a connection. */
export interface Http2ConnectionHandler {
  /** Server: a well-formed request came. The stream is paused; answer with `respond`. */
  onStream?(stream: Http2Stream, head: RequestHead, fields: HeaderList, endStream: boolean): void;
  /** The peer's SETTINGS came: it does speak HTTP/2. */
  onReady?(): void;
  /** No new streams may be opened: the peer sent GOAWAY. */
  onGoaway?(code: number): void;
  /** A stream's slot is free again, or the peer may allow more of them. */
  onStreamClosed?(): void;
  /** Something of the peer was refused, and only its stream suffered. `stream.attached` is false if its head was not let through. */
  onMalformed?(reason: string, stream: Http2Stream): void;
  /** The connection takes no part in anything any more. Exactly once, in a later turn than the call that caused it. `null`: orderly. */
  onClose(error: Error | null): void;
}

/** A turn of the round robin. */
const QUANTUM = 65_536;
/** More CONTINUATION frames than this in one block is an attack, however small they are. */
const MAX_CONTINUATIONS = 16;
/** Streams we reset and whose late frames are ignored. */
const REMEMBERED_RESETS = 256;
/** After the last words (GOAWAY) the peer has this long to close. */
const LINGER_MS = 1000;
const KEEPALIVE_PAYLOAD = Buffer.from('weftping', 'latin1');
const DRAIN_PAYLOAD = Buffer.from('weftdone', 'latin1');
const LARGEST_STREAM_ID = 0x7fffffff;

/** A peer's words, fit for a log line. */
function printable(text: string): string {
  return text.replaceAll(/[^ -~]/g, '?').slice(0, 200);
}

/**
 * One HTTP/2 connection (RFC 9113) over any byte stream, as client or server.
 *
 * Lifecycle: `starting` until the peer's SETTINGS, `running`, `draining` (no new streams), `stopped`. Frames that one event-loop turn
 * produces leave in one write. Memory: receive windows bound what is held for readers, one chunk per stream waits to be sent (the
 * rest is back-pressure), header blocks and control frames have limits, and every cheap way to cost us work has a budget.
 */
export class Http2Connection implements FrameSink, ByteStreamHandler {
  readonly isClient: boolean;
  readonly transport: ByteStream;
  readonly options: Http2Options;
  readonly #handler: Http2ConnectionHandler;
  readonly #output: OutputQueue;
  readonly #reader: FrameReader;
  readonly #decoder: HpackDecoder;
  readonly #encoder = new HpackEncoder();
  readonly #streams = new Map<number, Http2Stream>();
  /** Streams that may send and wait for their turn. */
  readonly #ready: Http2Stream[] = [];
  #state: LifecycleState = 'starting';
  #prefaceBytes: number;
  #sendWindow = DEFAULT_WINDOW;
  #receiveWindow: number;
  #uncredited = 0;
  #peerMaxFrameSize = DEFAULT_MAX_FRAME_SIZE;
  #peerInitialWindow = DEFAULT_WINDOW;
  #peerMaxStreams: number;
  /** The next id we use (client), the highest the peer used (server). */
  #nextId = 1;
  #lastPeerId = 0;
  /** Highest stream the peer was told we answer, after GOAWAY. */
  #goawaySent = -1;
  #goawayReceived = false;
  /** Why the peer said it goes away, if it complained. */
  #peerReason = '';
  #block: Buffer[] = [];
  #blockBytes = 0;
  #continuations = 0;
  #blockStream = 0;
  #blockEndsStream = false;
  readonly #resets = new Set<number>();
  readonly #resetBudget: Budget;
  readonly #controlBudget: Budget;
  #heard = true;
  #silentMs = 0;
  #keepAlive: NodeJS.Timeout | null = null;
  #settingsTimer: NodeJS.Timeout | null = null;
  #drainTimer: NodeJS.Timeout | null = null;
  #goawayTimer: NodeJS.Timeout | null = null;

  /** Takes over the transport, sends the preface and reads on. */
  constructor(role: 'client' | 'server', transport: ByteStream, handler: Http2ConnectionHandler, options: Partial<Http2Options> = {}) {
    this.isClient = role === 'client';
    this.transport = transport;
    this.options = { ...DEFAULT_HTTP2_OPTIONS, ...options };
    this.#handler = handler;
    const o = this.options;
    this.#peerMaxStreams = o.maxOpenStreams;
    this.#prefaceBytes = this.isClient ? CLIENT_PREFACE.length : 0;
    this.#receiveWindow = Math.max(o.connectionWindow, DEFAULT_WINDOW);
    this.#decoder = new HpackDecoder({ tableSize: o.headerTableSize, listSize: o.maxHeaderListSize, listCount: o.maxHeaderCount });
    this.#reader = new FrameReader(this, o);
    this.#resetBudget = new Budget(o.resetBurst, o.resetsPerSecond);
    this.#controlBudget = new Budget(o.controlBurst, o.controlPerSecond);
    this.#output = new OutputQueue(transport, () => this.#pump());
    this.#sendPreface();
    this.#settingsTimer = setTimeout(() => this.#onSettingsTimeout(), o.settingsTimeoutMs);
    if (o.keepAliveMs > 0) this.#keepAlive = setInterval(() => this.#onKeepAlive(), o.keepAliveMs).unref();
    transport.attach(this);
    transport.resume();
  }

  get state(): LifecycleState {
    return this.#state;
  }

  /** Streams open now, in either direction. */
  get activeStreams(): number {
    return this.#streams.size;
  }

  /** How many streams `request` would take now. */
  get availableStreams(): number {
    if (this.#state === 'draining' || this.#state === 'stopped' || this.#goawayReceived || this.#nextId > LARGEST_STREAM_ID) return 0;
    return Math.max(0, Math.min(this.#peerMaxStreams, this.options.maxOpenStreams) - this.#streams.size);
  }

  /** @internal */
  get congested(): boolean {
    return this.#output.congested;
  }

  #sendPreface(): void {
    const o = this.options;
    if (this.isClient) this.#output.raw(CLIENT_PREFACE);
    const settings: number[] = [];
    if (this.isClient) settings.push(Setting.enablePush, 0);
    else settings.push(Setting.maxConcurrentStreams, o.maxConcurrentStreams);
    settings.push(Setting.initialWindowSize, o.streamWindow, Setting.maxFrameSize, o.maxFrameSize);
    settings.push(Setting.maxHeaderListSize, o.maxHeaderListSize);
    if (o.headerTableSize !== 4096) settings.push(Setting.headerTableSize, o.headerTableSize);
    let at = this.#output.control(settings.length * 3, FrameType.settings, 0, 0);
    for (let i = 0; i < settings.length; i += 2) {
      const slab = this.#output.slab;
      const id = settings[i] as number;
      slab[at] = id >>> 8;
      slab[at + 1] = id;
      writeUint32(slab, at + 2, settings[i + 1] as number);
      at += 6;
    }
    const grow = this.#receiveWindow - DEFAULT_WINDOW;
    if (grow > 0) this.#stageUint32(FrameType.windowUpdate, 0, grow);
  }

  #moveTo(next: LifecycleState): void {
    if (mayMove(this.#state, next)) this.#state = next;
  }

  // Opening and closing.

  /**
   * Client: opens a stream with this request. The stream is paused; set `onResponse` before the current turn ends.
   * @throws Http2Error WEFT_HTTP2_NO_NEW_STREAMS when the connection is draining, full or gone
   */
  request(fields: readonly string[], endStream = false): Http2Stream {
    if (!this.isClient || this.availableStreams === 0) {
      throw new Http2Error('WEFT_HTTP2_NO_NEW_STREAMS', ErrorCode.refusedStream, 'this connection takes no more streams', {
        nextStep: 'use another connection',
      });
    }
    const id = this.#nextId;
    this.#nextId += 2;
    const method = fieldValue(fields, ':method') ?? '';
    const stream = new Http2Stream(this, id, method, this.#peerInitialWindow, this.options.streamWindow);
    this.#streams.set(id, stream);
    stream.state = StreamState.open;
    this.stageHeaders(stream, fields, endStream);
    if (endStream) stream.headEnded();
    return stream;
  }

  /**
   * No new streams: those open may finish within `deadlineMs`, then the connection closes. A server first announces it, so
   * that requests already on their way are still answered (RFC 9113 section 6.8).
   */
  drain(deadlineMs: number): void {
    if (this.#state === 'draining' || this.#state === 'stopped') return;
    this.#moveTo('draining');
    this.#drainTimer = setTimeout(() => {
      this.#stop(
        ErrorCode.noError,
        new Http2Error('WEFT_HTTP2_DRAIN_DEADLINE', ErrorCode.cancel, 'streams were still open when the drain deadline came'),
      );
    }, deadlineMs).unref();
    if (this.isClient) {
      this.#finishIfIdle();
      return;
    }
    this.#stageGoaway(LARGEST_STREAM_ID, ErrorCode.noError, '');
    this.#stagePing(DRAIN_PAYLOAD, 0);
    this.#goawayTimer = setTimeout(() => this.#lastGoaway(), 1000).unref();
  }

  #lastGoaway(): void {
    if (this.#goawayTimer !== null) clearTimeout(this.#goawayTimer);
    this.#goawayTimer = null;
    if (this.#goawaySent !== -1 || this.#state === 'stopped') return;
    this.#goawaySent = this.#lastPeerId;
    this.#stageGoaway(this.#lastPeerId, ErrorCode.noError, '');
    this.#finishIfIdle();
  }

  /** Closes at once: streams end with `error`, the peer gets GOAWAY. Idempotent. */
  destroy(error?: Error): void {
    this.#stop(error instanceof Http2Error ? error.http2Code : ErrorCode.noError, error ?? null);
  }

  #finishIfIdle(): void {
    if (this.#streams.size > 0) return;
    const done = this.#state === 'draining' && (this.isClient || this.#goawaySent !== -1);
    if (done || this.#goawayReceived) {
      setImmediate(() => this.#streams.size === 0 && this.#stop(ErrorCode.noError, this.#peerReason === '' ? null : this.#lost(null)));
    }
  }

  /** The one way out. */
  #stop(code: number, error: Error | null): void {
    if (this.#state === 'stopped') return;
    this.#moveTo('stopped');
    this.#reader.stop();
    this.#clearTimers();
    const reason = error !== null && code !== ErrorCode.noError ? error.message : '';
    this.#stageGoaway(this.#lastPeerId, code, reason);
    this.#output.flush();
    this.#output.close();
    this.transport.end();
    const lost = error ?? new Http2Error('WEFT_HTTP2_CONNECTION_CLOSED', ErrorCode.noError, 'the connection was closed');
    for (const stream of this.#streams.values()) {
      stream.state = StreamState.closed;
      stream.abort(lost);
    }
    this.#streams.clear();
    this.#ready.length = 0;
    const transport = this.transport;
    if (!transport.destroyed) {
      const linger = setTimeout(() => transport.destroy(), LINGER_MS);
      transport.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose: () => clearTimeout(linger) });
    }
    setImmediate(() => this.#handler.onClose(error));
  }

  #clearTimers(): void {
    for (const timer of [this.#keepAlive, this.#settingsTimer, this.#drainTimer, this.#goawayTimer]) {
      if (timer !== null) clearTimeout(timer);
    }
    this.#keepAlive = null;
    this.#settingsTimer = null;
    this.#drainTimer = null;
    this.#goawayTimer = null;
  }

  #onSettingsTimeout(): void {
    const error = new Http2Error('WEFT_HTTP2_TIMEOUT', ErrorCode.settingsTimeout, 'the peer sent no HTTP/2 preface in time', {
      nextStep: 'check what dials, or answers on, this port',
    });
    this.#stop(ErrorCode.settingsTimeout, error);
  }

  #onKeepAlive(): void {
    if (this.#heard) {
      this.#heard = false;
      this.#silentMs = 0;
      this.#output.trim();
      return;
    }
    // The first silent interval only sends the PING; the timeout counts from there.
    if (this.#silentMs === 0) {
      this.#stagePing(KEEPALIVE_PAYLOAD, 0);
    } else if (this.#silentMs >= this.options.keepAliveTimeoutMs) {
      const error = new Http2Error('WEFT_HTTP2_TIMEOUT', ErrorCode.noError, `no byte from the peer for ${this.#silentMs} ms after a PING`, {
        nextStep: 'check that the peer is alive and the network carries packets both ways',
      });
      this.#stop(ErrorCode.noError, error);
      this.transport.destroy(error);
      return;
    }
    this.#silentMs += this.options.keepAliveMs;
  }

  // The transport.

  onData(chunk: Buffer): void {
    if (this.#state === 'stopped') return;
    this.#heard = true;
    try {
      let rest = chunk;
      if (this.#prefaceBytes < CLIENT_PREFACE.length) {
        const taken = Math.min(CLIENT_PREFACE.length - this.#prefaceBytes, chunk.length);
        if (CLIENT_PREFACE.compare(chunk, 0, taken, this.#prefaceBytes, this.#prefaceBytes + taken) !== 0) {
          throw connectionError(ErrorCode.protocolError, 'not the HTTP/2 preface');
        }
        this.#prefaceBytes += taken;
        if (taken === chunk.length) return;
        rest = chunk.subarray(taken);
      }
      this.#reader.read(rest);
    } catch (error) {
      if (!(error instanceof Http2Error)) throw error;
      this.#stop(error.http2Code, error);
      return;
    }
    if (this.#output.unreadControlBytes > this.options.maxUnreadControl) {
      const error = connectionError(ErrorCode.enhanceYourCalm, 'the peer makes us answer and does not read the answers');
      this.#stop(ErrorCode.enhanceYourCalm, error);
      this.transport.destroy(error);
    }
  }

  onEnd(): void {
    if (this.#state === 'stopped') return;
    this.#stop(ErrorCode.noError, this.#lost(null));
  }

  onDrain(): void {
    this.#output.unblock();
    this.#pump();
  }

  onClose(error: Error | null): void {
    if (this.#state === 'stopped') return;
    this.#output.close();
    this.#stop(ErrorCode.noError, this.#lost(error));
  }

  #lost(cause: Error | null): Error | null {
    // Closing an idle connection is everybody's right.
    if (cause === null && this.#streams.size === 0 && this.#state !== 'starting' && this.#peerReason === '') return null;
    const why = this.#peerReason === '' ? (cause?.message ?? '') : this.#peerReason;
    return new Http2Error('WEFT_HTTP2_CONNECTION_LOST', ErrorCode.connectError, `the connection was lost${why === '' ? '' : `: ${why}`}`, {
      cause,
      nextStep: 'look at the peer: it closed the connection, or the network did',
    });
  }

  // Sending.

  /** @internal Stages as much of the chunk as windows, back-pressure and fairness allow. Returns how many bytes. */
  sendData(stream: Http2Stream, chunk: Uint8Array): number {
    if (this.#ready.length > 0 || this.#output.congested) return 0;
    return this.stageData(stream, chunk);
  }

  /** @internal Stages as much of the chunk as the windows allow. */
  stageData(stream: Http2Stream, chunk: Uint8Array): number {
    const allowed = Math.min(chunk.length, stream.sendWindow, this.#sendWindow);
    if (allowed <= 0) return 0;
    stream.sendWindow -= allowed;
    this.#sendWindow -= allowed;
    const largest = this.#peerMaxFrameSize;
    if (allowed <= largest) {
      this.#output.frame(allowed === chunk.length ? chunk : chunk.subarray(0, allowed), FrameType.data, 0, stream.id);
      return allowed;
    }
    for (let from = 0; from < allowed; from += largest) {
      this.#output.frame(chunk.subarray(from, Math.min(from + largest, allowed)), FrameType.data, 0, stream.id);
    }
    return allowed;
  }

  /** @internal Puts a stream into the round robin. */
  enqueue(stream: Http2Stream): void {
    if (stream.queued) return;
    stream.queued = true;
    this.#ready.push(stream);
  }

  #pump(): void {
    const ready = this.#ready;
    while (ready.length > 0 && !this.#output.congested) {
      const stream = ready[0] as Http2Stream;
      if (this.#sendWindow <= 0 && stream.wantsToSend) return;
      ready.shift();
      stream.queued = false;
      if (stream.takeTurn(QUANTUM)) this.enqueue(stream);
    }
  }

  /** @internal */
  stageEnd(stream: Http2Stream): void {
    this.#output.control(0, FrameType.data, FrameFlag.endStream, stream.id);
  }

  /** @internal One header block, cut into CONTINUATION frames if it must be. */
  stageHeaders(stream: Http2Stream, fields: readonly string[], endStream: boolean): void {
    if (this.#state === 'stopped') return;
    const block = this.#encoder.encode(fields);
    const largest = this.#peerMaxFrameSize;
    const ending = endStream ? FrameFlag.endStream : 0;
    const first = Math.min(block.length, largest);
    let at = this.#output.control(first, FrameType.headers, ending | (first === block.length ? FrameFlag.endHeaders : 0), stream.id);
    block.copy(this.#output.slab, at, 0, first);
    for (let from = first; from < block.length; from += largest) {
      const to = Math.min(from + largest, block.length);
      at = this.#output.control(to - from, FrameType.continuation, to === block.length ? FrameFlag.endHeaders : 0, stream.id);
      block.copy(this.#output.slab, at, from, to);
    }
  }

  #stageUint32(type: number, streamId: number, value: number): void {
    if (this.#state === 'stopped') return;
    const at = this.#output.control(4, type, 0, streamId);
    writeUint32(this.#output.slab, at, value);
  }

  /** @internal Frames of the stream that are on their way will be ignored. */
  stageReset(streamId: number, code: number): void {
    this.#stageUint32(FrameType.resetStream, streamId, code);
    this.#resets.add(streamId);
    if (this.#resets.size > REMEMBERED_RESETS) this.#resets.delete(this.#resets.values().next().value as number);
  }

  #stagePing(payload: Buffer, flags: number): void {
    const at = this.#output.control(8, FrameType.ping, flags, 0);
    payload.copy(this.#output.slab, at, 0, 8);
  }

  #stageGoaway(lastStreamId: number, code: number, debug: string): void {
    const text = Buffer.from(debug.slice(0, 200), 'latin1');
    const at = this.#output.control(8 + text.length, FrameType.goaway, 0, 0);
    writeUint32(this.#output.slab, at, lastStreamId);
    writeUint32(this.#output.slab, at + 4, code);
    text.copy(this.#output.slab, at + 8);
  }

  // Flow control, receiving side.

  /** @internal The handler took `bytes` of the stream. */
  credit(stream: Http2Stream, bytes: number): void {
    this.creditConnection(bytes);
    if (stream.state !== StreamState.open && stream.state !== StreamState.halfClosedLocal) return;
    stream.uncredited += bytes;
    if (stream.uncredited * 2 >= this.options.streamWindow) {
      stream.receiveWindow += stream.uncredited;
      this.#stageUint32(FrameType.windowUpdate, stream.id, stream.uncredited);
      stream.uncredited = 0;
    }
  }

  /** @internal */
  creditConnection(bytes: number): void {
    this.#uncredited += bytes;
    if (this.#uncredited * 4 >= this.options.connectionWindow && this.#state !== 'stopped') {
      this.#receiveWindow += this.#uncredited;
      this.#stageUint32(FrameType.windowUpdate, 0, this.#uncredited);
      this.#uncredited = 0;
    }
  }

  /** @internal A stream reached `closed`. */
  forget(stream: Http2Stream): void {
    if (!this.#streams.delete(stream.id)) return;
    // Its turn may never come: a peer may keep the connection's window shut, and reset stream after stream.
    if (stream.queued) {
      stream.queued = false;
      this.#ready.splice(this.#ready.indexOf(stream), 1);
    }
    this.#handler.onStreamClosed?.();
    if (this.#state === 'draining' || this.#goawayReceived) this.#finishIfIdle();
  }

  // Frames, in.

  /** A stream that no map knows: it has not begun, or it is over. */
  #checkNotIdle(streamId: number, what: string): void {
    const ours = (streamId & 1) === 1 && this.isClient;
    const begun = ours ? streamId < this.#nextId : !this.isClient && (streamId & 1) === 1 && streamId <= this.#lastPeerId;
    if (!begun) throw connectionError(ErrorCode.protocolError, `${what} on idle stream ${streamId}`);
  }

  #spend(what: string): void {
    if (!this.#controlBudget.take()) throw connectionError(ErrorCode.enhanceYourCalm, `too many ${what} frames`);
  }

  /** A stream of the peer's died early or by the peer's fault: such streams are a way to cost us work (rapid reset). */
  #spendReset(): void {
    if (!this.#resetBudget.take()) throw connectionError(ErrorCode.enhanceYourCalm, 'too many streams opened only to be reset');
  }

  onStreamError(streamId: number, code: number, message: string): void {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      if (streamId > (this.isClient ? this.#nextId : this.#lastPeerId)) throw connectionError(code, message);
      this.#spend('wrong');
      return;
    }
    this.#malformed(stream, code, message);
  }

  /** The owner found a stream's message malformed by rules of its own: the stream is reset, and counts against the peer. */
  malformed(stream: Http2Stream, message: string): void {
    try {
      this.#malformed(stream, ErrorCode.protocolError, message);
    } catch (error) {
      if (!(error instanceof Http2Error)) throw error;
      this.#stop(error.http2Code, error);
    }
  }

  #malformed(stream: Http2Stream, code: number, message: string): void {
    this.#handler.onMalformed?.(message, stream);
    stream.reset(
      code,
      new Http2Error('WEFT_HTTP2_MALFORMED', code, `stream ${stream.id} was reset with ${errorCodeName(code)}: ${message}`, {
        nextStep: 'fix the peer’s message: nothing malformed is passed on',
      }),
    );
    this.#spendReset();
  }

  onSettings(payload: Buffer): void {
    this.#spend('SETTINGS');
    for (let at = 0; at < payload.length; at += 6) {
      this.#applySetting(((payload[at] as number) << 8) | (payload[at + 1] as number), readUint32(payload, at + 2));
    }
    this.#output.control(0, FrameType.settings, FrameFlag.ack, 0);
    if (this.#settingsTimer !== null) {
      clearTimeout(this.#settingsTimer);
      this.#settingsTimer = null;
      if (this.#state === 'starting') this.#moveTo('running');
      this.#handler.onReady?.();
    } else {
      this.#handler.onStreamClosed?.();
    }
    this.#pump();
  }

  #applySetting(id: number, value: number): void {
    switch (id) {
      case Setting.headerTableSize:
        this.#encoder.tableSizeChanged();
        return;
      case Setting.enablePush:
        if (value > 1 || (this.isClient && value === 1)) throw connectionError(ErrorCode.protocolError, `ENABLE_PUSH of ${value}`);
        return;
      case Setting.maxConcurrentStreams:
        this.#peerMaxStreams = value;
        return;
      case Setting.initialWindowSize: {
        if (value > LARGEST_WINDOW) throw connectionError(ErrorCode.flowControlError, 'INITIAL_WINDOW_SIZE over 2^31-1');
        const delta = value - this.#peerInitialWindow;
        this.#peerInitialWindow = value;
        for (const stream of this.#streams.values()) {
          stream.sendWindow += delta;
          if (stream.sendWindow > LARGEST_WINDOW)
            throw connectionError(ErrorCode.flowControlError, 'INITIAL_WINDOW_SIZE overflows a window');
          if (delta > 0 && stream.sendWindow > 0 && stream.wantsToSend) this.enqueue(stream);
        }
        return;
      }
      case Setting.maxFrameSize:
        if (value < DEFAULT_MAX_FRAME_SIZE || value > LARGEST_MAX_FRAME_SIZE) {
          throw connectionError(ErrorCode.protocolError, `MAX_FRAME_SIZE of ${value}`);
        }
        this.#peerMaxFrameSize = value;
    }
  }

  #needSettings(): void {
    if (this.#settingsTimer !== null) throw connectionError(ErrorCode.protocolError, 'the first frame is not SETTINGS');
  }

  onSettingsAck(): void {
    this.#needSettings();
  }

  onPing(payload: Buffer): void {
    this.#needSettings();
    this.#spend('PING');
    this.#stagePing(payload, FrameFlag.ack);
  }

  onPingAck(payload: Buffer): void {
    this.#needSettings();
    if (this.#goawayTimer !== null && payload.equals(DRAIN_PAYLOAD)) this.#lastGoaway();
  }

  onIgnored(): void {
    this.#needSettings();
    this.#spend('ignored');
  }

  onGoaway(lastStreamId: number, code: number, debug: string): void {
    this.#needSettings();
    this.#spend('GOAWAY');
    if (code !== ErrorCode.noError) this.#peerReason = `GOAWAY with ${errorCodeName(code)}${debug === '' ? '' : `, ${printable(debug)}`}`;
    const first = !this.#goawayReceived;
    this.#goawayReceived = true;
    // Before its streams hear of it: the owner knows then why they end.
    if (first) this.#handler.onGoaway?.(code);
    if (this.isClient) {
      // RFC 9113 section 6.8: streams above the last were not processed, and may be tried elsewhere.
      for (const stream of this.#streams.values()) {
        if (stream.id > lastStreamId) stream.receiveReset(ErrorCode.refusedStream, this.#peerReason);
      }
    }
    this.#finishIfIdle();
  }

  onWindowUpdate(streamId: number, increment: number): void {
    this.#needSettings();
    if (streamId === 0) {
      this.#sendWindow += increment;
      if (this.#sendWindow > LARGEST_WINDOW) throw connectionError(ErrorCode.flowControlError, 'the connection window overflows');
    } else {
      const stream = this.#streams.get(streamId);
      if (stream === undefined) {
        this.#checkNotIdle(streamId, 'WINDOW_UPDATE');
        return;
      }
      stream.sendWindow += increment;
      if (stream.sendWindow > LARGEST_WINDOW) {
        this.#malformed(stream, ErrorCode.flowControlError, 'the stream window overflows');
        return;
      }
      if (stream.sendWindow > 0 && stream.wantsToSend) this.enqueue(stream);
    }
    this.#pump();
  }

  onReset(streamId: number, code: number): void {
    this.#needSettings();
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      // Both sides may reset at once. It costs nothing, so it is not counted.
      this.#checkNotIdle(streamId, 'RST_STREAM');
      return;
    }
    const early = !this.isClient && (!stream.headDone || this.options.countLateResets);
    stream.receiveReset(code);
    if (early) this.#spendReset();
  }

  onDataFrame(streamId: number, payload: Buffer, flowBytes: number, endStream: boolean): void {
    this.#needSettings();
    this.#receiveWindow -= flowBytes;
    if (this.#receiveWindow < 0) throw connectionError(ErrorCode.flowControlError, 'more DATA than the connection window');
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      this.#checkNotIdle(streamId, 'DATA');
      this.creditConnection(flowBytes);
      if (!this.#resets.has(streamId)) {
        this.stageReset(streamId, ErrorCode.streamClosed);
        this.#spend('DATA on a closed stream');
      }
      return;
    }
    stream.receiveWindow -= flowBytes;
    const overhead = flowBytes - payload.length;
    if (stream.receiveWindow < 0) {
      this.creditConnection(flowBytes);
      this.#malformed(stream, ErrorCode.flowControlError, 'more DATA than the stream window');
      return;
    }
    if (stream.state !== StreamState.open && stream.state !== StreamState.halfClosedLocal) {
      this.creditConnection(flowBytes);
      this.#malformed(stream, ErrorCode.streamClosed, 'DATA after the end');
      return;
    }
    if (this.isClient && !stream.headDone) {
      this.creditConnection(flowBytes);
      this.#malformed(stream, ErrorCode.protocolError, 'DATA before the response head');
      return;
    }
    if (overhead > 0) this.credit(stream, overhead);
    if (stream.owed !== -1) {
      stream.owed -= payload.length;
      if (stream.owed < 0 || (endStream && stream.owed > 0)) {
        this.creditConnection(payload.length);
        this.#malformed(stream, ErrorCode.protocolError, 'a body other than content-length says');
        return;
      }
    }
    if (payload.length > 0) {
      // Peers measure the round trip with a PING for each read (gRPC does): frames that carry something pay for it.
      this.#controlBudget.give();
      stream.receive(payload);
    } else if (!endStream) this.#spend('empty DATA');
    if (endStream && !stream.destroyed) stream.receiveEnd(null);
  }

  onHeaders(streamId: number, fragment: Buffer, endStream: boolean, endHeaders: boolean): void {
    this.#needSettings();
    if (endHeaders) {
      this.#headers(streamId, fragment, endStream);
      return;
    }
    this.#block = [Buffer.from(fragment)];
    this.#blockBytes = fragment.length;
    this.#continuations = 0;
    this.#blockStream = streamId;
    this.#blockEndsStream = endStream;
  }

  onContinuation(fragment: Buffer, endHeaders: boolean): void {
    this.#blockBytes += fragment.length;
    if (this.#blockBytes > this.options.maxHeaderBlock || ++this.#continuations > MAX_CONTINUATIONS) {
      throw connectionError(ErrorCode.enhanceYourCalm, 'a header block that does not end');
    }
    this.#block.push(Buffer.from(fragment));
    if (!endHeaders) return;
    const block = Buffer.concat(this.#block, this.#blockBytes);
    this.#block = [];
    this.#headers(this.#blockStream, block, this.#blockEndsStream);
  }

  /** A complete header block. It is always decoded, whatever becomes of it: the table must stay in step. */
  #headers(streamId: number, block: Buffer, endStream: boolean): void {
    const fields: HeaderList = [];
    const within = this.#decoder.decode(block, fields);
    const stream = this.#streams.get(streamId);
    if (stream !== undefined) {
      this.#moreHeaders(stream, fields, within, endStream);
      return;
    }
    if (this.#resets.has(streamId)) {
      this.#spend('HEADERS on a reset stream');
      return;
    }
    if (this.isClient) {
      this.#checkNotIdle(streamId, 'HEADERS');
      throw connectionError(ErrorCode.streamClosed, `HEADERS on closed stream ${streamId}`);
    }
    if ((streamId & 1) === 0) throw connectionError(ErrorCode.protocolError, `a client opened stream ${streamId}`);
    if (streamId <= this.#lastPeerId) throw connectionError(ErrorCode.streamClosed, `HEADERS on closed stream ${streamId}`);
    this.#lastPeerId = streamId;
    if (this.#goawaySent !== -1) {
      // The peer was told that this stream will not be answered.
      this.stageReset(streamId, ErrorCode.refusedStream);
      this.#spend('HEADERS after GOAWAY');
      return;
    }
    if (this.#streams.size >= this.options.maxConcurrentStreams) {
      this.stageReset(streamId, ErrorCode.refusedStream);
      this.#spendReset();
      return;
    }
    const head = within ? readRequestHead(fields) : '';
    const method = typeof head === 'string' ? '' : head.method;
    const opened = new Http2Stream(this, streamId, method, this.#peerInitialWindow, this.options.streamWindow);
    opened.state = StreamState.open;
    this.#streams.set(streamId, opened);
    if (!within) {
      this.#handler.onMalformed?.('a header list over the limit', opened);
      opened.respond([':status', '431'], true);
      if (!opened.destroyed) opened.reset(ErrorCode.noError);
      this.#spendReset();
      return;
    }
    if (typeof head === 'string') {
      this.#malformed(opened, ErrorCode.protocolError, head);
      return;
    }
    this.#controlBudget.give();
    opened.owed = head.contentLength;
    if (endStream && opened.owed > 0) {
      this.#malformed(opened, ErrorCode.protocolError, 'a body other than content-length says');
      return;
    }
    if (this.#handler.onStream === undefined) opened.reset(ErrorCode.refusedStream);
    else this.#handler.onStream(opened, head, fields, endStream);
    if (endStream && !opened.destroyed) opened.receiveEnd(null);
  }

  /** Headers on an open stream: a response, or trailers. */
  #moreHeaders(stream: Http2Stream, fields: HeaderList, within: boolean, endStream: boolean): void {
    if (stream.state === StreamState.halfClosedRemote) {
      this.#malformed(stream, ErrorCode.streamClosed, 'HEADERS after the end');
      return;
    }
    if (!within) {
      this.#malformed(stream, ErrorCode.enhanceYourCalm, 'a header list over the limit');
      return;
    }
    if (this.isClient && !stream.headDone) {
      const head = readResponseHead(fields);
      if (typeof head === 'string') {
        this.#malformed(stream, ErrorCode.protocolError, head);
        return;
      }
      if (head.status < 200) {
        if (endStream) this.#malformed(stream, ErrorCode.protocolError, 'an informational response that ends');
        else stream.onResponse?.(head, fields, false);
        this.#spend('informational');
        return;
      }
      stream.headDone = true;
      this.#controlBudget.give();
      const bodiless = stream.isHead || head.status === 204 || head.status === 304;
      stream.owed = stream.isConnect ? -1 : bodiless ? 0 : head.contentLength;
      if (endStream && stream.owed > 0) {
        this.#malformed(stream, ErrorCode.protocolError, 'a body other than content-length says');
        return;
      }
      stream.onResponse?.(head, fields, endStream);
      if (endStream && !stream.destroyed) stream.receiveEnd(null);
      return;
    }
    const wrong = stream.isConnect
      ? 'HEADERS inside a tunnel'
      : endStream
        ? stream.owed > 0
          ? 'a body other than content-length says'
          : checkTrailers(fields)
        : 'HEADERS in the middle of a body';
    if (wrong === null) stream.receiveEnd(fields);
    else this.#malformed(stream, ErrorCode.protocolError, wrong);
  }
}
