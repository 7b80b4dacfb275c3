import { type ChildProcess, spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { DEFAULT_RUN_DIRECTORY, type HostWorkloadAnswer, type HostWorkloadRequest, type ReadyAnswer } from '../../model/admin-api.ts';
import { AdminClient } from '../admin-client.ts';
import { findCgroupMount } from '../cgroup-mount.ts';
import { CliError, EXIT } from '../cli-error.ts';
import { absolutePath, namespaceName, resourceName } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { createRunCgroup, removeLeftRunCgroups, type RunCgroup } from '../run-cgroup.ts';
import { SignalForwarding } from '../signal-forwarding.ts';
import { showError, type Terminal } from '../terminal.ts';
import { noCgroupMount } from './agent.ts';

interface RunFlags {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly name?: string;
  readonly runDir: string;
  readonly cgroupParent?: string;
  readonly wait?: true;
}

/** Adds `weft run`. */
export function addRunCommand(program: Command, context: CommandContext): void {
  program
    .command('run')
    .summary('run a command as a workload of the mesh')
    .description('Runs a command on this host as a workload of the mesh: the agent captures the connections that it and its children open.')
    .requiredOption('-n, --namespace <name>', 'namespace of the workload')
    .requiredOption('-s, --service-account <name>', 'service account: with the namespace, its identity')
    .option('--name <name>', 'name of the workload, unique in its namespace (default: made up)')
    .option('--run-dir <dir>', 'where the agent keeps its admin socket', DEFAULT_RUN_DIRECTORY)
    .option('--cgroup-parent <dir>', "a cgroup below the agent's --cgroup-root (default: where cgroup v2 is mounted)")
    .option('--wait', 'wait also for the processes that the command leaves behind')
    .argument('<command...>', 'the command and its arguments')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
Examples:
  weft run --namespace shop --service-account cart -- ./cart --port 8080
  weft run -n shop -s admin -- curl http://catalog.shop/items
  weft run -n shop -s cart --name cart-1 --wait -- ./start-in-background.sh

The command runs where you are: same user, files, terminal and network. It is a member of the mesh before its first instruction, and
without an agent it does not start. Connections that it opens are captured; those that it accepts are not.

Exit code: the command's own; 128 + n when signal n ended it; 127 not found, 126 not executable; 1 when it could not be enrolled,
2 wrong usage. Signals are passed on. Processes that it leaves behind go on as members of the mesh.`,
    )
    .action(async (command: readonly string[], flags: RunFlags) => {
      const request = {
        namespace: namespaceName('--namespace', flags.namespace),
        serviceAccount: resourceName('--service-account', flags.serviceAccount),
        name: flags.name === undefined ? null : resourceName('--name', flags.name),
      };
      const mount = findCgroupMount();
      if (mount === null) throw noCgroupMount();
      const parent = flags.cgroupParent === undefined ? mount.path : absolutePath('--cgroup-parent', flags.cgroupParent);
      context.exit(
        await runCommand(
          { ...request, command, wait: flags.wait === true },
          {
            admin: new AdminClient(absolutePath('--run-dir', flags.runDir)),
            createCgroup() {
              removeLeftRunCgroups(parent);
              return createRunCgroup(mount, parent);
            },
            terminal: context.terminal,
          },
        ),
      );
    });
}

export interface RunOptions extends Omit<HostWorkloadRequest, 'cgroup'> {
  /** The command and its arguments. */
  readonly command: readonly string[];
  /** Wait until the cgroup is empty, not only for the command. */
  readonly wait: boolean;
}

export interface RunDependencies {
  readonly admin: AdminClient;
  readonly createCgroup: () => RunCgroup;
  readonly terminal: Terminal;
}

/** An agent that has just started reads its configuration first. */
const READY_TIMEOUT_MS = 15_000;
const READY_POLL_MS = 100;
/** Longer than the agent waits for a first SVID. */
const ENROL_TIMEOUT_MS = 30_000;
const RELEASE_TIMEOUT_MS = 5_000;
/** A command's children often end a moment after it. */
const STRAGGLER_PATIENCE_MS = 300;
const STRAGGLER_POLL_MS = 20;
const WAIT_POLL_MS = 100;
/** How soon a new agent hears of a command that its predecessor had enrolled. */
const AGENT_WATCH_MS = 500;

/**
 * Runs a command as a workload and returns its exit code. The order is what matters: cgroup, enrolment, command; then command's end,
 * un-enrolment, cgroup's end. A command never runs un-enrolled.
 * @throws CliError WEFT_CLI_NO_AGENT, WEFT_CLI_AGENT_NOT_READY, WEFT_CLI_CGROUP, WEFT_CLI_NOT_FOUND, WEFT_CLI_NOT_EXECUTABLE, or what the
 * agent refuses with
 */
export async function runCommand(options: RunOptions, { admin, createCgroup, terminal }: RunDependencies): Promise<number> {
  using signals = new SignalForwarding();
  if (!(await agentReady(admin, signals))) return stopped(signals);
  const cgroup = createCgroup();
  const { namespace, serviceAccount, command, wait } = options;
  let workload: HostWorkloadAnswer | null = null;
  try {
    const request: HostWorkloadRequest = { namespace, serviceAccount, name: options.name, cgroup: cgroup.path };
    workload = await admin.post<HostWorkloadAnswer>('/v1/workloads', request, ENROL_TIMEOUT_MS);
    if (signals.stop !== null) return stopped(signals);
    // From now on under the name that it has: should another agent come, it is the same workload.
    using _watch = watchAgent(admin, { ...request, name: workload.name }, terminal);
    const code = await runInside(cgroup, command, signals, endpointOf(workload));
    await settle(cgroup, wait, signals);
    return code;
  } finally {
    await cleanUp(cgroup, workload, admin, terminal);
  }
}

/** The exit code after a signal that came before the command ran. */
function stopped(signals: SignalForwarding): number {
  return signals.stop === null ? EXIT.FAILURE : 128 + constants.signals[signals.stop];
}

/** Waits until the agent is ready. False if a signal came first. */
async function agentReady(admin: AdminClient, signals: SignalForwarding): Promise<boolean> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (signals.stop === null) {
    const { ready, waitingFor } = await admin.get<ReadyAnswer>('/ready');
    if (ready) return true;
    if (waitingFor.includes('draining') || Date.now() > deadline) {
      throw new CliError('WEFT_CLI_AGENT_NOT_READY', `the agent on ${admin.socketPath} is not ready: ${waitingFor.join(', ')}`, {
        nextStep: 'see `weft status` and the log of the agent, and try again',
      });
    }
    await sleep(READY_POLL_MS);
  }
  return false;
}

/** By this the command finds the Workload API without configuration (SPIFFE_Workload_Endpoint.md section 4). */
function endpointOf({ workloadApiSocket }: HostWorkloadAnswer): NodeJS.ProcessEnv {
  return typeof workloadApiSocket === 'string' ? { SPIFFE_ENDPOINT_SOCKET: `unix://${workloadApiSocket}` } : {};
}

async function runInside(
  cgroup: RunCgroup,
  [file, ...args]: readonly string[],
  signals: SignalForwarding,
  defaults: NodeJS.ProcessEnv,
): Promise<number> {
  if (file === undefined)
    throw new CliError('WEFT_CLI_USAGE', 'there is no command', { exitCode: EXIT.USAGE, nextStep: 'write it after --' });
  const child = cgroup.inside(() => start(file, args, defaults));
  signals.passTo(child);
  try {
    return await new Promise((resolve, reject) => {
      child.once('error', (error) => reject(startError(file, error)));
      child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal as NodeJS.Signals]));
    });
  } finally {
    signals.passTo(null);
  }
}

/** @param defaults variables of the command's environment, unless they are set */
function start(file: string, args: readonly string[], defaults: NodeJS.ProcessEnv): ChildProcess {
  try {
    return spawn(file, args, { stdio: 'inherit', env: { ...defaults, ...process.env } });
  } catch (error) {
    // Such as an argument list that is too long.
    throw startError(file, error as Error);
  }
}

function startError(file: string, error: NodeJS.ErrnoException): CliError {
  if (error.code === 'ENOENT' && !isThere(file)) {
    return new CliError('WEFT_CLI_NOT_FOUND', `there is no command ${JSON.stringify(file)}`, {
      cause: error,
      exitCode: EXIT.NOT_FOUND,
      nextStep: 'check its name, and PATH',
    });
  }
  const why = error.code === 'ENOENT' ? 'its interpreter is missing' : error.message;
  return new CliError('WEFT_CLI_NOT_EXECUTABLE', `cannot execute ${JSON.stringify(file)}: ${why}`, {
    cause: error,
    exitCode: EXIT.NOT_EXECUTABLE,
    nextStep: 'check its permissions and its first line',
  });
}

/** A path that exists: execve says ENOENT also of a missing interpreter. */
function isThere(file: string): boolean {
  return file.includes('/') && statSync(file, { throwIfNoEntry: false }) !== undefined;
}

/** Gives what the command left behind a moment to end, or with `wait` all the time it takes. */
async function settle(cgroup: RunCgroup, wait: boolean, signals: SignalForwarding): Promise<void> {
  const [deadline, pause] = wait ? [Number.POSITIVE_INFINITY, WAIT_POLL_MS] : [Date.now() + STRAGGLER_PATIENCE_MS, STRAGGLER_POLL_MS];
  while (cgroup.isPopulated() && signals.stop === null && Date.now() < deadline) await sleep(pause);
}

/** Takes the workload out of the mesh, if nobody of it is left: a running process is never put out. */
async function cleanUp(cgroup: RunCgroup, workload: HostWorkloadAnswer | null, admin: AdminClient, terminal: Terminal): Promise<void> {
  if (cgroup.isPopulated()) {
    const count = cgroup.processes().length;
    const name = workload === null ? 'the command' : `${workload.namespace}/${workload.name}`;
    terminal.err(
      `weft: ${count} ${count === 1 ? 'process' : 'processes'} of ${name} still running, and still in the mesh: ${cgroup.path}\n` +
        'next: use --wait to wait for them; the cgroup goes with the next `weft run` after they have ended\n',
    );
    return;
  }
  if (workload !== null) {
    try {
      await admin.delete(`/v1/workloads/${workload.namespace}/${workload.name}`, RELEASE_TIMEOUT_MS);
    } catch (error) {
      // An agent that is gone has nothing to release; the next one sees that the cgroup is no more.
      if (!(error instanceof CliError && error.code === 'WEFT_CLI_NO_AGENT')) showError(terminal, error);
    }
  }
  cgroup.remove();
}

/**
 * Enrols again with each new agent: what `weft run` asked for is not in the configuration, so a restarted agent has not heard of it.
 * States: in force (this agent knows the workload), due (a new socket has been seen). Meanwhile the kernel's entry stays as it was.
 */
function watchAgent(admin: AdminClient, request: HostWorkloadRequest, terminal: Terminal): Disposable {
  let known = socketInstance(admin.socketPath);
  let busy = false;
  let complained = false;
  const look = async (): Promise<void> => {
    const seen = socketInstance(admin.socketPath);
    if (busy || seen === null || seen === known) return;
    busy = true;
    try {
      await admin.post('/v1/workloads', request, ENROL_TIMEOUT_MS);
      known = seen;
      complained = false;
    } catch (error) {
      const code = error instanceof CliError ? error.code : '';
      if (code === 'WEFT_AGENT_WORKLOAD_EXISTS') known = seen;
      else if (code !== 'WEFT_CLI_NO_AGENT' && code !== 'WEFT_AGENT_INTERNAL' && !complained) {
        complained = true;
        terminal.err(`weft: the agent has restarted, and ${request.namespace}/${request.name} is not enrolled; trying again\n`);
        showError(terminal, error);
      }
    } finally {
      busy = false;
    }
  };
  const timer = setInterval(() => void look(), AGENT_WATCH_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Tells one agent's socket from the next one's. */
function socketInstance(path: string): string | null {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? null : `${stat.dev}:${stat.ino}:${stat.ctimeNs}`;
}
