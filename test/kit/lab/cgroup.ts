import { existsSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LabError } from './errors.ts';
import { sleepSync } from './sleep.ts';

/**
 * The mount point of the cgroup v2 hierarchy: /sys/fs/cgroup on most machines, /sys/fs/cgroup/unified beside version 1.
 * @throws LabError WEFT_LAB_CGROUP when there is none
 */
export function cgroup2Mount(): string {
  for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
    const [, path, type] = line.split(' ');
    if (type === 'cgroup2' && path !== undefined) return path;
  }
  throw new LabError('WEFT_LAB_CGROUP', 'no cgroup v2 hierarchy is mounted', {
    nextStep: 'mount -t cgroup2 none /sys/fs/cgroup/unified (make the directory first)',
  });
}

/** The pids in one cgroup, without its children. Empty when the cgroup is gone. */
export function cgroupProcesses(path: string): number[] {
  return readOrEmpty(join(path, 'cgroup.procs')).split('\n').filter(Boolean).map(Number);
}

/** CPU time used by a cgroup and everything that ever ran below it, in microseconds. Needs no controller. */
export function cgroupCpuMicroseconds(path: string): number {
  return Number(/^usage_usec (\d+)/m.exec(readFileSync(join(path, 'cpu.stat'), 'utf8'))?.[1] ?? 0);
}

/** Resident memory of all processes in a cgroup and its children, in bytes. Shared pages count once for each process. */
export function cgroupResidentBytes(path: string): number {
  let kilobytes = 0;
  for (const directory of [path, ...descendants(path)]) {
    for (const pid of cgroupProcesses(directory)) {
      kilobytes += Number(/^VmRSS:\s+(\d+) kB/m.exec(readOrEmpty(`/proc/${pid}/status`))?.[1] ?? 0);
    }
  }
  return kilobytes * 1024;
}

/**
 * Kills every process in a cgroup tree and removes the tree, leaves first.
 * @throws LabError WEFT_LAB_CGROUP when a cgroup stays busy for 5 seconds
 */
export function removeCgroupTree(path: string): void {
  const deadline = Date.now() + 5000;
  while (existsSync(path)) {
    try {
      writeFileSync(join(path, 'cgroup.kill'), '1');
      for (const directory of descendants(path)) rmdirSync(directory);
      rmdirSync(path);
    } catch (cause) {
      // EBUSY: killed processes take a moment to leave. ENOENT: somebody else removed it.
      const code = (cause as NodeJS.ErrnoException).code;
      if (Date.now() > deadline || (code !== 'EBUSY' && code !== 'ENOENT' && code !== 'ENODEV')) {
        throw new LabError('WEFT_LAB_CGROUP', `cannot remove cgroup ${path}: ${(cause as Error).message}`, { cause });
      }
      sleepSync(3);
    }
  }
}

/** All cgroups below a cgroup, children before parents. */
function descendants(path: string): string[] {
  const found: string[] = [];
  let entries: string[];
  try {
    entries = readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return found;
  }
  for (const name of entries) {
    const child = join(path, name);
    found.push(...descendants(child), child);
  }
  return found;
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
