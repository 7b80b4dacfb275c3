import { type AuthorityState, activate, activeSlot, prune, type Rotation, type Slot } from './authority-state.ts';
import type { NodeRecord } from './node-records.ts';

/** Times of a rotation, in milliseconds. */
export interface RotationTimes {
  /** A prepared authority is in the bundle for at least this long before it signs. */
  readonly publishMs: number;
  /** An old authority stays in the bundle for this long after its last SVID has expired: the clocks of verifiers differ. */
  readonly pruneDelayMs: number;
}

/** A node that a rotation waits for. */
export interface AwaitedNode {
  readonly name: string;
  /** It is not waited for beyond this, in milliseconds since the epoch, unless it is heard of again. */
  readonly until: number;
}

/** What a rotation does next: something at once (`state`), or nothing before `wakeAt` or news of the `nodes`. */
export interface RotationStep {
  /** Null: nothing can be done now. */
  readonly state: AuthorityState | null;
  readonly waitingFor: readonly AwaitedNode[];
  /** Milliseconds since the epoch; null: nothing to do until something changes. */
  readonly wakeAt: number | null;
}

const DAY_MS = 24 * 3600_000;
const LONGEST_PREPARATION_MS = 30 * DAY_MS;
const LONGEST_ACTIVATION_MS = 7 * DAY_MS;

/** When a successor of an authority is to be prepared, as SPIRE does it: half of its life before its end, at most 30 days. */
export function prepareAt(slot: Slot): number {
  return slot.x509.notAfter - Math.min(life(slot) / 2, LONGEST_PREPARATION_MS);
}

/** When its successor is to take over: a sixth of its life before its end, at most 7 days. */
export function activateAt(slot: Slot): number {
  return slot.x509.notAfter - Math.min(life(slot) / 6, LONGEST_ACTIVATION_MS);
}

/**
 * When its successor takes over although live nodes have not acknowledged it: half way between `activateAt` and the end. Otherwise one node
 * that is stuck would in the end take the identities of all others with it.
 */
export function activateAnywayAt(slot: Slot): number {
  return (activateAt(slot) + slot.x509.notAfter) / 2;
}

function life(slot: Slot): number {
  return slot.x509.notAfter - slot.x509.material.notBefore;
}

/**
 * Live nodes that have not acknowledged a sequence. An acknowledgement of what was never published counts for nothing: after a restored
 * backup a node may remember a later state than the authority does.
 */
export function awaitedNodes(nodes: readonly NodeRecord[], sequence: bigint, current: bigint, now: number): AwaitedNode[] {
  return nodes
    .filter(
      ({ acknowledged, liveUntil }) => liveUntil > now && (acknowledged === null || acknowledged < sequence || acknowledged > current),
    )
    .map(({ name, liveUntil }) => ({ name, until: liveUntil }));
}

/** The next step of the rotation that is under way, and of old slots that are not part of any. Pure: same input, same step. */
export function nextStep(state: AuthorityState, nodes: readonly NodeRecord[], now: number, times: RotationTimes): RotationStep {
  const pruned = prune(state, now, times.pruneDelayMs);
  if (pruned !== state) return { state: pruned, waitingFor: [], wakeAt: null };
  const wakes: number[] = [];
  let waitingFor: readonly AwaitedNode[] = [];
  for (const slot of state.slots) if (slot.state === 'old') wakes.push(slot.issuedUntil + times.pruneDelayMs + 1);
  const { rotation } = state;
  if (rotation?.phase === 'publishing') {
    waitingFor = awaitedNodes(nodes, rotation.sequence, state.sequence, now);
    if (mayActivate(rotation, waitingFor, now, times)) return { state: activate(state, rotation.slot, now), waitingFor: [], wakeAt: null };
    const due = earliestActivation(rotation, times);
    if (due > now) wakes.push(due);
    for (const node of waitingFor) wakes.push(node.until);
    if (rotation.activateAnyway !== null) wakes.push(rotation.activateAnyway);
  } else {
    const active = activeSlot(state);
    if (active.origin === 'created') wakes.push(prepareAt(active));
  }
  return { state: null, waitingFor, wakeAt: wakes.length === 0 ? null : Math.min(...wakes) };
}

/** Whether the active authority needs a successor now, and may have one made here. */
export function needsSuccessor(state: AuthorityState, now: number): boolean {
  const active = activeSlot(state);
  const underWay = state.rotation?.phase === 'publishing' || state.slots.some((slot) => slot.state === 'prepared');
  return active.origin === 'created' && !underWay && now >= prepareAt(active);
}

function earliestActivation(rotation: Rotation, times: RotationTimes): number {
  return Math.max(rotation.since + times.publishMs, rotation.activateAt);
}

function mayActivate(rotation: Rotation, waitingFor: readonly AwaitedNode[], now: number, times: RotationTimes): boolean {
  if (rotation.activateAnyway !== null && now >= rotation.activateAnyway) return true;
  return waitingFor.length === 0 && now >= earliestActivation(rotation, times);
}
