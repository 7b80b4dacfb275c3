import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync, verify, type webcrypto, X509Certificate } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay, setImmediate } from 'node:timers/promises';
import { Authority, type OpenOptions, type SlotStatus } from '../../../certs/authority/authority.ts';
import type { SlotState } from '../../../certs/authority/authority-state.ts';
import { materialFromPem } from '../../../certs/authority/authority-material.ts';
import type { IssueJwtRequest } from '../../../certs/authority/jwt-signer.ts';
import type { CertsError } from '../../../certs/errors.ts';
import type { JwtSvid } from '../../../certs/identity-provider.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { createSigningRequest } from '../../../certs/x509/signing-request.ts';
import { KEY_USAGE, readCertificateFields } from '../../../certs/x509/certificate-fields.ts';
import { createPrivateFile, readPrivateFile } from '../../../certs/private-file.ts';
import { certificatesFromPem, certificatesToPem } from '../../../certs/x509/pem.ts';
import { bundlesOf, forgeRoot, IDENTITY, TRUST_DOMAIN } from './forge.ts';
import { ManualClock } from './manual-clock.ts';

let home: string;
let authority: Authority;
const opened = new AsyncDisposableStack();

/** Closed at the end of the tests. */
async function open(directory: string, options: Partial<OpenOptions> = {}): Promise<Authority> {
  return opened.use(await Authority.open({ directory, trustDomain: TRUST_DOMAIN, nodeName: 'node-1', ...options }));
}

function rootsOf(one: Authority): string {
  return certificatesToPem(one.trust().bundle.x509Authorities);
}

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'weft-authority-'));
  authority = await open(join(home, 'shared'));
});

after(async () => {
  await opened.disposeAsync();
  await rm(home, { recursive: true, force: true });
});

function error(code: string, message?: RegExp): object {
  return { code, ...(message === undefined ? {} : { message }) };
}

describe('on its first start', () => {
  test('it creates a root that follows the rules for signing certificates', () => {
    const [der] = authority.trust().bundle.x509Authorities;
    const fields = readCertificateFields(der as Uint8Array);
    assert.equal(fields.isCa, true);
    assert.equal(fields.keyUsageCritical, true);
    assert.ok(((fields.keyUsage ?? 0) & KEY_USAGE.keyCertSign) !== 0);
    assert.equal((fields.keyUsage ?? 0) & KEY_USAGE.digitalSignature, 0);
    assert.deepEqual(
      fields.uris.map((uri) => Buffer.from(uri).toString()),
      ['spiffe://example.org'],
    );
    assert.equal(fields.subjectIsEmpty, false);
    assert.equal(new X509Certificate(der as Uint8Array).publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
  });

  test('it keeps its key in a file of mode 0600 in a directory of mode 0700', async () => {
    const directory = join(home, 'modes', 'deeper');
    await open(directory);
    assert.equal((await stat(directory)).mode & 0o777, 0o700);
    assert.deepEqual(await readdir(directory), ['authority-000001.json']);
    assert.equal((await stat(join(directory, 'authority-000001.json'))).mode & 0o777, 0o600);
  });

  test('ten that start at once on one directory end with one authority', async () => {
    const directory = join(home, 'race');
    const all = await Promise.all(Array.from({ length: 10 }, () => open(directory)));
    assert.equal(new Set(all.map(rootsOf)).size, 1);
    assert.deepEqual(await readdir(directory), ['authority-000001.json']);
  });

  test('it never replaces a key that another process wrote in the meantime', async () => {
    const path = join(home, 'meantime', 'authority-000001.json');
    assert.equal(await createPrivateFile(path, 'first'), true);
    assert.equal(await createPrivateFile(path, 'second'), false);
    assert.equal(await readPrivateFile(path), 'first');
  });

  test('it refuses a directory that others may write to', async () => {
    const directory = join(home, 'open');
    await mkdir(directory);
    await chmod(directory, 0o777);
    await assert.rejects(open(directory), error('WEFT_CERTS_DIRECTORY', /replace the key/));
    assert.deepEqual(await readdir(directory), []);
  });

  test('it refuses a bad trust domain', async () => {
    await assert.rejects(open(join(home, 'bad'), { trustDomain: 'Example' }), error('WEFT_IDENTITY_INVALID'));
  });
});

describe('on a later start', () => {
  test('it is the same authority', async () => {
    const again = await open(join(home, 'shared'));
    assert.equal(rootsOf(again), rootsOf(authority));
  });

  for (const mode of [0o640, 0o604, 0o660]) {
    test(`it refuses a key file of mode ${mode.toString(8)}`, async () => {
      const directory = join(home, `mode-${mode}`);
      await open(directory);
      await chmod(join(directory, 'authority-000001.json'), mode);
      await assert.rejects(open(directory), error('WEFT_CERTS_KEY_FILE', /group or others/));
    });
  }

  test('it refuses a symbolic link in place of the key file', async () => {
    const directory = join(home, 'link');
    await mkdir(directory, { mode: 0o700 });
    await symlink(join(home, 'shared', 'authority-000001.json'), join(directory, 'authority-000001.json'));
    await assert.rejects(open(directory), error('WEFT_CERTS_KEY_FILE', /symbolic link/));
  });

  test('it refuses a key file that is empty, and leaves it as it is', async () => {
    const directory = join(home, 'empty');
    await mkdir(directory, { mode: 0o700 });
    await writeFile(join(directory, 'authority-000001.json'), '', { mode: 0o600 });
    await assert.rejects(open(directory), error('WEFT_CERTS_STATE_FILE', /not JSON/));
    assert.equal(await readFile(join(directory, 'authority-000001.json'), 'utf8'), '');
  });

  test('it refuses another trust domain than that of its root', async () => {
    await assert.rejects(
      open(join(home, 'shared'), { trustDomain: 'other.example' }),
      error('WEFT_CERTS_CA_TRUST_DOMAIN', /example\.org, not other\.example/),
    );
  });

  test('it refuses a root that has expired', async () => {
    const directory = join(home, 'old');
    const created = Date.now() - 7_200_000;
    await open(directory, { rootTtlSeconds: 3600, clock: new ManualClock(created) });
    await assert.rejects(open(directory), error('WEFT_CERTS_CA_EXPIRED'));
  });
});

/** An authority on a clock that the test moves, in a directory of its own. */
async function openAt(name: string, clock: ManualClock, options: Partial<OpenOptions> = {}): Promise<Authority> {
  return open(join(home, name), { clock, ...options });
}

function states(one: Authority): string[] {
  return one.status().slots.map((slot) => slot.state);
}

/**
 * Lets time pass, with the turns of the event loop that reading files takes, and then a little more until what is expected has happened: how
 * many turns that takes is up to the machine. What has not happened after five seconds is what the assertion after it is about.
 */
async function settle(clock: ManualClock, ms: number, expected: () => boolean = () => true): Promise<void> {
  for (let i = 0; i < 6; i++) {
    await clock.advance(ms / 6);
    await delay(15);
  }
  for (const end = performance.now() + 5000; !expected() && performance.now() < end; await delay(15)) await clock.advance(100);
}

/** That the slots of all of these are so. */
function are(expected: readonly SlotState[], ...all: readonly Authority[]): () => boolean {
  return () => all.every((one) => states(one).join() === expected.join());
}

async function issueFrom(one: Authority, ttlSeconds = 20): Promise<Uint8Array[]> {
  const { csr } = await createSigningRequest(IDENTITY);
  return certificatesFromPem((await one.issue(csr, { identity: IDENTITY, ttlSeconds })).certificateChain);
}

function acknowledgeAll(...all: readonly Authority[]): void {
  for (const [index, one] of all.entries()) one.nodeSeen({ name: `node-${index + 1}`, acknowledged: one.trust().sequence });
}

describe('the state file', () => {
  const broken: readonly (readonly [what: string, change: (text: string) => string, code: string, message: RegExp])[] = [
    ['cut short', (text) => text.slice(0, 500), 'WEFT_CERTS_STATE_FILE', /cut short/],
    ['of another version', (text) => text.replace('"version": 1', '"version": 2'), 'WEFT_CERTS_STATE_FILE', /version 2/],
    ['with an unknown member', (text) => text.replace('{', '{ "extra": 1,'), 'WEFT_CERTS_STATE_FILE', /unknown member "extra"/],
    ['with one name twice', (text) => text.replace('{', '{ "version": 1,'), 'WEFT_CERTS_STATE_FILE', /not JSON/],
    ['without an active authority', (text) => text.replace('"active"', '"old"'), 'WEFT_CERTS_STATE_FILE', /0 active/],
    ['with a negative time', (text) => text.replace(/"issuedUntil": \d+/, '"issuedUntil": -1'), 'WEFT_CERTS_STATE_FILE', /issuedUntil/],
    ['of another trust domain', (text) => text.replace('example.org', 'other.example'), 'WEFT_CERTS_CA_TRUST_DOMAIN', /other\.example/],
    [
      'with the key of another',
      (text) => text.replace(/("key": ")[^"]*/, (_, name) => name + otherKey),
      'WEFT_CERTS_CA_INVALID',
      /does not belong/,
    ],
  ];
  const otherKey = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    .privateKey.export({ type: 'pkcs8', format: 'pem' })
    .toString()
    .replaceAll('\n', '\\n');

  for (const [what, change, code, message] of broken) {
    test(`${what} is refused, and left as it is`, async () => {
      const directory = join(home, `broken ${what}`);
      await (await open(directory))[Symbol.asyncDispose]();
      const path = join(directory, 'authority-000001.json');
      const text = change(await readFile(path, 'utf8'));
      await writeFile(path, text);
      await assert.rejects(open(directory), error(code, message));
      assert.equal(await readFile(path, 'utf8'), text);
      assert.deepEqual(await readdir(directory), ['authority-000001.json']);
    });
  }

  test('holds no key that can be read without the passphrase, and opens with it alone', async () => {
    const directory = join(home, 'encrypted');
    const passphrase = (): Promise<string> => Promise.resolve('correct horse');
    const first = await open(directory, { passphrase });
    assert.doesNotMatch(await readFile(join(directory, 'authority-000001.json'), 'utf8'), /BEGIN PRIVATE KEY|BEGIN EC/);
    assert.equal(rootsOf(await open(directory, { passphrase })), rootsOf(first));
    await assert.rejects(open(directory), error('WEFT_CERTS_PASSPHRASE', /no passphrase/));
    await assert.rejects(open(directory, { passphrase: () => Promise.resolve('wrong') }), error('WEFT_CERTS_PASSPHRASE', /wrong/));
  });

  test('of earlier versions, ca.pem, becomes the first active authority', async () => {
    const directory = join(home, 'earlier');
    const root = await forgeRoot();
    await createPrivateFile(join(directory, 'ca.pem'), root.privateKey + root.pem);
    const all = await Promise.all([open(directory), open(directory), open(directory)]);
    assert.deepEqual(all.map(rootsOf), [root.pem, root.pem, root.pem]);
    assert.deepEqual(await readdir(directory), ['authority-000001.json']);
  });

  test('that was put back from a backup gets past the sequences that were published since', async () => {
    const clock = new ManualClock();
    const directory = join(home, 'restored');
    const one = await openAt('restored', clock);
    await (await openAt('restored', clock))[Symbol.asyncDispose]();
    const path = join(directory, 'authority-000001.json');
    const backup = await readFile(path, 'utf8');
    const { id } = await one.prepare();
    await one.taint(id);
    const published = one.trust().sequence;
    await one[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
    await createPrivateFile(path, backup.replace(/"savedAt": \d+/, `"savedAt": ${clock.now() - 3_600_000}`));
    await clock.advance(5000);
    assert.ok((await openAt('restored', clock)).trust().sequence > published);
  });

  test('is changed by two processes at once without a change being lost', async () => {
    const [one, two] = [await open(join(home, 'both')), await open(join(home, 'both'))];
    await one.prepare();
    const id = one.status().slots[1]?.id as string;
    await Promise.all([
      one.taint(id),
      issueFrom(one, 100),
      issueFrom(two, 500),
      issueFrom(one, 900),
      two.issueJwt({ identity: IDENTITY, audience: ['a'] }),
    ]);
    const later = await open(join(home, 'both'));
    assert.equal(later.status().slots[1]?.tainted, true);
    assert.ok((later.status().slots[0]?.issuedUntil ?? 0) >= Date.now() + 890_000);
    assert.equal((await readdir(join(home, 'both'))).filter((name) => name.endsWith('.json')).length, 1);
  });
});

describe('a rotation', () => {
  test('prepares, waits for every live node, activates, waits for the last SVID, and prunes; each process follows', async () => {
    const clock = new ManualClock();
    const [one, two] = [await openAt('rotate', clock), await openAt('rotate', clock, { nodeName: 'node-2' })];
    acknowledgeAll(one, two);
    const [oldLeaf] = await issueFrom(one);
    const before = one.trust();
    await one.rotate();
    assert.ok(one.trust().sequence > before.sequence);
    assert.equal(one.trust().bundle.x509Authorities.length, 2);
    assert.equal(one.trust().bundle.jwtAuthorities.length, 2);

    acknowledgeAll(one);
    const awaited = (): string | undefined =>
      one
        .status()
        .rotation?.waitingFor.map((node) => node.name)
        .join();
    await settle(clock, 6000, () => two.trust().sequence === one.trust().sequence && awaited() === 'node-2');
    assert.deepEqual(states(one), ['active', 'prepared']);
    assert.equal(awaited(), 'node-2');
    assert.equal(two.trust().sequence, one.trust().sequence, 'the other process has taken it up');

    acknowledgeAll(one, two);
    await settle(clock, 2000, are(['old', 'active'], one, two));
    assert.deepEqual(states(one), ['old', 'active']);
    assert.deepEqual(states(two), ['old', 'active']);
    const bundle = certificatesToPem(one.trust().bundle.x509Authorities);
    const verifier = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: bundle }), { now: () => clock.now() });
    const [leaf] = await issueFrom(two);
    assert.equal(verifier.verify([leaf as Uint8Array]).text, IDENTITY);
    assert.equal(verifier.verify([oldLeaf as Uint8Array]).text, IDENTITY);
    assert.notDeepEqual(readCertificateFields(leaf as Uint8Array).issuer, readCertificateFields(oldLeaf as Uint8Array).issuer);

    await settle(clock, 60_000, () => are(['active'], one, two)() && one.status().rotation === null);
    assert.deepEqual(states(one), ['active']);
    assert.deepEqual(states(two), ['active']);
    assert.equal(one.status().rotation, null);
    assert.equal(one.trust().bundle.x509Authorities.length, 1);
  });

  test('does not wait for a node that is gone for good beyond its lease', async () => {
    const clock = new ManualClock();
    const one = await openAt('gone', clock);
    one.nodeSeen({ name: 'node-9', acknowledged: one.trust().sequence, svidExpiresAt: clock.now() + 3_600_000 });
    await one.rotate();
    await settle(clock, 3_000_000);
    assert.deepEqual(states(one), ['active', 'prepared']);
    await settle(clock, 700_000, () => one.status().rotation?.phase !== 'publishing');
    assert.equal(one.status().slots.find((slot) => slot.state === 'active')?.id, one.status().slots.at(-1)?.id);
    assert.notEqual(one.status().rotation?.phase, 'publishing');
  });

  for (const phase of ['publishing', 'retiring'] as const) {
    test(`goes on after a restart while ${phase}`, async () => {
      const clock = new ManualClock();
      const first = await openAt(`restart ${phase}`, clock);
      await issueFrom(first);
      first.nodeSeen({ name: 'node-9', acknowledged: first.trust().sequence });
      await first.rotate();
      if (phase === 'retiring') {
        first.nodeSeen({ name: 'node-9', acknowledged: first.trust().sequence });
        await settle(clock, 6000, () => first.status().rotation?.phase === phase);
      }
      assert.equal(first.status().rotation?.phase, phase);
      await first[Symbol.asyncDispose]();
      const second = await openAt(`restart ${phase}`, clock);
      assert.equal(second.status().rotation?.phase, phase);
      second.nodeSeen({ name: 'node-9', acknowledged: second.trust().sequence });
      await settle(clock, 90_000, are(['active'], second));
      assert.deepEqual(states(second), ['active']);
    });
  }

  test('takes an acknowledgement of what was never published for none', async () => {
    const clock = new ManualClock();
    const one = await openAt('future', clock);
    one.nodeSeen({ name: 'node-9', acknowledged: 2n ** 60n });
    await one.rotate();
    await settle(clock, 30_000);
    assert.deepEqual(states(one), ['active', 'prepared']);
  });

  test('begins by itself before the active authority expires, and takes over before it does', async () => {
    const clock = new ManualClock();
    const one = await openAt('automatic', clock, { rootTtlSeconds: 600 });
    await settle(clock, 240_000);
    assert.deepEqual(states(one), ['active']);
    await settle(clock, 90_000, are(['active', 'prepared'], one));
    assert.deepEqual(states(one), ['active', 'prepared']);
    await settle(clock, 200_000, () => !states(one).includes('prepared'));
    assert.equal(
      one.status().slots.some((slot) => slot.state === 'prepared'),
      false,
    );
    assert.ok((one.status().slots.find((slot) => slot.state === 'active')?.notAfter ?? 0) > clock.now() + 300_000);
  });

  test('of imported material is not made up, but asked for', async () => {
    const clock = new ManualClock();
    const one = await openAt('imported', clock, { rootTtlSeconds: 7200 });
    const root = await forgeRoot({ notBefore: clock.now() - 5000, notAfter: clock.now() + 600_000 });
    await one.rotate({ material: materialFromPem({ certificate: root.pem, key: root.privateKey }) });
    await settle(clock, 400_000, () => one.status().slots.length === 1 && one.status().warnings.length > 0);
    assert.deepEqual(
      one.status().slots.map((slot) => slot.origin),
      ['imported'],
    );
    assert.match(one.status().warnings.join(), /import its successor/);
  });
});

test('tells of a change of trust, and not of every node that is seen and every SVID that is signed', async () => {
  const one = await openAt('news', new ManualClock());
  let told = 0;
  one.onChange(() => told++);
  one.nodeSeen({ name: 'node-9', acknowledged: one.trust().sequence });
  await issueFrom(one);
  await setImmediate();
  assert.equal(told, 0);
  await one.prepare();
  await setImmediate();
  assert.equal(told, 1);
});

describe('taint and revoke', () => {
  test('are refused for the active authority, and revoke for one that is not tainted', async () => {
    const one = await open(join(home, 'refused'));
    const active = one.status().slots[0]?.id as string;
    await assert.rejects(
      one.taint(active),
      (thrown: CertsError) => thrown.code === 'WEFT_CERTS_SLOT' && /another first/.test(thrown.nextStep ?? ''),
    );
    await assert.rejects(one.revoke(active), error('WEFT_CERTS_SLOT', /is active/));
    const { id } = await one.prepare();
    await assert.rejects(one.revoke(id), error('WEFT_CERTS_SLOT', /not tainted/));
    await one.taint(id);
    await assert.rejects(one.activate(id), error('WEFT_CERTS_SLOT', /tainted/));
    await assert.rejects(one.revoke('nobody'), error('WEFT_CERTS_SLOT', /no authority/));
  });

  test('make the sequence grow; the key is listed until its certificate would have expired', async () => {
    const clock = new ManualClock();
    const one = await openAt('revoked', clock, { rootTtlSeconds: 3600 });
    const old = one.status().slots[0] as SlotStatus;
    await issueFrom(one, 3000);
    await one.rotate();
    await settle(clock, 6000, are(['old', 'active'], one));
    assert.deepEqual(states(one), ['old', 'active']);
    const sequences = [one.trust().sequence];
    await one.taint(old.id);
    assert.deepEqual(one.trust().taintedKeys, [old.signingKey]);
    assert.equal(one.trust().bundle.x509Authorities.length, 2, 'a tainted root still verifies');
    sequences.push(one.trust().sequence);
    await one.revoke(old.id);
    sequences.push(one.trust().sequence);
    assert.deepEqual(one.trust().taintedKeys, []);
    assert.deepEqual(one.trust().revokedKeys, [old.signingKey]);
    assert.equal(one.trust().bundle.x509Authorities.length, 1);
    assert.equal(
      one.trust().bundle.jwtAuthorities.some((key) => key.keyId === old.jwtKeyId),
      false,
    );
    assert.deepEqual(sequences, [...new Set(sequences)].toSorted());
    await settle(clock, 3_700_000, () => one.trust().revokedKeys.length === 0);
    assert.deepEqual(one.trust().revokedKeys, []);
  });
});

test('activate by hand is refused while a live node lacks the new root, unless forced', async () => {
  const one = await open(join(home, 'by hand'));
  one.nodeSeen({ name: 'node-9', acknowledged: one.trust().sequence });
  const { id } = await one.prepare();
  await assert.rejects(one.activate(id), error('WEFT_CERTS_NOT_ACKNOWLEDGED', /node-9/));
  await one.activate(id, { force: true });
  assert.deepEqual(states(one), ['old', 'active']);
});

test('a given authority issues, and is not rotated', async () => {
  const root = await forgeRoot();
  const one = opened.use(
    await Authority.given({ certificate: root.pem, key: root.privateKey, trustDomain: TRUST_DOMAIN, nodeName: 'node-1' }),
  );
  assert.equal((await issueFrom(one)).length, 1);
  await assert.rejects(one.rotate(), error('WEFT_CERTS_FIXED'));
});

test('a join token outlasts that there are too many nodes', async () => {
  const root = await forgeRoot();
  const one = opened.use(
    await Authority.given({ certificate: root.pem, key: root.privateKey, trustDomain: TRUST_DOMAIN, nodeName: 'node-1' }),
  );
  for (let index = 0; index < 10_000; index++) one.nodeSeen({ name: `other-${index}`, acknowledged: null });
  const token = await one.tokens.create({ node: 'node-2', ttlSeconds: 60 });
  await assert.rejects(one.tokens.redeem(token), error('WEFT_CERTS_TOO_MANY'));
  one.nodeGone('other-0');
  assert.equal((await one.tokens.redeem(token)).node, 'node-2');
});

test('node names that would lead out of the directory are refused', async () => {
  const one = await open(join(home, 'names'));
  for (const name of ['', '.', '..', '../x', 'a/b', 'a\0b', '.hidden', 'a'.repeat(201)])
    assert.throws(() => one.nodeSeen({ name, acknowledged: null }), error('WEFT_CERTS_NODE_NAME'));
});

describe('a JWT-SVID', () => {
  test('has the header and the claims of JWT-SVID.md, and verifies with the key of the bundle', async () => {
    const { token, expiresAt } = await authority.issueJwt({ identity: IDENTITY, audience: ['orders'] });
    const [header, payload, signature] = token.split('.') as [string, string, string];
    const key = authority.trust().bundle.jwtAuthorities[0];
    assert.deepEqual(JSON.parse(Buffer.from(header, 'base64url').toString()), { alg: 'ES256', kid: key?.keyId, typ: 'JWT' });
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString());
    assert.deepEqual(Object.keys(claims).toSorted(), ['aud', 'exp', 'iat', 'sub']);
    assert.equal(claims.sub, IDENTITY);
    assert.equal(claims.aud, 'orders');
    assert.equal(claims.exp * 1000, expiresAt);
    assert.ok(Math.abs(expiresAt - Date.now() - 300_000) < 2000);
    const publicKey = createPublicKey({ key: key?.jwk as webcrypto.JsonWebKey, format: 'jwk' });
    assert.equal(
      verify(
        'sha256',
        Buffer.from(`${header}.${payload}`),
        { key: publicKey, dsaEncoding: 'ieee-p1363' },
        Buffer.from(signature, 'base64url'),
      ),
      true,
    );
  });

  test('lives for an hour at most, never longer than its authority, for somebody, and for workloads of the trust domain', async () => {
    const issue = (request: Partial<IssueJwtRequest>): Promise<JwtSvid> =>
      authority.issueJwt({ identity: IDENTITY, audience: ['a'], ...request });
    await assert.rejects(issue({ ttlSeconds: 3601 }), error('WEFT_CERTS_TTL'));
    await assert.rejects(issue({ ttlSeconds: 0 }), error('WEFT_CERTS_TTL'));
    for (const audience of [[], [''], ['a'.repeat(2049)], Array.from({ length: 17 }, () => 'a')])
      await assert.rejects(issue({ audience }), error('WEFT_CERTS_AUDIENCE'));
    await assert.rejects(issue({ identity: 'spiffe://other.example/ns/a/sa/b' }), error('WEFT_CERTS_IDENTITY_REFUSED'));
    const short = await open(join(home, 'short jwt'), { rootTtlSeconds: 60 });
    assert.ok((await short.issueJwt({ identity: IDENTITY, audience: ['a'] })).expiresAt <= (short.status().slots[0]?.notAfter ?? 0));
  });
});
