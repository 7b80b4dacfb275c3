import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { CertsError } from '../../../certs/errors.ts';
import { SpireProvider, type SpireProviderOptions } from '../../../certs/spire/spire-provider.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../../src/grpc/grpc-error.ts';
import { FakeSpire, NO_IDENTITY } from '../../kit/fake-spire.ts';

const CART = 'spiffe://mesh.test/ns/shop/sa/cart';
const WEB = 'spiffe://mesh.test/ns/shop/sa/web';
const NODE = 'spiffe://mesh.test/weft/node-a';

function providerOf(spire: FakeSpire, options: Partial<SpireProviderOptions> = {}): SpireProvider {
  return new SpireProvider({ trustDomain: 'mesh.test', socketPath: spire.socketPath, broker: null, firstSvidMs: 3_000, ...options });
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 8_000;
  while (!(await holds())) {
    if (performance.now() > deadline) assert.fail(`not within 8 s: ${what}`);
    await sleep(10);
  }
}

function hasCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof CertsError && error.code === code;
}

/** The code of the error that x509Svid() rejects with now, or the chain that it resolves with. */
async function outcome(provider: SpireProvider, identity: string): Promise<string> {
  try {
    return (await provider.x509Svid(identity, 60)).certificateChain;
  } catch (error) {
    return error instanceof CertsError ? error.code : String(error);
  }
}

test('SVIDs are picked by SPIFFE ID, and keys are copies', async () => {
  await using spire = await FakeSpire.start();
  await using provider = providerOf(spire);
  const waiting = provider.x509Svid(CART, 60);
  const cart = await spire.svid(CART);
  spire.pushSvids(await spire.svid(WEB), cart);
  const svid = await waiting;
  assert.equal(svid.identity, CART);
  assert.deepEqual(Buffer.from(svid.privateKey), Buffer.from(cart.x509SvidKey));
  svid.privateKey.fill(0);
  assert.ok(
    (await provider.x509Svid(CART, 60)).privateKey.some((byte) => byte !== 0),
    'what a caller wipes is its own',
  );
});

test('a rotation is pushed, told, and handed out', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART));
  await using provider = providerOf(spire);
  const first = await provider.x509Svid(CART, 60);
  let changes = 0;
  provider.onChange(() => changes++);
  spire.pushSvids(await spire.svid(CART));
  await until('the new SVID', async () => (await outcome(provider, CART)) !== first.certificateChain);
  assert.ok(changes > 0);
});

test('an SVID that is missing from a message is withdrawn at once, the others stay', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART), await spire.svid(WEB));
  await using provider = providerOf(spire);
  await provider.x509Svid(CART, 60);
  spire.pushSvids(await spire.svid(WEB));
  await until('the withdrawal', async () => (await outcome(provider, CART)) === 'WEFT_CERTS_SPIRE_WITHDRAWN');
  assert.equal((await provider.x509Svid(WEB, 60)).identity, WEB);
});

test('PermissionDenied for a moment withdraws nothing', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART));
  await using provider = providerOf(spire);
  await provider.x509Svid(CART, 60);
  spire.x509Svids.set(NO_IDENTITY);
  await until('the problem', () => /PERMISSION_DENIED/.test(provider.status().problem ?? ''));
  assert.match(await outcome(provider, CART), /^-----BEGIN/);
  spire.pushSvids(await spire.svid(CART));
  assert.match(await outcome(provider, CART), /^-----BEGIN/);
});

test('PermissionDenied withdraws all, shows in the status, and is asked again', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART));
  await using provider = providerOf(spire);
  await provider.x509Svid(CART, 60);
  spire.x509Svids.set(NO_IDENTITY);
  await until('the withdrawal', async () => (await outcome(provider, CART)) === 'WEFT_CERTS_SPIRE_WITHDRAWN');
  assert.match(provider.status().problem ?? '', /PERMISSION_DENIED/);
  spire.pushSvids(await spire.svid(CART));
  await until('the SVID again', async () => (await outcome(provider, CART)).startsWith('-----BEGIN'));
});

test('without a registration entry the caller is told so, after a bounded wait', async () => {
  await using spire = await FakeSpire.start();
  await using provider = providerOf(spire, { firstSvidMs: 100 });
  await assert.rejects(provider.x509Svid(CART, 60), hasCode('WEFT_CERTS_SPIRE_NO_SVID'));
});

test('a message with anything wrong in it is discarded whole: the former SVIDs stay, and the status says why', async (t) => {
  await using spire = await FakeSpire.start();
  const good = await spire.svid(CART);
  const web = await spire.svid(WEB);
  await using elsewhere = await FakeSpire.start('else.test');
  const cases: readonly (readonly [string, object, RegExp])[] = [
    ['no SPIFFE ID', { spiffeId: '' }, /no spiffeId/],
    ['no chain', { x509Svid: new Uint8Array() }, /no x509Svid/],
    ['no key', { x509SvidKey: new Uint8Array() }, /no x509SvidKey/],
    ['no bundle', { bundle: new Uint8Array() }, /no bundle/],
    ['a hint too long', { hint: 'h'.repeat(1025) }, /longer than 1024/],
    ['the key of another SVID', { x509SvidKey: good.x509SvidKey.slice() }, /not the one that its SVID certifies/],
    ['a key that is none', { x509SvidKey: Buffer.from('key') }, /cannot be used/],
    ['a chain cut short', { x509Svid: web.x509Svid.slice(0, -1) }, /cut short/],
    ['an ID that is not certified', { spiffeId: `${WEB}2` }, /certifies/],
    ['another trust domain', { spiffeId: 'spiffe://else.test/ns/shop/sa/web' }, /trust domain/],
    ['an SVID of another trust domain', await elsewhere.svid('spiffe://else.test/ns/shop/sa/web'), /not of the trust domain/],
    ['a bundle that did not sign it', { bundle: elsewhere.roots }, /cannot be used/],
  ];
  spire.pushSvids({ ...good, x509SvidKey: good.x509SvidKey.slice() });
  await using provider = providerOf(spire);
  const { certificateChain } = await provider.x509Svid(CART, 60);
  for (const [name, change, says] of cases) {
    await t.test(name, async () => {
      spire.pushSvids(await spire.svid(CART), { ...web, x509SvidKey: web.x509SvidKey.slice(), ...change });
      await until('the problem', () => says.test(provider.status().problem ?? ''));
      assert.equal(await outcome(provider, CART), certificateChain, 'nothing of a bad message is used');
      assert.doesNotMatch(provider.status().problem ?? '', /PRIVATE|MII/);
    });
  }
});

test('of SVIDs with the same hint the first counts', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART, { hint: 'internal' }), await spire.svid(WEB, { hint: 'internal' }));
  await using provider = providerOf(spire, { firstSvidMs: 100 });
  assert.equal((await provider.x509Svid(CART, 60)).identity, CART);
  assert.equal(await outcome(provider, WEB), 'WEFT_CERTS_SPIRE_NO_SVID');
});

test('an SVID is handed out until it expires while SPIRE is away, and renewed when it is back', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART, { ttlSeconds: 3 }));
  await using provider = providerOf(spire, { firstSvidMs: 100 });
  const { certificateChain } = await provider.x509Svid(CART, 60);
  await spire.crash();
  await until('the problem', () => provider.status().problem !== null);
  assert.equal(await outcome(provider, CART), certificateChain);
  await until('the expiry', async () => (await outcome(provider, CART)) === 'WEFT_CERTS_SPIRE_NO_SVID');
  spire.pushSvids(await spire.svid(CART));
  await spire.listen();
  await until('a new SVID', async () => (await outcome(provider, CART)).startsWith('-----BEGIN'));
});

test('a silent SPIRE is given up before the SVID expires, and asked anew', async () => {
  await using spire = await FakeSpire.start();
  spire.pushSvids(await spire.svid(CART, { ttlSeconds: 2 }));
  await using provider = providerOf(spire);
  await provider.x509Svid(CART, 60);
  await until('a word about the silence', () => /said nothing/.test(provider.status().problem ?? ''));
});

test('trust: roots and keys of the own trust domain; the sequence grows with each change, over restarts, and not without a change', async () => {
  await using spire = await FakeSpire.start();
  const startedAt = BigInt(Date.now());
  await using provider = providerOf(spire);
  assert.equal(provider.trust(), null);
  spire.pushBundles();
  await until('the trust state', () => provider.trust() !== null);
  const first = provider.trust();
  assert.ok(first !== null && first.sequence >= startedAt);
  assert.deepEqual(first.bundle.x509Authorities.map(Buffer.from), [Buffer.from(spire.roots)]);
  spire.pushBundles();
  await sleep(100);
  assert.equal(provider.trust()?.sequence, first.sequence);
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  spire.pushJwtBundle([{ ...createPublicKey(publicKey.export({ type: 'spki', format: 'pem' })).export({ format: 'jwk' }), kid: 'k1' }]);
  await until('the JWT key', () => provider.trust()?.bundle.jwtAuthorities[0]?.keyId === 'k1');
  const second = provider.trust()?.sequence ?? 0n;
  assert.ok(second > first.sequence);
  await spire.replaceAuthority();
  spire.pushBundles();
  await until('the new root', () => (provider.trust()?.sequence ?? 0n) > second);
  assert.deepEqual(provider.trust()?.bundle.x509Authorities.map(Buffer.from), [Buffer.from(spire.roots)]);
});

test('federated bundles come and go with the messages; a bad one takes the whole message with it', async () => {
  await using spire = await FakeSpire.start();
  await using provider = providerOf(spire);
  spire.pushBundles(new Map([['spiffe://other.test', spire.roots]]));
  await until('the bundle', () => provider.federatedBundles()[0]?.trustDomain === 'other.test');
  const { sequence } = provider.trust() ?? { sequence: 0n };
  spire.pushBundles(new Map([['spiffe://other.test/path', spire.roots]]));
  await until('the problem', () => provider.status().problem !== null);
  spire.pushSvids(await spire.svid(CART));
  await until('the problem of the bundle alone', () => /no trust domain/.test(provider.status().problem ?? ''));
  assert.equal(provider.federatedBundles().length, 1);
  spire.pushBundles();
  await until('the redaction', () => provider.federatedBundles().length === 0);
  assert.equal(provider.trust()?.sequence, sequence, 'the own trust state is the same');
});

test('a JWT-SVID must be what was asked for', async () => {
  await using spire = await FakeSpire.start();
  await using provider = providerOf(spire);
  const exp = Math.floor(Date.now() / 1000) + 300;
  const answer = (claims: object, spiffeId = CART): void => {
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    spire.jwtSvids = { svids: [{ spiffeId, svid: `${part({ alg: 'ES256', kid: 'k' })}.${part(claims)}.AAAA`, hint: '' }] };
  };
  answer({ sub: CART, aud: ['db', 'cache'], exp, iat: exp - 300 });
  const svid = await provider.jwtSvid(CART, ['db', 'cache']);
  assert.deepEqual([svid.identity, svid.issuedAt, svid.expiresAt], [CART, (exp - 300) * 1000, exp * 1000]);
  for (const claims of [
    { sub: WEB, aud: 'db', exp },
    { sub: CART, aud: 'cache', exp },
    { sub: CART, aud: 'db', exp: 1 },
    { sub: CART, aud: 'db' },
  ]) {
    answer(claims);
    await assert.rejects(provider.jwtSvid(CART, ['db']), hasCode('WEFT_CERTS_SPIRE_MESSAGE'));
  }
  answer({ sub: WEB, aud: 'db', exp }, WEB);
  await assert.rejects(provider.jwtSvid(CART, ['db']), hasCode('WEFT_CERTS_SPIRE_NO_SVID'));
});

test('dispose refuses who waits, and ends the connections', async () => {
  await using spire = await FakeSpire.start();
  const provider = providerOf(spire);
  const refused = assert.rejects(provider.x509Svid(CART, 60), hasCode('WEFT_CERTS_SPIRE_CLOSED'));
  await until('a connection', () => spire.connections > 0);
  await provider[Symbol.asyncDispose]();
  await refused;
  const { connections } = spire;
  await sleep(600);
  assert.equal(spire.connections, connections, 'nobody connects again');
});

/** Processes whose lives the test decides. */
function brokerOf(spire: FakeSpire, pids: Map<string, number>, servers: readonly string[] = []): Partial<SpireProviderOptions> {
  return { broker: { socketPath: spire.brokerPath, servers, processes: { pidOf: (identity) => pids.get(identity) ?? null } } };
}

async function withOwnIdentity(spire: FakeSpire): Promise<void> {
  spire.pushBundles();
  spire.pushJwtBundle([]);
  spire.pushSvids(await spire.svid(NODE));
}

test('broker: one subscription for each workload, by its process; what it gives to others is left', async () => {
  await using spire = await FakeSpire.start();
  await withOwnIdentity(spire);
  spire.pushWorkload(process.pid, await spire.svid(WEB), await spire.svid(CART));
  await using provider = providerOf(spire, brokerOf(spire, new Map([[CART, process.pid]])));
  assert.equal((await provider.x509Svid(CART, 60)).identity, CART);
  await provider.x509Svid(CART, 60);
  assert.deepEqual(spire.subscribed, [process.pid]);
  await assert.rejects(provider.x509Svid(WEB, 60), hasCode('WEFT_CERTS_SPIRE_NO_SVID'));
  await assert.rejects(provider.x509Svid(NODE, 60), hasCode('WEFT_CERTS_SPIRE_NO_SVID'), "the broker's own SVID is for itself");
});

test('broker: WORKLOAD_NOT_ENTITLED withdraws that workload alone', async () => {
  await using spire = await FakeSpire.start();
  await withOwnIdentity(spire);
  const other = process.ppid;
  spire.pushWorkload(process.pid, await spire.svid(CART));
  spire.pushWorkload(other, await spire.svid(WEB));
  await using provider = providerOf(
    spire,
    brokerOf(
      spire,
      new Map([
        [CART, process.pid],
        [WEB, other],
      ]),
    ),
  );
  await provider.x509Svid(CART, 60);
  await provider.x509Svid(WEB, 60);
  spire.workload(process.pid).set({ error: new GrpcStatusError(GRPC_STATUS.PERMISSION_DENIED, 'no', { details: NOT_ENTITLED }) });
  await until('the withdrawal', async () => (await outcome(provider, CART)) === 'WEFT_CERTS_SPIRE_WITHDRAWN');
  assert.match(provider.status().problem ?? '', /WORKLOAD_NOT_ENTITLED/);
  assert.equal((await provider.x509Svid(WEB, 60)).identity, WEB);
});

/** google.rpc.Status with an ErrorInfo of the domain spiffe.io, encoded by hand. */
const NOT_ENTITLED: Uint8Array = (() => {
  const field = (number: number, bytes: Uint8Array): Buffer => Buffer.concat([Buffer.from([number * 8 + 2, bytes.length]), bytes]);
  const info = Buffer.concat([field(1, Buffer.from('WORKLOAD_NOT_ENTITLED')), field(2, Buffer.from('spiffe.io'))]);
  const any = Buffer.concat([field(1, Buffer.from('type.googleapis.com/google.rpc.ErrorInfo')), field(2, info)]);
  return Buffer.concat([Buffer.from([8, 7]), field(3, any)]);
})();

test('broker: a server that is no SPIRE agent, or not one of those named, is sent nothing', async (t) => {
  for (const [name, identity, servers] of [
    ['a workload', CART, []],
    ['another agent', 'spiffe://mesh.test/spire/agent/join_token/2', ['spiffe://mesh.test/spire/agent/join_token/1']],
  ] as const) {
    await t.test(name, async () => {
      await using spire = await FakeSpire.start();
      await withOwnIdentity(spire);
      spire.brokerIdentity = identity;
      spire.pushWorkload(process.pid, await spire.svid(CART));
      await using provider = providerOf(spire, { ...brokerOf(spire, new Map([[CART, process.pid]]), servers), firstSvidMs: 500 });
      await assert.rejects(provider.x509Svid(CART, 60), hasCode('WEFT_CERTS_SPIRE_NO_SVID'));
      assert.match(provider.status().problem ?? '', /may not serve the Broker API/);
      assert.deepEqual(spire.subscribed, []);
    });
  }
});

test('broker: the SVIDs of a workload go with its process; another process of it is subscribed to', async () => {
  await using spire = await FakeSpire.start();
  await withOwnIdentity(spire);
  const { spawn } = await import('node:child_process');
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const pid = child.pid ?? 0;
  const pids = new Map([[CART, pid]]);
  spire.pushWorkload(pid, await spire.svid(CART));
  await using provider = providerOf(spire, brokerOf(spire, pids));
  await provider.x509Svid(CART, 60);
  spire.pushWorkload(process.pid, await spire.svid(CART));
  pids.set(CART, process.pid);
  child.kill('SIGKILL');
  await until('a subscription by the other process', () => spire.subscribed.includes(process.pid));
  assert.equal((await provider.x509Svid(CART, 60)).identity, CART);
});

test('broker: with the last process of the workload its SVID is gone', async () => {
  await using spire = await FakeSpire.start();
  await withOwnIdentity(spire);
  const { spawn } = await import('node:child_process');
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const pids = new Map([[CART, child.pid ?? 0]]);
  spire.pushWorkload(child.pid ?? 0, await spire.svid(CART));
  await using provider = providerOf(spire, brokerOf(spire, pids));
  const held = await provider.x509Svid(CART, 60);
  assert.equal(provider.standing(CART, held), 'current');
  pids.delete(CART);
  let told = 0;
  provider.onChange(() => told++);
  child.kill('SIGKILL');
  await until('a word of it', () => told > 0);
  assert.equal(provider.standing(CART, held), 'withdrawn');
  assert.equal(await outcome(provider, CART), 'WEFT_CERTS_SPIRE_NO_SVID');
});

test('broker: a workload whose process comes later is told of', async () => {
  await using spire = await FakeSpire.start();
  await withOwnIdentity(spire);
  const pids = new Map<string, number>();
  await using provider = providerOf(spire, brokerOf(spire, pids));
  assert.equal(await outcome(provider, CART), 'WEFT_CERTS_SPIRE_NO_SVID');
  assert.equal(provider.standing(CART, null), 'current');
  spire.pushWorkload(process.pid, await spire.svid(CART));
  pids.set(CART, process.pid);
  await until('an SVID to be had', () => provider.standing(CART, null) === 'replaced');
});
