import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Child, exec } from '../../kit/child.ts';
import { WorkloadApiWorld } from '../../kit/workload-api-world.ts';

// `weft svid` as a process of a workload, against the API on a real socket.

const WEFT = fileURLToPath(new URL('../../../src/cli/weft', import.meta.url));

function environment(world: WorkloadApiWorld): { env: Record<string, string> } {
  return { env: { SPIFFE_ENDPOINT_SOCKET: `unix://${world.socket}` } };
}

async function until(what: string, look: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!look()) {
    assert.ok(performance.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('weft svid fetch shows who the process is, and no key', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const text = await exec(cart.inside([WEFT, 'svid', 'fetch']), environment(world));
  assert.equal(text.code, 0, text.stderr);
  assert.match(text.stdout, /^identity +spiffe:\/\/world\.test\/ns\/shop\/sa\/cart$/m);
  const json = await exec(cart.inside([WEFT, 'svid', 'fetch', '--json']), environment(world));
  assert.equal((JSON.parse(json.stdout) as { spiffeId: string }).spiffeId, cart.identity);
  assert.doesNotMatch(text.stdout + json.stdout, /PRIVATE KEY/);
});

test('outside of every workload it fails, with what to do', async () => {
  await using world = await WorkloadApiWorld.start();
  const { code, stderr } = await exec([WEFT, 'svid', 'fetch'], environment(world));
  assert.equal(code, 1);
  assert.match(stderr, /^weft: WEFT_CLI_NO_IDENTITY: .*PERMISSION_DENIED.*\nnext: .*weft run/);
  const nobody = await exec([WEFT, 'svid', 'fetch', '--socket', `unix://${world.directory}/none`]);
  assert.match(nobody.stderr, /^weft: WEFT_CLI_WORKLOAD_API: /);
  const wrong = await exec([WEFT, 'svid', 'fetch', '--socket', 'tcp://localhost:80']);
  assert.match(wrong.stderr, /^weft: WEFT_IDENTITY_ENDPOINT: /);
});

test('--write with --watch keeps files that belong together, the key private, through a renewal', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const directory = join(world.directory, 'files');
  await using watching = await Child.start(cart.inside([WEFT, 'svid', 'fetch', '--write', directory, '--watch']), environment(world));
  const certificate = (): X509Certificate => new X509Certificate(readFileSync(join(directory, 'svid.pem')));
  await until('nothing was shown', () => watching.stdout.includes('identity'));
  const first = certificate();
  assert.equal(statSync(join(directory, 'svid.key')).mode & 0o777, 0o600);
  await world.renew(cart.identity);
  await until('the renewal was not written', () => watching.stdout.split('identity').length === 3);
  const second = certificate();
  assert.notEqual(second.serialNumber, first.serialNumber);
  assert.ok(second.checkPrivateKey(createPrivateKey(readFileSync(join(directory, 'svid.key')))));
  assert.ok(second.verify(new X509Certificate(readFileSync(join(directory, 'bundle.pem'))).publicKey));
  assert.equal((await watching.stop()).code, 0);
});

test('files of somebody else stay, unless forced', async () => {
  await using world = await WorkloadApiWorld.start();
  const [cart, catalog] = [await world.workload('cart'), await world.workload('catalog')];
  const directory = join(world.directory, 'files');
  const write = (workload: typeof cart, ...more: string[]): ReturnType<typeof exec> =>
    exec(workload.inside([WEFT, 'svid', 'export', '--out', directory, ...more]), environment(world));
  assert.equal((await write(cart)).code, 0);
  assert.equal((await write(cart)).code, 0, 'its own files are replaced');
  const refused = await write(catalog);
  assert.match(refused.stderr, /WEFT_CLI_FILE_EXISTS/);
  assert.match(new X509Certificate(readFileSync(join(directory, 'svid.pem'))).subjectAltName ?? '', /sa\/cart/);
  writeFileSync(join(directory, 'svid.pem'), 'something else');
  assert.match((await write(cart)).stderr, /WEFT_CLI_FILE_EXISTS/);
  assert.equal(readFileSync(join(directory, 'svid.pem'), 'utf8'), 'something else');
  assert.equal((await write(catalog, '--force')).code, 0);
  assert.equal((await write(catalog, '--format', 'der')).code, 0);
  const leaf = new X509Certificate(readFileSync(join(directory, 'svid.der')));
  const key = createPrivateKey({ key: readFileSync(join(directory, 'svid.key.der')), format: 'der', type: 'pkcs8' });
  assert.ok(leaf.checkPrivateKey(key));
});

test('--jwt prints a token for the audience, and nothing else', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const { stdout, code } = await exec(cart.inside([WEFT, 'svid', 'fetch', '--jwt', '--audience', 'db']), environment(world));
  assert.equal(code, 0);
  const [, claims = ''] = stdout.trim().split('.');
  assert.deepEqual((JSON.parse(Buffer.from(claims, 'base64url').toString()) as { sub: string; aud: string[] }).aud, ['db']);
  assert.equal((await exec([WEFT, 'svid', 'fetch', '--jwt'], environment(world))).code, 2);
});

test('OpenSSL reads the keystore with its key, and the truststore', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const directory = join(world.directory, 'stores');
  const password = join(world.directory, 'password');
  writeFileSync(password, 'correct horse\n', { mode: 0o600 });
  const args = ['svid', 'export', '--format', 'pkcs12', '--out', directory];
  const done = await exec(cart.inside([WEFT, ...args, '--password-file', password]), environment(world));
  assert.equal(done.code, 0, done.stderr);
  assert.equal(statSync(join(directory, 'keystore.p12')).mode & 0o777, 0o600);
  const read = (name: string): ReturnType<typeof exec> =>
    exec(['openssl', 'pkcs12', '-in', join(directory, name), '-passin', `file:${password}`, '-nodes']);
  const store = await read('keystore.p12');
  const leaf = new X509Certificate(readFileSync(join(directory, 'svid.pem')));
  assert.ok(leaf.checkPrivateKey(createPrivateKey(store.stdout)), store.stderr);
  const trusted = await read('truststore.p12');
  assert.ok(leaf.verify(new X509Certificate(trusted.stdout).publicKey), trusted.stderr);
  assert.equal((await exec([WEFT, ...args], environment(world))).code, 2, 'no password');
});
