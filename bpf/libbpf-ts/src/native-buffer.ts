import { addressOf } from './ffi.ts';

/**
 * Bytes with a fixed address, for arguments of native calls in hot code: passing the cached address costs some 250 ns less
 * than passing a Buffer. The memory lives as long as the object does.
 */
export class NativeBuffer {
  readonly size: number;
  /** The bytes. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same bytes, to read and write numbers. */
  readonly view: DataView<ArrayBuffer>;
  /** Their address. Keep the object referenced while C may use it. */
  readonly pointer: bigint;

  /** `size` zero bytes. */
  constructor(size: number) {
    // A buffer of its own, never a part of Node's pool; and never empty, as an empty one has no address.
    const memory = new ArrayBuffer(Math.max(size, 1));
    this.size = size;
    this.bytes = new Uint8Array(memory, 0, size);
    this.view = new DataView(memory, 0, size);
    this.pointer = addressOf(memory);
  }
}
