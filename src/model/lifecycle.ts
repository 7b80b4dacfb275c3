/**
 * The lifecycle that everything with an owner shares: starting, running, draining, stopped. Invariant: the state only moves forward,
 * and `closed` resolves exactly once.
 */
export type LifecycleState = 'starting' | 'running' | 'draining' | 'stopped';

const ORDER: readonly LifecycleState[] = ['starting', 'running', 'draining', 'stopped'];

/** True when a transition is forward: the only kind there is. */
export function mayMove(from: LifecycleState, to: LifecycleState): boolean {
  return ORDER.indexOf(to) > ORDER.indexOf(from);
}
