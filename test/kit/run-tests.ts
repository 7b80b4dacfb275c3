/**
 * Runs test files with node's test runner, two at a time (labs are isolated from each other), and prints its summary:
 * `run-tests.ts FILE-OR-GLOB…`. Exits 1 when a test failed, was skipped or is to do, or when a file did not end in time.
 *
 * The runner's own limit is a timer inside the file's process, for one test, and it does not end the process: a file whose event loop is
 * blocked, or that leaves a handle open, would hold up everything for ever. Here such a file is ended from outside, and what it was doing is told.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { setTimeout as sleep } from 'node:timers/promises';

/** For a file as a whole, in milliseconds. The longest takes about 80 s on 2 cores. */
const FILE_LIMIT_MS = Number(process.env['WEFT_TEST_FILE_LIMIT_MS'] ?? 300_000);
/** For everything: a process that outlived its file may still hold the file's output open. */
const RUN_LIMIT_MS = 2_400_000;
const TICKS_PER_SECOND = 100;

interface ProcessRow {
  readonly pid: number;
  readonly parent: number;
  readonly state: string;
  /** CPU time, user and system, in seconds. */
  readonly cpuSeconds: number;
  readonly command: readonly string[];
}

function processes(): ProcessRow[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        // proc(5): the fields after the command's name, which may hold spaces and parentheses.
        const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        const [state = '?', parent = '0'] = fields;
        const cpuSeconds = (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0').filter(Boolean);
        return [{ pid: Number(name), parent: Number(parent), state, cpuSeconds, command }];
      } catch {
        return []; // It has ended meanwhile.
      }
    });
}

function descendants(root: number, rows: readonly ProcessRow[]): ProcessRow[] {
  const found: ProcessRow[] = [];
  for (const row of rows) if (row.parent === root) found.push(row, ...descendants(row.pid, rows));
  return found;
}

function kernelWait(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stack`, 'utf8').trim().split('\n').slice(0, 6).join(' < ');
  } catch {
    return 'unknown';
  }
}

/** Where its JavaScript is, as its debugger says: that runs on a thread of its own, so also when the event loop is blocked. */
async function javascriptStack(pid: number): Promise<string> {
  try {
    process.kill(pid, 'SIGUSR1');
    const [target] = (await untilAnswered('http://127.0.0.1:9229/json/list')) as [{ webSocketDebuggerUrl: string }];
    const socket = new WebSocket(target.webSocketDebuggerUrl);
    const { promise, resolve } = Promise.withResolvers<string>();
    socket.addEventListener('open', () => {
      for (const [id, method] of ['Debugger.enable', 'Debugger.pause'].entries()) socket.send(JSON.stringify({ id, method }));
    });
    const files = new Map<string, string>();
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(data as string) as DebuggerMessage;
      if (message.method === 'Debugger.scriptParsed') files.set(message.params.scriptId, message.params.url);
      if (message.method !== 'Debugger.paused') return;
      const frames = message.params.callFrames.slice(0, 12).map(({ functionName, location }) => {
        return `${functionName || 'anonymous'} ${files.get(location.scriptId)}:${location.lineNumber + 1}`;
      });
      resolve(frames.join('\n    '));
    });
    const stack = await Promise.race([promise, sleep(5000, 'it waits in its event loop, or is blocked outside of JavaScript')]);
    socket.close();
    return stack;
  } catch (error) {
    return `unknown: ${(error as Error).message}`;
  }
}

/** Of the Chrome DevTools Protocol, domain Debugger. */
type DebuggerMessage =
  | { readonly method: 'Debugger.scriptParsed'; readonly params: { readonly scriptId: string; readonly url: string } }
  | { readonly method: 'Debugger.paused'; readonly params: { readonly callFrames: readonly CallFrame[] } }
  | { readonly method?: undefined };

interface CallFrame {
  readonly functionName: string;
  readonly location: { readonly scriptId: string; readonly lineNumber: number };
}

async function untilAnswered(url: string): Promise<unknown> {
  for (let tries = 1; ; tries++) {
    try {
      return await (await fetch(url, { signal: AbortSignal.timeout(3000) })).json();
    } catch (error) {
      if (tries === 5) throw error;
      await sleep(300);
    }
  }
}

async function endFile(file: ProcessRow): Promise<void> {
  const told = [`${file.command.at(-1)} did not end in ${FILE_LIMIT_MS / 1000} s and is killed with what it started:`];
  for (const row of [file, ...descendants(file.pid, processes())]) {
    told.push(`  ${row.pid} ${row.state} ${row.cpuSeconds} s of CPU: ${row.command.slice(-2).join(' ')}; kernel: ${kernelWait(row.pid)}`);
  }
  told.push(`  JavaScript of ${file.pid}: ${await javascriptStack(file.pid)}`);
  console.error(told.join('\n'));
  // Its children first looked up, then killed: once it is gone they belong to nobody, and hold its pipes.
  for (const { pid } of [...descendants(file.pid, processes()), file]) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
}

const since = new Map<number, number>();
/** One at a time: a debugger has its port for itself. */
let ending = Promise.resolve();
const watch = setInterval(() => {
  const children = processes().filter(({ parent }) => parent === process.pid);
  for (const pid of since.keys()) if (!children.some((child) => child.pid === pid)) since.delete(pid);
  for (const child of children) {
    const first = since.get(child.pid);
    if (first === undefined) since.set(child.pid, performance.now());
    else if (performance.now() - first > FILE_LIMIT_MS) {
      since.set(child.pid, Number.POSITIVE_INFINITY);
      ending = ending.then(() => endFile(child));
    }
  }
}, 1000);

setTimeout(() => {
  console.error(`run-tests: not over after ${RUN_LIMIT_MS / 60_000} minutes: a process that a test started may still hold its output`);
  process.exit(1);
}, RUN_LIMIT_MS).unref();

// Until the summary says otherwise.
process.exitCode = 1;
const events = run({
  globPatterns: process.argv.slice(2),
  concurrency: 2,
  execArgv: ['--disable-warning=ExperimentalWarning'],
});
events.on('test:summary', ({ file, success, counts }) => {
  if (file !== undefined) return;
  clearInterval(watch);
  if (counts.skipped > 0 || counts.todo > 0) console.error('run-tests: a test was skipped or is to do: nothing may');
  if (counts.tests === 0) console.error('run-tests: there was no test');
  if (success && counts.skipped === 0 && counts.todo === 0 && counts.tests > 0) process.exitCode = 0;
});
events.compose(new spec()).pipe(process.stdout);
