/** A typed binding to libbpf: objects, maps, links, ring buffers, feature probes. The system calls are in `libbpf-ts/sys`. */
export { BpfMap, type MapCodecs, type MapDefinition } from './bpf-map.ts';
export {
  BpfObject,
  type GlobalValue,
  LoadedObject,
  LoadedProgram,
  type MapSpec,
  type OpenOptions,
  PinnedProgram,
  type ProgramSpec,
} from './bpf-object.ts';
export {
  array,
  at,
  bytes,
  type Codec,
  type Decoded,
  type StructField,
  type StructValue,
  struct,
  u8,
  u16,
  u16be,
  u32,
  u32be,
  u64,
  u64be,
} from './codec.ts';
export { Errno, errnoName } from './errno.ts';
export { LibbpfError, type LibbpfErrorCode, type LibbpfErrorDetail } from './errors.ts';
export {
  AttachType,
  attachTypeName,
  isPerCpuMap,
  MAP_FLAG_NO_PREALLOC,
  MapType,
  mapTypeName,
  ProgramType,
  programTypeName,
  UpdateFlag,
} from './kernel-types.ts';
export { DirectAttachment, Link, type ProgramReference } from './link.ts';
export { NativeBuffer } from './native-buffer.ts';
export { type LinkInfo, type MapInfo, type ProgramInfo } from './object-info.ts';
export { duplicateFd, OwnedFd, openOwnedFds, traceOwnedFds } from './owned-fd.ts';
export { type PinOptions, unpin } from './pin.ts';
export { possibleCpuCount } from './possible-cpus.ts';
export { effectiveCapabilities, type Feature, features, Helper, libbpfVersion } from './features.ts';
export { findBpfFilesystems, findCgroup2, type Mount, parseMountInfo, readMounts } from './mounts.ts';
export { RingBuffer, type RingBufferOptions } from './ring-buffer.ts';
export { DescriptorPoll } from './descriptor-poll.ts';
export { hasHelper } from './helper-probe.ts';
