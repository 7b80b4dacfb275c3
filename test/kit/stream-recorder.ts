import type { ByteStream, ByteStreamHandler } from '../../src/model/byte-stream.ts';

/** Attaches itself to a stream and keeps what it receives: the far end of a connection, played by a test. */
export class StreamRecorder implements ByteStreamHandler {
  readonly stream: ByteStream;
  readonly chunks: Buffer[] = [];
  ended = false;
  closed = false;
  error: Error | null = null;
  drains = 0;
  /** Called after every event: a test's hook to react. */
  onChange: () => void = () => {};

  constructor(stream: ByteStream, flowing = true) {
    this.stream = stream;
    stream.attach(this);
    if (flowing) stream.resume();
  }

  /** All bytes so far. */
  bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  /** All bytes so far, one character per byte. */
  text(): string {
    return this.bytes().latin1Slice();
  }

  /** Writes latin1 text. */
  send(text: string): boolean {
    return this.stream.write(Buffer.from(text, 'latin1'));
  }

  onData(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.onChange();
  }

  onEnd(): void {
    this.ended = true;
    this.onChange();
  }

  onDrain(): void {
    this.drains++;
    this.onChange();
  }

  onClose(error: Error | null): void {
    this.closed = true;
    this.error = error;
    this.onChange();
  }
}

/** Lets everything that is in flight arrive: some turns of the event loop. */
export async function settle(turns = 6): Promise<void> {
  for (let turn = 0; turn < turns; turn++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}
