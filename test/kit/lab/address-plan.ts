/**
 * Addresses of a lab. Labs are isolated from the host and from each other, but each has a slot (1 to 254) of its own all the same, so
 * that an address in a log names one lab. Nodes, pods and services count from 1.
 */
export interface AddressPair {
  readonly v4: string;
  readonly v6: string;
}

/** Highest number of labs at one time, nodes in a lab, and pods on a node. */
export const MAX_SLOTS = 254;
export const MAX_NODES = 250;
export const MAX_PODS = 253;
export const MAX_SERVICES = 254;

/** The gateway of every pod, on the node's end of its veth pair, as Calico does it. */
export const GATEWAY: AddressPair = { v4: '169.254.1.1', v6: 'fe80::1' };

const V6_PREFIX = 'fd57:ef7';

export function nodeAddresses(slot: number, node: number): AddressPair {
  return { v4: `10.${slot}.0.${node}`, v6: `${V6_PREFIX}:${hex(slot)}::${hex(node)}` };
}

/** The subnet of all pods of a node, in CIDR form. */
export function podSubnets(slot: number, node: number): AddressPair {
  return { v4: `10.${slot}.${node}.0/24`, v6: `${V6_PREFIX}:${hex(slot)}:${hex(node)}::/64` };
}

export function podAddresses(slot: number, node: number, pod: number): AddressPair {
  return { v4: `10.${slot}.${node}.${pod + 1}`, v6: `${V6_PREFIX}:${hex(slot)}:${hex(node)}::${hex(pod + 1)}` };
}

/** Addresses for a Service: routed to nowhere, only a mesh knows them. */
export function serviceAddresses(slot: number, service: number): AddressPair {
  return { v4: `10.${slot}.255.${service}`, v6: `${V6_PREFIX}:${hex(slot)}:ff::${hex(service)}` };
}

/** Link-local address number n; a pod's gateway is number 1. */
export function linkLocal(number: number): string {
  return `fe80::${hex(number)}`;
}

function hex(value: number): string {
  return value.toString(16);
}
