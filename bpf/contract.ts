import { at, bytes, type Codec, type Decoded, struct, u8, u16, u32, u64 } from 'libbpf-ts';

/** The structs of bpf/weft.h. A test compares every offset and size with the BTF of the compiled objects. */

/** enum weft_mode. */
export const KERNEL_MODE = { permissive: 1, strict: 2 } as const;
/** enum weft_own_kind. */
export const OWN_KIND = { listener: 1, upstream: 2 } as const;

export const workloadCodec: Codec<{
  id: number;
  mode: number;
  outbound_port: number;
  inbound_port: number;
  tunnel_port: number;
  address4: Uint8Array;
  address6: Uint8Array;
}> = struct(48, {
  id: at(0, u32),
  mode: at(4, u8),
  outbound_port: at(8, u16),
  inbound_port: at(10, u16),
  tunnel_port: at(12, u16),
  address4: at(16, bytes(16)),
  address6: at(32, bytes(16)),
});
export type KernelWorkload = Decoded<typeof workloadCodec>;

export const listenerCodec: Codec<{ workload_id: number; worker: number }> = struct(8, {
  workload_id: at(0, u32),
  worker: at(4, u32),
});
export type KernelListener = Decoded<typeof listenerCodec>;

export const endpointCodec: Codec<{ netns: bigint; address: Uint8Array; port: number }> = struct(32, {
  netns: at(0, u64),
  address: at(8, bytes(16)),
  port: at(24, u32),
});

export const originalCodec: Codec<{ address: Uint8Array; port: number; workload_id: number; cookie: bigint }> = struct(32, {
  address: at(0, bytes(16)),
  port: at(16, u32),
  workload_id: at(20, u32),
  cookie: at(24, u64),
});

export const peerCodec: Codec<{ address: Uint8Array; port: number }> = struct(24, {
  address: at(0, bytes(16)),
  port: at(16, u32),
});

export const ownCodec: Codec<{ kind: number; presented_port: number; presented_address: Uint8Array }> = struct(24, {
  kind: at(0, u32),
  presented_port: at(4, u32),
  presented_address: at(8, bytes(16)),
});

export const eventCodec: Codec<{
  time: bigint;
  reason: number;
  workload_id: number;
  address: Uint8Array;
  port: number;
  pid: number;
  command: Uint8Array;
}> = struct(56, {
  time: at(0, u64),
  reason: at(8, u32),
  workload_id: at(12, u32),
  address: at(16, bytes(16)),
  port: at(32, u32),
  pid: at(36, u32),
  command: at(40, bytes(16)),
});
