import { readFileSync } from 'node:fs';

/** Which processes the local workloads have. The agent knows; SPIRE wants one of them named. */
export interface WorkloadProcesses {
  /** The id of a running process of a workload with this identity, in the agent's own pid namespace; null while there is none. */
  pidOf(identity: string): number | null;
}

/** Where the parenthesised name of the program ends, field 3 begins (proc_pid_stat(5)). */
const START_TIME_FIELD = 22;

/**
 * Tells one life of a process id from the next: when the process started, in clock ticks since the boot.
 * @returns null when there is no such process, or only its exit code is left (a zombie)
 */
export function processLife(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const state = fields[0];
    return state === 'Z' || state === 'X' ? null : (fields[START_TIME_FIELD - 3] ?? null);
  } catch {
    return null;
  }
}
