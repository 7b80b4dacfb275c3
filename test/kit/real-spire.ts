import { accessSync, constants, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child, exec } from './child.ts';

export interface RealSpireOptions {
  /** Holds `spire-server` and `spire-agent`. */
  readonly binaries: string;
  readonly trustDomain: string;
  /** SPIFFE ID that may use the Broker API. */
  readonly broker: string;
}

/** SPIRE itself: a server and an agent on loopback and in a directory of their own. Needs SPIRE 1.15.2 or later, for the Broker API. */
export class RealSpire implements AsyncDisposable {
  readonly directory: string;
  readonly socketPath: string;
  readonly brokerPath: string;
  readonly #options: RealSpireOptions;
  readonly #serverSocket: string;
  #server: Child | null = null;
  #agent: Child | null = null;
  /** SPIFFE ID of the SPIRE agent. */
  agentId = '';

  private constructor(options: RealSpireOptions) {
    this.#options = options;
    this.directory = mkdtempSync(join(tmpdir(), 'weft-spire-'));
    // SPIRE wants the two in different directories.
    this.socketPath = join(this.directory, 'api', 'agent.sock');
    this.brokerPath = join(this.directory, 'broker', 'broker.sock');
    this.#serverSocket = join(this.directory, 'server', 'api.sock');
  }

  static async start(options: RealSpireOptions): Promise<RealSpire> {
    for (const name of ['spire-server', 'spire-agent']) accessSync(join(options.binaries, name), constants.X_OK);
    const spire = new RealSpire(options);
    try {
      await spire.#start();
      return spire;
    } catch (error) {
      await spire[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs `spire-server` with the arguments, against this server. @returns its standard output */
  async server(...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await exec([join(this.#options.binaries, 'spire-server'), ...args, '-socketPath', this.#serverSocket]);
    if (code !== 0) throw new Error(`spire-server ${args.join(' ')}: ${stderr}${stdout}`);
    return stdout;
  }

  /** Creates a registration entry. @returns its id */
  async entry(identity: string, selector: string, ...more: readonly string[]): Promise<string> {
    const args = ['-parentID', this.agentId, '-spiffeID', identity, '-selector', selector, ...more];
    const id = /Entry ID\s*: (\S+)/.exec(await this.server('entry', 'create', ...args))?.[1];
    if (id === undefined) throw new Error('spire-server named no entry');
    return id;
  }

  /** Ends the agent and starts another, with the same identity. */
  async restartAgent(): Promise<void> {
    await this.#agent?.[Symbol.asyncDispose]();
    await this.#startAgent([]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent?.[Symbol.asyncDispose]();
    await this.#server?.[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    const { trustDomain, broker, binaries } = this.#options;
    for (const name of ['server', 'agent', 'api', 'broker']) mkdirSync(join(this.directory, name));
    const port = await freePort();
    writeFileSync(
      join(this.directory, 'server.conf'),
      `server {
        bind_address = "127.0.0.1"
        bind_port = "${port}"
        trust_domain = "${trustDomain}"
        data_dir = "${this.directory}/server"
        socket_path = "${this.#serverSocket}"
        log_level = "WARN"
      }
      plugins {
        DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "${this.directory}/server/data.sqlite3" } }
        KeyManager "memory" { plugin_data {} }
        NodeAttestor "join_token" { plugin_data {} }
      }`,
    );
    writeFileSync(
      join(this.directory, 'agent.conf'),
      `agent {
        trust_domain = "${trustDomain}"
        server_address = "127.0.0.1"
        server_port = "${port}"
        data_dir = "${this.directory}/agent"
        socket_path = "${this.socketPath}"
        insecure_bootstrap = true
        log_level = "WARN"
        experimental {
          sync_interval = "1s"
          broker {
            socket_path = "${this.brokerPath}"
            brokers = [{
              id = "${broker}"
              allowed_reference_types = [{ type_url = "type.googleapis.com/spiffe.broker.WorkloadPIDReference" }]
            }]
          }
        }
      }
      plugins {
        KeyManager "disk" { plugin_data { directory = "${this.directory}/agent" } }
        NodeAttestor "join_token" { plugin_data {} }
        WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
      }`,
    );
    this.#server = await Child.start([join(binaries, 'spire-server'), 'run', '-config', join(this.directory, 'server.conf')]);
    await until('the SPIRE server', () => this.server('healthcheck'));
    const token = /Token: (\S+)/.exec(await this.server('token', 'generate'))?.[1] ?? '';
    await this.#startAgent(['-joinToken', token]);
    this.agentId = /SPIFFE ID\s*: (\S+)/.exec(await this.server('agent', 'list'))?.[1] ?? '';
  }

  async #startAgent(args: readonly string[]): Promise<void> {
    const program = join(this.#options.binaries, 'spire-agent');
    this.#agent = await Child.start([program, 'run', '-config', join(this.directory, 'agent.conf'), ...args]);
    await until('the SPIRE agent', async () => {
      const { code, stdout } = await exec([program, 'healthcheck', '-socketPath', this.socketPath]);
      if (code !== 0) throw new Error(stdout);
    });
  }
}

async function until(what: string, succeeds: () => Promise<unknown>): Promise<void> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    try {
      await succeeds();
      return;
    } catch (cause) {
      if (performance.now() > deadline) throw new Error(`${what} did not start within 30 s`, { cause });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

/** A port that nobody has now. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
