import { type ClientHttp2Session, type ClientHttp2Stream, connect, type OutgoingHttpHeaders } from 'node:http2';
import type { Duplex } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';

const MAX_HEADER_LIST_BYTES = 16 * 1024;
/** HTTP/2 session memory in MiB. */
const MAX_SESSION_MEMORY = 64;

/**
 * One connection of a client. It is `open`, `retired` after GOAWAY, when it takes no new calls, and `closed` with its socket: only forward.
 * It holds the process only while calls are under way.
 */
export class ClientSession {
  readonly #socket: Duplex;
  readonly #session: ClientHttp2Session;
  readonly #keepaliveIntervalMs: number | null;
  readonly #closed: Promise<void>;
  #calls = 0;
  #keepalive: NodeJS.Timeout | null = null;
  #answered = true;

  constructor(socket: Duplex, origin: string, keepaliveIntervalMs: number | null) {
    this.#socket = socket;
    this.#keepaliveIntervalMs = keepaliveIntervalMs;
    this.#session = connect(origin, {
      createConnection: () => socket,
      settings: { enablePush: false, maxHeaderListSize: MAX_HEADER_LIST_BYTES },
      maxSessionMemory: MAX_SESSION_MEMORY,
    });
    // The calls under way tell of it.
    this.#session.on('error', () => {});
    this.#closed = new Promise((resolve) => this.#session.once('close', () => resolve()));
    this.#session.unref();
  }

  /** Calls `listener` when the session takes no new calls any more, once or twice; at once when it is so already. */
  onRetired(listener: () => void): void {
    this.#session.once('goaway', listener).once('close', listener);
    if (this.#session.closed || this.#session.destroyed) listener();
  }

  get isConnected(): boolean {
    return !this.#socket.destroyed && !this.#session.destroyed;
  }

  onClosed(listener: () => void): void {
    void this.#closed.then(listener);
  }

  /** @throws GrpcStatusError UNAVAILABLE when it takes no new calls */
  request(headers: OutgoingHttpHeaders): ClientHttp2Stream {
    let stream: ClientHttp2Stream;
    try {
      stream = this.#session.request(headers);
    } catch (cause) {
      throw new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the connection is closing', { cause });
    }
    if (this.#calls++ === 0) this.#watch();
    stream.once('close', () => {
      if (--this.#calls === 0) this.#rest();
    });
    return stream;
  }

  #watch(): void {
    if (!this.#session.destroyed) this.#session.ref();
    if (this.#keepaliveIntervalMs !== null) this.#keepalive = setInterval(() => this.#check(), this.#keepaliveIntervalMs);
  }

  #rest(): void {
    if (!this.#session.destroyed) this.#session.unref();
    if (this.#keepalive !== null) clearInterval(this.#keepalive);
    this.#answered = true;
  }

  #check(): void {
    if (this.#session.destroyed) return;
    if (!this.#answered) {
      this.#session.destroy();
      return;
    }
    this.#answered = false;
    this.#session.ping((error: Error | null) => {
      this.#answered ||= error === null;
    });
  }

  async destroy(): Promise<void> {
    // Never within a callback of the session, for the reason that ClientCall has: it resets what is open.
    await setImmediate();
    this.#session.destroy();
    await this.#closed;
  }
}
