import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Child } from '../child.ts';
import type { LabNode } from './node.ts';

/** A running recording of packets, by tcpdump. */
export class Capture implements AsyncDisposable {
  /** A pcap file. */
  readonly path: string;
  readonly #process: Child;

  private constructor(path: string, process: Child) {
    this.path = path;
    this.#process = process;
  }

  static async start(node: LabNode, device: string, filter: string): Promise<Capture> {
    const path = `${node.directory}/${device}-${randomBytes(3).toString('hex')}.pcap`;
    // -Z root: Debian's tcpdump would become the user tcpdump, who may not write here. -U and immediate mode: nothing stays in buffers.
    const command = ['tcpdump', '-Z', 'root', '-U', '--immediate-mode', '-n', '-i', device, '-w', path];
    const process = await node.spawn(filter === '' ? command : [...command, filter]);
    await process.waitForLine(/listening on/);
    return new Capture(path, process);
  }

  /** Ends the recording and returns its bytes. Idempotent. */
  async stop(): Promise<CapturedBytes> {
    await this.#process.stop({ signal: 'SIGINT' });
    return new CapturedBytes(readFileSync(this.path));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}

/** What a recording holds: packets one after the other, with their headers, as a pcap file. */
export class CapturedBytes {
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /** True when the text went over the wire as it is, within one packet. */
  contains(text: string | Uint8Array): boolean {
    return this.bytes.includes(text);
  }

  /** Number of packets (pcap: a 24-byte file header, then a 16-byte header with the captured length before each). */
  get packets(): number {
    let count = 0;
    for (let at = 24; at + 16 <= this.bytes.length; at += 16 + this.bytes.readUInt32LE(at + 8)) count++;
    return count;
  }
}
