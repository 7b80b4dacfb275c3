import { ErrorCode, connectionError } from './errors.ts';

/**
 * HTTP/2 frames, RFC 9113 sections 4 and 6: an incremental reader that never buffers DATA, and writers into a given buffer.
 */

/** RFC 9113 section 6. */
export const FrameType = {
  data: 0x0,
  headers: 0x1,
  priority: 0x2,
  resetStream: 0x3,
  settings: 0x4,
  pushPromise: 0x5,
  ping: 0x6,
  goaway: 0x7,
  windowUpdate: 0x8,
  continuation: 0x9,
} as const;

export const FrameFlag = { ack: 0x1, endStream: 0x1, endHeaders: 0x4, padded: 0x8, priority: 0x20 } as const;

/** RFC 9113 section 6.5.2. */
export const Setting = {
  headerTableSize: 0x1,
  enablePush: 0x2,
  maxConcurrentStreams: 0x3,
  initialWindowSize: 0x4,
  maxFrameSize: 0x5,
  maxHeaderListSize: 0x6,
} as const;

export const FRAME_HEADER_BYTES = 9;
export const DEFAULT_MAX_FRAME_SIZE = 16_384;
export const LARGEST_MAX_FRAME_SIZE = 16_777_215;
export const DEFAULT_WINDOW = 65_535;
export const LARGEST_WINDOW = 0x7fffffff;
/** RFC 9113 section 3.4. */
export const CLIENT_PREFACE: Buffer = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

const EMPTY = Buffer.alloc(0);
/** No SETTINGS or GOAWAY frame needs more; DATA and header blocks have limits of their own. */
const MAX_CONTROL_BYTES = 16_384;

/** Who is told about frames. A stream's DATA arrives in pieces, as the bytes come: only the last piece of a frame may end the stream. */
export interface FrameSink {
  /**
   * @param payload a view on the chunk that was read: no copy was made
   * @param flowBytes what counts against flow control: the payload and padding
   */
  onDataFrame(streamId: number, payload: Buffer, flowBytes: number, endStream: boolean): void;
  /** A HEADERS frame without padding and priority. `fragment` is valid only during the call. */
  onHeaders(streamId: number, fragment: Buffer, endStream: boolean, endHeaders: boolean): void;
  /** `fragment` is valid only during the call. */
  onContinuation(fragment: Buffer, endHeaders: boolean): void;
  onReset(streamId: number, code: number): void;
  /** `payload` holds six bytes for each setting and is valid only during the call. */
  onSettings(payload: Buffer): void;
  onSettingsAck(): void;
  /** The eight bytes are valid only during the call. */
  onPing(payload: Buffer): void;
  onPingAck(payload: Buffer): void;
  onGoaway(lastStreamId: number, code: number, debug: string): void;
  onWindowUpdate(streamId: number, increment: number): void;
  /** PRIORITY and unknown types: ignored as RFC 9113 asks, reported so that a flood can be counted. */
  onIgnored(type: number): void;
  /** The frame is wrong, but only its stream has to go. */
  onStreamError(streamId: number, code: number, message: string): void;
}

export interface FrameReaderLimits {
  /** What we advertise as SETTINGS_MAX_FRAME_SIZE. */
  readonly maxFrameSize: number;
  /** The most bytes one HEADERS or CONTINUATION frame may have. */
  readonly maxHeaderBlock: number;
}

const AT_HEADER = 0;
const IN_DATA = 1;
const IN_CONTROL = 2;
const IN_SKIPPED = 3;

/**
 * Cuts a byte stream into frames. States: at a frame header, inside DATA, inside a control frame, inside bytes to skip.
 * Invariant: it holds at most one control frame (bounded by the limits) and never a DATA payload.
 */
export class FrameReader {
  readonly #sink: FrameSink;
  readonly #limits: FrameReaderLimits;
  #state = AT_HEADER;
  /** A header cut by the end of a chunk. */
  readonly #partial: Buffer = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  #partialBytes = 0;
  #type = 0;
  #flags = 0;
  #streamId = 0;
  /** Payload bytes of the current frame still to come (for DATA: without padding). */
  #remaining = 0;
  /** Padding and overhead of the current DATA frame, not yet reported as flow bytes. */
  #overhead = 0;
  #padding = 0;
  #padLengthPending = false;
  #control: Buffer = EMPTY;
  #controlBytes = 0;
  /** The stream whose header block is open: nothing but its CONTINUATION may come. */
  #continuing = 0;
  #stopped = false;

  constructor(sink: FrameSink, limits: FrameReaderLimits) {
    this.#sink = sink;
    this.#limits = limits;
  }

  /** Nothing is reported any more, also not from the rest of the chunk being read. */
  stop(): void {
    this.#stopped = true;
  }

  /**
   * Reads a chunk. The sink's views on it stay valid as long as they are referenced.
   * @throws Http2Error when the connection cannot go on
   */
  read(chunk: Buffer): void {
    const end = chunk.length;
    let offset = 0;
    while (!this.#stopped) {
      switch (this.#state) {
        case AT_HEADER:
          if (this.#partialBytes > 0 || end - offset < FRAME_HEADER_BYTES) {
            const taken = Math.min(FRAME_HEADER_BYTES - this.#partialBytes, end - offset);
            chunk.copy(this.#partial, this.#partialBytes, offset, offset + taken);
            this.#partialBytes += taken;
            offset += taken;
            if (this.#partialBytes < FRAME_HEADER_BYTES) return;
            this.#partialBytes = 0;
            this.#begin(this.#partial, 0);
          } else {
            this.#begin(chunk, offset);
            offset += FRAME_HEADER_BYTES;
          }
          break;
        case IN_DATA:
          if (this.#padLengthPending) {
            if (offset === end) return;
            this.#takePadLength(chunk[offset++] as number);
          }
          if (this.#remaining === 0) {
            this.#finishData(EMPTY);
          } else if (offset === end) {
            return;
          } else if (end - offset >= this.#remaining) {
            const payload = chunk.subarray(offset, offset + this.#remaining);
            offset += this.#remaining;
            this.#finishData(payload);
          } else {
            const payload = offset === 0 ? chunk : chunk.subarray(offset, end);
            this.#remaining -= payload.length;
            offset = end;
            const flowBytes = payload.length + this.#overhead;
            this.#overhead = 0;
            this.#sink.onDataFrame(this.#streamId, payload, flowBytes, false);
          }
          break;
        case IN_CONTROL:
          if (this.#controlBytes === 0 && end - offset >= this.#remaining) {
            const payload = chunk.subarray(offset, offset + this.#remaining);
            offset += this.#remaining;
            this.#state = AT_HEADER;
            this.#dispatch(payload);
          } else {
            if (offset === end) return;
            if (this.#controlBytes === 0) this.#control = Buffer.allocUnsafeSlow(this.#remaining);
            const taken = Math.min(this.#remaining - this.#controlBytes, end - offset);
            chunk.copy(this.#control, this.#controlBytes, offset, offset + taken);
            this.#controlBytes += taken;
            offset += taken;
            if (this.#controlBytes < this.#remaining) return;
            const payload = this.#control;
            this.#control = EMPTY;
            this.#controlBytes = 0;
            this.#state = AT_HEADER;
            this.#dispatch(payload);
          }
          break;
        default: {
          const skipped = Math.min(this.#remaining, end - offset);
          offset += skipped;
          this.#remaining -= skipped;
          if (this.#remaining > 0) return;
          this.#state = AT_HEADER;
        }
      }
      if (offset === end && this.#state === AT_HEADER) return;
    }
  }

  /** A frame header: everything that can be refused before its payload came is refused here. */
  #begin(from: Buffer, at: number): void {
    const length = ((from[at] as number) << 16) | ((from[at + 1] as number) << 8) | (from[at + 2] as number);
    const type = from[at + 3] as number;
    const flags = from[at + 4] as number;
    const streamId =
      (((from[at + 5] as number) & 0x7f) << 24) |
      ((from[at + 6] as number) << 16) |
      ((from[at + 7] as number) << 8) |
      (from[at + 8] as number);
    if (length > this.#limits.maxFrameSize) throw connectionError(ErrorCode.frameSizeError, `a frame of ${length} bytes`);
    if (this.#continuing !== 0 && (type !== FrameType.continuation || streamId !== this.#continuing)) {
      throw connectionError(ErrorCode.protocolError, `frame type ${type} inside a header block`);
    }
    this.#type = type;
    this.#flags = flags;
    this.#streamId = streamId;
    this.#remaining = length;
    this.#state = IN_CONTROL;
    switch (type) {
      case FrameType.data:
        needStream(streamId, 'DATA');
        this.#state = IN_DATA;
        this.#overhead = 0;
        this.#padding = 0;
        this.#padLengthPending = (flags & FrameFlag.padded) !== 0;
        if (this.#padLengthPending && length === 0) throw connectionError(ErrorCode.frameSizeError, 'padded DATA without a pad length');
        return;
      case FrameType.headers:
        needStream(streamId, 'HEADERS');
        this.#boundHeaderBlock(length);
        return;
      case FrameType.continuation:
        if (this.#continuing === 0) throw connectionError(ErrorCode.protocolError, 'CONTINUATION without an open header block');
        this.#boundHeaderBlock(length);
        return;
      case FrameType.priority:
        needStream(streamId, 'PRIORITY');
        if (length !== 5) {
          this.#state = IN_SKIPPED;
          this.#sink.onStreamError(streamId, ErrorCode.frameSizeError, `PRIORITY of ${length} bytes`);
        }
        return;
      case FrameType.resetStream:
        needStream(streamId, 'RST_STREAM');
        needLength(length, 4, 'RST_STREAM');
        return;
      case FrameType.settings:
        needConnection(streamId, 'SETTINGS');
        if ((flags & FrameFlag.ack) !== 0) needLength(length, 0, 'SETTINGS ACK');
        if (length % 6 !== 0) throw connectionError(ErrorCode.frameSizeError, `SETTINGS of ${length} bytes`);
        if (length > MAX_CONTROL_BYTES) throw connectionError(ErrorCode.enhanceYourCalm, `SETTINGS of ${length} bytes`);
        return;
      case FrameType.pushPromise:
        throw connectionError(ErrorCode.protocolError, 'PUSH_PROMISE, though push is not enabled');
      case FrameType.ping:
        needConnection(streamId, 'PING');
        needLength(length, 8, 'PING');
        return;
      case FrameType.goaway:
        needConnection(streamId, 'GOAWAY');
        if (length < 8) throw connectionError(ErrorCode.frameSizeError, `GOAWAY of ${length} bytes`);
        if (length > MAX_CONTROL_BYTES) throw connectionError(ErrorCode.enhanceYourCalm, `GOAWAY of ${length} bytes`);
        return;
      case FrameType.windowUpdate:
        needLength(length, 4, 'WINDOW_UPDATE');
        return;
      default:
        this.#state = IN_SKIPPED;
        this.#sink.onIgnored(type);
    }
  }

  #boundHeaderBlock(length: number): void {
    if (length > this.#limits.maxHeaderBlock)
      throw connectionError(ErrorCode.enhanceYourCalm, `a header block of more than ${length} bytes`);
  }

  #takePadLength(padLength: number): void {
    this.#padLengthPending = false;
    if (padLength >= this.#remaining) throw connectionError(ErrorCode.protocolError, 'DATA with more padding than payload');
    this.#remaining -= 1 + padLength;
    this.#padding = padLength;
    this.#overhead = 1 + padLength;
  }

  #finishData(payload: Buffer): void {
    const flowBytes = payload.length + this.#overhead;
    this.#remaining = this.#padding;
    this.#state = this.#padding > 0 ? IN_SKIPPED : AT_HEADER;
    this.#sink.onDataFrame(this.#streamId, payload, flowBytes, (this.#flags & FrameFlag.endStream) !== 0);
  }

  /** A whole control frame. */
  #dispatch(payload: Buffer): void {
    const sink = this.#sink;
    const flags = this.#flags;
    switch (this.#type) {
      case FrameType.headers: {
        let start = 0;
        let end = payload.length;
        if ((flags & FrameFlag.padded) !== 0) {
          if (end < 1) throw connectionError(ErrorCode.frameSizeError, 'padded HEADERS without a pad length');
          start = 1;
          end -= payload[0] as number;
        }
        if ((flags & FrameFlag.priority) !== 0) start += 5;
        if (start > payload.length) throw connectionError(ErrorCode.frameSizeError, 'HEADERS too short for its priority');
        if (end < start) throw connectionError(ErrorCode.protocolError, 'HEADERS with more padding than payload');
        const endHeaders = (flags & FrameFlag.endHeaders) !== 0;
        if (!endHeaders) this.#continuing = this.#streamId;
        sink.onHeaders(this.#streamId, payload.subarray(start, end), (flags & FrameFlag.endStream) !== 0, endHeaders);
        return;
      }
      case FrameType.continuation: {
        const endHeaders = (flags & FrameFlag.endHeaders) !== 0;
        if (endHeaders) this.#continuing = 0;
        sink.onContinuation(payload, endHeaders);
        return;
      }
      case FrameType.priority:
        sink.onIgnored(FrameType.priority);
        return;
      case FrameType.resetStream:
        sink.onReset(this.#streamId, readUint32(payload, 0));
        return;
      case FrameType.settings:
        if ((flags & FrameFlag.ack) !== 0) sink.onSettingsAck();
        else sink.onSettings(payload);
        return;
      case FrameType.ping:
        if ((flags & FrameFlag.ack) !== 0) sink.onPingAck(payload);
        else sink.onPing(payload);
        return;
      case FrameType.goaway:
        sink.onGoaway(
          readUint32(payload, 0) & 0x7fffffff,
          readUint32(payload, 4),
          payload.toString('latin1', 8, Math.min(payload.length, 264)),
        );
        return;
      case FrameType.windowUpdate: {
        const increment = readUint32(payload, 0) & 0x7fffffff;
        if (increment > 0) sink.onWindowUpdate(this.#streamId, increment);
        else if (this.#streamId === 0) throw connectionError(ErrorCode.protocolError, 'WINDOW_UPDATE of zero');
        else sink.onStreamError(this.#streamId, ErrorCode.protocolError, 'WINDOW_UPDATE of zero');
      }
    }
  }
}

function needStream(streamId: number, what: string): void {
  if (streamId === 0) throw connectionError(ErrorCode.protocolError, `${what} on stream 0`);
}

function needConnection(streamId: number, what: string): void {
  if (streamId !== 0) throw connectionError(ErrorCode.protocolError, `${what} on stream ${streamId}`);
}

function needLength(length: number, expected: number, what: string): void {
  if (length !== expected) throw connectionError(ErrorCode.frameSizeError, `${what} of ${length} bytes`);
}

/** An unsigned 32-bit number in network order. */
export function readUint32(from: Uint8Array, at: number): number {
  return (from[at] as number) * 0x1000000 + (((from[at + 1] as number) << 16) | ((from[at + 2] as number) << 8) | (from[at + 3] as number));
}

export function writeUint32(to: Uint8Array, at: number, value: number): void {
  to[at] = value >>> 24;
  to[at + 1] = value >>> 16;
  to[at + 2] = value >>> 8;
  to[at + 3] = value;
}

/** Writes the nine bytes of a frame header (RFC 9113 section 4.1). */
export function writeFrameHeader(to: Uint8Array, at: number, length: number, type: number, flags: number, streamId: number): void {
  to[at] = length >>> 16;
  to[at + 1] = length >>> 8;
  to[at + 2] = length;
  to[at + 3] = type;
  to[at + 4] = flags;
  to[at + 5] = streamId >>> 24;
  to[at + 6] = streamId >>> 16;
  to[at + 7] = streamId >>> 8;
  to[at + 8] = streamId;
}
