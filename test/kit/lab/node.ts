import { mkdirSync } from 'node:fs';
import type { Child, SpawnOptions } from '../child.ts';
import { type AddressPair, GATEWAY, MAX_PODS, linkLocal, nodeAddresses, podAddresses } from './address-plan.ts';
import { Capture } from './capture.ts';
import { cgroupCpuMicroseconds, cgroupResidentBytes } from './cgroup.ts';
import { LabError } from './errors.ts';
import { NETNS_DIRECTORY, ipBatch } from './ip.ts';
import { Place } from './place.ts';
import { LabPod, type PodOptions, podNetns } from './pod.ts';
import type { LabRecord, NodeRecord, PodRecord } from './registry.ts';
import { bpfDirectory } from './teardown.ts';

/** What a node needs of the lab it is in. */
export interface LabOfNode {
  record(): LabRecord;
  readonly children: Set<Child>;
  /** Writes the record down, before what it says is made. */
  save(): void;
  addPod(pod: LabPod): unknown;
}

export interface NodeSpawnOptions extends SpawnOptions {
  /** A cgroup below the node's own: 'agent' is accounted as the agent's. Default 'host'. */
  readonly cgroup?: 'agent' | 'host';
}

/**
 * A node: a network namespace that routes between its pods and the other nodes, and a cgroup that holds those of its pods.
 * `eth<n>` is the wire to the node with index n.
 */
export class LabNode extends Place {
  readonly name: string;
  /** From 1, in order of creation. */
  readonly index: number;
  readonly addresses: AddressPair;
  /** Where this node's agent pins its BPF objects. Nobody makes it before the agent does. */
  readonly bpfDirectory: string;
  /** Scratch directory of this node, 0700. */
  readonly directory: string;
  readonly #lab: LabOfNode;
  readonly #node: NodeRecord;

  constructor(lab: LabOfNode, node: NodeRecord) {
    const record = lab.record();
    const netns = nodeNetns(record, node);
    super(netns, `${NETNS_DIRECTORY}/${netns}`, `${record.cgroupPath}/${node.name}`, lab.children);
    this.name = node.name;
    this.index = node.index;
    this.addresses = nodeAddresses(record.slot, node.index);
    this.bpfDirectory = `${bpfDirectory(record.id)}/${node.name}`;
    this.directory = `${record.directory}/${node.name}`;
    this.#lab = lab;
    this.#node = node;
  }

  /** Processes of the node itself, apart from its agent. */
  protected override get processCgroup(): string {
    return `${this.cgroupPath}/host`;
  }

  get agentCgroupPath(): string {
    return `${this.cgroupPath}/agent`;
  }

  /** CPU time of everything that ran in the agent's cgroup, in microseconds. */
  agentCpuMicroseconds(): number {
    return cgroupCpuMicroseconds(this.agentCgroupPath);
  }

  /** Resident memory of the agent's processes, in bytes. */
  agentResidentBytes(): number {
    return cgroupResidentBytes(this.agentCgroupPath);
  }

  override async spawn(command: readonly string[], options: NodeSpawnOptions = {}): Promise<Child> {
    const cgroup = options.cgroup === 'agent' ? this.agentCgroupPath : this.processCgroup;
    return this.start(command, options, this.commandPrefix(cgroup));
  }

  /** The interface of this node that leads to another one. */
  interfaceTo(peer: LabNode): string {
    return wire(peer.index);
  }

  /** The node's end of a pod's veth pair. */
  interfaceOf(pod: LabPod): string {
    const found = this.#node.pods.find((each) => each.name === pod.name && each.namespace === pod.namespace);
    if (found === undefined) throw new LabError('WEFT_LAB_UNKNOWN', `pod ${pod.name} is not on node ${this.name}`);
    return podWire(found.index);
  }

  /**
   * Makes a pod on this node.
   * @throws LabError WEFT_LAB_NAME, WEFT_LAB_NETWORK
   */
  async pod(name: string, options: PodOptions = {}): Promise<LabPod> {
    const record = this.#lab.record();
    const namespace = options.namespace ?? 'default';
    checkName(name);
    checkName(namespace);
    if (record.nodes.some((node) => node.pods.some((pod) => pod.name === name && pod.namespace === namespace))) {
      throw new LabError('WEFT_LAB_NAME', `there is a pod ${namespace}/${name} already`, { nextStep: 'give it another name' });
    }
    const index = this.#node.pods.length + 1;
    if (index > MAX_PODS) throw new LabError('WEFT_LAB_FULL', `a node has at most ${MAX_PODS} pods`);
    const pod: PodRecord = {
      name,
      namespace,
      serviceAccount: options.serviceAccount ?? name,
      labels: options.labels ?? { app: name },
      inConfig: options.inConfig ?? true,
      index,
      addresses: podAddresses(record.slot, this.index, index),
    };
    this.#node.pods.push(pod);
    this.#lab.save();
    const made = new LabPod(record, this.#node, pod, this.#lab.children);
    mkdirSync(made.cgroupPath);
    await this.#wirePod(pod);
    this.#lab.addPod(made);
    return made;
  }

  /**
   * Starts to record packets on an interface of this node: `interfaceTo(peer)`, `interfaceOf(pod)` or 'any'. Resolves once it records.
   * @throws LabError WEFT_LAB_SPAWN when tcpdump is not there
   */
  async capture(device: string, filter = ''): Promise<Capture> {
    return Capture.start(this, device, filter);
  }

  async #wirePod(pod: PodRecord): Promise<void> {
    const netns = podNetns(this.#lab.record(), pod);
    const device = podWire(pod.index);
    const { v4, v6 } = pod.addresses;
    await ipBatch([`netns add ${netns}`, `link add eth0 netns ${netns} type veth peer name ${device} netns ${this.netnsName}`]);
    // Without generated link-local addresses nothing waits for duplicate address detection.
    await Promise.all([
      ipBatch(
        [
          `link set ${device} addrgenmode none`,
          `addr add ${GATEWAY.v4}/32 dev ${device} scope link`,
          `addr add ${GATEWAY.v6}/64 dev ${device} nodad`,
          `link set ${device} up`,
          `route add ${v4}/32 dev ${device} src ${this.addresses.v4}`,
          `route add ${v6}/128 dev ${device} src ${this.addresses.v6}`,
        ],
        this.netnsName,
      ),
      ipBatch(
        [
          'link set lo up',
          'link set eth0 addrgenmode none',
          `addr add ${v4}/32 dev eth0`,
          `addr add ${v6}/128 dev eth0 nodad`,
          `addr add ${linkLocal(pod.index + 1)}/64 dev eth0 nodad`,
          'link set eth0 up',
          `route add default via ${GATEWAY.v4} dev eth0 onlink src ${v4}`,
          `route add default via ${GATEWAY.v6} dev eth0 src ${v6}`,
        ],
        netns,
      ),
    ]);
  }
}

/** The name of the interface that leads to the node with this index. */
export function wire(peerIndex: number): string {
  return `eth${peerIndex}`;
}

function podWire(podIndex: number): string {
  return `pod${podIndex}`;
}

export function nodeNetns(lab: Pick<LabRecord, 'id'>, node: Pick<NodeRecord, 'name'>): string {
  return `${lab.id}.${node.name}`;
}

/** @throws LabError WEFT_LAB_NAME */
export function checkName(name: string): void {
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) return;
  throw new LabError('WEFT_LAB_NAME', `not a usable name: ${JSON.stringify(name)}`, {
    nextStep: 'use lower-case letters, digits and dashes (RFC 1123), at most 63 characters',
  });
}
