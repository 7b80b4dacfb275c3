import type { Child } from '../child.ts';
import type { AddressPair } from './address-plan.ts';
import { NETNS_DIRECTORY } from './ip.ts';
import { Place } from './place.ts';
import type { LabRecord, NodeRecord, PodRecord } from './registry.ts';

export interface PodOptions {
  /** Kubernetes namespace. Default 'default'. */
  readonly namespace?: string;
  /** Default: the pod's name. */
  readonly serviceAccount?: string;
  /** Default: app=<name>. */
  readonly labels?: Readonly<Record<string, string>>;
  /** False: writeConfig leaves it out, so that the mesh does not know it. Default true. */
  readonly inConfig?: boolean;
}

/** A pod: a network namespace with eth0 (IPv4 and IPv6) routed through its node, and a cgroup. */
export class LabPod extends Place {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly inConfig: boolean;
  readonly addresses: AddressPair;
  readonly nodeName: string;

  constructor(lab: LabRecord, node: NodeRecord, pod: PodRecord, children: Set<Child>) {
    const netns = podNetns(lab, pod);
    super(netns, `${NETNS_DIRECTORY}/${netns}`, `${lab.cgroupPath}/${node.name}/${pod.namespace}.${pod.name}`, children);
    this.name = pod.name;
    this.namespace = pod.namespace;
    this.serviceAccount = pod.serviceAccount;
    this.labels = pod.labels;
    this.inConfig = pod.inConfig;
    this.addresses = pod.addresses;
    this.nodeName = node.name;
  }

  protected override get processCgroup(): string {
    return this.cgroupPath;
  }
}

export function podNetns(lab: LabRecord, pod: Pick<PodRecord, 'name' | 'namespace'>): string {
  return `${lab.id}.${pod.namespace}.${pod.name}`;
}
