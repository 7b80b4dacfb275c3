import { type FSWatcher, existsSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { ChangeNotifier } from '../../certs/change-notifier.ts';
import { buildSnapshot, WorkloadIds } from '../config/build-snapshot.ts';
import type { LeftEnrolment } from '../../bpf/kernel-hooks.ts';
import type { EnrolmentInfo, HostWorkloadAnswer, HostWorkloadRequest } from '../model/admin-api.ts';
import type { FederatedTrustDomain, Resource } from '../model/resources.ts';
import type { MeshSnapshot, WorkloadEntry } from '../model/snapshot.ts';
import { AgentError } from './agent-error.ts';
import { Enrolment, type EnrolmentDependencies } from './enrolment.ts';
import { HostWorkloads } from './host-workloads.ts';
import type { LocalPlace, LocalPlaces } from './local-places.ts';
import { keyOfPlace, type Place, placeKey, placeOf } from './place.ts';

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
  readonly #notifier = new ChangeNotifier();
  #resources: readonly Resource[] = [];
  #configured = false;
  #version = 0;
  #snapshot: MeshSnapshot;
  #warnings: readonly string[] = [];
  #federatedTrustDomains: readonly FederatedTrustDomain[] = [];
  /** Local workloads that the last reconciliation wanted captured. */
  #wantedNames: ReadonlySet<string> = new Set();
  /** Enrolments whose listeners wait and whose capture comes next. */
  readonly #prepared = new Set<string>();
  #queue: Promise<void> = Promise.resolve();
  #queued = false;
  #stopped = false;
  #settled = false;
  /** False while a part of the configuration could not be read. */
  #complete = true;
  /** What the kernel captures for a former agent, or for a workload whose place goes to another: until it is enrolled or unwanted. */
  #left: readonly LeftEnrolment[];

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#hostWorkloads = new HostWorkloads(options.hostWorkloadsFile);
    // Above the numbers of a former agent, whose pinned entries are still in force.
    this.#ids = new WorkloadIds(Math.max(0, ...options.hooks.workloadIds()));
    this.#left = options.hooks.left;
    this.#snapshot = this.#build();
    this.#poll = setInterval(() => this.#lookAtPlaces(), PLACE_POLL_MS).unref();
  }

  get snapshot(): MeshSnapshot {
    return this.#snapshot;
  }

  /** Trust domains that the configuration federates with, as of the snapshot. */
  get federatedTrustDomains(): readonly FederatedTrustDomain[] {
    return this.#federatedTrustDomains;
  }

  /** Advice about the configuration that is in force. */
  get warnings(): readonly string[] {
    return this.#warnings;
  }

  /** True once the first configuration is applied and whatever can be enrolled is. */
  get settled(): boolean {
    return this.#settled;
  }

  enrolments(): EnrolmentInfo[] {
    return [...this.#enrolments.values()].map((enrolment) => enrolment.info());
  }

  /**
   * The enrolled workloads by what the kernel knows them by.
   * @param from `enrolling`: also those that wait for their first SVID
   */
  localPlaces(from: 'enrolled' | 'enrolling' = 'enrolled'): LocalPlaces {
    const networkNamespaces = new Map<string, LocalPlace>();
    const cgroups = new Map<bigint, LocalPlace>();
    for (const enrolment of this.#enrolments.values()) {
      const { state, workload, place, instance, key } = enrolment;
      if (instance === null || !(state === 'enrolled' || (state === 'enrolling' && from === 'enrolling'))) continue;
      const found: LocalPlace = { workload: `${workload.namespace}/${workload.name}`, identity: workload.identity };
      if (place.kind === 'cgroup') cgroups.set(key, found);
      else networkNamespaces.set(instance, found);
    }
    return { networkNamespaces, cgroups };
  }

  /** Called after workloads may have been enrolled, released or renamed. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  /**
   * Takes the configuration, whole.
   * @param complete false when a part of it could not be read: what a former agent captured then stays as it is, wanted or not
   */
  setResources(resources: readonly Resource[], complete = true): Promise<void> {
    this.#resources = resources;
    this.#complete = complete;
    this.#configured = true;
    return this.reconcile();
  }

  /**
   * Enrols a cgroup of this host as a workload.
   * @throws AgentError WEFT_AGENT_WORKLOAD_EXISTS, WEFT_AGENT_WORKLOAD
   */
  async addHostWorkload(request: HostWorkloadRequest): Promise<Omit<HostWorkloadAnswer, 'workloadApiSocket'>> {
    const name = request.name ?? basename(request.cgroup);
    const key = `${request.namespace}/${name}`;
    const known = this.#hostWorkloads.get(request.namespace, name);
    // The same again is the same: a command whose agent was restarted asks for what it has.
    const same = known?.cgroup === request.cgroup && known.serviceAccount === request.serviceAccount;
    if (!same && (known !== undefined || this.#isConfigured(request.namespace, name))) {
      throw new AgentError('WEFT_AGENT_WORKLOAD_EXISTS', `there is a workload ${key} already`, { nextStep: 'choose another --name' });
    }
    if (!existsSync(request.cgroup)) {
      throw new AgentError('WEFT_AGENT_WORKLOAD', `there is no cgroup ${request.cgroup}`, { nextStep: 'make the cgroup first' });
    }
    this.#hostWorkloads.add({ namespace: request.namespace, serviceAccount: request.serviceAccount, cgroup: request.cgroup, name });
    await this.reconcile().catch((error: unknown) => {
      this.#hostWorkloads.remove(request.namespace, name);
      throw error;
    });
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

  #isConfigured(namespace: string, name: string): boolean {
    return this.#resources.some(({ kind, metadata }) => kind === 'Workload' && metadata.namespace === namespace && metadata.name === name);
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
    this.#federatedTrustDomains = built.federatedTrustDomains;
    return built.snapshot;
  }

  /** Brings the node to what the configuration and the places say. Resolves when that is done; changes meanwhile are applied after it. */
  reconcile(): Promise<void> {
    if (this.#queued) return this.#queue;
    this.#queued = true;
    const next = (): Promise<void> | undefined => {
      this.#queued = false;
      return this.#stopped ? undefined : this.#reconcile();
    };
    // Also after one that failed: its caller was told.
    this.#queue = this.#queue.then(next, next);
    return this.#queue;
  }

  async #reconcile(): Promise<void> {
    const wanted = this.#wanted();
    this.#wantedNames = new Set(wanted.keys());
    // Who leaves, leaves first: a place may come back under another name.
    const takenOver = new Set([...wanted.values()].map(({ place }) => placeName(place)));
    const handedOver: Promise<void>[] = [];
    for (const [name, enrolment] of this.#enrolments) {
      const want = wanted.get(name);
      const moved = enrolment.placeChanged();
      if (want !== undefined && samePlace(want.place, enrolment.place) && !moved) continue;
      const handOver = !moved && takenOver.has(placeName(enrolment.place));
      const left = this.#leave(name, enrolment, handOver);
      if (handOver) handedOver.push(left);
    }
    this.#notifier.changed();
    // Workers learn modes and policies before anything arrives that needs them.
    await this.#publish();
    await Promise.all(handedOver);
    const starting: Enrolment[] = [];
    try {
      await Promise.all(
        [...wanted].map(async ([name, { workload, place }]) => {
          if (await this.#prepare(name, workload, place)) {
            this.#prepared.add(name);
            starting.push(this.#enrolments.get(name) as Enrolment);
          }
        }),
      );
      if (starting.length > 0) {
        await this.#publish();
        for (const enrolment of starting) this.#capture(enrolment);
      }
    } finally {
      this.#prepared.clear();
    }
    this.#notifier.changed();
    if (starting.some((enrolment) => enrolment.state !== 'enrolled')) await this.#publish();
    this.#watchPlaces();
    if (this.#configured) this.#settle(wanted);
  }

  /** Never rejects: what one workload fails at is not the others' business. */
  async #leave(name: string, enrolment: Enrolment, handOver: boolean): Promise<void> {
    const { place, key, workload } = enrolment;
    try {
      if (handOver && enrolment.captured) this.#left = [...this.#left, { kind: place.kind, key, workloadId: workload.id }];
      await enrolment.release(handOver);
      this.#forget(name, enrolment);
    } catch (error) {
      this.#options.log.error({ workload: name, err: error }, 'a workload could not be released; trying again');
    }
  }

  /** True if the workload is ready to be captured. Never rejects. */
  async #prepare(name: string, workload: WorkloadEntry, place: Place): Promise<boolean> {
    try {
      let enrolment = this.#enrolments.get(name);
      if (enrolment === undefined)
        this.#enrolments.set(name, (enrolment = new Enrolment(workload, place, this.#options, (asking) => this.#holderOf(asking))));
      await enrolment.update(workload);
      return enrolment.state !== 'enrolled' && (await enrolment.prepare(place));
    } catch (error) {
      this.#options.log.error({ workload: name, err: error }, 'a workload could not be brought up to date; trying again');
      return false;
    }
  }

  #capture(enrolment: Enrolment): void {
    const holder = this.#holderOf(enrolment);
    if (holder === null) enrolment.capture();
    else enrolment.refuse(new AgentError('WEFT_AGENT_WORKLOAD', `its place is that of the workload ${holder} already`));
  }

  /** Another workload for which the kernel captures where this one is. */
  #holderOf(enrolment: Enrolment): string | null {
    const key = placeKey(enrolment.place.kind, enrolment.key);
    for (const other of this.#enrolments.values()) {
      if (other === enrolment || !other.captured || placeKey(other.place.kind, other.key) !== key) continue;
      return `${other.workload.namespace}/${other.workload.name}`;
    }
    return null;
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

  /**
   * What the kernel captures and nobody here answers to is released, unless it is still wanted: a strict workload whose enrolment fails
   * stays closed.
   */
  #settle(wanted: ReadonlyMap<string, { place: Place }>): void {
    const first = !this.#settled;
    this.#settled = true;
    if (this.#left.length === 0) return;
    const { hooks, log } = this.#options;
    const enrolled = new Map<string, number>();
    const missing = new Set<string | null>();
    for (const [name, { place }] of wanted) {
      const enrolment = this.#enrolments.get(name);
      if (enrolment?.capturedWhole === true) enrolled.set(placeKey(place.kind, enrolment.key), enrolment.workload.id);
      else missing.add(keyOfPlace(place));
    }
    this.#left = this.#left.filter((left) => {
      const fields = { kind: left.kind, workload: left.workloadId };
      const key = placeKey(left.kind, left.key);
      const id = enrolled.get(key);
      if (id === undefined && (missing.has(key) || !this.#complete)) {
        if (first)
          log.warn(
            fields,
            'what a former agent had enrolled stays captured: it is not enrolled again yet, or the configuration has problems',
          );
        return true;
      }
      try {
        if (id === undefined) {
          log.info(fields, 'released what was enrolled before');
          hooks.releaseLeft(left);
        } else if (id !== left.workloadId) hooks.forgetWorkload(left.workloadId);
        return false;
      } catch (error) {
        log.error({ ...fields, err: error }, 'what was enrolled before could not be released; trying again');
        return true;
      }
    });
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
      if (!enrolment.needsAttention()) continue;
      this.reconcile().catch((error: unknown) => this.#options.log.error({ err: error }, 'the workloads could not be brought up to date'));
      return;
    }
  }

  /** A worker was replaced: every enrolment gives it listeners. */
  async workerRestarted(index: number): Promise<void> {
    await this.#idle();
    await Promise.all([...this.#enrolments.values()].map((enrolment) => enrolment.rejoin(index)));
  }

  /** Stops following changes. What is captured stays captured: the kernel's part outlives the agent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#poll);
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    await this.#idle();
    this.#notifier[Symbol.dispose]();
  }

  /** Resolves when no reconciliation runs. Never rejects. */
  #idle(): Promise<void> {
    return this.#queue.catch(() => {});
  }
}

function placeName({ kind, path }: Place): string {
  return `${kind} ${path}`;
}

function samePlace(a: Place, b: Place): boolean {
  return a.kind === b.kind && a.path === b.path;
}
