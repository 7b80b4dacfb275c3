import { errnoName } from './errno.ts';
import { LibbpfError } from './errors.ts';
import { currentEventLoop, libuv, nativeCallback } from './ffi.ts';
import { requireMainThread } from './main-thread.ts';
import type { OwnedFd } from './owned-fd.ts';

const UV_POLL = 8;
const UV_READABLE = 1;

// libuv calls back with the address of its handle only.
const polls = new Map<bigint, DescriptorPoll>();
let readableCallback: bigint | null = null;
let closedCallback: bigint | null = null;

/**
 * node:ffi does not run promise reactions and ticks after a callback: without other activity they would wait, as the loop sleeps.
 * An immediate makes the loop enter JavaScript once more in this turn, ahead of immediates of the callback's own.
 */
function runReactionsSoon(): void {
  setImmediate(nothing);
}

function nothing(): void {}

function onReadable(handle: bigint, status: number): undefined {
  runReactionsSoon();
  polls.get(handle)?.handleReadable(status);
}

function onClosed(handle: bigint): undefined {
  runReactionsSoon();
  polls.get(handle)?.handleClosed();
}

/**
 * Wakes the event loop when a descriptor becomes readable, by a `uv_poll_t` in Node's own libuv: no timer, no thread. It is level
 * triggered: what is left unread wakes it again on the next turn.
 *
 * Main thread only, as a worker that ends with such a handle open takes the process with it.
 *
 * States: watching -> closing (`close()` was called; libuv still holds the handle) -> closed (handle freed, descriptor closed).
 * Invariant: the handle's memory is freed only in libuv's close callback, and the descriptor is closed only after that.
 */
export class DescriptorPoll implements AsyncDisposable {
  readonly #handle: bigint;
  readonly #descriptor: OwnedFd;
  readonly #whenReadable: () => void;
  readonly #closed: PromiseWithResolvers<void> = Promise.withResolvers<void>();
  #state: 'watching' | 'closing' | 'closed' = 'watching';

  /** Takes ownership of `descriptor`, also when it throws LIBBPF_SYSCALL or LIBBPF_MAIN_THREAD_ONLY. */
  constructor(descriptor: OwnedFd, whenReadable: () => void) {
    this.#descriptor = descriptor;
    this.#whenReadable = whenReadable;
    try {
      this.#handle = startPolling(descriptor.fd);
    } catch (error) {
      descriptor.close();
      throw error;
    }
    polls.set(this.#handle, this);
    closedCallback ??= nativeCallback(['pointer'], 'void', 0, onClosed as never);
    readableCallback ??= nativeCallback(['pointer', 'i32', 'i32'], 'void', 0, onReadable as never);
    const result = libuv().uv_poll_start(this.#handle, UV_READABLE, readableCallback);
    if (result < 0) {
      void this.close();
      throw new LibbpfError('LIBBPF_SYSCALL', `cannot poll ${descriptor.label}`, { errno: -result });
    }
  }

  /** Lets the process end although this is open. */
  unref(): void {
    if (this.#state === 'watching') libuv().uv_unref(this.#handle);
  }

  /** Keeps the process alive while this is open (as it is at first). */
  ref(): void {
    if (this.#state === 'watching') libuv().uv_ref(this.#handle);
  }

  /** Called by libuv. */
  handleReadable(status: number): void {
    if (this.#state !== 'watching') return;
    if (status >= 0) {
      this.#whenReadable();
      return;
    }
    // libuv has stopped watching.
    void this.close();
    throw new LibbpfError('LIBBPF_SYSCALL', `polling ${this.#descriptor.label} failed (${errnoName(-status)})`, { errno: -status });
  }

  /** Called by libuv. */
  handleClosed(): void {
    this.#state = 'closed';
    polls.delete(this.#handle);
    libuv().free(this.#handle);
    this.#descriptor.close();
    this.#closed.resolve();
  }

  /** Stops watching at once. The promise is fulfilled when the handle and the descriptor are gone. */
  close(): Promise<void> {
    if (this.#state === 'watching' && closedCallback !== null) {
      this.#state = 'closing';
      libuv().uv_poll_stop(this.#handle);
      libuv().uv_close(this.#handle, closedCallback);
    }
    return this.#closed.promise;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function startPolling(fd: number): bigint {
  requireMainThread('polling a descriptor', 'a worker that exits meanwhile would abort the process');
  const uv = libuv();
  const handle = uv.malloc(uv.uv_handle_size(UV_POLL));
  if (handle === 0n) throw new LibbpfError('LIBBPF_SYSCALL', 'no memory for a poll handle');
  const result = uv.uv_poll_init(currentEventLoop(), handle, fd);
  if (result === 0) return handle;
  uv.free(handle);
  throw new LibbpfError('LIBBPF_SYSCALL', `descriptor ${fd} cannot be polled`, { errno: -result });
}
