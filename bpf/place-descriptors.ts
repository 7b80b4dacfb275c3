/** What the agent needs to open and name the places of workloads, from libbpf-ts: the room `bpf` is its only importer. */
export { findCgroup2 } from 'libbpf-ts';
export { cgroupId, cookieOfNetworkNamespace, currentNetworkNamespaceCookie, duplicateFd, OwnedFd } from 'libbpf-ts/sys';
