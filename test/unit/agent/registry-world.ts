import { mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KernelWorkload } from '../../../bpf/contract.ts';
import type { KernelHooks, LeftEnrolment } from '../../../bpf/kernel-hooks.ts';
import type { OwnSockets } from '../../../bpf/own-sockets.ts';
import { cgroupId } from '../../../bpf/place-descriptors.ts';
import { createLog } from '../../../src/log/log.ts';
import { Registry } from '../../../src/agent/registry.ts';
import type { RequestBody, WorkerPool } from '../../../src/agent/worker-pool.ts';
import type { Mode, PeerAuthenticationResource, WorkloadResource } from '../../../src/model/resources.ts';
import type { MeshSnapshot, WorkloadEntry } from '../../../src/model/snapshot.ts';
import { cgroup2Mount } from '../../kit/lab/cgroup.ts';

/** What the kernel was told, kept in maps as it would be. */
export class FakeHooks {
  left: LeftEnrolment[] = [];
  readonly workloads: Map<number, KernelWorkload> = new Map();
  readonly cgroups: Map<bigint, number> = new Map();
  readonly released: LeftEnrolment[] = [];
  readonly forgotten: number[] = [];
  /** Throws what setWorkload shall fail with. */
  onSetWorkload: (workload: KernelWorkload) => void = () => {};
  onReleaseCgroup: () => void = () => {};

  workloadIds(): number[] {
    return [...this.workloads.keys(), ...this.left.map(({ workloadId }) => workloadId)];
  }
  setWorkload(workload: KernelWorkload): void {
    this.onSetWorkload(workload);
    this.workloads.set(workload.id, workload);
  }
  captureCgroup(id: bigint, workloadId: number): void {
    this.cgroups.set(id, workloadId);
  }
  releaseCgroup(id: bigint, workloadId: number): void {
    this.onReleaseCgroup();
    this.cgroups.delete(id);
    this.workloads.delete(workloadId);
  }
  forgetWorkload(workloadId: number): void {
    this.forgotten.push(workloadId);
    this.workloads.delete(workloadId);
  }
  releaseLeft(left: LeftEnrolment): void {
    this.released.push(left);
  }
}

/** Workers that answer at once. */
export class FakeWorkers {
  readonly size = 2;
  readonly requests: { readonly worker: number; readonly body: RequestBody }[] = [];
  running = true;

  isRunning(): boolean {
    return this.running;
  }
  async request(worker: number, body: RequestBody): Promise<unknown> {
    this.requests.push({ worker, body });
    return null;
  }
  async requestAll(body: RequestBody): Promise<unknown[]> {
    for (let worker = 0; worker < this.size; worker++) this.requests.push({ worker, body });
    return [];
  }
}

export interface WorkloadWish {
  readonly name: string;
  readonly cgroup: string;
  readonly mode?: Mode;
  readonly serviceAccount?: string;
}

/** A Registry with a kernel and workers that are only remembered, and real cgroups. */
export class RegistryWorld implements AsyncDisposable {
  readonly hooks: FakeHooks = new FakeHooks();
  readonly workers: FakeWorkers = new FakeWorkers();
  readonly published: MeshSnapshot[] = [];
  readonly logged: string[] = [];
  onPublish: () => void = () => {};
  onIdentity: (identity: string) => void = () => {};
  readonly #directory = mkdtempSync(join(tmpdir(), 'weft-registry-'));
  readonly #cgroups: string[] = [];
  #registry: Registry | null = null;

  /** Made when first asked for, so that a test can set the world up before. */
  get registry(): Registry {
    this.#registry ??= new Registry({
      hooks: this.hooks as unknown as KernelHooks,
      workers: this.workers as unknown as WorkerPool,
      own: {} as OwnSockets,
      log: createLog('info', { write: (line: string) => void this.logged.push(line) }),
      cgroupRoot: cgroup2Mount(),
      hostWorkloadsFile: join(this.#directory, 'host-workloads.json'),
      nodeName: 'here',
      trustDomain: 'cluster.local',
      rootNamespace: 'istio-system',
      hostPorts: () => ({ outbound: 15_001, inbound: 0, tunnel: 0 }),
      identityReady: async (identity) => this.onIdentity(identity),
      setIdentities: () => {},
      publish: async (snapshot) => {
        this.onPublish();
        this.published.push(snapshot);
      },
    });
    return this.#registry;
  }

  /** A cgroup of this test's own. */
  cgroup(name: string): { readonly path: string; readonly id: bigint } {
    const path = join(cgroup2Mount(), `weft-unit-${process.pid}-${name}`);
    mkdirSync(path);
    this.#cgroups.push(path);
    return { path, id: cgroupId(path) };
  }

  state(name: string): string | undefined {
    return this.registry.enrolments().find(({ workload }) => workload === `shop/${name}`)?.state;
  }

  /** The workload as workers were last told. */
  entry(name: string): WorkloadEntry | undefined {
    return this.published.at(-1)?.workloads.find((workload) => workload.name === name);
  }

  /** The identities of the listeners that the first worker was told to open, in order. */
  get listened(): string[] {
    return this.workers.requests.flatMap(({ worker, body }) => (worker === 0 && body.type === 'listen' ? [body.identity] : []));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#registry?.[Symbol.asyncDispose]();
    } finally {
      for (const path of this.#cgroups) rmdirSync(path);
      rmSync(this.#directory, { recursive: true });
    }
  }
}

const location = { file: 'test.yaml', line: 1 };

export function workload({ name, cgroup, mode = 'strict', serviceAccount = name }: WorkloadWish): WorkloadResource {
  return {
    kind: 'Workload',
    metadata: { name, namespace: 'shop', labels: { app: name }, annotations: {}, creationTimestamp: '' },
    location,
    spec: { node: 'here', serviceAccount, addresses: [], networkNamespace: null, cgroup, systemdUnit: null, mode },
  };
}

/** Makes one port of the workloads with this label strict. */
export function strictPort(app: string, port: number): PeerAuthenticationResource {
  return {
    kind: 'PeerAuthentication',
    metadata: { name: 'port', namespace: 'shop', labels: {}, annotations: {}, creationTimestamp: '' },
    location,
    spec: { selector: { app }, mode: 'UNSET', portLevel: new Map([[port, 'STRICT']]) },
  };
}
