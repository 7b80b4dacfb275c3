import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { before, beforeEach, describe, test } from 'node:test';
import type { SpiffeBundle, TrustState } from '../../../certs/bundle/trust-state.ts';
import { CertsError } from '../../../certs/errors.ts';
import { publicKeyDigest } from '../../../certs/x509/public-key.ts';
import { isWiped } from '../../../certs/svid/private-key.ts';
import { type ObtainSvid, SvidManager, TAINTED_SPREAD_MS } from '../../../certs/svid/svid-manager.ts';
import { IdentityError } from '../../../src/model/identity.ts';
import type { SvidMaterial } from '../../../src/model/data-plane.ts';
import { type Forged, type ForgeOptions, forge, forgeRoot, IDENTITY, keyBytes, TRUST_DOMAIN } from './forge.ts';
import { ManualClock, turn } from './manual-clock.ts';

const OTHER = 'spiffe://example.org/ns/shop/sa/other';
let oldRoot: Forged;
let newRoot: Forged;
/** Who signs now. */
let signer: Forged;
let clock: ManualClock;
let options: ForgeOptions;
let asked: string[];

before(async () => {
  oldRoot = await forgeRoot({ subject: 'CN=old root' });
  newRoot = await forgeRoot({ subject: 'CN=new root' });
});

beforeEach(() => {
  signer = oldRoot;
  clock = new ManualClock(Math.floor(Date.now() / 1000) * 1000);
  options = {};
  asked = [];
});

const obtain: ObtainSvid = async (identity) => {
  asked.push(identity);
  const leaf = await forge({ issuer: signer, uris: [identity], ...options });
  return { identity, certificateChain: leaf.pem, privateKey: keyBytes(leaf.privateKey), notAfter: clock.now() + 3_600_000 };
};

const digest = (root: Forged): string => publicKeyDigest(new X509Certificate(root.der).publicKey);
let sequence = 0n;

function trust(wish: Partial<TrustState> = {}, roots: readonly Forged[] = [oldRoot, newRoot]): TrustState {
  sequence++;
  return { sequence, bundle: bundleOf(TRUST_DOMAIN, roots), taintedKeys: [], revokedKeys: [], ...wish };
}

function bundleOf(trustDomain: string, roots: readonly Forged[]): SpiffeBundle {
  return { trustDomain, x509Authorities: roots.map((root) => root.der), jwtAuthorities: [], sequence, refreshHintSeconds: null };
}

function manage(wish: { readonly obtain?: ObtainSvid; readonly requestTimeoutMs?: number } = {}): SvidManager {
  const manager = new SvidManager({ obtain, clock, random: () => 0.5, ...wish });
  assert.deepEqual(manager.setBundles(trust(), []), []);
  return manager;
}

async function until(condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; ) {
    if (condition()) return;
    await turn();
  }
  assert.fail('it did not happen');
}

function issuerOf(svid: SvidMaterial | null): string | undefined {
  return svid === null ? undefined : new X509Certificate(svid.certificateChain).issuer;
}

describe('an SVID through a CA key that was', () => {
  test('tainted serves until it is replaced, which is within the spread', async () => {
    using manager = manage();
    manager.ensure(IDENTITY);
    const first = await manager.wait(IDENTITY, 5000);
    signer = newRoot;
    manager.setBundles(trust({ taintedKeys: [digest(oldRoot)] }), []);
    assert.equal(manager.current(IDENTITY), first);
    await clock.advance(TAINTED_SPREAD_MS / 2 - 1);
    assert.equal(asked.length, 1);
    await clock.advance(1);
    await until(() => manager.counters.renewed === 1);
    assert.equal(issuerOf(manager.current(IDENTITY)), 'CN=new root');
    await clock.advance(10 * TAINTED_SPREAD_MS);
    assert.equal(asked.length, 2);
  });

  test('revoked is unusable at once, and a connection waits for the next', async () => {
    using manager = manage();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    signer = newRoot;
    manager.setBundles(trust({ revokedKeys: [digest(oldRoot)] }), []);
    assert.equal(manager.current(IDENTITY), null);
    assert.deepEqual(manager.snapshot().svids, []);
    assert.equal(issuerOf(await manager.wait(IDENTITY, 5000)), 'CN=new root');
  });

  test('revoked is not taken from the provider either', async () => {
    using manager = manage();
    manager.setBundles(trust({ revokedKeys: [digest(oldRoot)] }), []);
    manager.ensure(IDENTITY);
    await until(() => manager.counters.failed.untrusted === 1);
    assert.equal(manager.current(IDENTITY), null);
    assert.match(manager.status()[0]?.lastFailure ?? '', /REVOKED/);
  });

  test('tainted while it was under way is replaced too', async () => {
    let answer: (() => void) | null = null;
    using manager = manage({
      obtain: async (identity, ttl) => {
        const svid = await obtain(identity, ttl);
        if (asked.length === 1) await new Promise<void>((resolve) => (answer = resolve));
        return svid;
      },
    });
    manager.ensure(IDENTITY);
    await until(() => answer !== null);
    signer = newRoot;
    manager.setBundles(trust({ taintedKeys: [digest(oldRoot)] }), []);
    (answer as unknown as () => void)();
    await until(() => manager.current(IDENTITY) !== null);
    await clock.advance(TAINTED_SPREAD_MS);
    await until(() => manager.counters.renewed === 1);
    assert.equal(issuerOf(manager.current(IDENTITY)), 'CN=new root');
  });

  test('left out of the bundle is replaced: peers will not verify it', async () => {
    using manager = manage();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    signer = newRoot;
    manager.setBundles(trust({}, [newRoot]), []);
    await clock.advance(TAINTED_SPREAD_MS);
    await until(() => manager.counters.renewed === 1);
    assert.equal(issuerOf(manager.current(IDENTITY)), 'CN=new root');
  });
});

test('renewNow asks for those SVIDs at once, and for no others', async () => {
  using manager = manage();
  manager.ensure(IDENTITY);
  manager.ensure(OTHER);
  await manager.wait(IDENTITY, 5000);
  await manager.wait(OTHER, 5000);
  asked = [];
  manager.renewNow(({ identity }) => identity === OTHER);
  await until(() => manager.counters.renewed === 1);
  assert.deepEqual(asked, [OTHER]);
});

test('an identity that was refused is asked for again as soon as the provider has it, and not before', async () => {
  let given = false;
  using manager = manage({
    obtain: async (identity, ttlSeconds) => {
      if (given) return obtain(identity, ttlSeconds);
      throw new CertsError('WEFT_CERTS_SPIRE_NO_SVID', 'no', {});
    },
  });
  manager.ensure(IDENTITY);
  await until(() => manager.status()[0]?.state === 'backoff');
  manager.review(() => 'current');
  assert.equal(manager.status()[0]?.state, 'backoff');
  given = true;
  manager.review((_, held) => (held === null ? 'replaced' : 'current'));
  await until(() => manager.current(IDENTITY) !== null);
  assert.deepEqual(asked, [IDENTITY]);
});

test('what the provider took back is out of use at once, and asked for again', async () => {
  using manager = manage();
  manager.ensure(IDENTITY);
  await manager.wait(IDENTITY, 5000);
  manager.review((_, held) => (held === null ? 'current' : 'withdrawn'));
  assert.equal(manager.current(IDENTITY), null);
  await until(() => manager.current(IDENTITY) !== null);
  assert.equal(asked.length, 2);
});

describe('the key of an SVID', () => {
  test('is wiped when the SVID was replaced and every thread knows, not before', async () => {
    using manager = manage();
    manager.ensure(IDENTITY);
    const { privateKey } = await manager.wait(IDENTITY, 5000);
    const known = manager.version;
    manager.renewNow(() => true);
    await until(() => manager.counters.renewed === 1);
    manager.wipe(known);
    assert.equal(isWiped(privateKey), false);
    manager.wipe(manager.version);
    assert.equal(isWiped(privateKey), true);
    assert.equal(isWiped((manager.current(IDENTITY) as SvidMaterial).privateKey), false);
  });

  test('is wiped when its identity was forgotten and every thread knows, and when the agent stops', async () => {
    const manager = manage();
    manager.ensure(IDENTITY);
    manager.ensure(OTHER);
    const { privateKey } = await manager.wait(IDENTITY, 5000);
    const other = await manager.wait(OTHER, 5000);
    manager.forget(IDENTITY);
    assert.equal(isWiped(privateKey), false);
    manager.wipe(manager.version);
    assert.equal(isWiped(privateKey), true);
    assert.equal(isWiped(other.privateKey), false);
    manager[Symbol.dispose]();
    assert.equal(isWiped(other.privateKey), true);
  });

  test('is wiped when it comes too late', async () => {
    const late: SvidMaterial[] = [];
    using manager = manage({
      obtain: async (identity, ttl) => {
        const svid = await obtain(identity, ttl);
        late.push(svid);
        return svid;
      },
    });
    manager.ensure(IDENTITY);
    manager.forget(IDENTITY);
    await until(() => late.length === 1);
    await turn();
    assert.equal(isWiped((late[0] as SvidMaterial).privateKey), true);
  });
});

describe('a failed request counts as', () => {
  const cases: [string, ObtainSvid | ForgeOptions][] = [
    ['clock-skew', { notBefore: Date.now() + 3_000_000 }],
    ['untrusted', { notBefore: Date.now() - 100_000, notAfter: Date.now() - 50_000 }],
    ['wrong-certificate', { uris: [OTHER] }],
    ['unreachable', () => Promise.reject(new CertsError('WEFT_CERTS_AUTHORITY_AWAY', 'no'))],
    ['refused', () => Promise.reject(new CertsError('WEFT_CERTS_IDENTITY_REFUSED', 'no'))],
    ['other', () => Promise.reject(new IdentityError('WEFT_IDENTITY_INVALID', 'no'))],
    ['other', () => Promise.reject(new Error('no'))],
  ];
  for (const [reason, cause] of cases) {
    test(reason, async () => {
      if (typeof cause !== 'function') options = cause;
      using manager = manage(typeof cause === 'function' ? { obtain: cause } : {});
      manager.ensure(IDENTITY);
      await until(() => Object.keys(manager.counters.failed).length > 0);
      assert.deepEqual(manager.counters.failed, { [reason]: 1 });
    });
  }

  test('timeout', async () => {
    using manager = manage({ obtain: () => new Promise(() => {}), requestTimeoutMs: 1000 });
    manager.ensure(IDENTITY);
    await clock.advance(1000);
    assert.deepEqual(manager.counters.failed, { timeout: 1 });
  });
});

describe('bundles set whole', () => {
  test('replace all there were; a trust domain that is not named is trusted no more', async () => {
    using manager = manage();
    const foreign = await forgeRoot({ uris: ['spiffe://foreign.example'] });
    manager.setBundles(trust(), [bundleOf('foreign.example', [foreign]), bundleOf('empty.example', [])]);
    assert.deepEqual(
      manager.bundles().map(({ trustDomain }) => trustDomain),
      [TRUST_DOMAIN, 'foreign.example', 'empty.example'],
    );
    manager.setBundles(trust(), []);
    assert.equal(manager.bundle('foreign.example'), null);
  });

  test('never mix our trust domain with another, whatever a federated bundle calls itself', async () => {
    using manager = manage();
    const before = manager.bundle(TRUST_DOMAIN)?.roots;
    manager.setBundles(trust(), [bundleOf(TRUST_DOMAIN, [await forgeRoot()])]);
    assert.equal(manager.bundle(TRUST_DOMAIN)?.roots, before);
  });

  test('of which one cannot be used are told about, and the others count', async () => {
    using manager = manage();
    const leaf = await forge();
    const problems = manager.setBundles(trust(), [bundleOf('broken.example', [leaf]), bundleOf('foreign.example', [newRoot])]);
    assert.deepEqual(
      problems.map(({ code, message }) => [code, /broken\.example/.test(message)]),
      [['WEFT_CERTS_BUNDLE', true]],
    );
    assert.equal(manager.bundle('broken.example'), null);
    assert.notEqual(manager.bundle('foreign.example'), null);
  });
});
