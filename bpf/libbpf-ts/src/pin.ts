import { mkdirSync, renameSync, rmSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { LibbpfError } from './errors.ts';
import { libbpf } from './ffi.ts';
import { OwnedFd } from './owned-fd.ts';

/** How to pin. */
export interface PinOptions {
  /** Take the place of what is pinned there, by rename, so that the path is never missing. Otherwise EEXIST. */
  readonly replace?: boolean;
}

/**
 * Pins a map, program or link at `path` on a BPF file system, making parent directories. The name must hold no dot (the kernel's
 * rule). Throws LIBBPF_PIN.
 */
export function pinDescriptor(fd: number, path: string, options: PinOptions = {}): void {
  const target = options.replace === true ? `${path}~new` : path;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    if (target !== path) rmSync(target, { force: true });
  } catch (error) {
    throw new LibbpfError('LIBBPF_PIN', `cannot make the directory of ${path}`, { cause: error });
  }
  const result = libbpf().bpf_obj_pin(fd, target);
  if (result < 0) throw new LibbpfError('LIBBPF_PIN', `cannot pin at ${path}`, { errno: -result });
  if (target === path) return;
  try {
    renameSync(target, path);
  } catch (error) {
    rmSync(target, { force: true });
    throw new LibbpfError('LIBBPF_PIN', `cannot replace the pin at ${path}`, { cause: error });
  }
}

/** Opens what is pinned at `path`. Throws LIBBPF_PIN (ENOENT if there is nothing). */
export function openPinnedDescriptor(path: string): OwnedFd {
  const fd = libbpf().bpf_obj_get(path);
  if (fd < 0) throw new LibbpfError('LIBBPF_PIN', `cannot open the pin ${path}`, { errno: -fd });
  return new OwnedFd(fd, path);
}

/** Removes a pin. The object lives on while a descriptor, link or other pin holds it. No error if there is none. */
export function unpin(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw new LibbpfError('LIBBPF_PIN', `cannot remove the pin ${path}`, { cause: error });
  }
}
