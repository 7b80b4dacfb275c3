import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { DEFAULT_BPF_DIRECTORY, DEFAULT_RUN_DIRECTORY, DEFAULT_STATE_DIRECTORY } from '../../model/admin-api.ts';
import { AdminClient } from '../admin-client.ts';
import { findCgroupMount } from '../cgroup-mount.ts';
import { CliError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import { AUTHORITY_FILES, NODE_FILES, ownFiles, removeEmptyDirectory, removeOwnFiles, RUN_FILES, STATE_FILES } from '../own-files.ts';
import type { CommandContext } from '../command-context.ts';
import { cgroupProcesses, removeCgroup, removeRunFolder, runCgroups } from '../run-cgroup.ts';
import type { Terminal } from '../terminal.ts';

interface UninstallFlags {
  readonly bpfDir: string;
  readonly runDir: string;
  readonly stateDir: string;
  readonly caDir?: string;
  readonly cgroupParent?: string;
  readonly purge?: true;
  readonly force?: true;
}

/** Adds `weft uninstall`. */
export function addUninstallCommand(program: Command, context: CommandContext): void {
  program
    .command('uninstall')
    .summary('take everything of the mesh out of this host')
    .description(
      'Takes out what the agent leaves on purpose when it ends: kernel hooks and their pins, the run directory, empty cgroups of weft run. ' +
        'Workloads then connect as if there were no mesh. Kills nothing; to do it again is no harm.',
    )
    .option('--bpf-dir <dir>', 'where hooks are pinned', DEFAULT_BPF_DIRECTORY)
    .option('--run-dir <dir>', 'where the agent keeps its admin socket', DEFAULT_RUN_DIRECTORY)
    .option('--state-dir <dir>', 'what outlives the agent; kept without --purge', DEFAULT_STATE_DIRECTORY)
    .option('--ca-dir <dir>', 'the directory of the certificate authority (default: STATE-DIR/ca)')
    .option('--cgroup-parent <dir>', 'where weft run made its cgroups (default: where cgroup v2 is mounted)')
    .option(
      '--purge',
      'also remove all keys and state: the certificate authority, whose SVIDs are worth nothing then, and what the node joined with',
    )
    .option('--force', 'do it while an agent runs')
    .addHelpText(
      'after',
      `
Examples:
  weft uninstall
  weft uninstall --purge
  weft uninstall --bpf-dir /sys/fs/bpf/mesh-b --run-dir /run/weft-b --state-dir /var/lib/weft-b

Exit code: 1 when an agent or an authority runs, or something is still in use.`,
    )
    .action(async (flags: UninstallFlags) => {
      const stateDirectory = absolutePath('--state-dir', flags.stateDir);
      await uninstall(
        {
          bpfDirectory: absolutePath('--bpf-dir', flags.bpfDir),
          runDirectory: absolutePath('--run-dir', flags.runDir),
          stateDirectory,
          caDirectory: flags.caDir === undefined ? join(stateDirectory, 'ca') : absolutePath('--ca-dir', flags.caDir),
          cgroupParent:
            flags.cgroupParent === undefined ? (findCgroupMount()?.path ?? null) : absolutePath('--cgroup-parent', flags.cgroupParent),
          purge: flags.purge === true,
          force: flags.force === true,
        },
        context.terminal,
        await removeHooks(),
      );
    });
}

export interface UninstallOptions {
  readonly bpfDirectory: string;
  readonly runDirectory: string;
  readonly stateDirectory: string;
  readonly caDirectory: string;
  /** null where there is no cgroup v2. */
  readonly cgroupParent: string | null;
  readonly purge: boolean;
  readonly force: boolean;
}

/**
 * Removes what is of Weft and nothing else: directories go only when they are empty, so that a wrong flag cannot do harm.
 * @param unpin removes the pins below a directory, and says how many there were
 * @throws CliError WEFT_CLI_AGENT_RUNS, WEFT_CLI_AUTHORITY_RUNS, WEFT_CLI_NOT_ALLOWED, WEFT_CLI_UNINSTALL_INCOMPLETE
 */
export async function uninstall(options: UninstallOptions, terminal: Terminal, unpin: (directory: string) => number): Promise<void> {
  const admin = new AdminClient(options.runDirectory);
  if (!options.force && (await admin.answers())) {
    throw new CliError('WEFT_CLI_AGENT_RUNS', `an agent answers on ${admin.socketPath}`, {
      nextStep: 'stop it first; with --force its hooks go while it runs, and its workloads leave the mesh without a word',
    });
  }
  const authority = AdminClient.ofAuthority(options.runDirectory);
  if (!options.force && (await authority.answers())) {
    throw new CliError('WEFT_CLI_AUTHORITY_RUNS', `a certificate authority answers on ${authority.socketPath}`, {
      nextStep: 'stop `weft ca serve` first; with --force its socket goes while it runs',
    });
  }
  const removed: string[] = [];
  const left: string[] = [];
  attempt('the kernel hooks', () => {
    const pins = unpin(options.bpfDirectory);
    if (pins > 0) removed.push(`${pins} pinned kernel hooks and maps in ${options.bpfDirectory}`);
    if (removeBpfDirectory(options.bpfDirectory) && pins === 0) removed.push(options.bpfDirectory);
  });
  attempt('the run directory', () => {
    removed.push(...removeOwnFiles(options.runDirectory, RUN_FILES));
  });
  if (options.cgroupParent !== null) removeCgroups(options.cgroupParent, removed, left);
  if (options.purge) {
    attempt('the certificate authority', () => {
      removed.push(...removeOwnFiles(options.caDirectory, AUTHORITY_FILES));
    });
    attempt('the state of the node', () => {
      removed.push(...removeOwnFiles(options.stateDirectory, STATE_FILES));
    });
  } else {
    const nodeDirectory = join(options.stateDirectory, 'node');
    const kept = (what: string): unknown => terminal.out(`kept     ${what}; --purge removes it\n`);
    if (ownFiles(options.caDirectory, AUTHORITY_FILES.files).length > 0) kept(`the certificate authority in ${options.caDirectory}`);
    if (ownFiles(nodeDirectory, NODE_FILES.files).length > 0) kept(`the node's own SVID and key in ${nodeDirectory}`);
  }
  for (const what of removed) terminal.out(`removed  ${what}\n`);
  for (const what of left) terminal.out(`left     ${what}\n`);
  if (removed.length === 0 && left.length === 0) terminal.out('There was nothing to remove.\n');
  if (left.length > 0) {
    throw new CliError('WEFT_CLI_UNINSTALL_INCOMPLETE', 'something is still in use', {
      nextStep: 'end the processes that are named above, and run `weft uninstall` again',
    });
  }
}

function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM') {
      throw new CliError('WEFT_CLI_NOT_ALLOWED', `this user may not remove ${what}: ${message}`, { cause, nextStep: 'run it as root' });
    }
    throw new CliError('WEFT_CLI_UNINSTALL_INCOMPLETE', `cannot remove ${what}: ${message}`, {
      cause,
      nextStep: 'see what holds it, and try again',
    });
  }
}

/** The agent makes this directory, and mounts a BPF file system on it where it lies on none. */
function removeBpfDirectory(directory: string): boolean {
  if (!existsSync(directory)) return false;
  const mounted = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some((line) => line.split(' ')[4] === directory && line.includes(' - bpf '));
  // Where everybody's BPF file system is mounted is not ours to unmount.
  if (mounted && directory !== '/sys/fs/bpf') execFileSync('umount', [directory], { stdio: ['ignore', 'ignore', 'pipe'] });
  return removeEmptyDirectory(directory);
}

function removeCgroups(parent: string, removed: string[], left: string[]): void {
  for (const cgroup of runCgroups(parent)) {
    if (removeCgroup(cgroup)) removed.push(cgroup);
    else left.push(`${cgroup}: processes ${cgroupProcesses(cgroup).join(', ')} still run in it, outside of the mesh now`);
  }
  removeRunFolder(parent);
}

async function removeHooks(): Promise<(directory: string) => number> {
  // Loaded here, as it takes a tenth of a second that other commands need not wait for.
  const { KernelHooks } = await import('../../../bpf/kernel-hooks.ts');
  return (directory) => KernelHooks.uninstall(directory);
}
