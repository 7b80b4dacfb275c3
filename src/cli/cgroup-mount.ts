import { readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Where the cgroup v2 hierarchy, or a part of it, is mounted. */
export interface CgroupMount {
  readonly path: string;
  /** The cgroup that is mounted there: `/` for the whole hierarchy. */
  readonly root: string;
}

/**
 * The cgroup v2 mount of this host, from the text of /proc/self/mountinfo (proc_pid_mountinfo(5)); a mount of the whole hierarchy is
 * preferred. Null when there is none. (libbpf-ts knows this too, but takes a tenth of a second to load.)
 */
export function findCgroupMount(mountinfo: string = readFileSync('/proc/self/mountinfo', 'utf8')): CgroupMount | null {
  let found: CgroupMount | null = null;
  for (const line of mountinfo.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const [, , , root, path] = left.split(' ');
    if (!right.startsWith('cgroup2 ') || root === undefined || path === undefined) continue;
    const mount = { path: unescape(path), root: unescape(root) };
    if (mount.root === '/') return mount;
    found ??= mount;
  }
  return found;
}

/** The kernel writes space, tab, newline and backslash as octal escapes. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** The cgroup directory of this process, from the text of /proc/self/cgroup; null when the mount does not show it. */
export function ownCgroup(mount: CgroupMount, text: string = readFileSync('/proc/self/cgroup', 'utf8')): string | null {
  const path = /^0::(\/.*)$/m.exec(text)?.[1];
  if (path === undefined) return null;
  const below = relative(mount.root, path);
  return below.startsWith('..') ? null : join(mount.path, below);
}
