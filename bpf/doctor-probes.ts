import { type Feature, features } from 'libbpf-ts';

/** What this machine's kernel and libbpf offer, for `weft doctor`. */
export type KernelFeature = Feature;

/** Probes this machine with small programs and maps. Never throws for what is missing. */
export function kernelFeatures(): readonly KernelFeature[] {
  return features();
}
