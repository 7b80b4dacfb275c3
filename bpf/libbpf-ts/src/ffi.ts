/**
 * The only file that touches node:ffi. It opens libc, libbpf and (through the process image) libuv, and declares the C functions
 * that the package uses, with the pitfalls of node:ffi handled here:
 *
 * - `u64` and `i64` arguments must be BigInt; `bool` is passed as 0 or 1; pointer returns are BigInt.
 * - A callback that throws, or that C calls on another thread, aborts the process: {@link nativeCallback} guards the first,
 *   and modules that register callbacks allow the main thread only.
 * - errno has no API: {@link lastErrno} reads the thread's own location and must be called straight after the failed call.
 */
import * as ffi from 'node:ffi';
import { isMainThread } from 'node:worker_threads';
import { LibbpfError } from './errors.ts';

const LIBC = {
  __errno_location: { arguments: [], return: 'pointer' },
  abort: { arguments: [], return: 'void' },
  bind: { arguments: ['i32', 'pointer', 'u32'], return: 'i32' },
  connect: { arguments: ['i32', 'pointer', 'u32'], return: 'i32' },
  fcntl: { arguments: ['i32', 'i32', 'i32'], return: 'i32' },
  getpeername: { arguments: ['i32', 'pointer', 'pointer'], return: 'i32' },
  getsockname: { arguments: ['i32', 'pointer', 'pointer'], return: 'i32' },
  getsockopt: { arguments: ['i32', 'i32', 'i32', 'pointer', 'pointer'], return: 'i32' },
  listen: { arguments: ['i32', 'i32'], return: 'i32' },
  mmap: { arguments: ['pointer', 'u64', 'i32', 'i32', 'i32', 'i64'], return: 'pointer' },
  mount: { arguments: ['string', 'string', 'string', 'u64', 'string'], return: 'i32' },
  munmap: { arguments: ['pointer', 'u64'], return: 'i32' },
  poll: { arguments: ['pointer', 'u64', 'i32'], return: 'i32' },
  setns: { arguments: ['i32', 'i32'], return: 'i32' },
  setsockopt: { arguments: ['i32', 'i32', 'i32', 'pointer', 'u32'], return: 'i32' },
  socket: { arguments: ['i32', 'i32', 'i32'], return: 'i32' },
  syscall: { arguments: ['i64', 'i64', 'i64', 'i64', 'i64'], return: 'i64' },
  sysconf: { arguments: ['i32'], return: 'i64' },
  umount2: { arguments: ['string', 'i32'], return: 'i32' },
  vsnprintf: { arguments: ['pointer', 'u64', 'pointer', 'pointer'], return: 'i32' },
} as const;

const LIBBPF = {
  bpf_link_create: { arguments: ['i32', 'i32', 'i32', 'pointer'], return: 'i32' },
  bpf_link_detach: { arguments: ['i32'], return: 'i32' },
  bpf_link_update: { arguments: ['i32', 'i32', 'pointer'], return: 'i32' },
  bpf_map__fd: { arguments: ['pointer'], return: 'i32' },
  bpf_map__initial_value: { arguments: ['pointer', 'pointer'], return: 'pointer' },
  bpf_map__is_internal: { arguments: ['pointer'], return: 'u8' },
  bpf_map__key_size: { arguments: ['pointer'], return: 'u32' },
  bpf_map__map_flags: { arguments: ['pointer'], return: 'u32' },
  bpf_map__max_entries: { arguments: ['pointer'], return: 'u32' },
  bpf_map__name: { arguments: ['pointer'], return: 'pointer' },
  bpf_map__reuse_fd: { arguments: ['pointer', 'i32'], return: 'i32' },
  bpf_map__set_max_entries: { arguments: ['pointer', 'u32'], return: 'i32' },
  bpf_map__type: { arguments: ['pointer'], return: 'i32' },
  bpf_map__value_size: { arguments: ['pointer'], return: 'u32' },
  bpf_map_create: { arguments: ['i32', 'string', 'u32', 'u32', 'u32', 'pointer'], return: 'i32' },
  bpf_map_delete_elem: { arguments: ['i32', 'pointer'], return: 'i32' },
  bpf_map_get_next_key: { arguments: ['i32', 'pointer', 'pointer'], return: 'i32' },
  bpf_map_lookup_elem: { arguments: ['i32', 'pointer', 'pointer'], return: 'i32' },
  bpf_map_update_elem: { arguments: ['i32', 'pointer', 'pointer', 'u64'], return: 'i32' },
  bpf_obj_get: { arguments: ['string'], return: 'i32' },
  bpf_obj_get_info_by_fd: { arguments: ['i32', 'pointer', 'pointer'], return: 'i32' },
  bpf_obj_pin: { arguments: ['i32', 'string'], return: 'i32' },
  bpf_object__close: { arguments: ['pointer'], return: 'void' },
  bpf_object__find_map_by_name: { arguments: ['pointer', 'string'], return: 'pointer' },
  bpf_object__find_program_by_name: { arguments: ['pointer', 'string'], return: 'pointer' },
  bpf_object__load: { arguments: ['pointer'], return: 'i32' },
  bpf_object__next_map: { arguments: ['pointer', 'pointer'], return: 'pointer' },
  bpf_object__next_program: { arguments: ['pointer', 'pointer'], return: 'pointer' },
  bpf_object__open_mem: { arguments: ['pointer', 'u64', 'pointer'], return: 'pointer' },
  bpf_prog_attach: { arguments: ['i32', 'i32', 'i32', 'u32'], return: 'i32' },
  bpf_prog_detach2: { arguments: ['i32', 'i32', 'i32'], return: 'i32' },
  bpf_program__autoload: { arguments: ['pointer'], return: 'u8' },
  bpf_program__expected_attach_type: { arguments: ['pointer'], return: 'i32' },
  bpf_program__fd: { arguments: ['pointer'], return: 'i32' },
  bpf_program__name: { arguments: ['pointer'], return: 'pointer' },
  bpf_program__section_name: { arguments: ['pointer'], return: 'pointer' },
  bpf_program__set_autoload: { arguments: ['pointer', 'u8'], return: 'i32' },
  bpf_program__set_log_buf: { arguments: ['pointer', 'pointer', 'u64'], return: 'i32' },
  bpf_program__type: { arguments: ['pointer'], return: 'i32' },
  libbpf_probe_bpf_map_type: { arguments: ['i32', 'pointer'], return: 'i32' },
  libbpf_probe_bpf_prog_type: { arguments: ['i32', 'pointer'], return: 'i32' },
  libbpf_set_print: { arguments: ['pointer'], return: 'pointer' },
  libbpf_version_string: { arguments: [], return: 'pointer' },
} as const;

const LIBUV = {
  free: { arguments: ['pointer'], return: 'void' },
  malloc: { arguments: ['u64'], return: 'pointer' },
  uv_close: { arguments: ['pointer', 'pointer'], return: 'void' },
  uv_handle_size: { arguments: ['i32'], return: 'u64' },
  uv_poll_init: { arguments: ['pointer', 'pointer', 'i32'], return: 'i32' },
  uv_poll_start: { arguments: ['pointer', 'i32', 'pointer'], return: 'i32' },
  uv_poll_stop: { arguments: ['pointer'], return: 'i32' },
  uv_ref: { arguments: ['pointer'], return: 'void' },
  uv_unref: { arguments: ['pointer'], return: 'void' },
} as const;

/** The C library's functions, by their C names. */
export type LibcFunctions = ffi.WrappedFunctionsFromDefinitions<typeof LIBC>;
/** libbpf's functions, by their C names. */
export type LibbpfFunctions = ffi.WrappedFunctionsFromDefinitions<typeof LIBBPF>;
/** libuv's functions (those inside Node itself), and the allocator its handles come from. */
export type LibuvFunctions = ffi.WrappedFunctionsFromDefinitions<typeof LIBUV>;

let libbpfFunctions: LibbpfFunctions | null = null;
let libuvFunctions: LibuvFunctions | null = null;

/** libc. Opened when this module is, as nothing here works without it. */
export const libc: LibcFunctions = open('libc.so.6', LIBC).functions;

// The location is fixed for a thread, and each thread has its own instance of this module.
const errnoLocation: bigint = libc.__errno_location();

/** Keeps libraries that hold callbacks referenced for the life of the thread. */
const callbackLibrary: ffi.DynamicLibrary = new ffi.DynamicLibrary(null);

/**
 * libbpf.so.1, opened on first use so that the socket half of the package works without it.
 * Throws LIBBPF_LIBRARY_MISSING when it, or a symbol that 1.1 has, is not there.
 */
export function libbpf(): LibbpfFunctions {
  if (libbpfFunctions === null) {
    libbpfFunctions = open('libbpf.so.1', LIBBPF).functions;
    // The print function is one per process: it is silenced by the main thread, and workers leave it alone.
    if (isMainThread) libbpfFunctions.libbpf_set_print(null);
  }
  return libbpfFunctions;
}

/** Node's own libuv, found in the process image. */
export function libuv(): LibuvFunctions {
  libuvFunctions ??= open(null, LIBUV).functions;
  return libuvFunctions;
}

function open<const T extends ffi.FunctionDefinitions>(path: string | null, definitions: T): ffi.DynamicLibraryResult<T> {
  try {
    return ffi.dlopen(path, definitions);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new LibbpfError('LIBBPF_LIBRARY_MISSING', `cannot use ${path ?? 'the process image'}: ${reason}`, { cause: error });
  }
}

/** errno of the calling thread. Read it before any other native call. */
export function lastErrno(): number {
  return ffi.getInt32(errnoLocation, 0);
}

/** The event loop of the calling thread, for libuv functions. */
export function currentEventLoop(): bigint {
  return ffi.getCurrentEventLoop();
}

/** Address of the bytes of `source`. It is valid as long as `source` is referenced, and not detached or resized. */
export function addressOf(source: ArrayBuffer | NodeJS.ArrayBufferView): bigint {
  return ffi.getRawPointer(source);
}

/** Copy of a NUL-terminated string in native memory; the empty string for NULL. */
export function readCString(pointer: bigint): string {
  return ffi.toString(pointer) ?? '';
}

/** The first byte at `pointer`. */
export function readByte(pointer: bigint): number {
  return ffi.getUint8(pointer, 0);
}

/** Copies `bytes` into native memory. The caller owns that memory and knows that they fit. */
export function copyIntoMemory(pointer: bigint, bytes: Uint8Array): void {
  ffi.exportArrayBufferView(bytes, pointer, bytes.byteLength);
}

/**
 * A view of native memory without copying. Detach it (`buffer.transfer()`) before the memory is unmapped: a view that outlives
 * its memory crashes the process.
 */
export function viewMemory(pointer: bigint, length: number): ArrayBuffer {
  return ffi.toArrayBuffer(pointer, length, false);
}

/** A callback of C: integers come as number, pointers and 64-bit integers as bigint. */
type NativeFunction = (...values: never[]) => number | undefined;

/**
 * Registers a function that C calls, and returns its address. It lives as long as the thread. If `body` throws, C gets `fallback`
 * and the error is raised as an uncaught exception on the next tick, since a throwing callback would abort the process.
 */
export function nativeCallback(
  argumentTypes: readonly ffi.ArgumentType[],
  returnType: 'i32' | 'void',
  fallback: number,
  body: NativeFunction,
): bigint {
  const call = body as (...values: unknown[]) => number | undefined;
  const guarded = (...values: unknown[]): number | undefined => {
    try {
      const result = call(...values);
      return returnType === 'void' ? undefined : (result ?? fallback);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
      return returnType === 'void' ? undefined : fallback;
    }
  };
  return callbackLibrary.registerCallback({ arguments: argumentTypes, return: returnType }, guarded as never);
}
