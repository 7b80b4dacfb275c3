import { randomBytes } from 'node:crypto';
import { accessSync, constants, mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type CgroupMount, ownCgroup } from './cgroup-mount.ts';
import { CliError } from './cli-error.ts';

/** Below the parent that was asked for: cgroups of `weft run` are together, and known as ours. */
const FOLDER = 'weft';
const RUN_NAME = /^run-(\d+)-[0-9a-f]+$/;

/** The cgroup of one `weft run`. */
export interface RunCgroup {
  readonly path: string;
  /**
   * Calls `start` while this process is a member, so that what it forks is born inside.
   * @throws CliError WEFT_CLI_CGROUP before `start` is called, and what `start` throws
   */
  inside<Result>(start: () => Result): Result;
  /** True if processes live in it or below. */
  isPopulated(): boolean;
  /** The processes in it and below. */
  processes(): readonly number[];
  /** Removes it. False if it is still in use. */
  remove(): boolean;
}

/**
 * Makes `<parent>/weft/run-<pid>-<random>`.
 * @throws CliError WEFT_CLI_CGROUP
 */
export function createRunCgroup(mount: CgroupMount, parent: string): RunCgroup {
  const home = ownCgroup(mount);
  const path = join(parent, FOLDER, `run-${process.pid}-${randomBytes(4).toString('hex')}`);
  try {
    // Only where a way back exists is there a way in.
    if (home === null) throw new Error(`the cgroup of this process is not visible under ${mount.path}`);
    accessSync(processList(home), constants.W_OK);
    // Else the directories made here would be plain ones, and nobody's processes would be in them.
    statSync(processList(parent));
    mkdirSync(path, { recursive: true });
  } catch (cause) {
    throw cgroupError(`cannot make a cgroup below ${parent}: ${(cause as Error).message}`, cause);
  }
  return new KernelRunCgroup(path, home);
}

class KernelRunCgroup implements RunCgroup {
  readonly path: string;
  readonly #home: string;

  constructor(path: string, home: string) {
    this.path = path;
    this.#home = home;
  }

  inside<Result>(start: () => Result): Result {
    this.#enter();
    try {
      return start();
    } finally {
      this.#leave();
    }
  }

  #enter(): void {
    try {
      moveSelf(this.path);
      // Whatever the kernel said: without membership the command would run outside of the mesh.
      if (!this.processes().includes(process.pid)) throw new Error('the kernel did not move this process');
    } catch (cause) {
      throw cgroupError(`cannot enter ${this.path}: ${(cause as Error).message}`, cause);
    }
  }

  #leave(): void {
    try {
      moveSelf(this.#home);
    } catch {
      // Then this process stays in it until it ends. The command runs as it should; the cgroup is left and reported.
    }
  }

  isPopulated(): boolean {
    return isPopulated(this.path);
  }

  processes(): readonly number[] {
    return cgroupProcesses(this.path);
  }

  remove(): boolean {
    return removeCgroup(this.path);
  }
}

/** Moves this process, all its threads, into a cgroup. */
function moveSelf(cgroup: string): void {
  // r+: a cgroup has this file; where it would have to be made is none.
  writeFileSync(processList(cgroup), '0', { flag: 'r+' });
}

function processList(cgroup: string): string {
  return join(cgroup, 'cgroup.procs');
}

function cgroupError(message: string, cause: unknown): CliError {
  return new CliError('WEFT_CLI_CGROUP', message, {
    cause,
    nextStep: 'run it as root, and name a cgroup v2 directory below the agent’s --cgroup-root with --cgroup-parent',
  });
}

/** True if processes live in a cgroup or below it (cgroup-v2.rst, cgroup.events). */
export function isPopulated(cgroup: string): boolean {
  try {
    return /^populated 1$/m.test(readFileSync(join(cgroup, 'cgroup.events'), 'utf8'));
  } catch {
    return false;
  }
}

/** The processes in a cgroup and below it. */
export function cgroupProcesses(cgroup: string): number[] {
  try {
    const own = readFileSync(processList(cgroup), 'utf8').split('\n').filter(Boolean).map(Number);
    return [...own, ...childCgroups(cgroup).flatMap((child) => cgroupProcesses(child))];
  } catch {
    return [];
  }
}

function childCgroups(cgroup: string): string[] {
  return readdirSync(cgroup, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(cgroup, entry.name));
}

/** Removes a cgroup and those below it, if nobody lives there. False if somebody does, or it cannot be removed. */
export function removeCgroup(cgroup: string): boolean {
  try {
    if (isPopulated(cgroup)) return false;
    for (const child of childCgroups(cgroup)) if (!removeCgroup(child)) return false;
    rmdirSync(cgroup);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

/** The cgroups of `weft run` below a parent, whose command may have ended. */
export function runCgroups(parent: string): string[] {
  try {
    return childCgroups(join(parent, FOLDER)).filter((path) => RUN_NAME.test(basename(path)));
  } catch {
    return [];
  }
}

/** Removes cgroups that a `weft run` of the past had to leave and that are empty now. */
export function removeLeftRunCgroups(parent: string): void {
  for (const path of runCgroups(parent)) {
    const pid = Number(RUN_NAME.exec(basename(path))?.[1]);
    // Its owner may be about to use it.
    if (!isAlive(pid)) removeCgroup(path);
  }
}

/** Removes the folder that run cgroups are in, if it is empty. */
export function removeRunFolder(parent: string): boolean {
  try {
    rmdirSync(join(parent, FOLDER));
    return true;
  } catch {
    return false;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
