import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** What a terminal sends to every process of its foreground group by itself: our child has it already. */
const FROM_TERMINAL: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGQUIT', 'SIGTSTP', 'SIGWINCH']);
const STOPPING: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP']);
const FORWARDED: readonly NodeJS.Signals[] = [...STOPPING, 'SIGTSTP', 'SIGWINCH', 'SIGUSR1', 'SIGUSR2', 'SIGCONT'];

/**
 * Takes this process's signals until it is disposed. While there is a child they are passed on to it; at other times those that ask to
 * stop are kept in `stop`.
 *
 * In the foreground of a terminal the signals of its keys are not passed on, as they reach the child directly: a SIGINT that somebody
 * else sends is lost there, SIGTERM is not. After SIGTSTP this process stops too, so that a shell sees its job stopped; where there is no
 * shell (an orphaned process group, setpgid(2)) the kernel stops neither.
 */
export class SignalForwarding implements Disposable {
  #child: ChildProcess | null = null;
  #stop: NodeJS.Signals | null = null;

  constructor() {
    for (const signal of FORWARDED) process.on(signal, this.#listener);
  }

  /** The last signal that asked to stop while there was no child. */
  get stop(): NodeJS.Signals | null {
    return this.#stop;
  }

  /** From now on signals are this child's, or with null nobody's. */
  passTo(child: ChildProcess | null): void {
    this.#child = child;
  }

  readonly #listener = (signal: NodeJS.Signals): void => {
    if (this.#child === null) {
      if (STOPPING.has(signal)) this.#stop = signal;
    } else if (!FROM_TERMINAL.has(signal) || !inForeground()) {
      this.#child.kill(signal);
    }
    if (signal === 'SIGTSTP') this.#stopAsTheKernelHasIt();
  };

  #stopAsTheKernelHasIt(): void {
    process.off('SIGTSTP', this.#listener);
    process.kill(process.pid, 'SIGTSTP');
    process.on('SIGTSTP', this.#listener);
  }

  [Symbol.dispose](): void {
    for (const signal of FORWARDED) process.off(signal, this.#listener);
  }
}

/** True if a terminal's foreground process group is this one, by the text of /proc/self/stat (proc_pid_stat(5)). */
export function inForeground(stat: string = readFileSync('/proc/self/stat', 'utf8')): boolean {
  // The command's name, in parentheses, may hold anything.
  const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return group !== undefined && group === foreground;
}
