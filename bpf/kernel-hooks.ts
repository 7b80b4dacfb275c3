import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type BpfMap, BpfObject, Errno, LibbpfError, Link, type LoadedObject, OwnedFd, RingBuffer, u32, u64 } from 'libbpf-ts';
import { cgroupId, mountBpfFilesystem } from 'libbpf-ts/sys';
import { KERNEL_REASONS, type KernelEvent, type KernelReason } from '../src/model/kernel-reasons.ts';
import { addressText } from './address-bytes.ts';
import {
  endpointCodec,
  eventCodec,
  type KernelListener,
  type KernelWorkload,
  listenerCodec,
  originalCodec,
  ownCodec,
  peerCodec,
  workloadCodec,
} from './contract.ts';
import { KernelError } from './errors.ts';

/** Part of every pin's path: a change of a map's layout changes it. */
const PIN_VERSION = 'v1';
const OBJECTS = fileURLToPath(new URL('./objects/', import.meta.url));

/** How often a load that a signal interrupted is tried. */
const LOAD_ATTEMPTS = 10;

/** The programs of capture.bpf.c, all attached to the root cgroup. */
const CAPTURE_PROGRAMS = [
  'weft_sockops',
  'weft_getpeername4',
  'weft_getpeername6',
  'weft_getsockname4',
  'weft_getsockname6',
  'weft_bind4',
  'weft_bind6',
  // Last: from here on connections are captured, and what they need is in place.
  'weft_connect4',
  'weft_connect6',
] as const;

/** WEFT_MAX_WORKERS of bpf/maps.bpf.h. */
const MOST_LISTENING_WORKERS = 64;
const LISTENERS_MAP = 'weft_inbound_listeners';

export interface KernelHooksOptions {
  /** Where maps and links are pinned; made, and mounted as a bpffs, when it is not there. */
  readonly bpfDirectory: string;
  /** The cgroup whose processes are seen: the root of the cgroup v2 hierarchy, or a node's own subtree. */
  readonly cgroupRoot: string;
  /** Entries of the connection maps. For tests; the default is that of the objects (262,144). */
  readonly maxConnections?: number;
}

/** A workload that a former agent left enrolled. */
export interface LeftEnrolment {
  readonly kind: 'network-namespace' | 'cgroup';
  /** Network namespace cookie or cgroup id. */
  readonly key: bigint;
  readonly workloadId: number;
}

/**
 * The kernel's half of the node: programs, maps and links. They are pinned, and outlive the agent on purpose: without it strict
 * workloads are refused and permissive ones pass. A new agent adopts what it finds.
 */
export class KernelHooks implements Disposable {
  readonly #directory: string;
  readonly #captured: LoadedObject;
  readonly #links: Link[] = [];
  readonly #workloads: BpfMap<number, KernelWorkload>;
  readonly #netns: BpfMap<bigint, number>;
  readonly #cgroups: BpfMap<bigint, number>;
  readonly #cgroupCount: BpfMap<number, number>;
  readonly #counters: BpfMap<number, bigint>;
  readonly #listeners: BpfMap<KernelListener, bigint>;
  readonly #connectionCounts: BpfMap<number, bigint>;
  /** Maps whose descriptors workers share. */
  readonly originalDestinations: BpfMap<unknown, unknown>;
  readonly presentedPeers: BpfMap<unknown, unknown>;
  readonly ownSockets: BpfMap<number, unknown>;
  #events: RingBuffer | null = null;
  /** Enrolments of a former agent, as they were when this one attached. */
  readonly left: readonly LeftEnrolment[];

  private constructor(directory: string, captured: LoadedObject, cgroup: OwnedFd) {
    this.#directory = directory;
    this.#captured = captured;
    const map = <K, V>(name: string, codecs: { key: unknown; value: unknown }): BpfMap<K, V> =>
      captured.map(name, codecs as never) as BpfMap<K, V>;
    this.#workloads = map('weft_workloads', { key: u32, value: workloadCodec });
    this.#netns = map('weft_enrolled_netns', { key: u64, value: u32 });
    this.#cgroups = map('weft_enrolled_cgroups', { key: u64, value: u32 });
    this.#cgroupCount = map('weft_cgroup_count', { key: u32, value: u32 });
    this.#counters = map('weft_counters', { key: u32, value: u64 });
    this.originalDestinations = map('weft_original_destinations', { key: endpointCodec, value: originalCodec });
    this.presentedPeers = map('weft_presented_peers', { key: endpointCodec, value: peerCodec });
    this.ownSockets = map('weft_own_sockets', { key: u32, value: ownCodec });
    this.#connectionCounts = map('weft_connection_counts', { key: u32, value: u64 });
    this.#listeners = this.#loadInboundMaps();
    this.left = [
      ...this.#netns.entries().map(([key, workloadId]) => ({ kind: 'network-namespace' as const, key, workloadId })),
      ...this.#cgroups.entries().map(([key, workloadId]) => ({ kind: 'cgroup' as const, key, workloadId })),
    ];
    for (const name of CAPTURE_PROGRAMS) this.#attach(name, cgroup);
  }

  /**
   * Loads the objects, or adopts the pinned maps and replaces the programs behind the pinned links at once.
   * @throws KernelError WEFT_BPF_LOAD, WEFT_BPF_DIRECTORY
   */
  static attach(options: KernelHooksOptions): KernelHooks {
    const directory = join(options.bpfDirectory, PIN_VERSION);
    try {
      mountBpfFilesystem(options.bpfDirectory);
      for (const part of ['maps', 'links']) mkdirSync(join(directory, part), { recursive: true, mode: 0o700 });
    } catch (error) {
      throw new KernelError('WEFT_BPF_DIRECTORY', `cannot use ${options.bpfDirectory} for pinned BPF objects`, {
        cause: error,
        nextStep: 'run as root on a kernel with bpffs, or name another directory with --bpf-dir',
      });
    }
    try {
      using cgroup = OwnedFd.open(options.cgroupRoot);
      // Also a check that it is a cgroup v2 directory.
      cgroupId(options.cgroupRoot);
      const limits = options.maxConnections === undefined ? {} : connectionLimits(options.maxConnections);
      const captured = loadPinned(join(OBJECTS, 'capture.bpf.o'), directory, limits);
      return new KernelHooks(directory, captured, cgroup);
    } catch (error) {
      throw new KernelError(
        'WEFT_BPF_LOAD',
        `the kernel did not take Weft's programs: ${error instanceof Error ? error.message : String(error)}`,
        {
          cause: error,
          nextStep: 'run `weft doctor`; after an upgrade with open pins of another version run `weft uninstall` first',
        },
      );
    }
  }

  #loadInboundMaps(): BpfMap<KernelListener, bigint> {
    using object = loadPinned(join(OBJECTS, 'inbound.bpf.o'), this.#directory);
    const codecs = { key: listenerCodec, value: u64 };
    return object.map(LISTENERS_MAP, codecs).duplicate(codecs);
  }

  #attach(name: string, cgroup: OwnedFd): void {
    const path = join(this.#directory, 'links', name);
    const program = this.#captured.program(name);
    if (existsSync(path)) {
      const link = Link.openPinned(path);
      link.update(program);
      this.#links.push(link);
      return;
    }
    const link = program.attachCgroup(cgroup.fd);
    link.pin(path);
    this.#links.push(link);
  }

  /** Writes what the hooks must know of a workload; they see all of it at once. */
  setWorkload(workload: KernelWorkload): void {
    this.#workloads.update(workload.id, workload);
  }

  /**
   * Captures arriving connections of a network namespace. The program is pinned per namespace and replaced at once if it is there.
   * setInboundListener comes first.
   */
  captureInbound(namespaceFd: number, cookie: bigint, workloadId: number): void {
    const path = this.#inboundLink(cookie);
    using object = loadPinned(join(OBJECTS, 'inbound.bpf.o'), this.#directory, {}, { workload_id: workloadId });
    const program = object.program('weft_inbound');
    if (existsSync(path)) {
      using link = Link.openPinned(path);
      link.update(program);
      return;
    }
    using link = program.attachNetns(namespaceFd);
    link.pin(path);
  }

  /**
   * Points a workload's inbound capture at a worker's listener. One is enough for all that share its port; the others are for when that
   * one closes, which is when the kernel forgets it.
   */
  setInboundListener(workloadId: number, worker: number, listenerFd: number): void {
    this.#listeners.update({ workload_id: workloadId, worker }, BigInt(listenerFd));
  }

  /** From here on the namespace's connect() calls are captured. */
  captureOutbound(cookie: bigint, workloadId: number): void {
    this.#netns.update(cookie, workloadId);
  }

  captureCgroup(id: bigint, workloadId: number): void {
    this.#cgroups.update(id, workloadId);
    this.#countCgroups();
  }

  /** Stops capturing: first connect(), then arriving connections. Connections that are already captured stay as they are. */
  releaseNamespace(cookie: bigint, workloadId: number): void {
    this.#netns.delete(cookie);
    rmSync(this.#inboundLink(cookie), { force: true });
    this.forgetWorkload(workloadId);
  }

  releaseCgroup(id: bigint, workloadId: number): void {
    this.#cgroups.delete(id);
    this.#countCgroups();
    this.forgetWorkload(workloadId);
  }

  #countCgroups(): void {
    this.#cgroupCount.update(0, [...this.#cgroups.keys()].length);
  }

  #inboundLink(cookie: bigint): string {
    return join(this.#directory, 'links', `inbound-${cookie}`);
  }

  /** All workload ids in the kernel, so that a new agent's ids never meet a former one's. */
  workloadIds(): number[] {
    return [...this.#workloads.entries()].map(([id]) => id);
  }

  /** Forgets a workload id that nothing refers to any more. */
  forgetWorkload(workloadId: number): void {
    for (let worker = 0; worker < MOST_LISTENING_WORKERS; worker++) this.#listeners.delete({ workload_id: workloadId, worker });
    this.#workloads.delete(workloadId);
    // In this order: a count that is not zero yet goes with the last connection, now that the workload has no record.
    if (this.#connectionCounts.lookup(workloadId) === 0n) this.#connectionCounts.delete(workloadId);
  }

  /** Drops a former agent's enrolment that no workload answers to any more. */
  releaseLeft(left: LeftEnrolment): void {
    if (left.kind === 'cgroup') this.releaseCgroup(left.key, left.workloadId);
    else this.releaseNamespace(left.key, left.workloadId);
  }

  /** How often each reason was counted, over all processors, since the maps were made. */
  counters(): Record<KernelReason, number> {
    const result = {} as Record<KernelReason, number>;
    for (const [index, reason] of KERNEL_REASONS.entries()) result[reason] = Number(this.#counters.sum(index) ?? 0n);
    return result;
  }

  /** How many entries the per-connection maps hold. For tests and the admin endpoint. */
  connectionEntries(): { originalDestinations: number; presentedPeers: number } {
    return { originalDestinations: entryCount(this.originalDestinations), presentedPeers: entryCount(this.presentedPeers) };
  }

  /** Delivers refusals as they happen. Main thread only. */
  onEvent(listener: (event: KernelEvent) => void): void {
    const view = new Uint8Array(eventCodec.size);
    const map = this.#captured.map('weft_events');
    this.#events = new RingBuffer(map, (record) => {
      if (record.length < eventCodec.size) return;
      view.set(record.subarray(0, eventCodec.size));
      const event = eventCodec.decode(new DataView(view.buffer), 0);
      const end = event.command.indexOf(0);
      listener({
        reason: KERNEL_REASONS[event.reason] ?? 'event_lost',
        workloadId: event.workload_id,
        address: addressText(event.address),
        port: event.port,
        pid: event.pid,
        command: Buffer.from(event.command.subarray(0, end === -1 ? undefined : end)).toString('latin1'),
      });
    });
    this.#events.unref();
  }

  /** Closes this process's descriptors. What is pinned stays in force. */
  [Symbol.dispose](): void {
    void this.#events?.[Symbol.asyncDispose]();
    for (const link of this.#links) link.close();
    this.#listeners.close();
    this.#captured.close();
  }

  /** Removes every hook, map and pin of a directory, of whatever version: nothing is left behind. Returns how many pins were removed. */
  static uninstall(bpfDirectory: string): number {
    if (!existsSync(bpfDirectory)) return 0;
    let removed = 0;
    for (const version of readdirSync(bpfDirectory).filter((name) => /^v\d+$/.test(name))) {
      const directory = join(bpfDirectory, version);
      // Links first, so that no program runs with maps that are half gone.
      for (const part of ['links', 'maps']) {
        const folder = join(directory, part);
        if (!existsSync(folder)) continue;
        for (const name of readdirSync(folder)) {
          rmSync(join(folder, name));
          removed++;
        }
      }
      rmSync(directory, { recursive: true });
    }
    return removed;
  }
}

function entryCount(map: BpfMap<unknown, unknown>): number {
  return [...map.entries()].length;
}

function connectionLimits(maxConnections: number): Record<string, number> {
  return { weft_original_destinations: maxConnections, weft_presented_peers: maxConnections };
}

/** Loads an object with its maps shared through their pins: those that are pinned are reused, the others are pinned. */
function loadPinned(
  path: string,
  directory: string,
  mapMaxEntries: Record<string, number> = {},
  rodata: Record<string, number> = {},
): LoadedObject {
  const pins = join(directory, 'maps');
  for (let attempt = 1; ; attempt++) {
    using object = BpfObject.open(path, { reusePinnedMaps: pins, mapMaxEntries, rodata });
    try {
      const loaded = object.load();
      loaded.pinMaps(pins);
      return loaded;
    } catch (error) {
      // The verifier gives up when a signal is pending (a profiler's timer, for one). That is not the program's fault.
      if (!(error instanceof LibbpfError && error.errno === Errno.EAGAIN) || attempt === LOAD_ATTEMPTS) throw error;
    }
  }
}
