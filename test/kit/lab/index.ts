export { type ExecOptions, type ExecResult, type ExitStatus, type SpawnOptions, Child, exec } from '../child.ts';
export type { AddressPair } from './address-plan.ts';
export { Capture, CapturedBytes } from './capture.ts';
export { LabConfig, type ResourceDocument, workloadDocument } from './config.ts';
export { LabError } from './errors.ts';
export { Lab, type LabOptions, type WriteConfigOptions } from './lab.ts';
export { LabNode, type NodeSpawnOptions } from './node.ts';
export { LabPod, type PodOptions } from './pod.ts';
export type { LabRecord } from './registry.ts';
