/** What the tests that need root share: cgroups, BPF file systems and network namespaces that are gone afterwards. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { BpfObject, findCgroup2, type OpenOptions, OwnedFd } from '../src/index.ts';
import { mountBpfFilesystem, unmount } from '../src/sys.ts';

let serial = 0;

/** A name no other test run uses. */
export function uniqueName(): string {
  return `lbt-${process.pid}-${++serial}`;
}

/** Path of a compiled test program. */
export function fixture(name: string): string {
  return join(import.meta.dirname, 'fixtures', `${name}.bpf.o`);
}

/** The test programs, opened. */
export function openKit(options: OpenOptions = {}): BpfObject {
  return BpfObject.open(fixture('kit'), options);
}

/** The mount of cgroup v2; a test machine must have one. */
export function cgroupRoot(): string {
  const root = findCgroup2();
  if (root === null) throw new Error('no cgroup v2 is mounted');
  return root;
}

/** A cgroup for one test, with an open descriptor of it. Moves this process into it on request, and back at the end. */
export function throwAwayCgroup(t: TestContext): { readonly path: string; readonly fd: number; enter(): void } {
  const root = cgroupRoot();
  const home = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/';
  const path = join(root, uniqueName());
  mkdirSync(path);
  const descriptor = OwnedFd.open(path);
  t.after(() => {
    writeFileSync(join(root, home, 'cgroup.procs'), String(process.pid));
    descriptor.close();
    rmdirSync(path);
  });
  return { path, fd: descriptor.fd, enter: () => writeFileSync(join(path, 'cgroup.procs'), String(process.pid)) };
}

/** A BPF file system for one test. */
export function throwAwayBpfFilesystem(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'lbt-'));
  mountBpfFilesystem(directory);
  t.after(() => {
    unmount(directory);
    rmdirSync(directory);
  });
  return directory;
}

/** A network namespace for one test with its loopback up, and an open descriptor of it. */
export function throwAwayNetworkNamespace(t: TestContext): { readonly name: string; readonly path: string; readonly fd: number } {
  const name = uniqueName();
  execFileSync('ip', ['netns', 'add', name]);
  t.after(() => {
    execFileSync('ip', ['netns', 'del', name]);
  });
  execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
  const path = `/run/netns/${name}`;
  const descriptor = OwnedFd.open(path);
  t.after(() => {
    descriptor.close();
  });
  return { name, path, fd: descriptor.fd };
}

/** Waits until `condition` holds, at most ten seconds. */
export async function eventually(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not happen within ten seconds');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
