import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { test } from 'node:test';
import type { SpiffeBundle } from '../../../certs/bundle/trust-state.ts';
import { MAX_AUDIENCE_LENGTH, MAX_AUDIENCES } from '../../../certs/jwt/audience.ts';
import {
  FETCH_JWT_BUNDLES,
  FETCH_JWT_SVID,
  FETCH_WIT_SVID,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  VALIDATE_JWT_SVID,
} from '../../../certs/workload-api/messages.ts';
import { GRPC_STATUS } from '../../../src/grpc/grpc-error.ts';
import { ApiFixture, FakeCaller, fakeSvid } from './api-fixture.ts';

const CART = 'spiffe://a.test/ns/shop/sa/cart';
const { INVALID_ARGUMENT, PERMISSION_DENIED, UNAVAILABLE, UNIMPLEMENTED } = GRPC_STATUS;

function fixture(options: ConstructorParameters<typeof ApiFixture>[0] = {}): ApiFixture {
  const made = new ApiFixture(options);
  made.source.svids.set(CART, fakeSvid(CART, 'one'));
  return made;
}

test('without the metadata, with another value, or with it twice, a call is an invalid argument', async () => {
  await using world = fixture();
  const session = await world.connect(new FakeCaller(CART));
  const wrong: readonly Readonly<Record<string, string | string[]>>[] = [
    {},
    { 'workload.spiffe.io': 'True' },
    { 'workload.spiffe.io': '' },
    { 'workload.spiffe.io': 'false' },
    { 'workload.spiffe.io': ['true', 'true'] },
  ];
  for (const metadata of wrong) {
    assert.equal(await world.call(session, FETCH_X509_SVID, {}, metadata).status, INVALID_ARGUMENT, JSON.stringify(metadata));
    assert.equal(await world.call(session, FETCH_JWT_SVID, { audience: ['a'], spiffeId: '' }, metadata).status, INVALID_ARGUMENT);
    assert.equal(await world.call(session, FETCH_WIT_SVID, { spiffeId: '' }, metadata).status, INVALID_ARGUMENT);
  }
});

test('a caller without identity is denied by every method', async () => {
  await using world = fixture();
  const session = await world.connect(new FakeCaller(null));
  assert.equal(await world.call(session, FETCH_X509_SVID, {}).status, PERMISSION_DENIED);
  assert.equal(await world.call(session, FETCH_X509_BUNDLES, {}).status, PERMISSION_DENIED);
  assert.equal(await world.call(session, FETCH_JWT_SVID, { audience: ['a'], spiffeId: '' }).status, PERMISSION_DENIED);
  assert.equal(await world.call(session, VALIDATE_JWT_SVID, { audience: 'a', svid: 'x.y.z' }).status, PERMISSION_DENIED);
});

test('WIT-SVIDs are not implemented', async () => {
  await using world = fixture();
  assert.equal(await world.call(await world.connect(new FakeCaller(CART)), FETCH_WIT_SVID, { spiffeId: '' }).status, UNIMPLEMENTED);
});

test('the first message is the full state, and several changes at once are one more message', async () => {
  await using world = fixture({ random: () => 0 });
  const call = world.call(await world.connect(new FakeCaller(CART)), FETCH_X509_SVID, {});
  const first = await call.first();
  assert.equal(first.svids[0]?.spiffeId, CART);
  assert.equal(Buffer.from(first.svids[0]?.x509Svid ?? []).toString(), 'one');
  assert.equal(Buffer.from(first.svids[0]?.x509SvidKey ?? []).toString(), 'key one');
  assert.equal(Buffer.from(first.svids[0]?.bundle ?? []).toString(), 'root');
  assert.deepEqual(first.crl, []);
  world.source.svids.set(CART, fakeSvid(CART, 'two'));
  world.source.changed();
  world.source.federated = [
    {
      trustDomain: 'b.test',
      x509Authorities: [Buffer.from('r1'), Buffer.from('r2')],
      jwtAuthorities: [],
      sequence: null,
      refreshHintSeconds: null,
    },
  ];
  world.source.changed();
  // What changes nothing for this caller is no message.
  world.source.changed();
  const [, second] = await call.count(2);
  assert.equal(Buffer.from(second?.svids[0]?.x509Svid ?? []).toString(), 'two');
  assert.deepEqual(
    [...(second?.federatedBundles ?? [])].map(([key, roots]) => [key, Buffer.from(roots).toString()]),
    [['spiffe://b.test', 'r1r2']],
  );
  world.source.federated = [];
  world.source.changed();
  const [, , third] = await call.count(3);
  assert.equal(third?.federatedBundles.size, 0, 'what is gone is not in the message');
});

test('a federated bundle in the name of the own trust domain counts for nothing, and of two for one trust domain the first', async () => {
  await using world = fixture();
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const bundle = (trustDomain: string, root: string): SpiffeBundle => ({
    trustDomain,
    x509Authorities: [Buffer.from(root)],
    jwtAuthorities: [{ keyId: root, jwk: publicKey.export({ format: 'jwk' }) }],
    sequence: null,
    refreshHintSeconds: null,
  });
  world.source.federated = [bundle('a.test', 'foreign'), bundle('b.test', 'first'), bundle('b.test', 'second')];
  const session = await world.connect(new FakeCaller(CART));
  const { federatedBundles } = await world.call(session, FETCH_X509_SVID, {}).first();
  const { bundles } = await world.call(session, FETCH_X509_BUNDLES, {}).first();
  const texts = (map: ReadonlyMap<string, Uint8Array>): object =>
    Object.fromEntries([...map].map(([key, roots]) => [key, Buffer.from(roots).toString()]));
  assert.deepEqual(
    [texts(federatedBundles), texts(bundles)],
    [{ 'spiffe://b.test': 'first' }, { 'spiffe://a.test': 'root', 'spiffe://b.test': 'first' }],
  );
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const input = `${part({ alg: 'ES256', kid: 'foreign' })}.${part({ sub: CART, aud: 'db', exp: Math.floor(Date.now() / 1000) + 60 })}`;
  const signature = sign('sha256', Buffer.from(input), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url');
  assert.equal(await world.call(session, VALIDATE_JWT_SVID, { audience: 'db', svid: `${input}.${signature}` }).status, INVALID_ARGUMENT);
});

test('a workload that leaves the mesh gets no more: its stream ends with a denial', async () => {
  await using world = fixture();
  const caller = new FakeCaller(CART);
  const call = world.call(await world.connect(caller), FETCH_X509_SVID, {});
  await call.first();
  caller.id = null;
  world.source.changed();
  assert.equal(await call.status, PERMISSION_DENIED);
});

test('when the process that connected has exited, its streams end and their places are free', async () => {
  await using world = fixture();
  const caller = new FakeCaller(CART);
  const session = await world.connect(caller);
  const calls = [world.call(session, FETCH_X509_SVID, {}), world.call(session, FETCH_X509_BUNDLES, {})];
  for (const call of calls) await call.first();
  assert.equal(world.api.openStreams, 2);
  caller.exit.abort();
  for (const call of calls) assert.equal(await call.status, PERMISSION_DENIED);
  assert.equal(world.api.openStreams, 0);
});

test('a client that is gone in the middle of a stream gives its place back', async () => {
  await using world = fixture();
  const session = await world.connect(new FakeCaller(CART));
  await world.call(session, FETCH_X509_SVID, {}).first();
  session.destroy();
  const deadline = performance.now() + 5_000;
  while (world.api.openStreams > 0 && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(world.api.openStreams, 0);
});

test('before there is an SVID or a bundle, and while the agent stops, the API is unavailable', async () => {
  await using world = fixture();
  const session = await world.connect(new FakeCaller(CART));
  world.source.svids.clear();
  assert.equal(await world.call(session, FETCH_X509_SVID, {}).status, UNAVAILABLE);
  world.source.own = null;
  assert.equal(await world.call(session, FETCH_X509_BUNDLES, {}).status, UNAVAILABLE);
  world.source.own = { trustDomain: 'a.test', x509Authorities: [], jwtAuthorities: [], sequence: 1n, refreshHintSeconds: null };
  const open = world.call(session, FETCH_X509_BUNDLES, {});
  await open.first();
  world.api[Symbol.dispose]();
  assert.equal(await open.status, UNAVAILABLE);
  assert.equal(await world.call(session, FETCH_X509_BUNDLES, {}).status, UNAVAILABLE);
});

test('JWT bundles are plain JWK Sets, and a change of anything else sends no message', async () => {
  await using world = fixture();
  const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' });
  const own: SpiffeBundle = {
    trustDomain: 'a.test',
    x509Authorities: [Buffer.from('root')],
    jwtAuthorities: [{ keyId: 'one', jwk }],
    sequence: 1n,
    refreshHintSeconds: 300,
  };
  world.source.own = own;
  const session = await world.connect(new FakeCaller(CART));
  const call = world.call(session, FETCH_JWT_BUNDLES, {});
  const roots = world.call(session, FETCH_X509_BUNDLES, {});
  const keySet = (message: { bundles: ReadonlyMap<string, Uint8Array> } | undefined): unknown =>
    JSON.parse(Buffer.from(message?.bundles.get('spiffe://a.test') ?? []).toString());
  assert.deepEqual(keySet(await call.first()), { keys: [{ ...jwk, kid: 'one' }] });
  await roots.first();
  world.source.own = { ...own, x509Authorities: [Buffer.from('next root')], sequence: 2n };
  world.source.changed();
  await roots.count(2);
  world.source.own = { ...own, jwtAuthorities: [{ keyId: 'two', jwk }], sequence: 3n };
  world.source.changed();
  const messages = await call.count(2);
  assert.deepEqual(keySet(messages[1]), { keys: [{ ...jwk, kid: 'two' }] });
});

test('a JWT-SVID needs an audience, and an identity that is the caller’s', async () => {
  await using world = fixture();
  const session = await world.connect(new FakeCaller(CART));
  const ask = (audience: string[], spiffeId = ''): Promise<number> => world.call(session, FETCH_JWT_SVID, { audience, spiffeId }).status;
  assert.equal(await ask([]), INVALID_ARGUMENT);
  assert.equal(await ask(['']), INVALID_ARGUMENT);
  assert.equal(await ask(Array.from({ length: MAX_AUDIENCES + 1 }, (_, i) => `a${i}`)), INVALID_ARGUMENT);
  assert.equal(await ask(['a'.repeat(MAX_AUDIENCE_LENGTH + 1)]), INVALID_ARGUMENT);
  assert.equal(await ask(['a'], 'spiffe://a.test/ns/shop/sa/admin'), PERMISSION_DENIED);
  assert.equal(await ask(['a']), UNAVAILABLE, 'no key to sign with');
});

test('a token that is none is an invalid argument, and is in no answer', async () => {
  await using world = fixture();
  const session = await world.connect(new FakeCaller(CART));
  for (const [audience, svid] of [
    ['', 'x.y.z'],
    ['a', ''],
    ['a', 'x.y.z'],
  ] as const) {
    const call = world.call(session, VALIDATE_JWT_SVID, { audience, svid });
    let message = '';
    call.stream.on('response', (headers) => (message += String(headers['grpc-message'] ?? '')));
    assert.equal(await call.status, INVALID_ARGUMENT);
    assert.ok(!message.includes('x.y.z'), message);
  }
});

test('a token is issued once for an audience until half of its life, and anew when the signing key has gone', async () => {
  let now = 1_000_000;
  await using world = fixture({ clock: { now: () => now, after: () => () => {} } });
  let issued = 0;
  world.source.issue = async (identity) => ({ identity, token: `t${++issued}`, issuedAt: now, expiresAt: now + 1_000 });
  const session = await world.connect(new FakeCaller(CART));
  const fetch = async (audience: string): Promise<string | undefined> =>
    (await world.call(session, FETCH_JWT_SVID, { audience: [audience], spiffeId: CART }).first()).svids[0]?.svid;
  assert.deepEqual(await Promise.all([fetch('a'), fetch('a')]), ['t1', 't1']);
  assert.equal(await fetch('b'), 't2');
  now += 499;
  assert.equal(await fetch('a'), 't1');
  now += 1;
  assert.equal(await fetch('a'), 't3');
  world.source.own = { ...(world.source.own as NonNullable<typeof world.source.own>), jwtAuthorities: [{ keyId: 'new', jwk: {} }] };
  world.source.changed();
  assert.equal(await fetch('a'), 't4');
});

test('a workload that orders tokens for ever new audiences is slowed down, and no other', async () => {
  const CATALOG = 'spiffe://a.test/ns/shop/sa/catalog';
  let now = Date.now();
  await using world = fixture({ clock: { now: () => now, after: () => () => {} } });
  let issued = 0;
  world.source.issue = async (identity) => ({ identity, token: `t${++issued}`, issuedAt: now, expiresAt: now + 300_000 });
  const session = await world.connect(new FakeCaller(CART));
  let audience = 0;
  const order = (): Promise<number> => world.call(session, FETCH_JWT_SVID, { audience: [`a${audience++}`], spiffeId: '' }).status;
  for (let i = 0; i < 200; i++) assert.equal(await order(), 0);
  for (let i = 0; i < 20; i++) assert.equal(await order(), UNAVAILABLE);
  now += 1_000;
  for (let i = 0; i < 20; i++) assert.equal(await order(), 0);
  assert.deepEqual([await order(), issued], [UNAVAILABLE, 220]);
  const other = world.call(await world.connect(new FakeCaller(CATALOG)), FETCH_JWT_SVID, { audience: ['a'], spiffeId: '' });
  assert.equal((await other.first()).svids[0]?.spiffeId, CATALOG);
});

test('ten thousand idle streams of one workload: bounded, and another workload is served at once', { timeout: 60_000 }, async () => {
  const CATALOG = 'spiffe://a.test/ns/shop/sa/catalog';
  await using world = fixture({ streams: { total: 4_000, perAccount: 1_000 } });
  world.source.svids.set(CATALOG, fakeSvid(CATALOG, 'three'));
  const greedy = new FakeCaller(CART);
  const before = process.memoryUsage.rss();
  const refused: Promise<number>[] = [];
  for (let connection = 0; connection < 100; connection++) {
    const session = await world.connect(greedy);
    const calls = Array.from({ length: 100 }, () => world.call(session, FETCH_X509_SVID, {}));
    if (connection >= 10) refused.push(...calls.map(({ status }) => status));
    else for (const call of calls) await call.first();
  }
  assert.deepEqual(new Set(await Promise.all(refused)), new Set([UNAVAILABLE]));
  assert.equal(refused.length, 9_000);
  assert.equal(world.api.openStreams, 1_000);
  const other = world.call(await world.connect(new FakeCaller(CATALOG)), FETCH_X509_SVID, {});
  assert.equal((await other.first()).svids[0]?.spiffeId, CATALOG);
  // Client and server together, in this process.
  const grown = (process.memoryUsage.rss() - before) / 2 ** 20;
  assert.ok(grown < 400, `${grown.toFixed()} MiB`);
});

test('when every place is taken, a newcomer gets a place of the largest', { timeout: 60_000 }, async () => {
  await using world = fixture({ streams: { total: 200, perAccount: 100 } });
  const held = [];
  for (const account of ['a', 'b']) {
    const session = await world.connect(new FakeCaller(CART, account));
    for (let i = 0; i < 100; i++) held.push(world.call(session, FETCH_X509_SVID, {}));
  }
  for (const call of held) await call.first();
  const newcomer = world.call(await world.connect(new FakeCaller(CART, 'c')), FETCH_X509_SVID, {});
  assert.equal((await newcomer.first()).svids[0]?.spiffeId, CART);
  assert.equal(await Promise.race(held.map(({ status }) => status)), UNAVAILABLE);
  assert.equal(world.api.openStreams, 200);
});
