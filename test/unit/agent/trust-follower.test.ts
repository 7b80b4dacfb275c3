import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SpiffeBundle, TrustState } from '../../../certs/bundle/trust-state.ts';
import type { SvidMaterial } from '../../../src/model/data-plane.ts';
import { TrustFollower } from '../../../src/agent/trust-follower.ts';

function bundle(trustDomain: string): SpiffeBundle {
  return { trustDomain, x509Authorities: [], jwtAuthorities: [], sequence: null, refreshHintSeconds: null };
}

function trust(sequence: bigint): TrustState {
  return { sequence, bundle: { ...bundle('one.example'), sequence }, taintedKeys: [], revokedKeys: [] };
}

/** A source that can be changed, with its listeners. */
class Source {
  state: TrustState | null = null;
  foreign: SpiffeBundle[] = [];
  acknowledged: bigint[] = [];
  readonly #listeners = new Set<() => void>();
  trust = (): TrustState | null => this.state;
  federatedBundles = (): readonly SpiffeBundle[] => [];
  bundles = (): readonly SpiffeBundle[] => this.foreign;
  standing = (): 'withdrawn' => 'withdrawn';
  acknowledge = (sequence: bigint): void => void this.acknowledged.push(sequence);
  onChange = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };
  changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

function world(problems: readonly Error[] = []) {
  const provider = new Source();
  const federation = new Source();
  const taken: string[][] = [];
  const roots: number[] = [];
  const errors: string[] = [];
  const standings: string[] = [];
  const svids = {
    version: 0,
    review: (standing: (identity: string, held: SvidMaterial | null) => string): void => void standings.push(standing('', null)),
    setBundles(own: TrustState, federated: readonly SpiffeBundle[]): readonly Error[] {
      svids.version++;
      roots.push(own.bundle.x509Authorities.length);
      taken.push([own.bundle, ...federated].map((one) => one.trustDomain));
      return problems;
    },
  };
  const log = { error: (_: unknown, message: string) => void errors.push(message) };
  const follower = new TrustFollower({ provider, federation, svids, log } as unknown as ConstructorParameters<typeof TrustFollower>[0]);
  return { provider, federation, svids, taken, roots, standings, errors, follower };
}

test('a trust state is acknowledged once every worker goes by it, and only once', () => {
  const { provider, follower, svids } = world();
  provider.state = trust(7n);
  provider.changed();
  assert.deepEqual(provider.acknowledged, []);
  follower.workersHave(svids.version - 1);
  assert.deepEqual(provider.acknowledged, []);
  follower.workersHave(svids.version);
  follower.workersHave(svids.version);
  assert.deepEqual(provider.acknowledged, [7n]);
});

test('a state that is replaced before the workers have it is not acknowledged, its successor is', () => {
  const { provider, follower, svids } = world();
  provider.state = trust(7n);
  provider.changed();
  const first = svids.version;
  provider.state = trust(8n);
  provider.changed();
  follower.workersHave(first);
  assert.deepEqual(provider.acknowledged, []);
  follower.workersHave(svids.version);
  assert.deepEqual(provider.acknowledged, [8n]);
});

test('bundles of the federation go along with our own', () => {
  const { provider, federation, taken } = world();
  provider.state = trust(1n);
  provider.changed();
  federation.foreign = [bundle('two.example')];
  federation.changed();
  assert.deepEqual(taken, [['one.example'], ['one.example', 'two.example']]);
});

test('nothing is set while the provider knows no trust state', () => {
  const { federation, taken } = world();
  federation.changed();
  assert.deepEqual(taken, []);
});

test('a provider that takes back what it said leaves nobody trusted', () => {
  const { provider, roots } = world();
  const known = trust(1n);
  provider.state = { ...known, bundle: { ...known.bundle, x509Authorities: [new Uint8Array(1)] } };
  provider.changed();
  provider.state = null;
  provider.changed();
  assert.deepEqual(roots, [1, 0]);
});

test('after each change the provider is asked what its SVIDs are worth', () => {
  const { provider, standings } = world();
  provider.state = trust(1n);
  provider.changed();
  assert.deepEqual(standings, ['withdrawn']);
});

test('a bundle that cannot be used is logged, and not acknowledged', () => {
  const { provider, follower, svids, errors } = world([new Error('no CA')]);
  provider.state = trust(7n);
  provider.changed();
  follower.workersHave(svids.version);
  assert.deepEqual(provider.acknowledged, []);
  assert.match(errors.join(), /cannot be used.*no CA/);
});

test('after its end it follows nothing', () => {
  const { provider, follower, taken } = world();
  follower[Symbol.dispose]();
  provider.state = trust(1n);
  provider.changed();
  assert.deepEqual(taken, []);
});
