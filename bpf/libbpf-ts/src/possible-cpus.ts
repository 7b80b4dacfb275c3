import { readFileSync } from 'node:fs';
import { LibbpfError } from './errors.ts';

let count = 0;

/** How many CPUs the kernel may ever bring up: the number of values in each entry of a per-CPU map. */
export function possibleCpuCount(): number {
  if (count === 0) count = parseCpuList(readFileSync('/sys/devices/system/cpu/possible', 'utf8'));
  return count;
}

/** The number of CPUs in a list such as `0-3,8`. */
export function parseCpuList(text: string): number {
  let total = 0;
  for (const part of text.trim().split(',')) {
    const [first = '', last = first] = part.split('-');
    const size = Number(last) - Number(first) + 1;
    if (first === '' || !Number.isInteger(size) || size < 1)
      throw new LibbpfError('LIBBPF_SYSCALL', `${JSON.stringify(text)} is not a CPU list`);
    total += size;
  }
  return total;
}
