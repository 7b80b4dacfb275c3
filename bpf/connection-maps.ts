import { BpfMap } from 'libbpf-ts';

/** The kernel maps that a worker thread uses, on descriptors that the main thread owns. */
export interface ConnectionMaps {
  readonly originalDestinations: BpfMap<unknown, unknown>;
  readonly ownSockets: BpfMap<number, unknown>;
}

/** Opens them by descriptor: threads of a process share those. */
export function openConnectionMaps(descriptors: { readonly originalDestinations: number; readonly ownSockets: number }): ConnectionMaps {
  return {
    originalDestinations: BpfMap.fromFd(descriptors.originalDestinations) as BpfMap<unknown, unknown>,
    ownSockets: BpfMap.fromFd(descriptors.ownSockets) as unknown as BpfMap<number, unknown>,
  };
}
