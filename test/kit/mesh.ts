import { readFileSync } from 'node:fs';
import type { Mode } from '../../src/model/resources.ts';
import {
  app,
  type Child,
  type ExecResult,
  Lab,
  LabAgent,
  type LabAgentOptions,
  type LabConfig,
  type LabNode,
  type LabPod,
} from './lab/index.ts';

/** One line of an agent's access log. */
export interface AccessLogLine {
  readonly time: string;
  readonly kind: 'request' | 'connection';
  readonly direction: 'inbound' | 'outbound';
  readonly protocol: string;
  readonly security: 'mtls' | 'kernel' | 'plaintext';
  readonly verdict: string;
  readonly policy: string | null;
  readonly rule: number | null;
  readonly reason: string | null;
  readonly error?: string;
  readonly source: { readonly address: string; readonly port: number; readonly workload: string | null; readonly identity: string | null };
  readonly destination: {
    readonly address: string;
    readonly port: number;
    readonly workload: string | null;
    readonly identity: string | null;
  };
  readonly method?: string;
  readonly path?: string;
  readonly status?: number | null;
  readonly grpc_status?: number | null;
  /** What dry-run and AUDIT policies would have done; not there when they would have done nothing. */
  readonly dry_run?: readonly { readonly policy: string; readonly rule: number | null; readonly effect: string; readonly reason: string }[];
}

export interface MeshOptions {
  /** The mode of the namespace `shop`. */
  readonly mode?: Mode;
  /** More files of configuration: name to YAML. */
  readonly config?: Readonly<Record<string, string>>;
  readonly agent?: Omit<LabAgentOptions, 'config'>;
}

/** The port that the mesh's HTTP servers listen on. */
export const HTTP_PORT = 8080;

/**
 * The mesh that most tests need, in a lab of its own: node-a with the pods client and near, node-b with the pod far, all in the namespace
 * `shop`; and on node-a the pod stranger in the namespace `legacy`, which is off. near and far run HTTP servers that answer what they saw.
 */
export class Mesh implements AsyncDisposable {
  readonly lab: Lab;
  readonly config: LabConfig;
  readonly nodeA: LabNode;
  readonly nodeB: LabNode;
  readonly client: LabPod;
  readonly near: LabPod;
  readonly far: LabPod;
  readonly stranger: LabPod;
  readonly #agentOptions: LabAgentOptions;
  agentA!: LabAgent;
  agentB!: LabAgent;

  private constructor(lab: Lab, config: LabConfig, nodes: readonly LabNode[], pods: readonly LabPod[], agentOptions: LabAgentOptions) {
    this.lab = lab;
    this.config = config;
    [this.nodeA, this.nodeB] = nodes as [LabNode, LabNode];
    [this.client, this.near, this.stranger, this.far] = pods as [LabPod, LabPod, LabPod, LabPod];
    this.#agentOptions = agentOptions;
  }

  /** Everything up, both agents ready. */
  static async start(options: MeshOptions = {}): Promise<Mesh> {
    const lab = await Lab.create({ name: 'mesh' });
    try {
      const nodeA = await lab.node('node-a');
      const nodeB = await lab.node('node-b');
      const client = await nodeA.pod('client', { namespace: 'shop' });
      const near = await nodeA.pod('near', { namespace: 'shop' });
      const stranger = await nodeA.pod('stranger', { namespace: 'legacy' });
      const far = await nodeB.pod('far', { namespace: 'shop' });
      const config = lab.writeConfig({ modes: { shop: options.mode ?? 'strict', legacy: 'off' } });
      for (const [name, text] of Object.entries(options.config ?? {})) config.apply(name, text);
      const mesh = new Mesh(lab, config, [nodeA, nodeB], [client, near, stranger, far], { config, ...options.agent });
      await Promise.all([mesh.serve(near), mesh.serve(far), mesh.startAgentA(), mesh.startAgentB()]);
      return mesh;
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
  }

  async startAgentA(options: Partial<LabAgentOptions> = {}): Promise<LabAgent> {
    this.agentA = await LabAgent.start(this.nodeA, { ...this.#agentOptions, ...options });
    return this.agentA;
  }

  async startAgentB(options: Partial<LabAgentOptions> = {}): Promise<LabAgent> {
    this.agentB = await LabAgent.start(this.nodeB, { ...this.#agentOptions, ...options });
    return this.agentB;
  }

  /** Starts an HTTP server in a pod that answers with what it saw, as JSON. */
  async serve(pod: LabPod, port: number = HTTP_PORT): Promise<Child> {
    const server = await pod.spawn(app('http-server', port));
    await server.waitForLine(/listening/);
    return server;
  }

  /** Sets the mode of a namespace and waits until both agents have brought its workloads there. */
  async setMode(namespace: string, mode: Mode): Promise<void> {
    this.config.namespaceMode(namespace, mode);
    const prefix = `${namespace}/`;
    await Promise.all(
      [this.agentA, this.agentB].map((agent) =>
        agent.waitForState(`${namespace} is ${mode}`, ({ enrolments, namespaces }) => {
          if (!namespaces.some((found) => found.name === namespace && found.mode === mode)) return false;
          const here = enrolments.filter(({ workload }) => workload.startsWith(prefix));
          if (mode === 'off') return here.every(({ state }) => state !== 'enrolled');
          return here.length > 0 && here.every((found) => found.state === 'enrolled' && found.mode === mode);
        }),
      ),
    );
  }

  /** Writes a configuration file and waits until both agents name a policy of it, if one is given. */
  async apply(name: string, text: string, policy: string | null = null): Promise<void> {
    this.config.apply(name, text);
    if (policy === null) return;
    const [namespace, policyName] = policy.split('/');
    const wanted = `${namespace}/${policyName}`;
    await Promise.all(
      [this.agentA, this.agentB].map((agent) => agent.waitForState(`has ${wanted}`, (state) => state.policies.includes(wanted))),
    );
  }

  /** Calls the servers in turn, one curl after the other, until it is stopped. */
  keepCalling(from: LabPod, servers: readonly LabPod[], path = '/'): Caller {
    return new Caller(async (index) => (await this.curl(from, this.url(servers[index % servers.length] as LabPod, path))).status);
  }

  /** curl in a pod: status and body, or the exit code when there was no answer (status 0). */
  async curl(
    pod: LabPod,
    url: string,
    ...args: readonly string[]
  ): Promise<{ status: number; body: string; headers: string; result: ExecResult }> {
    const result = await pod.exec(['curl', '-sS', '-i', '--max-time', '10', ...args, url]);
    const end = result.stdout.indexOf('\r\n\r\n');
    const headers = end === -1 ? '' : result.stdout.slice(0, end + 2);
    const status = Number(/^HTTP\/(?:1\.1|2) (\d{3})/.exec(headers)?.[1] ?? 0);
    return { status, headers, body: end === -1 ? '' : result.stdout.slice(end + 4), result };
  }

  /** `http://address:port/path` of a pod, in the family asked for. */
  url(pod: LabPod, path = '/', family: 'v4' | 'v6' = 'v4', port: number = HTTP_PORT): string {
    const address = family === 'v4' ? pod.addresses.v4 : `[${pod.addresses.v6}]`;
    return `http://${address}:${port}${path}`;
  }

  /** The lines of an agent's access log, once there is one that `wanted` accepts. */
  async accessLog(agent: LabAgent, wanted: (line: AccessLogLine) => boolean, timeoutMs = 5_000): Promise<AccessLogLine> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = readAccessLog(agent).find(wanted);
      if (found !== undefined) return found;
      if (Date.now() > deadline) throw new Error(`no such line in the access log:\n${readFileSync(agent.accessLog, 'utf8')}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
  }
}

/** A client that keeps calling, and how often it got which status (0: no answer). */
export class Caller implements AsyncDisposable {
  readonly statuses: Map<number, number> = new Map();
  readonly #loop: Promise<void>;
  #running = true;

  constructor(call: (index: number) => Promise<number>) {
    this.#loop = this.#run(call);
  }

  async #run(call: (index: number) => Promise<number>): Promise<void> {
    for (let index = 0; this.#running; index++) {
      const status = await call(index);
      this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
    }
  }

  get total(): number {
    return [...this.statuses.values()].reduce((sum, count) => sum + count, 0);
  }

  /** Waits until so many more calls have ended. */
  async more(calls: number): Promise<void> {
    const until = this.total + calls;
    while (this.total < until && this.#running) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  /** Lets the call under way finish. */
  async stop(): Promise<void> {
    this.#running = false;
    await this.#loop;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

/** All lines of an agent's access log. */
export function readAccessLog(agent: LabAgent): AccessLogLine[] {
  return readFileSync(agent.accessLog, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as AccessLogLine);
}

/** An AuthorizationPolicy that lets the client GET what is under /public of any server in shop. */
export const ALLOW_PUBLIC = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-public, namespace: shop}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]
    to: [{operation: {methods: [GET, HEAD], paths: [/public/*]}}]
`;
