const NEVER = new Int32Array(new SharedArrayBuffer(4));

/** Blocks the thread. For teardown, which also runs where nothing asynchronous can (process 'exit'). */
export function sleepSync(milliseconds: number): void {
  Atomics.wait(NEVER, 0, 0, milliseconds);
}
