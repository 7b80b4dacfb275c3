import { cgroupId, cookieOfNetworkNamespace, currentNetworkNamespaceCookie, OwnedFd } from '../../bpf/place-descriptors.ts';
import { addressBytes } from '../../bpf/address-bytes.ts';
import { KERNEL_MODE, type KernelWorkload } from '../../bpf/contract.ts';
import type { KernelHooks } from '../../bpf/kernel-hooks.ts';
import { openListeners, openWorkerListeners, type WorkerListeners } from '../../bpf/listeners.ts';
import type { OwnSockets } from '../../bpf/own-sockets.ts';
import { isIpv6 } from '../model/address.ts';
import type { EnrolmentInfo, EnrolmentState } from '../model/admin-api.ts';
import { errorText } from '../model/errors.ts';
import type { WorkloadEntry } from '../model/snapshot.ts';
import type { ListenerPorts } from '../model/worker-messages.ts';
import { AgentError } from './agent-error.ts';
import type { Logger } from '../log/log.ts';
import { type Place, placeInstance } from './place.ts';
import type { WorkerPool } from './worker-pool.ts';

/** What an enrolment works with. */
export interface EnrolmentDependencies {
  readonly hooks: KernelHooks;
  readonly workers: WorkerPool;
  readonly own: OwnSockets;
  readonly log: Logger;
  /** The listeners of the agent's own namespace, shared by all workloads that are cgroups. */
  readonly hostPorts: () => ListenerPorts;
  /** Waits (bounded) until the workload's identity has an SVID, and every worker was sent it. */
  readonly identityReady: (identity: string) => Promise<void>;
}

/** The workload that has a place already, by name; null when it is free. */
export type PlaceHolder = (enrolment: Enrolment) => string | null;

const MOVES: Record<EnrolmentState, readonly EnrolmentState[]> = {
  waiting: ['enrolling'],
  enrolling: ['enrolled', 'failed', 'waiting'],
  enrolled: ['releasing'],
  failed: ['enrolling', 'waiting'],
  releasing: ['waiting'],
};

/** How long an un-enrolled workload still answers on its tunnel port, until the other nodes have heard. */
const RELEASE_GRACE_MS = 5_000;
/** A workload that could not be enrolled is tried again after this. */
const RETRY_MS = 2_000;

/**
 * One local workload on its way into the mesh and out of it.
 * Invariant: the kernel sends its connections to the agent only in `enrolled`, and only while every worker listens for it. A strict workload
 * that is to be enrolled is closed until then, as soon as its place is known: captured without listeners, the kernel refuses what it would capture.
 */
export class Enrolment {
  #place: Place;
  readonly #dependencies: EnrolmentDependencies;
  readonly #holder: PlaceHolder;
  #workload: WorkloadEntry;
  #state: EnrolmentState = 'waiting';
  #error: string | null = null;
  #ports: ListenerPorts | null = null;
  #conflicts: readonly number[] = [];
  #namespace: OwnedFd | null = null;
  /** Network namespace cookie, or cgroup id. */
  #key = 0n;
  #instance: string | null = null;
  #release: Promise<void> = Promise.resolve();
  #endGrace: () => void = () => {};
  /** Which life of the place the kernel keeps closed; null when it does not. */
  #closed: string | null = null;
  /** False while the kernel took only a part of that. */
  #closedWhole = false;
  /** What the workers' listeners were told to serve. */
  #servedIdentity = '';
  #retryAt = 0;

  constructor(workload: WorkloadEntry, place: Place, dependencies: EnrolmentDependencies, holder: PlaceHolder) {
    this.#holder = holder;
    this.#workload = workload;
    this.#place = place;
    this.#dependencies = dependencies;
  }

  get place(): Place {
    return this.#place;
  }

  get state(): EnrolmentState {
    return this.#state;
  }

  get workload(): WorkloadEntry {
    return this.#workload;
  }

  /** True while the kernel captures for it: enrolled, or closed. */
  get captured(): boolean {
    return this.#state === 'enrolled' || this.#closed !== null;
  }

  /** True once all of that is done: what a former agent left of the place may be forgotten. */
  get capturedWhole(): boolean {
    return this.#state === 'enrolled' || (this.#closed !== null && this.#closedWhole);
  }

  /** Device and inode of its place while it is enrolled. */
  get instance(): string | null {
    return this.#instance;
  }

  /** The kernel's key of the workload while it is captured. */
  get key(): bigint {
    return this.#key;
  }

  #move(to: EnrolmentState): void {
    if (!MOVES[this.#state].includes(to)) {
      throw new AgentError('WEFT_AGENT_STATE', `the enrolment of ${this.#name} cannot go from ${this.#state} to ${to}`);
    }
    this.#state = to;
  }

  get #name(): string {
    return `${this.#workload.namespace}/${this.#workload.name}`;
  }

  /** True if the place has gone, or is another one under the same path. */
  placeChanged(): boolean {
    return this.#state === 'enrolled' && placeInstance(this.place) !== this.#instance;
  }

  /** True if there is something to do for it now, although the configuration is the same. */
  needsAttention(): boolean {
    switch (this.#state) {
      case 'enrolled':
        return this.placeChanged() || (this.#identityChanged && Date.now() >= this.#retryAt);
      case 'waiting':
        return placeInstance(this.place) !== null;
      case 'failed':
        return Date.now() >= this.#retryAt;
      case 'enrolling':
      case 'releasing':
        return false;
    }
  }

  get #identityChanged(): boolean {
    return this.#servedIdentity !== this.#workload.identity;
  }

  /**
   * First half: listeners in every worker, and an SVID. Nothing is captured yet.
   * @returns false while the place is not there, or when it failed (see info)
   */
  async prepare(place: Place): Promise<boolean> {
    this.#endGrace();
    await this.#release;
    this.#place = place;
    if (this.#state === 'enrolled' || this.#state === 'enrolling') return true;
    this.#instance = placeInstance(this.place);
    if (this.#closed !== null && this.#closed !== this.#instance) this.#open();
    if (this.#instance === null) {
      if (this.#state !== 'waiting') this.#move('waiting');
      return false;
    }
    this.#move('enrolling');
    try {
      this.#findPlace();
      if (this.#isStrict && !(this.#closed !== null && this.#closedWhole)) this.#close();
      // Before listeners, so that the tunnel has a certificate from its first connection on.
      await this.#dependencies.identityReady(this.#workload.identity);
      if (this.place.kind === 'cgroup') await this.#prepareCgroup();
      else await this.#prepareNamespace();
      this.#servedIdentity = this.#workload.identity;
      this.#error = null;
      return true;
    } catch (error) {
      this.#fail(error);
      await this.#unlisten(false);
      return false;
    }
  }

  #fail(error: unknown): void {
    const text = errorText(error);
    if (text !== this.#error)
      this.#dependencies.log.error(
        { workload: this.#name, closed: this.#closed !== null, err: error },
        'a workload could not be enrolled; trying again',
      );
    this.#error = text;
    this.#retryAt = Date.now() + RETRY_MS;
    this.#move('failed');
  }

  /** What the kernel calls the place. @throws AgentError WEFT_AGENT_WORKLOAD when it cannot be this workload's */
  #findPlace(): void {
    if (this.place.kind === 'cgroup') {
      this.#key = cgroupId(this.place.path);
    } else {
      this.#namespace = OwnedFd.open(this.place.path);
      this.#key = cookieOfNetworkNamespace(this.#namespace.fd);
      if (this.#key === currentNetworkNamespaceCookie()) {
        // Everything on this host would be captured under one identity, and strict would shut it off.
        throw new AgentError('WEFT_AGENT_WORKLOAD', "the network namespace is the host's own", {
          nextStep: 'name its processes by cgroup or systemdUnit',
        });
      }
    }
    const holder = this.#holder(this);
    if (holder !== null) throw new AgentError('WEFT_AGENT_WORKLOAD', `its place is that of the workload ${holder} already`);
  }

  /** Has the kernel refuse everything: without listeners that is what strict means. */
  #close(): void {
    this.#closed = this.#instance;
    this.#closedWhole = false;
    this.#captureAs({ outbound: 0, inbound: 0, tunnel: 0 });
    this.#closedWhole = true;
  }

  /** Takes #close() back. */
  #open(): void {
    this.#uncapture();
    this.#closed = null;
  }

  /** Has the kernel capture, arriving connections first. */
  #captureAs(ports: ListenerPorts): void {
    const { hooks } = this.#dependencies;
    hooks.setWorkload(this.#kernelWorkload(ports));
    if (this.place.kind === 'cgroup') {
      hooks.captureCgroup(this.#key, this.#workload.id);
    } else {
      hooks.captureInbound((this.#namespace as OwnedFd).fd, this.#key, this.#workload.id);
      hooks.captureOutbound(this.#key, this.#workload.id);
    }
  }

  async #prepareNamespace(): Promise<void> {
    const { own, workers } = this.#dependencies;
    const opened = openListeners((this.#namespace as OwnedFd).fd, workers.size, own);
    this.#ports = opened.ports;
    if (opened.conflicts.join() !== this.#conflicts.join() && opened.conflicts.length > 0) {
      this.#dependencies.log.warn(
        { workload: this.#name, ports: opened.conflicts },
        opened.conflicts.includes(15_008)
          ? 'an application holds the tunnel port: the workload cannot be reached over mTLS from other nodes; move the application to another port'
          : 'an application holds a port of the agent; another one is used',
      );
    }
    this.#conflicts = opened.conflicts;
    // While the descriptors are still this thread's: afterwards they belong to the workers.
    for (const [index, { inbound }] of opened.workers.entries()) this.#captureTo(index, inbound[0]);
    await Promise.all(opened.workers.map((listeners, index) => this.#listen(index, listeners)));
  }

  async #prepareCgroup(): Promise<void> {
    const { workers, hostPorts } = this.#dependencies;
    this.#ports = hostPorts();
    await Promise.all(Array.from({ length: workers.size }, (_, index) => this.#listen(index, { outbound: [], inbound: [], tunnel: [] })));
  }

  #captureTo(worker: number, listener: OwnedFd | undefined): void {
    if (listener === undefined) throw new AgentError('WEFT_AGENT_STATE', 'no inbound listener was opened');
    this.#dependencies.hooks.setInboundListener(this.#workload.id, worker, listener.fd);
  }

  async #listen(index: number, listeners: WorkerListeners): Promise<void> {
    try {
      this.#requireRunning(index);
    } catch (error) {
      // Nobody would take them over: in their group they would keep connections that are never accepted.
      for (const fd of [...listeners.outbound, ...listeners.inbound, ...listeners.tunnel]) fd.close();
      throw error;
    }
    await this.#dependencies.workers.request(index, {
      type: 'listen',
      workloadId: this.#workload.id,
      identity: this.#workload.identity,
      ports: this.#ports as ListenerPorts,
      outbound: listeners.outbound.map((fd) => fd.disown()),
      inbound: listeners.inbound.map((fd) => fd.disown()),
      tunnel: listeners.tunnel.map((fd) => fd.disown()),
      networkNamespace: this.#namespace?.fd ?? null,
      networkNamespaceCookie: this.place.kind === 'cgroup' ? 0n : this.#key,
    });
  }

  #requireRunning(index: number): void {
    if (this.#dependencies.workers.isRunning(index)) return;
    throw new AgentError('WEFT_AGENT_WORKER', `worker ${index} is not running`);
  }

  /** Second half: the workers know the workload as enrolled, so the kernel may capture. */
  capture(): void {
    if (this.#state !== 'enrolling') return;
    try {
      this.#captureAs(this.#ports as ListenerPorts);
      this.#closed = null;
      this.#move('enrolled');
    } catch (error) {
      try {
        if (this.#isStrict) this.#close();
        else this.#uncapture();
      } catch {
        // What was captured before is still closed: its listeners go. The rest is tried again with the next preparation.
      }
      this.#fail(error);
      this.#release = this.#unlisten(false);
    }
  }

  /** Instead of capture(): it cannot be. */
  refuse(error: AgentError): void {
    if (this.#state !== 'enrolling') return;
    this.#fail(error);
    this.#release = this.#unlisten(false);
  }

  /** The kernel knows no ports: without the agent a workload with one strict port is closed as a whole. */
  get #isStrict(): boolean {
    const { mode, portModes } = this.#workload;
    return mode === 'strict' || portModes.some(([, portMode]) => portMode === 'strict');
  }

  #kernelWorkload(ports: ListenerPorts): KernelWorkload {
    const { id, addresses } = this.#workload;
    const address = (wanted: boolean): Uint8Array => {
      const found = addresses.find((text) => isIpv6(text) === wanted);
      return found === undefined ? new Uint8Array(16) : addressBytes(found);
    };
    return {
      id,
      mode: this.#isStrict ? KERNEL_MODE.strict : KERNEL_MODE.permissive,
      outbound_port: ports.outbound,
      inbound_port: ports.inbound,
      tunnel_port: ports.tunnel,
      address4: address(false),
      address6: address(true),
    };
  }

  /**
   * Takes a changed mode, address or service account of the same workload.
   * @throws what the kernel or a worker refused; it is tried again with the next call
   */
  async update(workload: WorkloadEntry): Promise<void> {
    const before = this.#workload;
    this.#workload = workload;
    if (this.#closed !== null && !this.#isStrict) this.#open();
    if (this.#state !== 'enrolled') return;
    if (kernelPart(before) !== kernelPart(workload)) {
      try {
        this.#dependencies.hooks.setWorkload(this.#kernelWorkload(this.#ports as ListenerPorts));
      } catch (error) {
        this.#workload = before;
        throw error;
      }
    }
    if (this.#identityChanged) await this.#serveIdentity();
  }

  /** The tunnel listeners show another SVID from now on. Tunnels that are open go on with the old one. */
  async #serveIdentity(): Promise<void> {
    const { identityReady, workers } = this.#dependencies;
    this.#retryAt = Date.now() + RETRY_MS;
    await identityReady(this.#workload.identity);
    await Promise.all(Array.from({ length: workers.size }, (_, index) => this.rejoin(index)));
    this.#servedIdentity = this.#workload.identity;
  }

  #uncapture(): void {
    const { hooks } = this.#dependencies;
    if (this.place.kind === 'cgroup') hooks.releaseCgroup(this.#key, this.#workload.id);
    else hooks.releaseNamespace(this.#key, this.#workload.id);
  }

  /**
   * Stops capturing at once. Connections that are under way go on; the listeners close after a grace period, since other nodes may
   * still send here. If the place is gone, everything ends now.
   *
   * @param handOver the place goes to another workload: its ports are given up now, and the kernel goes on to capture for whoever comes
   * @throws what the kernel refused; it is then still enrolled
   */
  async release(handOver = false): Promise<void> {
    if (this.#state !== 'enrolled') {
      if (this.#closed !== null && !handOver) this.#open();
      this.#closed = null;
      if (handOver) this.#endGrace();
      return this.#release;
    }
    const gone = placeInstance(this.place) !== this.#instance;
    if (!handOver) this.#uncapture();
    this.#move('releasing');
    // Nobody is sent to a cgroup: it has no listeners of its own.
    const atOnce = gone || handOver || this.place.kind === 'cgroup';
    this.#release = this.#unlisten(gone, atOnce ? 0 : RELEASE_GRACE_MS).finally(() => this.#move('waiting'));
    return this.#release;
  }

  async #unlisten(gone: boolean, afterMs = 0): Promise<void> {
    const { workers } = this.#dependencies;
    const namespace = this.#namespace;
    this.#namespace = null;
    const workloadId = this.#workload.id;
    this.#ports = null;
    if (afterMs > 0) {
      await new Promise<void>((resolve) => {
        this.#endGrace = resolve;
        setTimeout(resolve, afterMs).unref();
      });
    }
    await workers.requestAll({ type: 'unlisten', workloadId, gone });
    namespace?.close();
  }

  /** A worker was replaced: give the new one its own listeners on the same ports. */
  async rejoin(index: number): Promise<void> {
    if (this.#state !== 'enrolled' || this.#ports === null) return;
    // Before anything is opened: the kernel must not be pointed at a listener that nobody takes over.
    this.#requireRunning(index);
    if (this.#namespace === null) {
      await this.#listen(index, { outbound: [], inbound: [], tunnel: [] });
      return;
    }
    const listeners = openWorkerListeners(this.#namespace.fd, this.#ports, this.#dependencies.own);
    const inbound = listeners.inbound[0];
    // The kernel forgot the dead worker's.
    this.#captureTo(index, inbound);
    await this.#listen(index, listeners);
  }

  info(): EnrolmentInfo {
    return {
      workload: this.#name,
      identity: this.#workload.identity,
      id: this.#workload.id,
      state: this.#state,
      mode: this.#workload.mode,
      modeSource: this.#workload.modeSource,
      place: `${this.place.kind} ${this.place.path}`,
      ports: this.#ports,
      conflicts: this.#conflicts,
      error: this.#error,
    };
  }
}

/** What the hooks must know of a workload, to see whether it changed. */
function kernelPart({ mode, portModes, addresses }: WorkloadEntry): string {
  return JSON.stringify([mode, portModes, addresses]);
}
