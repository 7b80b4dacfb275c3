import { WeftError } from '../src/model/errors.ts';

/** Raised by the room `bpf`. Codes: WEFT_BPF_*. */
export class KernelError extends WeftError {
  override readonly name = 'KernelError';
}
