import type { Duplex } from 'node:stream';

/** How the far end ended a conversation. `open`: not at all, in the time given. */
export type Ending = 'end' | 'reset' | 'open';

/** One end of a connection, played by a test: what came, and how it ended. */
export class Conversation implements Disposable {
  readonly stream: Duplex;
  readonly openedAt: number = performance.now();
  readonly #chunks: Buffer[] = [];
  #ending: Ending = 'open';
  #endedAt = 0;
  #wake: (() => void)[] = [];

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#notify();
    });
    stream.on('end', () => this.#end('end'));
    stream.on('error', () => this.#end('reset'));
    stream.on('close', () => this.#end('reset'));
  }

  #end(how: Ending): void {
    if (this.#ending !== 'open') return;
    this.#ending = how;
    this.#endedAt = performance.now();
    this.#notify();
  }

  #notify(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** All bytes so far, one character per byte. */
  get text(): string {
    return Buffer.concat(this.#chunks).toString('latin1');
  }

  get bytes(): number {
    return this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  }

  get ending(): Ending {
    return this.#ending;
  }

  /** Milliseconds from the beginning to the end. */
  get lasted(): number {
    return this.#endedAt - this.openedAt;
  }

  /** Writes latin1 text or bytes. */
  send(data: string | Uint8Array): this {
    if (this.stream.writable) this.stream.write(typeof data === 'string' ? Buffer.from(data, 'latin1') : data);
    return this;
  }

  /** Waits for the far end to end it. */
  async ended(timeoutMs = 5_000): Promise<Ending> {
    await this.#until(() => this.#ending !== 'open', timeoutMs);
    return this.#ending;
  }

  /** Waits until what came matches. @throws Error with what came, when it does not in time */
  async received(pattern: RegExp, timeoutMs = 5_000): Promise<RegExpExecArray> {
    await this.#until(() => pattern.test(this.text) || this.#ending !== 'open', timeoutMs);
    const match = pattern.exec(this.text);
    if (match === null) throw new Error(`${pattern} did not come; ${this.#ending} after ${JSON.stringify(this.text.slice(0, 500))}`);
    return match;
  }

  async #until(condition: () => boolean, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!condition()) {
      const left = deadline - performance.now();
      if (left <= 0) return;
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
  }

  [Symbol.dispose](): void {
    this.stream.destroy();
  }
}
