/** What the client of bundle endpoints does over time, with a clock that is moved. Both ends together: test/integration/certs/federation.test.ts. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { FetchBundleOptions } from '../../../certs/bundle/bundle-fetcher.ts';
import { BundleStore } from '../../../certs/bundle/bundle-store.ts';
import { FederationClient, type FederationStatus } from '../../../certs/bundle/federation-client.ts';
import type { SpiffeBundle } from '../../../certs/bundle/trust-state.ts';
import type { FederatedTrustDomain } from '../../../src/model/resources.ts';
import { ManualClock } from './manual-clock.ts';

const OWN: SpiffeBundle = { trustDomain: 'cluster.local', x509Authorities: [], jwtAuthorities: [], sequence: 1n, refreshHintSeconds: null };
let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'weft-federation-client-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

function relationship(trustDomain: string, more: Partial<FederatedTrustDomain> = {}): FederatedTrustDomain {
  return {
    trustDomain,
    bundleEndpointUrl: `https://${trustDomain}/`,
    profile: { type: 'https_web', webRoots: null },
    initialBundle: null,
    ...more,
  };
}

interface World extends AsyncDisposable {
  readonly client: FederationClient;
  readonly clock: ManualClock;
  readonly fetches: FetchBundleOptions[];
  /** What the next fetches answer, or throw. */
  answer: string | Error | Promise<string>;
  changes: number;
}

function world(random = 0.5): World {
  const clock = new ManualClock();
  const fetches: FetchBundleOptions[] = [];
  const client = new FederationClient({
    store: new BundleStore(directory),
    ownTrust: () => ({ sequence: 1n, bundle: OWN, taintedKeys: [], revokedKeys: ['00'] }),
    redirectTargets: { refusedHost: () => null, isFetchable: () => true },
    log: { info() {}, warn() {} },
    clock,
    random: () => random,
    fetch: (options) => {
      fetches.push(options);
      return made.answer instanceof Error ? Promise.reject(made.answer) : Promise.resolve(made.answer);
    },
  });
  const made: World = {
    client,
    clock,
    fetches,
    answer: '{"keys":[]}',
    changes: 0,
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
  client.onChange(() => made.changes++);
  return made;
}

/** The only relationship, once its fetch is over. */
async function settled(client: FederationClient): Promise<FederationStatus> {
  for (;;) {
    const [status] = client.status();
    if (status?.state === 'waiting') return status;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe('when a bundle is fetched', () => {
  for (const [hint, seconds] of [
    [null, 300],
    [1, 30],
    [0, 30],
    [600, 600],
    [2_419_200, 86_400],
  ] as const) {
    it(`a refresh hint of ${hint} makes it every ${seconds} s`, async () => {
      await using made = world();
      made.answer = hint === null ? '{"keys":[]}' : `{"keys":[],"spiffe_refresh_hint":${hint}}`;
      made.client.setRelationships([relationship('a.example')]);
      const { nextFetch, refreshedAt } = await settled(made.client);
      assert.equal((nextFetch as number) - (refreshedAt as number), seconds * 1000);
      await made.clock.advance(seconds * 1000 - 1);
      assert.equal(made.fetches.length, 1);
      await made.clock.advance(1);
      assert.equal(made.fetches.length, 2);
      await settled(made.client);
    });
  }

  it('nodes come apart by a tenth of the interval to either side', async () => {
    for (const [random, ms] of [
      [0, 270_000],
      [1, 330_000],
    ] as const) {
      await using made = world(random);
      made.client.setRelationships([relationship('a.example')]);
      assert.equal(((await settled(made.client)).nextFetch as number) - made.clock.now(), ms);
    }
  });

  it('after a failure it is at the next interval, however many there were', async () => {
    await using made = world();
    made.answer = new Error('down');
    made.client.setRelationships([relationship('a.example')]);
    for (let failures = 1; failures <= 3; failures++) {
      const status = await settled(made.client);
      assert.deepEqual([status.failures, status.lastFailure, (status.nextFetch as number) - made.clock.now()], [failures, 'down', 300_000]);
      await made.clock.advance(300_000);
    }
    made.answer = '{"keys":[]}';
    await settled(made.client);
    await made.clock.advance(300_000);
    const { failures, failuresTotal, lastFailure } = await settled(made.client);
    assert.deepEqual([failures, failuresTotal, lastFailure], [0, 4, null]);
  });
});

describe('relationships', () => {
  it('that did not change go on; a changed one starts anew, and one that is gone is forgotten', async () => {
    await using made = world();
    made.client.setRelationships([relationship('a.example')]);
    await settled(made.client);
    made.client.setRelationships([relationship('a.example')]);
    assert.equal(made.fetches.length, 1);
    made.client.setRelationships([relationship('a.example', { bundleEndpointUrl: 'https://elsewhere.example/' })]);
    await settled(made.client);
    assert.equal(made.fetches[1]?.url, 'https://elsewhere.example/');
    assert.deepEqual(readdirSync(directory), ['a.example.json']);
    made.client.setRelationships([]);
    assert.equal(made.client.bundle('a.example'), null);
    await made.client[Symbol.asyncDispose]();
    assert.deepEqual(readdirSync(directory), []);
    assert.equal(made.clock.timers, 0);
  });

  it('that end while they fetch take nothing any more', async () => {
    await using made = world();
    const late = Promise.withResolvers<string>();
    made.answer = late.promise;
    made.client.setRelationships([relationship('a.example')]);
    while (made.fetches.length === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    made.client.setRelationships([]);
    assert.ok(made.fetches[0]?.signal.aborted);
    late.resolve('{"keys":[]}');
    await made.client[Symbol.asyncDispose]();
    assert.deepEqual([made.client.bundles(), readdirSync(directory), made.clock.timers], [[], [], 0]);
  });

  it('that fetch while the client stops store nothing any more', async () => {
    const made = world();
    const late = Promise.withResolvers<string>();
    made.answer = late.promise;
    made.client.setRelationships([relationship('a.example')]);
    while (made.fetches.length === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    const stopped = made.client[Symbol.asyncDispose]();
    late.resolve('{"keys":[]}');
    await stopped;
    assert.deepEqual([readdirSync(directory), made.clock.timers], [[], 0]);
  });

  it('tell of changes of content alone', async () => {
    await using made = world();
    made.answer = '{"keys":[],"spiffe_sequence":1}';
    made.client.setRelationships([relationship('a.example')]);
    await settled(made.client);
    await made.clock.advance(300_000);
    await settled(made.client);
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(made.changes, 1);
  });

  it('verify an endpoint of the own trust domain, or of another federated one, by the bundle of that one', async () => {
    await using made = world();
    made.answer = '{"keys":[],"spiffe_sequence":5}';
    made.client.setRelationships([relationship('a.example')]);
    await settled(made.client);
    const bundle = made.fetches[0]?.bundle;
    assert.deepEqual(bundle?.('cluster.local'), { roots: OWN.x509Authorities, revokedKeys: ['00'] });
    assert.deepEqual(bundle?.('a.example'), { roots: [], revokedKeys: [] });
    assert.equal(bundle?.('b.example'), null);
  });

  it('with an initial bundle that is none say so, and go on with what is fetched', async () => {
    await using made = world();
    made.answer = new Error('down');
    made.client.setRelationships([relationship('a.example', { initialBundle: '{}' })]);
    const status = await settled(made.client);
    assert.deepEqual([status.bundle, status.failures], [null, 2]);
  });
});

describe('what is stored', () => {
  it('lies within the directory, one file for each trust domain, whatever its name', async () => {
    const store = new BundleStore(directory);
    const names = ['..', '.', 'a', 'a.json', 'x'.repeat(255), `${'x'.repeat(254)}y`];
    for (const [index, trustDomain] of names.entries()) {
      const bundle = { ...OWN, trustDomain };
      await store.write({ bundle, text: `{"keys":[],"spiffe_sequence":${index}}`, fetchedAt: 1, startedFrom: '' });
    }
    assert.equal(readdirSync(directory).length, names.length);
    for (const [index, trustDomain] of names.entries()) assert.equal((await store.read(trustDomain))?.bundle.sequence, BigInt(index));
    await store.delete('.');
    assert.equal(await store.read('.'), null);
    assert.equal((await store.read('..'))?.bundle.trustDomain, '..');
  });
});
