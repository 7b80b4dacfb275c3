import type { SvidMaterial, TrustBundle } from '../../src/model/data-plane.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { type Clock, systemClock } from '../clock.ts';
import type { IdentityUpdate } from '../../src/model/worker-messages.ts';
import type { VersionedIdentitySource } from './identity-source.ts';
import { isWiped } from './private-key.ts';
import { SvidWaiters } from './svid-waiters.ts';

export interface IdentityMirrorOptions {
  /** Asks the main thread for an identity that a connection here waits for. The answer comes through `apply`. */
  readonly request: (identity: string) => void;
  readonly clock?: Clock;
}

/** The identities of the main thread's SvidManager as a worker sees them. Loads no X.509 library. */
export class IdentityMirror implements VersionedIdentitySource, Disposable {
  readonly #request: (identity: string) => void;
  readonly #clock: Clock;
  readonly #waiters: SvidWaiters;
  readonly #notifier = new ChangeNotifier();
  #svids = new Map<string, SvidMaterial>();
  #bundles = new Map<string, TrustBundle>();
  #version = 0;
  #bundleVersion = 0;
  #disposed = false;

  constructor(options: IdentityMirrorOptions) {
    this.#request = options.request;
    this.#clock = options.clock ?? systemClock;
    this.#waiters = new SvidWaiters(this.#clock);
  }

  get version(): number {
    return this.#version;
  }

  get bundleVersion(): number {
    return this.#bundleVersion;
  }

  /** Takes over the full state: what is not in the update is gone. Objects of what did not change stay the same, for the caches built on them. */
  apply(update: IdentityUpdate): void {
    if (this.#disposed) return;
    const svids = new Map<string, SvidMaterial>();
    let svidsChanged = update.svids.length !== this.#svids.size;
    for (const svid of update.svids) {
      const old = this.#svids.get(svid.identity);
      const same = old?.certificateChain === svid.certificateChain;
      svids.set(svid.identity, same ? old : svid);
      if (!same) svidsChanged = true;
    }
    const bundles = new Map<string, TrustBundle>();
    let bundlesChanged = update.bundles.length !== this.#bundles.size;
    for (const bundle of update.bundles) {
      const old = this.#bundles.get(bundle.trustDomain);
      const same = old?.sequence === bundle.sequence;
      bundles.set(bundle.trustDomain, same ? old : bundle);
      if (!same) bundlesChanged = true;
    }
    if (!svidsChanged && !bundlesChanged) return;
    this.#svids = svids;
    this.#bundles = bundles;
    if (bundlesChanged) this.#bundleVersion++;
    this.#version++;
    this.#notifier.changed();
    for (const identity of this.#waiters.identities()) {
      const svid = this.current(identity);
      if (svid !== null) this.#waiters.resolve(svid);
    }
  }

  current(identity: string): SvidMaterial | null {
    const svid = this.#svids.get(identity);
    // A wiped key is never shown, though the main thread wipes one only when this mirror has said that it holds another, or none.
    return svid !== undefined && this.#clock.now() < svid.notAfter && !isWiped(svid.privateKey) ? svid : null;
  }

  wait(identity: string, timeoutMs: number): Promise<SvidMaterial> {
    const svid = this.current(identity);
    if (svid !== null) return Promise.resolve(svid);
    // One request for all who wait for the same identity.
    const first = !this.#waiters.has(identity);
    const waiting = this.#waiters.wait(identity, timeoutMs, () => 'the main thread sent none');
    if (this.#disposed) this.#waiters.reject(identity, 'the agent is stopping');
    else if (first) this.#request(identity);
    return waiting;
  }

  bundle(trustDomain: string): TrustBundle | null {
    return this.#bundles.get(trustDomain) ?? null;
  }

  bundles(): readonly TrustBundle[] {
    return [...this.#bundles.values()];
  }

  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  /** Refuses every waiter and drops every key. */
  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#svids.clear();
    this.#bundles.clear();
    this.#waiters.rejectAll('the agent is stopping');
    this.#notifier[Symbol.dispose]();
  }
}
