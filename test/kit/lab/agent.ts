import { request } from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ADMIN_SOCKET_NAME, type ReadyAnswer, type StateAnswer } from '../../../src/model/admin-api.ts';
import type { Child, ExitStatus } from '../child.ts';
import type { LabConfig } from './config.ts';
import { LabError } from './errors.ts';
import type { LabNode } from './node.ts';

const COMMAND_LINE = fileURLToPath(new URL('../../../src/cli/weft', import.meta.url));

export interface LabAgentOptions {
  readonly config: LabConfig;
  /** Where the lab's agents share their CA. Default: `ca` in the lab's directory. Null: `arguments` say where identities come from. */
  readonly caDirectory?: string | null;
  /** Default 'warn'. */
  readonly logLevel?: string;
  /** A file, or 'off'. Default: `access.log` in the node's directory. */
  readonly accessLog?: string;
  /** More options for `weft agent`. */
  readonly arguments?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** How long it may take to become ready, in milliseconds. Default 40,000. */
  readonly readyTimeoutMs?: number;
}

/** A `weft agent` on a node of the lab, in the node's network namespace and its `agent` cgroup. */
export class LabAgent implements AsyncDisposable {
  readonly node: LabNode;
  readonly process: Child;
  /** The file with its access log, or 'off'. */
  readonly accessLog: string;
  readonly #socket: string;

  private constructor(node: LabNode, process: Child, accessLog: string, socket: string) {
    this.node = node;
    this.process = process;
    this.accessLog = accessLog;
    this.#socket = socket;
  }

  /**
   * Starts the agent and waits until it is ready.
   * @throws LabError WEFT_LAB_AGENT when it ends or is not ready in time, with what it said
   */
  static async start(node: LabNode, options: LabAgentOptions): Promise<LabAgent> {
    const runDirectory = agentRunDirectory(node);
    const accessLog = options.accessLog ?? `${node.directory}/access.log`;
    const process = await node.spawn(agentCommand(node, options), {
      cgroup: 'agent',
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    const agent = new LabAgent(node, process, accessLog, `${runDirectory}/${ADMIN_SOCKET_NAME}`);
    try {
      await agent.waitUntilReady(options.readyTimeoutMs);
    } catch (error) {
      await process[Symbol.asyncDispose]();
      throw error;
    }
    return agent;
  }

  /** @throws LabError WEFT_LAB_AGENT */
  async waitUntilReady(timeoutMs = 40_000): Promise<void> {
    let waitingFor = 'its admin socket';
    const failure = async (): Promise<string> => `not ready, waiting for ${waitingFor}${await this.#unenrolled()}`;
    await this.#poll(timeoutMs, failure, async () => {
      const answer = await this.get('/ready');
      if (answer.status === 200) return true;
      const ready = JSON.parse(answer.body) as ReadyAnswer;
      waitingFor = ready.waitingFor?.join(', ') ?? answer.body;
      return false;
    });
  }

  /**
   * Waits until the agent's state is as wanted, asking every few milliseconds. For changes of its configuration.
   * @throws LabError WEFT_LAB_AGENT
   */
  async waitForState(what: string, wanted: (state: StateAnswer) => boolean, timeoutMs = 30_000): Promise<StateAnswer> {
    let state: StateAnswer | null = null;
    await this.#poll(
      timeoutMs,
      async () => `its state never was: ${what}`,
      async () => {
        state = await this.json<StateAnswer>('/v1/state');
        return wanted(state);
      },
    );
    return state as unknown as StateAnswer;
  }

  /** Asks the admin endpoint. */
  get(path: string, method = 'GET', body: unknown = null): Promise<{ readonly status: number; readonly body: string }> {
    return new Promise((resolve, reject) => {
      const call = request({ socketPath: this.#socket, path, method, timeout: 5000, agent: false }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.once('error', reject);
        response.once('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
      });
      call.once('timeout', () => call.destroy(new Error('the admin endpoint does not answer')));
      call.once('error', reject);
      if (body === null) call.end();
      else call.end(JSON.stringify(body));
    });
  }

  /** A JSON answer of the admin endpoint. */
  async json<T>(path: string): Promise<T> {
    const answer = await this.get(path);
    if (answer.status !== 200) throw new LabError('WEFT_LAB_AGENT', `GET ${path}: ${answer.status} ${answer.body}`);
    return JSON.parse(answer.body) as T;
  }

  /** Asks the agent to drain and end. */
  async stop(graceMs = 10_000): Promise<ExitStatus> {
    return this.process.stop({ graceMs });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process[Symbol.asyncDispose]();
  }

  /** Which workloads are not enrolled yet, and why: for messages. */
  async #unenrolled(): Promise<string> {
    const state = await this.json<StateAnswer>('/v1/state').catch(() => null);
    return (state?.enrolments ?? [])
      .filter((each) => each.state !== 'enrolled')
      .map((each) => `\n  ${each.workload} is ${each.state}: ${each.error ?? each.place}`)
      .join('');
  }

  async #poll(timeoutMs: number, failure: () => Promise<string>, done: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    let last: unknown = null;
    for (;;) {
      try {
        if (await done()) return;
        last = null;
      } catch (error) {
        last = error;
      }
      const ended = this.process.status !== null;
      if (ended || performance.now() > deadline) {
        const what = ended ? `it ended with ${this.process.status?.code ?? this.process.status?.signal}` : await failure();
        const said = `${this.process.stderr}\n${this.process.stdout}`.trim();
        throw new LabError('WEFT_LAB_AGENT', `agent of ${this.node.name}: ${what}\n${said}`, { cause: last });
      }
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}

/** Where the agent of a node has its admin socket. */
export function agentRunDirectory(node: LabNode): string {
  return `${node.directory}/run`;
}

/** The command line of a node's agent. */
export function agentCommand(node: LabNode, options: LabAgentOptions): string[] {
  const { caDirectory = join(dirname(node.directory), 'ca') } = options;
  const settings = {
    '--config': options.config.directory,
    '--node-name': node.name,
    '--state-dir': `${node.directory}/state`,
    '--run-dir': agentRunDirectory(node),
    '--cgroup-root': node.cgroupPath,
    '--bpf-dir': node.bpfDirectory,
    ...(caDirectory === null ? {} : { '--ca-dir': caDirectory }),
    '--log-level': options.logLevel ?? 'warn',
    '--access-log': options.accessLog ?? `${node.directory}/access.log`,
  };
  const command = [COMMAND_LINE, 'agent'];
  return [...command, ...Object.entries(settings).flat(), ...(options.arguments ?? [])];
}
