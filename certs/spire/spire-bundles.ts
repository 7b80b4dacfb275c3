import type { JwtAuthority, SpiffeBundle, TrustState } from '../bundle/trust-state.ts';
import type { Clock } from '../clock.ts';
import { sameList } from '../same-list.ts';
import { sameBytes } from '../x509/certificate-fields.ts';

/**
 * The bundles that SPIRE sent, as this agent's trust state. The Workload API has no sequence, so it is made here.
 * Invariant: the sequence grows with each change of the own bundle. It starts at the time of day, so that it does over restarts, too.
 */
export class SpireBundles {
  readonly #trustDomain: string;
  readonly #clock: Clock;
  #x509: ReadonlyMap<string, readonly Uint8Array[]> = new Map();
  #jwt: ReadonlyMap<string, readonly JwtAuthority[]> = new Map();
  #trust: TrustState | null = null;
  #sequence = 0n;

  constructor(trustDomain: string, clock: Clock) {
    this.#trustDomain = trustDomain;
    this.#clock = clock;
  }

  /** Null until SPIRE sent the roots of the trust domain, and after it said that this agent is entitled to none. */
  get trust(): TrustState | null {
    return this.#trust;
  }

  /** Of the other trust domains in the last message. */
  get federated(): readonly SpiffeBundle[] {
    return [...this.#x509.keys()]
      .filter((trustDomain) => trustDomain !== this.#trustDomain)
      .map((trustDomain) => this.#bundle(trustDomain));
  }

  /** @returns whether anything changed */
  setX509(bundles: ReadonlyMap<string, readonly Uint8Array[]>): boolean {
    const changed = !sameMap(this.#x509, bundles, sameBytes);
    this.#x509 = bundles;
    return changed && this.#update();
  }

  /** @returns whether anything changed */
  setJwt(bundles: ReadonlyMap<string, readonly JwtAuthority[]>): boolean {
    const changed = !sameMap(this.#jwt, bundles, sameKey);
    this.#jwt = bundles;
    return changed && this.#update();
  }

  #update(): true {
    if (!this.#x509.has(this.#trustDomain)) {
      this.#trust = null;
      return true;
    }
    const former = this.#trust?.bundle;
    const bundle = this.#bundle(this.#trustDomain);
    // A change of a federated bundle alone is none of the own trust state.
    if (former !== undefined && isSame(former, bundle)) return true;
    const time = BigInt(this.#clock.now());
    this.#sequence = time > this.#sequence ? time : this.#sequence + 1n;
    const sequence = this.#sequence;
    this.#trust = { sequence, bundle: { ...bundle, sequence }, taintedKeys: [], revokedKeys: [] };
    return true;
  }

  #bundle(trustDomain: string): SpiffeBundle {
    return {
      trustDomain,
      x509Authorities: this.#x509.get(trustDomain) ?? [],
      jwtAuthorities: this.#jwt.get(trustDomain) ?? [],
      sequence: null,
      refreshHintSeconds: null,
    };
  }
}

function isSame(a: SpiffeBundle, b: SpiffeBundle): boolean {
  return sameList(a.x509Authorities, b.x509Authorities, sameBytes) && sameList(a.jwtAuthorities, b.jwtAuthorities, sameKey);
}

function sameKey(a: JwtAuthority, b: JwtAuthority): boolean {
  return a.keyId === b.keyId && JSON.stringify(a.jwk) === JSON.stringify(b.jwk);
}

function sameMap<Item>(
  a: ReadonlyMap<string, readonly Item[]>,
  b: ReadonlyMap<string, readonly Item[]>,
  same: (a: Item, b: Item) => boolean,
): boolean {
  if (a.size !== b.size) return false;
  return [...a].every(([key, items]) => {
    const others = b.get(key);
    return others !== undefined && sameList(items, others, same);
  });
}
