import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Mode } from '../../../src/model/resources.ts';
import { type Child, exec } from '../child.ts';
import { type AddressPair, MAX_NODES, MAX_SERVICES, linkLocal, nodeAddresses, podSubnets, serviceAddresses } from './address-plan.ts';
import { cgroup2Mount } from './cgroup.ts';
import { LabConfig } from './config.ts';
import { LabError } from './errors.ts';
import { NETNS_DIRECTORY, ipBatch } from './ip.ts';
import { LabNode, type LabOfNode, checkName, nodeNetns, wire } from './node.ts';
import { LabPod } from './pod.ts';
import {
  type LabRecord,
  type NodeRecord,
  type ProcessIdentity,
  find,
  processIdentity,
  records,
  register,
  save,
  sweep,
  unregister,
} from './registry.ts';
import { tearDown } from './teardown.ts';

export interface LabOptions {
  /** For people: shown by `npm run lab -- list`. */
  readonly name?: string;
}

export interface WriteConfigOptions {
  /** Where. Default: `config` in the lab's directory. */
  readonly directory?: string;
  /** Mode of each namespace; those of the lab's pods that are not named are written as 'off'. */
  readonly modes?: Readonly<Record<string, Mode>>;
}

/** Labs to tear down should this process end without disposing of them. */
const open = new Set<Lab>();

/**
 * Nodes and pods on one machine: network namespaces joined by veth pairs, IPv4 and IPv6, and a cgroup for each. Isolated from the host
 * and from other labs. Everything of it carries its id, is written down before it is made, and goes when it is disposed, when
 * this process exits or is told to (SIGINT, SIGTERM, SIGHUP), or, after a crash, when anybody makes the next lab.
 */
export class Lab implements AsyncDisposable {
  readonly nodes: LabNode[] = [];
  readonly pods: LabPod[] = [];
  readonly #children = new Set<Child>();
  #record: LabRecord;
  #services = 0;
  #disposed = false;

  private constructor(record: LabRecord) {
    this.#record = record;
  }

  /**
   * Makes an empty lab, after sweeping those whose owner is dead.
   * @throws LabError WEFT_LAB_ROOT, WEFT_LAB_CGROUP, WEFT_LAB_FULL
   */
  static async create(options: LabOptions = {}): Promise<Lab> {
    requireRoot();
    const cgroup2 = cgroup2Mount();
    Lab.sweep();
    const owner = processIdentity(process.pid) as ProcessIdentity;
    const record = register((id, slot) => ({
      id,
      name: options.name ?? 'lab',
      slot,
      owner,
      kept: false,
      createdAt: new Date().toISOString(),
      cgroupPath: join(cgroup2, `weft-lab-${id}`),
      directory: join(tmpdir(), `weft-lab-${id}`),
      nodes: [],
    }));
    const lab = new Lab(record);
    watchForExit(lab);
    mkdirSync(record.directory, { mode: 0o700 });
    mkdirSync(record.cgroupPath);
    return lab;
  }

  /**
   * A handle on a lab that another process made, to run commands in it. Disposing of the handle leaves the lab up.
   * @throws LabError WEFT_LAB_UNKNOWN
   */
  static open(id: string): Lab {
    const record = find(id);
    const lab = new Lab(record);
    for (const node of record.nodes) {
      lab.nodes.push(new LabNode(lab.#context(), node));
      for (const pod of node.pods) lab.pods.push(new LabPod(record, node, pod, lab.#children));
    }
    return lab;
  }

  /** All labs on this machine. */
  static list(): readonly LabRecord[] {
    return records();
  }

  /**
   * Removes a lab, whoever made it.
   * @throws LabError WEFT_LAB_UNKNOWN
   */
  static remove(id: string): void {
    const record = find(id);
    tearDown(record);
    unregister(record);
  }

  /** Removes the labs whose owner is dead and which were not kept. @returns their ids */
  static sweep(): string[] {
    return sweep(tearDown);
  }

  /** The prefix of everything the lab makes. */
  get id(): string {
    return this.#record.id;
  }

  /** Scratch directory, 0700, removed with the lab. */
  get directory(): string {
    return this.#record.directory;
  }

  get cgroupPath(): string {
    return this.#record.cgroupPath;
  }

  /**
   * Makes a node and joins it to those there are. `index` and addresses are taken in the order of the calls.
   * @throws LabError WEFT_LAB_NAME, WEFT_LAB_NETWORK
   */
  async node(name: string): Promise<LabNode> {
    checkName(name);
    const peers = [...this.nodes];
    if (this.#record.nodes.some((node) => node.name === name)) throw new LabError('WEFT_LAB_NAME', `there is a node ${name} already`);
    if (this.#record.nodes.length !== peers.length) throw new LabError('WEFT_LAB_NAME', 'make nodes one after the other');
    if (peers.length >= MAX_NODES) throw new LabError('WEFT_LAB_FULL', `a lab has at most ${MAX_NODES} nodes`);
    const record: NodeRecord = { name, index: peers.length + 1, pods: [] };
    this.#update({ nodes: [...this.#record.nodes, record] });
    const node = new LabNode(this.#context(), record);
    mkdirSync(node.directory, { mode: 0o700 });
    for (const cgroup of [node.cgroupPath, node.agentCgroupPath, `${node.cgroupPath}/host`]) mkdirSync(cgroup);
    await this.#wireNode(node, peers);
    this.nodes.push(node);
    return node;
  }

  /** Addresses for one more Service: unique in this lab, and routed to nowhere. */
  serviceAddresses(): AddressPair {
    if (this.#services >= MAX_SERVICES) throw new LabError('WEFT_LAB_FULL', `a lab has at most ${MAX_SERVICES} services`);
    return serviceAddresses(this.#record.slot, ++this.#services);
  }

  /** Writes the Workloads of all pods and the Namespaces they are in, for `weft agent --config`. */
  writeConfig(options: WriteConfigOptions = {}): LabConfig {
    const config = new LabConfig(options.directory ?? join(this.directory, 'config'), this.directory);
    const pods = this.pods.filter((pod) => pod.inConfig);
    const modes = { ...Object.fromEntries(pods.map((pod) => [pod.namespace, 'off' as Mode])), ...options.modes };
    for (const [namespace, mode] of Object.entries(modes)) config.namespaceMode(namespace, mode);
    config.workloads(pods);
    return config;
  }

  /** Leaves the lab up when this process ends, until it is removed by hand. Its processes live on. */
  keep(): void {
    this.#update({ kept: true });
    open.delete(this);
  }

  /**
   * Kills every process of the lab and removes all of it. Does nothing for a kept lab or a handle from `open`.
   * @throws LabError WEFT_LAB_CGROUP, WEFT_LAB_NETWORK when something cannot be removed
   */
  async [Symbol.asyncDispose](): Promise<void> {
    const children = [...this.#children];
    if (!open.has(this)) return;
    this.tearDownNow();
    await Promise.all(children.map((child) => child.exited));
  }

  /** What dispose does, without waiting for the event loop. */
  tearDownNow(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    tearDown(this.#record);
    unregister(this.#record);
    open.delete(this);
  }

  #update(change: Partial<LabRecord>): void {
    this.#record = { ...this.#record, ...change };
    save(this.#record);
  }

  #context(): LabOfNode {
    return {
      record: () => this.#record,
      children: this.#children,
      save: () => save(this.#record),
      addPod: (pod) => this.pods.push(pod),
    };
  }

  async #wireNode(node: LabNode, peers: readonly LabNode[]): Promise<void> {
    const { slot } = this.#record;
    await ipBatch([
      `netns add ${node.netnsName}`,
      ...peers.map(
        (peer) =>
          `link add ${wire(peer.index)} netns ${node.netnsName} type veth peer name ${wire(node.index)} netns ${nodeNetns(this.#record, peer)}`,
      ),
    ]);
    const ends = (from: LabNode, to: LabNode): string[] => {
      const device = wire(to.index);
      const [own, other, subnets] = [from.addresses, nodeAddresses(slot, to.index), podSubnets(slot, to.index)];
      return [
        `link set ${device} addrgenmode none`,
        `addr add ${own.v4}/32 dev ${device}`,
        `addr add ${own.v6}/128 dev ${device} nodad`,
        // A router asks for its neighbours from a link-local address.
        `addr add ${linkLocal(from.index)}/64 dev ${device} nodad`,
        `link set ${device} up`,
        `route add ${other.v4}/32 dev ${device} src ${own.v4}`,
        `route add ${other.v6}/128 dev ${device} src ${own.v6}`,
        `route add ${subnets.v4} via ${other.v4} dev ${device} src ${own.v4}`,
        `route add ${subnets.v6} via ${other.v6} dev ${device} src ${own.v6}`,
      ];
    };
    // A node is reached at its address from its pods also when it has no wire yet.
    const loopback = ['link set lo up', `addr add ${node.addresses.v4}/32 dev lo`, `addr add ${node.addresses.v6}/128 dev lo nodad`];
    await Promise.all([
      this.#forward(node),
      ipBatch([...loopback, ...peers.flatMap((peer) => ends(node, peer))], node.netnsName),
      ...peers.map((peer) => ipBatch(ends(peer, node), peer.netnsName)),
    ]);
  }

  /** Makes a node a router. The files under /proc/sys/net are those of the reader's network namespace. */
  async #forward(node: LabNode): Promise<void> {
    const script = 'cd /proc/sys/net && echo 1 > ipv4/ip_forward && echo 1 > ipv6/conf/all/forwarding && echo 0 > ipv4/conf/all/rp_filter';
    const result = await exec(['nsenter', `--net=${NETNS_DIRECTORY}/${node.netnsName}`, '--', 'sh', '-c', script]);
    if (result.code === 0) return;
    throw new LabError('WEFT_LAB_NETWORK', `cannot switch on forwarding: ${result.stderr.trim()}`, {
      nextStep: 'run where /proc/sys/net can be written, on a kernel with IPv6',
    });
  }
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new LabError('WEFT_LAB_ROOT', 'a lab makes network namespaces and cgroups, which needs root', { nextStep: 'run it with sudo' });
}

const END_SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];
let watching = false;

/** Tears down what is left when the process exits, and makes the usual signals exit. A process with handlers of its own decides itself. */
function watchForExit(lab: Lab): void {
  open.add(lab);
  if (watching) return;
  watching = true;
  process.on('exit', tearDownOpen);
  for (const signal of END_SIGNALS) process.on(signal, endBySignal);
}

function tearDownOpen(): void {
  for (const lab of open) {
    try {
      lab.tearDownNow();
    } catch (error) {
      console.error(error instanceof LabError ? error.describe() : error);
    }
  }
}

function endBySignal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return;
  tearDownOpen();
  process.removeListener(signal, endBySignal);
  process.kill(process.pid, signal);
}
