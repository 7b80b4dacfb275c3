import { readFileSync } from 'node:fs';

/** One line of /proc/self/mountinfo (proc(5)). */
export interface Mount {
  /** What part of the file system is mounted, `/` for all of it. */
  readonly root: string;
  /** Where. */
  readonly path: string;
  /** Such as `cgroup2` or `bpf`. */
  readonly type: string;
}

/** Parses mountinfo text; lines that are none are left out. */
export function parseMountInfo(text: string): readonly Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const [, , , root, path] = left.split(' ');
    const [type] = right.split(' ');
    if (root !== undefined && path !== undefined && type !== undefined && type !== '') {
      mounts.push({ root: unescapeMountPath(root), path: unescapeMountPath(path), type });
    }
  }
  return mounts;
}

/** The kernel writes space, tab, newline and backslash as octal escapes. */
function unescapeMountPath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** Mounts of this process's mount namespace. */
export function readMounts(): readonly Mount[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/**
 * Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host, or elsewhere; null if nowhere.
 * A mount of the whole hierarchy is preferred.
 */
export function findCgroup2(mounts: readonly Mount[] = readMounts()): string | null {
  const candidates = mounts.filter((mount) => mount.type === 'cgroup2');
  return (candidates.find((mount) => mount.root === '/') ?? candidates[0])?.path ?? null;
}

/** Where BPF file systems are mounted. */
export function findBpfFilesystems(mounts: readonly Mount[] = readMounts()): readonly string[] {
  return mounts.filter((mount) => mount.type === 'bpf').map((mount) => mount.path);
}
