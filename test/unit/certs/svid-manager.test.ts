import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { after, before, beforeEach, describe, test } from 'node:test';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createMaterial } from '../../../certs/authority/authority-material.ts';
import { CertificateAuthority } from '../../../certs/authority/certificate-authority.ts';
import { IdentityMirror } from '../../../certs/svid/identity-mirror.ts';
import type { SigningRequest } from '../../../certs/x509/signing-request.ts';
import { createSigningRequest } from '../../../certs/x509/signing-request.ts';
import { certifiedKey, type SvidIssuer, type SvidRequest } from '../../../certs/svid/certified-key.ts';
import { BACKOFF_CAP_MS, SvidManager, type SvidManagerOptions } from '../../../certs/svid/svid-manager.ts';
import { SVID_FAILURES } from '../../../certs/svid/svid-failure.ts';
import { keyObject } from '../../../certs/svid/private-key.ts';
import { MAX_WAITERS } from '../../../certs/svid/svid-waiters.ts';
import { certificatesFromPem } from '../../../certs/x509/pem.ts';
import { forgeRoot, IDENTITY, TRUST_DOMAIN } from './forge.ts';
import { ManualClock, turn } from './manual-clock.ts';

const TTL_SECONDS = 600;
let home: string;
let authority: CertificateAuthority;
let clock: ManualClock;
/** One request for all tests that do not look at the key: making keys is slow. */
let request: SigningRequest;

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'weft-svids-'));
  request = await createSigningRequest(IDENTITY);
});

after(() => rm(home, { recursive: true, force: true }));

beforeEach(async () => {
  clock = new ManualClock(Math.floor(Date.now() / 1000) * 1000);
  authority = new CertificateAuthority(await createMaterial(TRUST_DOMAIN, 10 * 365 * 24 * 3600, clock.now()), TRUST_DOMAIN, () =>
    clock.now(),
  );
});

function roots(): Uint8Array[] {
  return certificatesFromPem(authority.roots);
}

function identity(n: number): string {
  return `spiffe://example.org/ns/shop/sa/cart-${n}`;
}

function sign({ csr, identity, ttlSeconds }: SvidRequest): Promise<string> {
  return authority.issue(csr, { identity, ttlSeconds }).then((issued) => issued.certificateChain);
}

interface Wish extends Partial<SvidManagerOptions> {
  readonly issuer?: SvidIssuer;
  readonly createRequest?: (identity: string) => Promise<SigningRequest>;
}

function manage({ issuer = sign, createRequest = copyOfOne, ...options }: Wish = {}): SvidManager {
  const manager = new SvidManager({
    obtain: (identity, ttlSeconds) => certifiedKey(identity, ttlSeconds, issuer, createRequest),
    ttlSeconds: TTL_SECONDS,
    clock,
    random: () => 0.5,
    ...options,
  });
  manager.setBundle(TRUST_DOMAIN, roots());
  return manager;
}

/** Whoever gets a key wipes it in the end. */
function copyOfOne(): Promise<SigningRequest> {
  return Promise.resolve({ csr: request.csr, privateKey: Uint8Array.from(request.privateKey) });
}

function failures(manager: SvidManager): number {
  return SVID_FAILURES.reduce((sum, reason) => sum + (manager.counters.failed[reason] ?? 0), 0);
}

/** Lets work that is not timers (signing) finish. */
async function until(condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; ) {
    if (condition()) return;
    await turn();
  }
  assert.fail('it did not happen');
}

/** An issuer that answers when told. */
class HeldIssuer {
  readonly asked: string[] = [];
  readonly #answers: (() => void)[] = [];

  readonly issue = (wanted: SvidRequest): Promise<string> => {
    this.asked.push(wanted.identity);
    return new Promise((resolve) => {
      this.#answers.push(() => resolve(sign(wanted)));
    });
  };

  answerAll(): void {
    for (const answer of this.#answers.splice(0)) answer();
  }
}

class FailingIssuer {
  attempts = 0;
  broken = true;

  readonly issue = (wanted: SvidRequest): Promise<string> => {
    this.attempts++;
    return this.broken ? Promise.reject(new Error('the authority is away')) : sign(wanted);
  };
}

const mirrorOf = (requests: string[] = []): IdentityMirror => new IdentityMirror({ clock, request: (identity) => requests.push(identity) });

describe('an SVID', () => {
  test('is there after its identity was ensured, with its own key', async () => {
    using manager = manage({ createRequest: createSigningRequest });
    assert.equal(manager.current(IDENTITY), null);
    manager.ensure(IDENTITY);
    const svid = await manager.wait(IDENTITY, 5000);
    assert.equal(svid.identity, IDENTITY);
    assert.match(svid.certificateChain, /^-----BEGIN CERTIFICATE-----/);
    assert.equal(new X509Certificate(svid.certificateChain).checkPrivateKey(keyObject(svid.privateKey)), true);
    assert.equal(svid.notAfter, clock.now() + TTL_SECONDS * 1000);
    assert.equal(manager.current(IDENTITY), svid);
  });

  test('is requested once, however often its identity is ensured', async () => {
    const issuer = new HeldIssuer();
    using manager = manage({ issuer: issuer.issue });
    for (let i = 0; i < 5; i++) manager.ensure(IDENTITY);
    await turn();
    assert.deepEqual(issuer.asked, [IDENTITY]);
  });

  test('is renewed at half of its life, with a new key', async () => {
    using manager = manage({ createRequest: createSigningRequest });
    manager.ensure(IDENTITY);
    const first = await manager.wait(IDENTITY, 5000);
    await clock.advance((TTL_SECONDS / 2) * 1000 - 1);
    assert.equal(manager.counters.renewed, 0);
    await clock.advance(1);
    await until(() => manager.counters.renewed === 1);
    const second = manager.current(IDENTITY);
    assert.notDeepEqual(second?.privateKey, first.privateKey);
    assert.equal(second?.notAfter, first.notAfter + (TTL_SECONDS / 2) * 1000);
  });

  for (const [random, share] of [
    [0, 0.45],
    [1, 0.55],
  ] as const) {
    test(`is renewed at ${share} of its life when the jitter is at its end`, async () => {
      using manager = manage({ random: () => random });
      manager.ensure(IDENTITY);
      await manager.wait(IDENTITY, 5000);
      await clock.advance(TTL_SECONDS * 1000 * share - 10);
      assert.equal(manager.status()[0]?.state, 'held');
      const { notAfter, nextRequest } = manager.status()[0] as { notAfter: number; nextRequest: number };
      assert.ok(nextRequest > 0 && nextRequest < notAfter, 'says when it renews: before it expires');
      await clock.advance(20);
      await until(() => manager.counters.renewed === 1);
    });
  }

  test('serves until it expires while renewal fails, and not a moment longer', async () => {
    const issuer = new FailingIssuer();
    issuer.broken = false;
    using manager = manage({ issuer: issuer.issue });
    manager.ensure(IDENTITY);
    const svid = await manager.wait(IDENTITY, 5000);
    issuer.broken = true;
    await clock.advance(TTL_SECONDS * 1000 - 1);
    assert.ok(failures(manager) > 3);
    assert.equal(manager.current(IDENTITY), svid);
    await clock.advance(1);
    assert.equal(manager.current(IDENTITY), null);
    assert.deepEqual(manager.snapshot().svids, []);
  });

  test('comes back by itself when the authority does', async () => {
    const issuer = new FailingIssuer();
    using manager = manage({ issuer: issuer.issue });
    manager.ensure(IDENTITY);
    await until(() => failures(manager) === 1);
    issuer.broken = false;
    const waiting = manager.wait(IDENTITY, 5000);
    await clock.advance(500);
    assert.equal((await waiting).identity, IDENTITY);
    assert.equal(manager.status()[0]?.failures, 0);
  });

  test('is dropped with its key when its identity is forgotten', async () => {
    using manager = manage();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    manager.forget(IDENTITY);
    assert.equal(manager.current(IDENTITY), null);
    assert.deepEqual(manager.status(), []);
    assert.equal(clock.timers, 0);
  });

  test('that arrives after its identity was forgotten is not kept', async () => {
    const issuer = new HeldIssuer();
    using manager = manage({ issuer: issuer.issue });
    manager.ensure(IDENTITY);
    await turn();
    manager.forget(IDENTITY);
    manager.ensure(IDENTITY);
    await until(() => issuer.asked.length === 2);
    issuer.answerAll();
    await until(() => manager.current(IDENTITY) !== null);
    assert.equal(manager.counters.issued, 1);
  });

  test('that is not what was asked for is refused', async () => {
    const cases: [RegExp, SvidIssuer][] = [
      [
        /certified spiffe:\/\/example\.org\/ns\/shop\/sa\/other/,
        (wanted) => sign({ ...wanted, identity: 'spiffe://example.org/ns/shop/sa/other' }),
      ],
      [/another key/, async (wanted) => sign({ ...wanted, csr: (await createSigningRequest(IDENTITY)).csr })],
      [/no certificate/, () => Promise.resolve('')],
    ];
    for (const [reason, issuer] of cases) {
      using manager = manage({ issuer });
      manager.ensure(IDENTITY);
      await until(() => failures(manager) === 1);
      assert.equal(manager.current(IDENTITY), null);
      assert.match(manager.status()[0]?.lastFailure ?? '', reason);
    }
  });

  test('that does not chain to our own bundle is refused', async () => {
    using manager = manage();
    manager.setBundle(TRUST_DOMAIN, [(await forgeRoot()).der]);
    manager.ensure(IDENTITY);
    await until(() => failures(manager) === 1);
    assert.match(manager.status()[0]?.lastFailure ?? '', /WEFT_IDENTITY_PEER_CHAIN/);
  });
});

describe('requests that fail', () => {
  test('are repeated after 0.5 s, then twice as late each time, up to 150 s', async () => {
    const issuer = new FailingIssuer();
    // No jitter: it only shortens.
    using manager = manage({ issuer: issuer.issue, random: () => 0 });
    manager.ensure(IDENTITY);
    await until(() => failures(manager) === 1);
    let delay = 500;
    for (let attempt = 2; attempt <= 12; attempt++) {
      await clock.advance(delay - 1);
      assert.equal(issuer.attempts, attempt - 1);
      await clock.advance(1);
      await until(() => failures(manager) === attempt);
      assert.equal(issuer.attempts, attempt);
      delay = Math.min(delay * 2, BACKOFF_CAP_MS);
    }
    assert.equal(delay, BACKOFF_CAP_MS);
  });

  test('do not delay other identities', async () => {
    using manager = manage({ issuer: (wanted) => (wanted.identity === IDENTITY ? Promise.reject(new Error('no')) : sign(wanted)) });
    manager.ensure(IDENTITY);
    manager.ensure(identity(1));
    await until(() => manager.current(identity(1)) !== null);
    assert.equal(manager.current(IDENTITY), null);
  });

  test('and never answer give their place back', async () => {
    let hang = true;
    using manager = manage({
      concurrency: 1,
      requestTimeoutMs: 1000,
      issuer: (wanted) => (hang ? new Promise(() => undefined) : sign(wanted)),
    });
    manager.ensure(IDENTITY);
    manager.ensure(identity(1));
    await turn();
    hang = false;
    assert.equal(manager.current(identity(1)), null);
    await clock.advance(1000);
    await until(() => manager.current(identity(1)) !== null);
    assert.match(manager.status()[0]?.lastFailure ?? '', /no answer within 1000 ms/);
  });
});

describe('requests', () => {
  test('are eight at once at most', async () => {
    const issuer = new HeldIssuer();
    using manager = manage({ issuer: issuer.issue });
    for (let i = 0; i < 20; i++) manager.ensure(identity(i));
    await turn();
    assert.equal(issuer.asked.length, 8);
    issuer.answerAll();
    await until(() => issuer.asked.length === 16);
    await turn();
    assert.equal(issuer.asked.length, 16);
  });

  test('for which a connection waits go first, then those without an SVID, then renewals', async () => {
    const issuer = new HeldIssuer();
    using manager = manage({ issuer: issuer.issue, concurrency: 1, requestTimeoutMs: 10 * TTL_SECONDS * 1000 });
    manager.ensure(identity(0));
    await turn();
    issuer.answerAll();
    await until(() => manager.current(identity(0)) !== null);
    // Busy with one more while the renewal, two warm-ups and a waiting connection queue up.
    manager.ensure(identity(1));
    await turn();
    await clock.advance((TTL_SECONDS / 2) * 1000);
    manager.ensure(identity(2));
    manager.ensure(identity(3));
    const waiting = manager.wait(identity(3), 600_000);
    waiting.catch(() => undefined);
    const before = issuer.asked.length;
    for (let i = 1; i <= 3; i++) {
      issuer.answerAll();
      await until(() => issuer.asked.length === before + i);
    }
    assert.deepEqual(issuer.asked.slice(before), [identity(3), identity(2), identity(0)]);
  });
});

describe('waiting for an SVID', () => {
  test('ends with WEFT_IDENTITY_UNAVAILABLE and the reason when the time is up', async () => {
    const issuer = new FailingIssuer();
    using manager = manage({ issuer: issuer.issue });
    manager.ensure(IDENTITY);
    const waiting = assert.rejects(manager.wait(IDENTITY, 5000), { code: 'WEFT_IDENTITY_UNAVAILABLE', message: /the authority is away/ });
    await until(() => failures(manager) === 1);
    await clock.advance(5000);
    await waiting;
  });

  test('for an identity that runs nowhere here asks nobody', async () => {
    const issuer = new HeldIssuer();
    using manager = manage({ issuer: issuer.issue });
    const waiting = assert.rejects(manager.wait(IDENTITY, 100), { code: 'WEFT_IDENTITY_UNAVAILABLE', message: /no workload/ });
    await clock.advance(100);
    await waiting;
    assert.deepEqual(issuer.asked, []);
  });

  test('may begin before the identity is ensured', async () => {
    using manager = manage();
    const waiting = manager.wait(IDENTITY, 5000);
    manager.ensure(IDENTITY);
    assert.equal((await waiting).identity, IDENTITY);
  });

  test('ends when the identity is forgotten', async () => {
    using manager = manage({ issuer: new HeldIssuer().issue });
    manager.ensure(IDENTITY);
    const waiting = assert.rejects(manager.wait(IDENTITY, 5000), { code: 'WEFT_IDENTITY_UNAVAILABLE', message: /any more/ });
    manager.forget(IDENTITY);
    await waiting;
  });

  test('is refused beyond a bound', async () => {
    using manager = manage({ issuer: new HeldIssuer().issue });
    const all = Array.from({ length: MAX_WAITERS }, () => manager.wait(IDENTITY, 1000).catch((error: unknown) => error));
    await assert.rejects(manager.wait(IDENTITY, 1000), { code: 'WEFT_IDENTITY_UNAVAILABLE', message: /too many/ });
    manager[Symbol.dispose]();
    await Promise.all(all);
  });
});

describe('bundles', () => {
  test('have a sequence that grows with each change of content only', async () => {
    using manager = manage();
    const first = manager.bundle(TRUST_DOMAIN)?.sequence ?? 0;
    manager.setBundle(TRUST_DOMAIN, roots());
    assert.equal(manager.bundle(TRUST_DOMAIN)?.sequence, first);
    manager.setBundle(TRUST_DOMAIN, []);
    assert.ok((manager.bundle(TRUST_DOMAIN)?.sequence ?? 0) > first);
    manager.removeBundle(TRUST_DOMAIN);
    assert.equal(manager.bundle(TRUST_DOMAIN), null);
    manager.setBundle(TRUST_DOMAIN, roots());
    assert.ok((manager.bundle(TRUST_DOMAIN)?.sequence ?? 0) > first + 1);
  });

  test('are no views of what is more than them, which other threads would be sent too', async () => {
    using manager = manage();
    const { der } = await forgeRoot();
    manager.setBundle(TRUST_DOMAIN, [Buffer.concat([der, Buffer.from('a secret')]).subarray(0, der.length)]);
    const [root] = manager.bundle(TRUST_DOMAIN)?.roots ?? [];
    assert.deepEqual(root, der);
    assert.equal(root?.buffer.byteLength, der.length);
  });

  test('that cannot be used are refused, and the old one stays', async () => {
    using manager = manage();
    for (const root of [Buffer.from('garbage'), Buffer.alloc(3), Buffer.alloc(0)]) {
      assert.throws(() => manager.setBundle(TRUST_DOMAIN, [root]), { code: 'WEFT_CERTS_BUNDLE' });
    }
    assert.deepEqual(manager.bundle(TRUST_DOMAIN)?.roots.map(Buffer.from), roots());
  });
});

describe('listeners', () => {
  test('hear once of all changes in one turn', async () => {
    using manager = manage();
    await turn();
    let heard = 0;
    const unsubscribe = manager.onChange(() => heard++);
    const before = manager.version;
    manager.setBundle('a.example', roots());
    manager.setBundle('b.example', roots());
    assert.equal(manager.version, before + 2);
    assert.equal(heard, 0);
    await turn();
    assert.equal(heard, 1);
    unsubscribe();
    manager.setBundle('c.example', roots());
    await turn();
    assert.equal(heard, 1);
  });
});

test('after dispose there is no timer, no SVID and no waiter', async () => {
  const issuer = new HeldIssuer();
  const manager = manage({ issuer: issuer.issue });
  manager.ensure(IDENTITY);
  manager.ensure(identity(1));
  const waiting = assert.rejects(manager.wait(IDENTITY, 5000), { code: 'WEFT_IDENTITY_UNAVAILABLE', message: /stopping/ });
  await turn();
  manager[Symbol.dispose]();
  manager[Symbol.dispose]();
  await waiting;
  assert.equal(clock.timers, 0);
  issuer.answerAll();
  for (let i = 0; i < 20; i++) await turn();
  assert.equal(manager.current(IDENTITY), null);
  assert.equal(clock.timers, 0);
  await assert.rejects(manager.wait(IDENTITY, 5000), /stopping/);
});

describe('the mirror in a worker', () => {
  test('shows what the manager has, copied by structured clone', async () => {
    using manager = manage();
    using mirror = mirrorOf();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    mirror.apply(structuredClone(manager.snapshot()));
    assert.deepEqual(mirror.current(IDENTITY), manager.current(IDENTITY));
    assert.deepEqual(mirror.bundle(TRUST_DOMAIN), manager.bundle(TRUST_DOMAIN));
  });

  test('drops what an update no longer has', async () => {
    using manager = manage();
    using mirror = mirrorOf();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    mirror.apply(manager.snapshot());
    mirror.apply({ svids: [], bundles: [] });
    assert.equal(mirror.current(IDENTITY), null);
    assert.equal(mirror.bundle(TRUST_DOMAIN), null);
  });

  test('never shows an expired SVID, though the main thread is silent', async () => {
    using manager = manage();
    using mirror = mirrorOf();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    mirror.apply(manager.snapshot());
    await clock.advance(TTL_SECONDS * 1000);
    assert.equal(mirror.current(IDENTITY), null);
  });

  test('asks the main thread once for all who wait, and hands each the answer', async () => {
    using manager = manage();
    const requests: string[] = [];
    using mirror = mirrorOf(requests);
    const waiting = [mirror.wait(IDENTITY, 5000), mirror.wait(IDENTITY, 5000)];
    assert.deepEqual(requests, [IDENTITY]);
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    mirror.apply(manager.snapshot());
    assert.deepEqual(
      (await Promise.all(waiting)).map((svid) => svid.identity),
      [IDENTITY, IDENTITY],
    );
    assert.equal(clock.timers, 1);
  });

  test('gives up waiting in time', async () => {
    using mirror = mirrorOf();
    const waiting = assert.rejects(mirror.wait(IDENTITY, 100), { code: 'WEFT_IDENTITY_UNAVAILABLE' });
    await clock.advance(100);
    await waiting;
    assert.equal(clock.timers, 0);
  });

  test('keeps the objects of what did not change, and does not tell its listeners of nothing', async () => {
    using manager = manage();
    using mirror = mirrorOf();
    manager.ensure(IDENTITY);
    await manager.wait(IDENTITY, 5000);
    mirror.apply(structuredClone(manager.snapshot()));
    const svid = mirror.current(IDENTITY);
    const { version } = mirror;
    await turn();
    let heard = 0;
    mirror.onChange(() => heard++);
    mirror.apply(structuredClone(manager.snapshot()));
    await turn();
    assert.equal(mirror.current(IDENTITY), svid);
    assert.equal(mirror.version, version);
    assert.equal(heard, 0);
  });
});
