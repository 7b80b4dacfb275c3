import type { ByteStream, ByteStreamHandler } from '../../../src/model/byte-stream.ts';

/** A handler that remembers everything and lets a test wait for a condition. */
export class Recorder implements ByteStreamHandler {
  readonly chunks: Buffer[] = [];
  bytes = 0;
  ended = false;
  drains = 0;
  closes = 0;
  error: Error | null = null;
  #waiters: { check: () => boolean; resolve: () => void }[] = [];

  constructor(stream?: ByteStream) {
    stream?.attach(this);
  }

  text(): string {
    return Buffer.concat(this.chunks).toString('latin1');
  }

  onData(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.bytes += chunk.length;
    this.#wake();
  }

  onEnd(): void {
    this.ended = true;
    this.#wake();
  }

  onDrain(): void {
    this.drains++;
    this.#wake();
  }

  onClose(error: Error | null): void {
    this.closes++;
    this.error = error;
    this.#wake();
  }

  #wake(): void {
    const ready = this.#waiters.filter((waiter) => waiter.check());
    if (ready.length === 0) return;
    this.#waiters = this.#waiters.filter((waiter) => !ready.includes(waiter));
    for (const waiter of ready) waiter.resolve();
  }

  /** Resolves when the condition holds after an event; rejects after three seconds. */
  until(check: () => boolean): Promise<void> {
    if (check()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the condition never held: ${check}`)), 3000);
      this.#waiters.push({
        check,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      });
    });
  }

  closed(): Promise<void> {
    return this.until(() => this.closes > 0);
  }
}
