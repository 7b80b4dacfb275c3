import { type FSWatcher, existsSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { buildSnapshot, WorkloadIds } from '../config/build-snapshot.ts';
import type { EnrolmentInfo, HostWorkloadAnswer, HostWorkloadRequest } from '../model/admin-api.ts';
import type { Resource } from '../model/resources.ts';
import type { MeshSnapshot, WorkloadEntry } from '../model/snapshot.ts';
import { AgentError } from './agent-error.ts';
import { Enrolment, type EnrolmentDependencies } from './enrolment.ts';
import { HostWorkloads } from './host-workloads.ts';
import { type Place, placeOf } from './place.ts';

/** A watch may miss what happens between a look and its start; places are looked at again this often. */
const PLACE_POLL_MS = 2_000;

export interface RegistryOptions extends EnrolmentDependencies {
  readonly nodeName: string;
  readonly trustDomain: string;
  readonly rootNamespace: string;
  readonly cgroupRoot: string;
  /** The file that remembers the workloads of `weft run`. */
  readonly hostWorkloadsFile: string;
  /** Identities that this node needs: SVIDs are fetched for them and dropped for others. */
  readonly setIdentities: (identities: ReadonlySet<string>) => void;
  /** Hands a snapshot to every worker and resolves when they use it. */
  readonly publish: (snapshot: MeshSnapshot) => Promise<void>;
}

/**
 * Which workloads the mesh has and which of them run here: from the configuration, from `weft run`, and from what is really there.
 * Changes are applied one after the other, each whole.
 */
export class Registry implements AsyncDisposable {
  readonly #options: RegistryOptions;
  readonly #ids: WorkloadIds;
  readonly #enrolments = new Map<string, Enrolment>();
  readonly #hostWorkloads: HostWorkloads;
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #poll: NodeJS.Timeout;
  #resources: readonly Resource[] = [];
  #configured = false;
  #version = 0;
  #snapshot: MeshSnapshot;
  #warnings: readonly string[] = [];
  /** Local workloads that the last reconciliation wanted captured. */
  #wantedNames: ReadonlySet<string> = new Set();
  /** Enrolments whose listeners wait and whose capture comes next. */
  readonly #prepared = new Set<string>();
  #queue: Promise<void> = Promise.resolve();
  #queued = false;
  #stopped = false;
  #adopted = false;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#hostWorkloads = new HostWorkloads(options.hostWorkloadsFile);
    // Above the numbers of a former agent, whose pinned entries are still in force.
    this.#ids = new WorkloadIds(Math.max(0, ...options.hooks.workloadIds()));
    this.#snapshot = this.#build();
    this.#poll = setInterval(() => this.#lookAtPlaces(), PLACE_POLL_MS).unref();
  }

  get snapshot(): MeshSnapshot {
    return this.#snapshot;
  }

  /** Advice about the configuration that is in force. */
  get warnings(): readonly string[] {
    return this.#warnings;
  }

  /** True once the first configuration is applied and whatever can be enrolled is. */
  get settled(): boolean {
    return this.#adopted;
  }

  enrolments(): EnrolmentInfo[] {
    return [...this.#enrolments.values()].map((enrolment) => enrolment.info());
  }

  /** Takes the configuration, whole. */
  setResources(resources: readonly Resource[]): Promise<void> {
    this.#resources = resources;
    this.#configured = true;
    return this.reconcile();
  }

  /**
   * Enrols a cgroup of this host as a workload.
   * @throws AgentError WEFT_AGENT_WORKLOAD_EXISTS, WEFT_AGENT_WORKLOAD
   */
  async addHostWorkload(request: HostWorkloadRequest): Promise<HostWorkloadAnswer> {
    const name = request.name ?? basename(request.cgroup);
    const key = `${request.namespace}/${name}`;
    const known = this.#hostWorkloads.get(request.namespace, name);
    // The same again is the same: a command whose agent was restarted asks for what it has.
    const same = known?.cgroup === request.cgroup && known.serviceAccount === request.serviceAccount;
    if (!same && (known !== undefined || this.#enrolments.has(key))) {
      throw new AgentError('WEFT_AGENT_WORKLOAD_EXISTS', `there is a workload ${key} already`, { nextStep: 'choose another --name' });
    }
    if (!existsSync(request.cgroup)) {
      throw new AgentError('WEFT_AGENT_WORKLOAD', `there is no cgroup ${request.cgroup}`, { nextStep: 'make the cgroup first' });
    }
    this.#hostWorkloads.add({ namespace: request.namespace, serviceAccount: request.serviceAccount, cgroup: request.cgroup, name });
    await this.reconcile();
    const info = this.#enrolments.get(key)?.info();
    if (info?.state !== 'enrolled') {
      this.#hostWorkloads.remove(request.namespace, name);
      await this.reconcile();
      throw new AgentError('WEFT_AGENT_WORKLOAD', `${key} could not be enrolled: ${info?.error ?? 'its place is not there'}`, {
        nextStep: 'see the agent log',
      });
    }
    return { name, namespace: request.namespace, identity: info.identity, mode: info.mode };
  }

  /** @throws AgentError WEFT_AGENT_WORKLOAD */
  async removeHostWorkload(namespace: string, name: string): Promise<void> {
    if (!this.#hostWorkloads.remove(namespace, name)) {
      throw new AgentError('WEFT_AGENT_WORKLOAD', `weft run started no workload ${namespace}/${name}`);
    }
    await this.reconcile();
  }

  /** The configuration's, and those of `weft run`. */
  #allResources(): readonly Resource[] {
    const strict = new Set<string>();
    for (const resource of this.#resources) {
      if (resource.kind === 'Namespace' && resource.mode === 'strict') strict.add(resource.metadata.name);
    }
    return [...this.#resources, ...this.#hostWorkloads.resources(this.#options.nodeName, (namespace) => strict.has(namespace))];
  }

  #build(): MeshSnapshot {
    const { nodeName, trustDomain, rootNamespace } = this.#options;
    const built = buildSnapshot(this.#allResources(), {
      nodeName,
      trustDomain,
      rootNamespace,
      version: ++this.#version,
      // With its listeners there, peers may be sent to it: the kernel captures in the next moment.
      enrolled: (workload) => this.#enrolments.get(workload)?.state === 'enrolled' || this.#prepared.has(workload),
      workloadIds: this.#ids,
    });
    this.#warnings = built.warnings.map(({ resource, location, message }) => `${location.file}:${location.line}: ${resource}: ${message}`);
    return built.snapshot;
  }

  /** Brings the node to what the configuration and the places say. Resolves when that is done; changes meanwhile are applied after it. */
  reconcile(): Promise<void> {
    if (this.#queued) return this.#queue;
    this.#queued = true;
    this.#queue = this.#queue.then(() => {
      this.#queued = false;
      return this.#stopped ? undefined : this.#reconcile();
    });
    return this.#queue;
  }

  async #reconcile(): Promise<void> {
    const wanted = this.#wanted();
    this.#wantedNames = new Set(wanted.keys());
    // Who leaves, leaves first: a place may come back under another name.
    for (const [name, enrolment] of this.#enrolments) {
      const want = wanted.get(name);
      const stays = want !== undefined && samePlace(want.place, enrolment.place) && !enrolment.placeChanged();
      if (!stays) void enrolment.release().then(() => this.#forget(name, enrolment));
    }
    // Workers learn modes and policies before anything arrives that needs them.
    await this.#publish();
    const starting: Enrolment[] = [];
    await Promise.all(
      [...wanted].map(async ([name, { workload, place }]) => {
        let enrolment = this.#enrolments.get(name);
        if (enrolment === undefined) this.#enrolments.set(name, (enrolment = new Enrolment(workload, place, this.#options)));
        enrolment.update(workload);
        if (enrolment.state === 'enrolled') return;
        if (await enrolment.prepare(place)) {
          this.#prepared.add(name);
          starting.push(enrolment);
        }
      }),
    );
    if (starting.length > 0) {
      await this.#publish();
      for (const enrolment of starting) enrolment.capture();
    }
    const failed = starting.some((enrolment) => enrolment.state !== 'enrolled');
    this.#prepared.clear();
    if (failed) await this.#publish();
    this.#watchPlaces();
    if (this.#configured && !this.#adopted) this.#releaseLeft();
  }

  #forget(name: string, enrolment: Enrolment): void {
    if (!this.#wantedNames.has(name) && this.#enrolments.get(name) === enrolment) this.#enrolments.delete(name);
  }

  /** Local workloads that are to be captured, with their places. */
  #wanted(): Map<string, { workload: WorkloadEntry; place: Place }> {
    const places = new Map<string, Place>();
    for (const resource of this.#allResources()) {
      if (resource.kind !== 'Workload') continue;
      const place = placeOf(resource, this.#options.cgroupRoot);
      if (place !== null) places.set(`${resource.metadata.namespace}/${resource.metadata.name}`, place);
    }
    const wanted = new Map<string, { workload: WorkloadEntry; place: Place }>();
    for (const workload of this.#build().workloads) {
      const name = `${workload.namespace}/${workload.name}`;
      const place = places.get(name);
      if (workload.local && workload.mode !== 'off' && place !== undefined) wanted.set(name, { workload, place });
    }
    this.#options.setIdentities(new Set([...wanted.values()].map(({ workload }) => workload.identity)));
    return wanted;
  }

  async #publish(): Promise<void> {
    this.#snapshot = this.#build();
    await this.#options.publish(this.#snapshot);
  }

  /** What a former agent left in force, and nobody here answers to, is released. */
  #releaseLeft(): void {
    this.#adopted = true;
    const { hooks, log } = this.#options;
    const enrolled = new Set([...this.#enrolments.values()].filter(({ state }) => state === 'enrolled').map(({ key }) => key));
    for (const left of hooks.left) {
      if (enrolled.has(left.key)) hooks.forgetWorkload(left.workloadId);
      else {
        log.info({ kind: left.kind, workload: left.workloadId }, 'released what a former agent had enrolled');
        hooks.releaseLeft(left);
      }
    }
  }

  #watchPlaces(): void {
    const directories = new Set([...this.#enrolments.values()].map(({ place }) => dirname(place.path)).filter((path) => existsSync(path)));
    for (const [directory, watcher] of this.#watchers) {
      if (directories.has(directory)) continue;
      watcher.close();
      this.#watchers.delete(directory);
    }
    for (const directory of directories) {
      if (this.#watchers.has(directory)) continue;
      try {
        const watcher = watch(directory, () => this.#lookAtPlaces());
        watcher.on('error', () => this.#watchers.delete(directory));
        this.#watchers.set(directory, watcher.unref());
      } catch {
        // Gone again, or too many watches: the poll still looks.
      }
    }
  }

  #lookAtPlaces(): void {
    for (const name of this.#wantedNames) {
      const enrolment = this.#enrolments.get(name);
      if (enrolment === undefined) continue;
      if (enrolment.placeChanged() || enrolment.state === 'waiting' || enrolment.state === 'failed') {
        void this.reconcile();
        return;
      }
    }
  }

  /** A worker was replaced: every enrolment gives it listeners. */
  async workerRestarted(index: number): Promise<void> {
    await this.#queue;
    await Promise.all([...this.#enrolments.values()].map((enrolment) => enrolment.rejoin(index)));
  }

  /** Stops following changes. What is captured stays captured: the kernel's part outlives the agent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#poll);
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    await this.#queue;
  }
}

function samePlace(a: Place, b: Place): boolean {
  return a.kind === b.kind && a.path === b.path;
}
