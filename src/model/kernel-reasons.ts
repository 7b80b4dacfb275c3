/**
 * Why the kernel passed, captured or refused a connection: `enum weft_reason` of bpf/weft.h, in its order. The index is the counter's.
 * The names are metric labels and log fields: stable.
 */
export const KERNEL_REASONS = [
  'captured_outbound',
  'captured_inbound',
  'passed_own',
  'passed_loopback',
  'passed_no_listener',
  'refused_no_listener',
  'refused_agent_port',
  'refused_no_memory',
  'refused_device',
  'map_full_destinations',
  'map_full_peers',
  'passed_tunnel',
  'event_lost',
  'assign_failed_refused',
  'assign_failed_passed',
  'refused_source_route',
  'refused_too_many',
] as const;

export type KernelReason = (typeof KERNEL_REASONS)[number];

/** Something the kernel refused that an operator should see (weft_event). */
export interface KernelEvent {
  readonly reason: KernelReason;
  readonly workloadId: number;
  readonly address: string;
  readonly port: number;
  readonly pid: number;
  /** The name of the calling process, as it calls itself: a hint, never evidence. */
  readonly command: string;
}
