import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import type { JwksUpdate } from '../../../src/model/worker-messages.ts';
import { JwksMirror } from '../../../proxy/jwt/jwks-mirror.ts';
import { JwksStore, jwksUris } from '../../../proxy/jwt/jwks-store.ts';
import { JwtVerifier } from '../../../proxy/jwt/jwt-verifier.ts';
import { jwtRule } from '../gate/fixtures.ts';
import { jwk, jwks, NOW, ruleSet, token } from './token-factory.ts';

const URI = 'https://issuer.example/keys';
const OLD = jwks(jwk('P-256/old', { kid: 'old' }));
const NEW = jwks(jwk('P-256/old', { kid: 'old' }), jwk('P-256/new', { kid: 'new' }));
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

/** A store on a clock of its own, and what it fetched. */
class StoreWorld implements Disposable {
  answer: () => Promise<string> = async () => OLD;
  readonly fetched: string[] = [];
  readonly failures: string[] = [];
  readonly updates: JwksUpdate[] = [];
  readonly store: JwksStore;

  constructor() {
    mock.timers.enable({ apis: ['setTimeout', 'Date'], now: NOW * 1000 });
    this.store = new JwksStore({
      fetchJwks: (uri) => {
        this.fetched.push(uri);
        return this.answer();
      },
      onFailure: (_uri, error) => this.failures.push((error as { code?: string }).code ?? (error as Error).message),
      random: () => 0.5,
    });
    this.store.onChange((update) => this.updates.push(update));
  }

  async pass(millis: number): Promise<void> {
    mock.timers.tick(millis);
    await settle();
  }

  get texts(): string[] {
    return this.store.snapshot().documents.map(({ text }) => text);
  }

  [Symbol.dispose](): void {
    this.store[Symbol.dispose]();
    mock.timers.reset();
  }
}

describe('JWK Sets in the main thread', () => {
  it('are fetched at once, told, and fetched again after five minutes', async () => {
    using world = new StoreWorld();
    world.store.setUris(new Set([URI]));
    await settle();
    assert.deepEqual(world.updates.at(-1)?.documents, [{ uri: URI, text: OLD, validUntil: NOW * 1000 + 24 * HOUR }]);
    world.answer = async () => NEW;
    await world.pass(5 * MINUTE - 1);
    assert.equal(world.fetched.length, 1);
    await world.pass(1);
    assert.deepEqual(world.texts, [NEW]);
    assert.deepEqual(world.store.status(), [{ uri: URI, keys: 2, fetchedAt: NOW * 1000 + 5 * MINUTE, failures: 0 }]);
  });

  it('stay for a day while the endpoint fails, and are gone then', async () => {
    using world = new StoreWorld();
    world.store.setUris(new Set([URI]));
    await settle();
    world.answer = async () => {
      throw new Error('down');
    };
    for (let hour = 0; hour < 23; hour++) await world.pass(HOUR);
    assert.deepEqual(world.texts, [OLD]);
    await world.pass(HOUR);
    assert.deepEqual(world.texts, []);
    assert.equal(world.store.status()[0]?.keys, null);
    assert.ok(world.failures.length > 10);
  });

  it('are not replaced by what is no JWK Set, but by an empty one', async () => {
    using world = new StoreWorld();
    world.store.setUris(new Set([URI]));
    await settle();
    world.answer = async () => '<html>';
    await world.pass(5 * MINUTE);
    assert.deepEqual([world.texts, world.failures], [[OLD], ['WEFT_JWT_KEY_SET']]);
    world.answer = async () => '{"keys":[]}';
    await world.pass(MINUTE);
    assert.deepEqual(world.texts, ['{"keys":[]}']);
  });

  it('are tried again sooner after a failure, ever less often', async () => {
    using world = new StoreWorld();
    world.answer = async () => {
      throw new Error('down');
    };
    world.store.setUris(new Set([URI]));
    await settle();
    const at: number[] = [];
    for (let second = 1; second <= 200; second++) {
      const before = world.fetched.length;
      await world.pass(1000);
      if (world.fetched.length > before) at.push(second);
    }
    assert.deepEqual(at, [1, 3, 7, 15, 31, 63, 123, 183]);
  });

  it('are fetched for an unknown key at most every thirty seconds, and the asker is told in any case', async () => {
    using world = new StoreWorld();
    world.store.setUris(new Set([URI]));
    await settle();
    await world.store.refresh(URI);
    assert.equal(world.fetched.length, 1);
    assert.deepEqual(world.updates.at(-1)?.settled, [URI]);
    await world.pass(30_000);
    await Promise.all([world.store.refresh(URI), world.store.refresh(URI), world.store.refresh(URI)]);
    assert.equal(world.fetched.length, 2);
    await world.store.refresh('https://nobody.example');
    assert.deepEqual(world.updates.at(-1)?.settled, ['https://nobody.example']);
    assert.equal(world.fetched.length, 2);
  });

  it('are forgotten when no rule names them any more, even while they are fetched', async () => {
    using world = new StoreWorld();
    const pending = Promise.withResolvers<string>();
    world.answer = () => pending.promise;
    world.store.setUris(new Set([URI]));
    await settle();
    world.store.setUris(new Set());
    pending.resolve(OLD);
    await settle();
    assert.deepEqual(world.texts, []);
    await world.pass(HOUR);
    assert.equal(world.fetched.length, 1);
  });

  it('are fetched a few at a time', async () => {
    using world = new StoreWorld();
    const pending = Array.from({ length: 20 }, () => Promise.withResolvers<string>());
    world.answer = () => (pending[world.fetched.length - 1] as (typeof pending)[0]).promise;
    world.store.setUris(new Set(pending.map((_, i) => `https://issuer.example/${i}`)));
    await settle();
    assert.equal(world.fetched.length, 8);
    for (const [done, each] of pending.entries()) {
      each.resolve(OLD);
      await settle();
      assert.ok(world.fetched.length <= done + 1 + 8);
    }
    // All turns were given back: as many are taken again.
    pending.push(...Array.from({ length: 20 }, () => Promise.withResolvers<string>()));
    world.store.setUris(new Set(Array.from({ length: 20 }, (_, i) => `https://other.example/${i}`)));
    await settle();
    assert.equal(world.fetched.length, 28);
    for (const each of pending) each.resolve(OLD);
    for (let i = 0; i < 20; i++) await settle();
    assert.equal(world.texts.length, 20);
  });

  it('are those of rules without keys of their own', () => {
    const rules = [jwtRule({ jwksUri: 'a' }), jwtRule({ jwks: OLD, jwksUri: 'b' }), jwtRule()];
    assert.deepEqual(jwksUris([{ name: 'x', rules }]), new Set(['a']));
  });
});

interface MirrorWorld {
  readonly requests: string[];
  readonly clock: { now: number };
  readonly mirror: JwksMirror;
  readonly verifier: JwtVerifier;
}

function world(waitMs = 1000): MirrorWorld {
  const requests: string[] = [];
  const clock = { now: NOW * 1000 };
  const mirror = new JwksMirror({ request: (uri) => requests.push(uri), now: () => clock.now, waitMs });
  return { requests, clock, mirror, verifier: new JwtVerifier({ keys: mirror, now: () => clock.now }) };
}

describe('JWK Sets in a worker', () => {
  const rules = ruleSet({ jwksUri: URI });
  const document = (text: string, validUntil = (NOW + 3600) * 1000) => ({ uri: URI, text, validUntil });
  const newToken = token({ key: 'P-256/new', header: { kid: 'new' } });

  it('verify as soon as they are there; a token that comes before waits for them', async () => {
    const { requests, mirror, verifier } = world();
    const outcome = verifier.verify(rules, 0, newToken);
    assert.ok(outcome instanceof Promise);
    assert.deepEqual(requests, [URI]);
    mirror.apply({ documents: [document(NEW)], settled: [URI] });
    assert.ok('identity' in (await outcome));
    assert.ok('identity' in verifier.verify(rules, 0, newToken));
  });

  it('refuse a token when no keys come', async () => {
    const { mirror, verifier } = world();
    const outcome = verifier.verify(rules, 0, newToken);
    mirror.apply({ documents: [], settled: [URI] });
    assert.deepEqual(await outcome, { failure: 'keys-unavailable', authentication: 'shop/jwt' });
    const unanswered = world(5);
    assert.deepEqual(await unanswered.verifier.verify(rules, 0, newToken), { failure: 'keys-unavailable', authentication: 'shop/jwt' });
  });

  it('are asked for again when a token names a key that is new, but not for each such token', async () => {
    const { requests, clock, mirror, verifier } = world();
    mirror.apply({ documents: [document(OLD)], settled: [] });
    const waiting = [verifier.verify(rules, 0, newToken), verifier.verify(rules, 0, newToken)];
    assert.equal(requests.length, 1);
    mirror.apply({ documents: [document(OLD)], settled: [URI] });
    for (const each of await Promise.all(waiting)) assert.deepEqual(each, { failure: 'unknown-key', authentication: 'shop/jwt' });
    assert.ok(!(verifier.verify(rules, 0, newToken) instanceof Promise));
    clock.now += 30_000;
    const later = verifier.verify(rules, 0, newToken);
    assert.equal(requests.length, 2);
    mirror.apply({ documents: [document(NEW)], settled: [URI] });
    assert.ok('identity' in (await later));
  });

  it('keep a bounded number of requests waiting', async () => {
    const { mirror, verifier } = world();
    const outcomes = Array.from({ length: 1_010 }, () => verifier.verify(rules, 0, newToken));
    assert.equal(outcomes.filter((each) => each instanceof Promise).length, 1_000);
    mirror.apply({ documents: [], settled: [URI] });
    await Promise.all(outcomes);
  });

  it('are not waited for because of a wrong signature, issuer or audience', () => {
    const { requests, mirror, verifier } = world();
    mirror.apply({ documents: [document(NEW)], settled: [] });
    assert.deepEqual(verifier.verify(rules, 0, token({ key: 'P-256/evil', header: { kid: 'new' } })), {
      failure: 'signature',
      authentication: 'shop/jwt',
    });
    assert.deepEqual(requests, []);
  });

  it('verify nothing past their time, nor when they are taken away', () => {
    const { clock, mirror } = world();
    const { rule } = rules.rules[0] as (typeof rules.rules)[0];
    mirror.apply({ documents: [document(NEW, clock.now + 1)], settled: [] });
    assert.notEqual(mirror.keys(rule), null);
    clock.now++;
    assert.equal(mirror.keys(rule), null);
    mirror.apply({ documents: [document(NEW)], settled: [] });
    mirror.apply({ documents: [], settled: [] });
    assert.equal(mirror.keys(rule), null);
  });

  it('stay the same while their text does, so that known tokens stay known', () => {
    const { mirror } = world();
    const { rule } = rules.rules[0] as (typeof rules.rules)[0];
    mirror.apply({ documents: [document(NEW)], settled: [] });
    const keys = mirror.keys(rule);
    mirror.apply({ documents: [document(NEW, 2 * NOW * 1000)], settled: [] });
    assert.equal(mirror.keys(rule), keys);
  });

  it('that a rule brings with it count alone: nothing is fetched, whatever else the rule says', () => {
    const { requests, verifier } = world();
    const both = ruleSet({ jwks: OLD, jwksUri: URI });
    assert.deepEqual(verifier.verify(both, 0, newToken), { failure: 'unknown-key', authentication: 'shop/jwt' });
    assert.deepEqual(verifier.verify(ruleSet({ jwks: 'nonsense', jwksUri: URI }), 0, newToken), {
      failure: 'keys-unavailable',
      authentication: 'shop/jwt',
    });
    assert.deepEqual(requests, []);
  });
});
