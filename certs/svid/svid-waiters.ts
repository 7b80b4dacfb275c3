import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { IdentityError } from '../../src/model/identity.ts';
import type { Clock } from '../clock.ts';

/** Connections that may wait for SVIDs at once. A flood beyond it is refused, not queued. */
export const MAX_WAITERS = 10_000;

interface Waiter {
  readonly resolve: (svid: SvidMaterial) => void;
  readonly reject: (error: IdentityError) => void;
  readonly cancelTimer: () => void;
}

/** The connections that wait for the first SVID of an identity, each with its own time limit. */
export class SvidWaiters {
  readonly #clock: Clock;
  readonly #waiting = new Map<string, Set<Waiter>>();
  #count = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Identities that somebody waits for. */
  identities(): IterableIterator<string> {
    return this.#waiting.keys();
  }

  has(identity: string): boolean {
    return this.#waiting.has(identity);
  }

  /**
   * @param reason what to say when the time is up
   * @throws IdentityError WEFT_IDENTITY_UNAVAILABLE
   */
  wait(identity: string, timeoutMs: number, reason: () => string): Promise<SvidMaterial> {
    if (this.#count >= MAX_WAITERS) return Promise.reject(unavailable(identity, 'too many connections wait for SVIDs'));
    return new Promise((resolve, reject) => {
      const cancelTimer = this.#clock.after(timeoutMs, () => {
        this.#remove(identity, waiter);
        reject(unavailable(identity, `waited ${timeoutMs} ms; ${reason()}`));
      });
      const waiter: Waiter = { resolve, reject, cancelTimer };
      let waiters = this.#waiting.get(identity);
      if (waiters === undefined) {
        waiters = new Set();
        this.#waiting.set(identity, waiters);
      }
      waiters.add(waiter);
      this.#count++;
    });
  }

  resolve(svid: SvidMaterial): void {
    for (const waiter of this.#take(svid.identity)) waiter.resolve(svid);
  }

  reject(identity: string, reason: string): void {
    for (const waiter of this.#take(identity)) waiter.reject(unavailable(identity, reason));
  }

  rejectAll(reason: string): void {
    for (const identity of this.#waiting.keys()) this.reject(identity, reason);
  }

  #take(identity: string): Iterable<Waiter> {
    const waiters = this.#waiting.get(identity);
    if (waiters === undefined) return [];
    this.#waiting.delete(identity);
    this.#count -= waiters.size;
    for (const waiter of waiters) waiter.cancelTimer();
    return waiters;
  }

  #remove(identity: string, waiter: Waiter): void {
    const waiters = this.#waiting.get(identity);
    if (waiters?.delete(waiter) !== true) return;
    this.#count--;
    if (waiters.size === 0) this.#waiting.delete(identity);
  }
}

function unavailable(identity: string, why: string): IdentityError {
  return new IdentityError('WEFT_IDENTITY_UNAVAILABLE', `no SVID for ${identity}: ${why}`, {
    nextStep: 'look at the state of its SVID in the admin endpoint, and at whether the certificate authority can be reached',
  });
}
