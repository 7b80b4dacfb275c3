/**
 * The SPIRE provider against SPIRE itself. `npm run test:spire` runs it; docs/spire.md says where its programs come from. It is not part
 * of `npm test`: to build SPIRE takes longer than all of that.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CertsError } from '../../certs/errors.ts';
import { parseCompactToken } from '../../src/jose/compact-token.ts';
import { certificatesToPem } from '../../certs/x509/pem.ts';
import { SpireProvider } from '../../certs/spire/spire-provider.ts';
import { SvidVerifier } from '../../certs/svid/peer-verifier.ts';
import { withPemKey } from '../../certs/svid/private-key.ts';
import { Child } from '../kit/child.ts';
import { RealSpire } from '../kit/real-spire.ts';

const NODE = 'spiffe://mesh.test/weft/node-a';
const CART = 'spiffe://mesh.test/ns/shop/sa/cart';
const WEB = 'spiffe://mesh.test/ns/shop/sa/web';
const LATER = 'spiffe://mesh.test/ns/shop/sa/later';

const binaries = process.env['WEFT_SPIRE_BIN'];
if (binaries === undefined) throw new Error('WEFT_SPIRE_BIN must name the directory of spire-server and spire-agent (docs/spire.md)');

let spire: RealSpire;
/** Programs of their own path, so that SPIRE tells the workloads apart. */
const programs = new Map<string, string>();

before(async () => {
  spire = await RealSpire.start({ binaries, trustDomain: 'mesh.test', broker: NODE });
  for (const name of ['cart', 'web']) {
    const program = join(spire.directory, name);
    copyFileSync('/bin/sleep', program);
    programs.set(name, program);
  }
  const self = `unix:path:${process.execPath}`;
  // The first entry is the default identity: that of the broker.
  await spire.entry(NODE, self, '-x509SVIDTTL', '3600');
  await spire.entry(CART, `unix:path:${programs.get('cart')}`, '-x509SVIDTTL', '10');
  await spire.entry(WEB, `unix:path:${programs.get('web')}`, '-x509SVIDTTL', '3600');
});

after(() => spire[Symbol.asyncDispose]());

function start(program: string): Promise<Child> {
  return Child.start([programs.get(program) ?? '', '600']);
}

function open(processes: ReadonlyMap<string, number> | null): SpireProvider {
  const pidOf = (identity: string): number | null => processes?.get(identity) ?? null;
  const broker = processes === null ? null : { socketPath: spire.brokerPath, servers: [spire.agentId], processes: { pidOf } };
  return new SpireProvider({ trustDomain: 'mesh.test', socketPath: spire.socketPath, broker, firstSvidMs: 15_000 });
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 40_000;
  while (!(await holds())) {
    if (performance.now() > deadline) assert.fail(`not within 40 s: ${what}`);
    await sleep(100);
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string | null> {
  try {
    await promise;
    return null;
  } catch (error) {
    return error instanceof CertsError ? error.code : String(error);
  }
}

test('Workload API: SVIDs of the agent process by SPIFFE ID, an entry that comes later, one that is deleted', async () => {
  await using provider = open(null);
  assert.equal((await provider.x509Svid(NODE, 60)).identity, NODE);
  const entry = await spire.entry(LATER, `unix:path:${process.execPath}`);
  await until('the SVID of the new entry', async () => (await codeOf(provider.x509Svid(LATER, 60))) === null);
  await spire.server('entry', 'delete', '-entryID', entry);
  await until('the withdrawal', async () => (await codeOf(provider.x509Svid(LATER, 60))) === 'WEFT_CERTS_SPIRE_WITHDRAWN');
  assert.equal((await provider.x509Svid(NODE, 60)).identity, NODE);
  assert.equal(provider.status().problem, null);
});

test('Workload API: a JWT-SVID that the bundle of SPIRE has the key of', async () => {
  await using provider = open(null);
  await provider.x509Svid(NODE, 60);
  const { token, expiresAt } = await provider.jwtSvid(NODE, ['db', 'cache']);
  assert.ok(expiresAt > Date.now());
  await until('the JWT bundle', async () => (provider.trust()?.bundle.jwtAuthorities.length ?? 0) > 0);
  const parsed = parseCompactToken(token);
  assert.ok(typeof parsed === 'object');
  assert.ok(provider.trust()?.bundle.jwtAuthorities.some(({ keyId }) => keyId === parsed.keyId));
});

test('Broker API: each workload by its process, and mTLS between the two', async () => {
  await using cart = await start('cart');
  await using web = await start('web');
  await using provider = open(
    new Map([
      [CART, cart.pid],
      [WEB, web.pid],
    ]),
  );
  const [client, server] = await Promise.all([provider.x509Svid(CART, 60), provider.x509Svid(WEB, 60)]);
  const roots = provider.trust()?.bundle.x509Authorities ?? [];
  const verifier = new SvidVerifier({ bundle: (trustDomain) => ({ trustDomain, roots, revokedKeys: [], sequence: 1 }) });
  const common = { ca: certificatesToPem(roots), minVersion: 'TLSv1.3' as const };
  const listener = withPemKey(server.privateKey, (key) =>
    createServer({ ...common, key, cert: server.certificateChain, requestCert: true, rejectUnauthorized: true }),
  );
  listener.on('secureConnection', (tls: TLSSocket) => {
    tls.end(verifier.verify([tls.getPeerX509Certificate()?.raw ?? Buffer.alloc(0)]).text);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as { port: number };
  const tls = withPemKey(client.privateKey, (key) =>
    connect({ ...common, port, host: '127.0.0.1', key, cert: client.certificateChain, checkServerIdentity: () => undefined }),
  );
  await once(tls, 'secureConnect');
  assert.equal(verifier.verify([tls.getPeerX509Certificate()?.raw ?? Buffer.alloc(0)]).text, WEB);
  let said = '';
  for await (const chunk of tls) said += String(chunk);
  assert.equal(said, CART, 'the server verified who called');
  listener.close();
});

test('Broker API: a process of another workload gives no identity of this one', async () => {
  await using web = await start('web');
  await using provider = open(new Map([[CART, web.pid]]));
  assert.equal(await codeOf(provider.x509Svid(CART, 60)), 'WEFT_CERTS_SPIRE_NO_SVID');
});

test('Broker API: SVIDs of 10 seconds are replaced while they are good', async () => {
  await using cart = await start('cart');
  await using provider = open(new Map([[CART, cart.pid]]));
  const seen = new Set<string>();
  const started = performance.now();
  while (performance.now() - started < 20_000) {
    const { certificateChain, notAfter } = await provider.x509Svid(CART, 60);
    assert.ok(notAfter > Date.now());
    seen.add(certificateChain);
    await sleep(200);
  }
  console.log(`SVIDs of 10 s seen in 20 s: ${seen.size}`);
  assert.ok(seen.size >= 3, `${seen.size} SVIDs`);
});

test('Broker API: with its process the SVID of a workload goes', async () => {
  const cart = await start('cart');
  const pids = new Map([[CART, cart.pid]]);
  await using provider = open(pids);
  await provider.x509Svid(CART, 60);
  pids.clear();
  const told = new Promise<void>((resolve) => provider.onChange(resolve));
  await cart[Symbol.asyncDispose]();
  await told;
  assert.match((await codeOf(provider.x509Svid(CART, 60))) ?? '', /WEFT_CERTS_SPIRE_/);
});

test('the agent of SPIRE restarts: SVIDs stay, and are replaced afterwards', async () => {
  await using web = await start('web');
  await using provider = open(new Map([[WEB, web.pid]]));
  const { certificateChain } = await provider.x509Svid(WEB, 60);
  await spire.restartAgent();
  assert.equal(await codeOf(provider.x509Svid(WEB, 60)), null);
  await until('the SVID of the new agent', async () => (await provider.x509Svid(WEB, 60)).certificateChain !== certificateChain);
  await until('all is well', async () => provider.status().problem === null);
});

test('a CA rotation of SPIRE: two roots, a growing sequence, SVIDs of the new one', async () => {
  await using provider = open(null);
  await provider.x509Svid(NODE, 60);
  await until('the bundle', async () => provider.trust() !== null);
  const before = provider.trust();
  const id = /Authority ID: (\S+)/.exec(await spire.server('localauthority', 'x509', 'prepare'))?.[1] ?? '';
  await until('both roots', async () => provider.trust()?.bundle.x509Authorities.length === 2);
  assert.ok((provider.trust()?.sequence ?? 0n) > (before?.sequence ?? 0n));
  await spire.server('localauthority', 'x509', 'activate', '-authorityID', id);
  const { certificateChain } = await provider.x509Svid(NODE, 60);
  const old = /Old X.509 authority:\s+Authority ID: (\S+)/.exec(await spire.server('localauthority', 'x509', 'show'))?.[1] ?? '';
  await spire.server('localauthority', 'x509', 'taint', '-authorityID', old);
  await until('an SVID of the new authority', async () => (await provider.x509Svid(NODE, 60)).certificateChain !== certificateChain);
  await spire.server('localauthority', 'x509', 'revoke', '-authorityID', old);
  await until('the old root is gone', async () => provider.trust()?.bundle.x509Authorities.length === 1);
});

test('a bundle that SPIRE federates with', async () => {
  const other = await RealSpire.start({ binaries, trustDomain: 'other.test', broker: 'spiffe://other.test/weft/node-a' });
  await using _ = other;
  const file = join(spire.directory, 'other.json');
  const { writeFileSync } = await import('node:fs');
  writeFileSync(file, await other.server('bundle', 'show', '-format', 'spiffe'));
  await spire.server('bundle', 'set', '-id', 'spiffe://other.test', '-format', 'spiffe', '-path', file);
  const entry = await spire.entry(LATER, `unix:path:${process.execPath}`, '-federatesWith', 'spiffe://other.test');
  await using provider = open(null);
  await until(
    'the SVID of the entry, from the server to the agent of SPIRE',
    async () => (await codeOf(provider.x509Svid(LATER, 60))) === null,
  );
  await until('the bundle', async () => provider.federatedBundles()[0]?.trustDomain === 'other.test');
  await spire.server('entry', 'delete', '-entryID', entry);
});
