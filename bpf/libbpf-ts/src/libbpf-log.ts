import { isMainThread } from 'node:worker_threads';
import { libbpf, libc, nativeCallback, readCString } from './ffi.ts';
import { NativeBuffer } from './native-buffer.ts';

const LEVEL_DEBUG = 2;
const LINE_ROOM = 8192;

// va_list is handed on as the pointer it is in the x86-64 calling convention. Elsewhere libbpf stays silent, and errors have the
// verifier's log only, which does not come through here.
const CAN_CAPTURE = isMainThread && process.arch === 'x64';

let callback: bigint | null = null;
let lines: string[] = [];
let line: NativeBuffer | null = null;

function print(level: number, format: bigint, values: bigint): number {
  if (level >= LEVEL_DEBUG || line === null) return 0;
  libc.vsnprintf(line.pointer, BigInt(LINE_ROOM), format, values);
  lines.push(readCString(line.pointer));
  return 0;
}

/**
 * Runs `body`, collecting what libbpf would have printed to stderr. Outside, libbpf is silent. Main thread only: libbpf has one
 * print function per process, and a call of it from another thread would abort.
 */
export function captureLibbpfLog<T>(body: () => T): { readonly result: T; readonly log: string } {
  const functions = libbpf();
  if (!CAN_CAPTURE) return { result: body(), log: '' };
  line ??= new NativeBuffer(LINE_ROOM);
  callback ??= nativeCallback(['i32', 'pointer', 'pointer'], 'i32', 0, print as never);
  lines = [];
  functions.libbpf_set_print(callback);
  try {
    const result = body();
    return { result, log: lines.join('') };
  } finally {
    functions.libbpf_set_print(null);
  }
}
