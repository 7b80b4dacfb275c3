import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { LabError } from './lab/errors.ts';

/** How a process ended: an exit code, or the signal that ended it. */
export interface ExitStatus {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface SpawnOptions {
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** 'pipe' leaves standard input open for `child.input`; the default gives the process an empty one. */
  readonly stdin?: 'ignore' | 'pipe';
}

export interface ExecOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Written to standard input, which is then closed. */
  readonly input?: string | Uint8Array;
  /** The process is killed after this many milliseconds. Default 30,000. */
  readonly timeoutMs?: number;
}

export interface ExecResult extends ExitStatus {
  readonly stdout: string;
  readonly stderr: string;
  /** True when timeoutMs passed and the process was killed for it. */
  readonly timedOut: boolean;
}

/** Lines kept for waitForLine and for messages; older ones are dropped. */
const KEPT_LINES = 2000;
/** exec() keeps this much of each stream, so that a runaway command cannot exhaust the test's memory. */
const KEPT_BYTES = 64 * 1024 * 1024;
const DEFAULT_EXEC_TIMEOUT_MS = 30_000;
const DEFAULT_LINE_TIMEOUT_MS = 30_000;
/** After the process is gone, a grandchild may still hold its pipes: wait this long for their end, no more. */
const PIPE_GRACE_MS = 250;

/** Then what is in the pipes by now has been read: an immediate comes after a look at them, a timer that is late may come before. */
function afterPipeGrace(then: () => void): void {
  setTimeout(() => setImmediate(then), PIPE_GRACE_MS).unref();
}

interface LineWaiter {
  readonly pattern: RegExp;
  readonly resolve: (match: RegExpExecArray) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A process with one owner. It is killed by its own pid when it is disposed, and never by name.
 * Invariant: `exited` resolves exactly once; after it no signal is sent (the pid may belong to somebody else).
 */
export class Child implements AsyncDisposable {
  readonly command: readonly string[];
  readonly pid: number;
  readonly exited: Promise<ExitStatus>;
  readonly #process: ChildProcess;
  readonly #stdout: string[] = [];
  readonly #stderr: string[] = [];
  readonly #waiters = new Set<LineWaiter>();
  readonly #readers = new Set<() => void>();
  #dropped = 0;
  #status: ExitStatus | null = null;
  #outputEnded = false;

  private constructor(command: readonly string[], process: ChildProcess, pid: number) {
    this.command = command;
    this.#process = process;
    this.pid = pid;
    this.#collect(process.stdout as Readable, this.#stdout);
    this.#collect(process.stderr as Readable, this.#stderr);
    this.exited = new Promise((resolve) => {
      process.once('exit', (code, signal) => {
        this.#status = { code, signal };
        afterPipeGrace(() => this.#endOutput());
        resolve(this.#status);
      });
    });
    process.once('close', () => this.#endOutput());
  }

  /**
   * Starts a process and waits until the kernel has it. `prefix` runs before the command in the same process (it execs).
   * @throws LabError WEFT_LAB_SPAWN when the program cannot be started
   */
  static async start(command: readonly string[], options: SpawnOptions = {}, prefix: readonly string[] = []): Promise<Child> {
    const [file, ...args] = [...prefix, ...command];
    if (file === undefined) throw new LabError('WEFT_LAB_SPAWN', 'no command given', { nextStep: 'name a program to run' });
    const process = spawn(file, args, {
      stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe'],
      env: { ...globalThis.process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    return new Promise((resolve, reject) => {
      process.once('error', (cause) =>
        reject(
          new LabError('WEFT_LAB_SPAWN', `cannot start ${file}: ${cause.message}`, {
            cause,
            nextStep: 'check that the program is installed (npm run setup test)',
          }),
        ),
      );
      process.once('spawn', () => resolve(new Child(command, process, process.pid as number)));
    });
  }

  /** null while it runs. */
  get status(): ExitStatus | null {
    return this.#status;
  }

  /** Standard input, when it was asked for with stdin: 'pipe'. */
  get input(): NodeJS.WritableStream | null {
    return this.#process.stdin;
  }

  /** The last lines of standard output. */
  get stdout(): string {
    return this.#stdout.join('\n');
  }

  /** The last lines of standard error. */
  get stderr(): string {
    return this.#stderr.join('\n');
  }

  /** Standard output line by line from the first kept one, until the process closes it. */
  async *lines(): AsyncGenerator<string> {
    let next = 0;
    for (;;) {
      next = Math.max(next, this.#dropped);
      const line = this.#stdout[next - this.#dropped];
      if (line !== undefined) {
        next++;
        yield line;
      } else if (this.#outputEnded) {
        return;
      } else {
        await new Promise<void>((resolve) => this.#readers.add(resolve));
      }
    }
  }

  /**
   * Resolves with the match of the first line, of standard output or error, already seen or to come.
   * @throws LabError WEFT_LAB_LINE_TIMEOUT, or WEFT_LAB_EXITED when the process ends without it
   */
  async waitForLine(pattern: RegExp, timeoutMs: number = DEFAULT_LINE_TIMEOUT_MS): Promise<RegExpExecArray> {
    for (const line of [...this.#stdout, ...this.#stderr]) {
      const match = pattern.exec(line);
      if (match !== null) return match;
    }
    if (this.#outputEnded) throw this.#exitedWithout(pattern);
    const { promise, resolve, reject } = Promise.withResolvers<RegExpExecArray>();
    const waiter: LineWaiter = { pattern, resolve, reject };
    this.#waiters.add(waiter);
    const timer = setTimeout(
      () => reject(new LabError('WEFT_LAB_LINE_TIMEOUT', `no line matched ${pattern} in ${timeoutMs} ms; ${this.#describe()}`)),
      timeoutMs,
    );
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiters.delete(waiter);
    }
  }

  /** Sends a signal; nothing happens when the process has ended. */
  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    if (this.#status === null) this.#process.kill(signal);
  }

  /** Asks it to end with `signal`, and kills it when it has not after `graceMs`. */
  async stop(options: { readonly signal?: NodeJS.Signals; readonly graceMs?: number } = {}): Promise<ExitStatus> {
    this.kill(options.signal ?? 'SIGTERM');
    const timer = setTimeout(() => this.kill('SIGKILL'), options.graceMs ?? 5000);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill('SIGKILL');
    await this.exited;
  }

  #collect(stream: Readable, kept: string[]): void {
    const isOutput = kept === this.#stdout;
    createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY }).on('line', (line) => {
      kept.push(line);
      if (kept.length > KEPT_LINES) {
        kept.shift();
        if (isOutput) this.#dropped++;
      }
      for (const waiter of this.#waiters) {
        const match = waiter.pattern.exec(line);
        if (match !== null) waiter.resolve(match);
      }
      if (isOutput) this.#wakeReaders();
    });
  }

  #endOutput(): void {
    if (this.#outputEnded) return;
    this.#outputEnded = true;
    for (const waiter of this.#waiters) waiter.reject(this.#exitedWithout(waiter.pattern));
    this.#wakeReaders();
  }

  #wakeReaders(): void {
    for (const resolve of this.#readers) resolve();
    this.#readers.clear();
  }

  #exitedWithout(pattern: RegExp): LabError {
    return new LabError('WEFT_LAB_EXITED', `the process ended before a line matched ${pattern}; ${this.#describe()}`);
  }

  #describe(): string {
    const status = this.#status === null ? 'still running' : `exit ${this.#status.code ?? this.#status.signal}`;
    const tail = [...this.#stderr.slice(-15), ...this.#stdout.slice(-15)].join('\n');
    return `${this.command.join(' ')} (${status})\n${tail}`;
  }
}

/**
 * Runs a command to its end and collects what it printed. A non-zero exit is a result, not an error.
 * @throws LabError WEFT_LAB_SPAWN when the program cannot be started
 */
export async function exec(command: readonly string[], options: ExecOptions = {}, prefix: readonly string[] = []): Promise<ExecResult> {
  const [file, ...args] = [...prefix, ...command];
  if (file === undefined) throw new LabError('WEFT_LAB_SPAWN', 'no command given', { nextStep: 'name a program to run' });
  const process = spawn(file, args, {
    stdio: 'pipe',
    env: { ...globalThis.process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  // A command that does not read its input closes the pipe under us: that is its right.
  process.stdin.on('error', () => {});
  process.stdin.end(options.input ?? '');
  const stdout = keep(process.stdout);
  const stderr = keep(process.stderr);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    process.kill('SIGKILL');
  }, options.timeoutMs ?? DEFAULT_EXEC_TIMEOUT_MS);
  try {
    const status = await new Promise<ExitStatus>((resolve, reject) => {
      process.once('error', (cause) =>
        reject(
          new LabError('WEFT_LAB_SPAWN', `cannot start ${file}: ${cause.message}`, {
            cause,
            nextStep: 'check that the program is installed (npm run setup test)',
          }),
        ),
      );
      process.once('close', (code, signal) => resolve({ code, signal }));
      process.once('exit', (code, signal) => afterPipeGrace(() => resolve({ code, signal })));
    });
    return { ...status, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString(), timedOut };
  } finally {
    clearTimeout(timer);
    process.stdout.destroy();
    process.stderr.destroy();
  }
}

function keep(stream: Readable): Buffer[] {
  const chunks: Buffer[] = [];
  let size = 0;
  stream.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= KEPT_BYTES) chunks.push(chunk);
  });
  return chunks;
}
