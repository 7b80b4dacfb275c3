import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { request, type RequestOptions } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { createKeyStore } from '../../../certs/keystore/pkcs12.ts';
import { runCli } from '../../../src/cli/program.ts';
import { type AuthorityProcess, type AuthorityProcessOptions, serveAuthority } from '../../../src/control/main.ts';
import type { AuthorityStatusAnswer } from '../../../src/model/authority-api.ts';
import { forgeRoot } from '../../unit/certs/forge.ts';
import { RecordedTerminal } from '../../unit/cli/recorded-terminal.ts';

const home = mkdtempSync(join(tmpdir(), 'weft-control-'));
after(() => rmSync(home, { recursive: true }));
let counter = 0;

/** An authority in a directory of its own, and `weft ca` on it. */
class CaWorld implements AsyncDisposable {
  readonly directory: string = join(home, `ca-${counter++}`);
  #process: AuthorityProcess | null = null;

  async serve({ metrics = null }: Partial<Pick<AuthorityProcessOptions, 'metrics'>> = {}): Promise<this> {
    mkdirSync(join(this.directory, 'config'), { recursive: true });
    this.#process = await serveAuthority({
      configDirectory: join(this.directory, 'config'),
      authorityDirectory: join(this.directory, 'ca'),
      trustDomain: 'example.org',
      nodeName: 'here',
      listen: { host: '127.0.0.1', port: 0 },
      dns: [],
      maxTtlSeconds: 3600,
      passphrase: null,
      bundleEndpoint: null,
      metrics,
      runDirectory: join(this.directory, 'run'),
      logLevel: 'silent',
      drainTimeoutMs: 1000,
    });
    return this;
  }

  async weft(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
    const terminal = new RecordedTerminal();
    const code = await runCli(['ca', ...args, '--run-dir', join(this.directory, 'run')], terminal);
    return { code, out: terminal.output, err: terminal.errors };
  }

  async status(): Promise<AuthorityStatusAnswer> {
    return JSON.parse((await this.weft('status', '--json')).out) as AuthorityStatusAnswer;
  }

  file(name: string, content: string | Uint8Array): string {
    const path = join(this.directory, name);
    mkdirSync(this.directory, { recursive: true });
    writeFileSync(path, content, { mode: 0o600 });
    return path;
  }

  async drain(): Promise<void> {
    await this.#process?.drain();
    this.#process = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.drain();
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

function get(options: RequestOptions): Promise<{ status: number | undefined; body: string }> {
  return new Promise((resolve, reject) => {
    request(options, async (response) => resolve({ status: response.statusCode, body: (await response.toArray()).join('') }))
      .on('error', reject)
      .end();
  });
}

describe('weft ca, with an authority that runs', () => {
  test('its socket is root’s alone, and goes with it', async () => {
    await using world = await new CaWorld().serve();
    const socket = join(world.directory, 'run/ca.sock');
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    await world.drain();
    assert.equal(existsSync(socket), false);
  });

  test('status shows the authority, and that nobody has joined', async () => {
    await using world = await new CaWorld().serve();
    const { out } = await world.weft('status');
    assert.match(out, /^trust domain example\.org, bundle sequence \d+\n/);
    assert.match(out, /^[0-9a-f]{12} +active +\d{4}-.*O=Weft/m);
    assert.match(out, /no rotation is under way\n\nno node has joined: see/);
  });

  test('shows its metrics on its socket, and over TCP if asked for, where there is nothing else', async () => {
    const port = await freePort();
    await using world = await new CaWorld().serve({ metrics: { host: '127.0.0.1', port } });
    assert.equal((await world.weft('evict', 'node-x')).code, 0);
    const onSocket = await get({ socketPath: join(world.directory, 'run/ca.sock'), path: '/metrics' });
    const [{ id = '' } = {}] = (await world.status()).slots;
    assert.match(onSocket.body, /^weft_authority_svids_issued_total\{kind="x509"\} 1$/m);
    assert.match(onSocket.body, /^weft_authority_nodes\{state="evicted"\} 1$/m);
    assert.match(onSocket.body, /^weft_authority_rotation_phase\{phase="none"\} 1$/m);
    assert.match(onSocket.body, new RegExp(`^weft_authority_expiry_seconds\\{authority="${id}",state="active"\\} 3\\d{8}`, 'm'));
    const overTcp = await get({ host: '127.0.0.1', port, path: '/metrics' });
    assert.equal(overTcp.status, 200);
    assert.match(overTcp.body, /^weft_authority_joins_total 0$/m);
    assert.equal((await get({ host: '127.0.0.1', port, path: '/v1/authority' })).status, 404);
  });

  test('token prints the token alone on standard output', async () => {
    await using world = await new CaWorld().serve();
    const { code, out, err } = await world.weft('token', '--node', 'node-b', '--ttl', '60');
    assert.equal(code, 0);
    assert.match(out, /^weft-join-1\.[\w-]{43}\.[\w-]{43}\n$/);
    assert.match(err, /works once, until .*; on node-b: weft agent --ca-server/);
    const list = (await world.weft('token', '--list')).out;
    assert.match(list, /node-b +once/);
    assert.equal(list.includes(out.trim()), false);
    const [id] = /^[0-9a-f]{16}/m.exec(list) ?? [];
    assert.equal((await world.weft('token', '--revoke', id as string)).code, 0);
    assert.doesNotMatch((await world.weft('token', '--list')).out, /node-b/);
    assert.match((await world.weft('token', '--revoke', id as string)).err, /WEFT_CERTS_TOKEN/);
  });

  test('token --out writes the token to a file of this user alone, and replaces one only with --force', async () => {
    await using world = await new CaWorld().serve();
    const file = join(world.directory, 'node-b.token');
    const write = (path: string, ...more: string[]): ReturnType<CaWorld['weft']> =>
      world.weft('token', '--node', 'node-b', '--out', path, ...more);
    const { code, out, err } = await write(file);
    assert.deepEqual([code, out], [0, '']);
    assert.match(err, new RegExp(`--ca-token-file ${file}$`, 'm'));
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const first = readFileSync(file, 'utf8');
    assert.match(first, /^weft-join-1\.[\w-]{43}\.[\w-]{43}\n$/);
    const refused = await write(file);
    assert.equal(refused.code, 1);
    assert.match(refused.err, /WEFT_CLI_FILE_EXISTS/);
    assert.equal(readFileSync(file, 'utf8'), first);
    // No token was made for nobody.
    assert.equal((await world.weft('token', '--list')).out.match(/node-b/g)?.length, 1);
    chmodSync(file, 0o644);
    assert.equal((await write(file, '--force')).code, 0);
    assert.notEqual(readFileSync(file, 'utf8'), first);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const link = join(world.directory, 'link');
    symlinkSync(file, link);
    assert.match((await write(link, '--force')).err, /WEFT_CLI_FILE_EXISTS/);
    assert.match((await write(join(world.directory, 'none/token'))).err, /WEFT_CLI_FILE: cannot write/);
  });

  test('rotate replaces the active authority; with nobody to wait for, soon', async () => {
    await using world = await new CaWorld().serve();
    const [first] = (await world.status()).slots;
    const { code, out } = await world.weft('rotate');
    assert.equal(code, 0);
    assert.match(out, /^rotation, step 1 of 2: [0-9a-f]{12} is in the bundle and signs nothing yet; /);
    const deadline = Date.now() + 10_000;
    let active = first?.id;
    while (active === first?.id && Date.now() < deadline) active = (await world.status()).slots.find(({ state }) => state === 'active')?.id;
    assert.notEqual(active, first?.id);
  });

  test('prepare, activate, taint and revoke are a rotation by hand', async () => {
    await using world = await new CaWorld().serve();
    const [first] = (await world.status()).slots;
    const id = (await world.weft('prepare')).out.trim();
    assert.match((await world.weft('revoke', first?.id as string)).err, /WEFT_CERTS_SLOT/);
    assert.equal((await world.weft('activate', id)).code, 0);
    assert.match((await world.weft('taint', first?.id as string)).out, /old, tainted/);
    assert.equal((await world.weft('revoke', first?.id as string)).code, 0);
    assert.deepEqual(
      (await world.status()).slots.map((slot) => [slot.id, slot.state]),
      [[id, 'active']],
    );
  });

  test('import puts an authority of the operator’s own into the bundle; export writes the roots', async () => {
    await using world = await new CaWorld().serve();
    const root = await forgeRoot();
    const cert = world.file('root.pem', root.pem);
    const key = world.file('root.key', root.privateKey);
    const imported = await world.weft('import', '--cert', cert, '--key', key);
    assert.equal(imported.code, 0, imported.err);
    assert.equal((await world.status()).slots.find(({ id }) => id === imported.out.trim())?.state, 'prepared');
    const file = join(world.directory, 'roots.pem');
    assert.equal((await world.weft('export', '--out', file)).code, 0);
    assert.equal(readFileSync(file, 'utf8').match(/BEGIN CERTIFICATE/g)?.length, 2);
    assert.match((await world.weft('export', '--out', file)).err, /WEFT_CLI_FILE/);
  });

  test('import takes a PKCS#12 file too, and not without its password', async () => {
    await using world = await new CaWorld().serve();
    const root = await forgeRoot();
    const privateKey = new Uint8Array(createPrivateKey(root.privateKey).export({ type: 'pkcs8', format: 'der' }));
    const store = await createKeyStore({ privateKey, certificates: [root.der], password: 'correct horse', friendlyName: 'ca' });
    const file = world.file('ca.p12', store);
    assert.match((await world.weft('import', '--pkcs12', file)).err, /--pkcs12 needs its password/);
    const wrong = await world.weft('import', '--pkcs12', file, '--password-file', world.file('wrong', 'battery staple'));
    assert.match(wrong.err, /WEFT_CERTS_KEY_STORE/);
    const { code, out, err } = await world.weft('import', '--pkcs12', file, '--password-file', world.file('secret', 'correct horse'));
    assert.equal(code, 0, err);
    assert.equal((await world.status()).slots.find(({ id }) => id === out.trim())?.state, 'prepared');
  });

  test('does not show a key that it refuses', async () => {
    await using world = await new CaWorld().serve();
    const [one, other] = [await forgeRoot(), await forgeRoot()];
    const { code, err, out } = await world.weft(
      'import',
      '--cert',
      world.file('a.pem', one.pem),
      '--key',
      world.file('b.key', other.privateKey),
    );
    assert.equal(code, 1);
    assert.match(err, /WEFT_CERTS_CA_INVALID: .*does not belong/);
    assert.equal((out + err).includes(other.privateKey.split('\n')[1] as string), false);
  });

  test('wrong use is told before anything is asked', async () => {
    await using world = new CaWorld();
    for (const [args, message] of [
      [['token'], /--node is missing/],
      [['token', '--node', 'a', '--force'], /--force is for --out/],
      [['token', '--node', 'A b'], /--node cannot be/],
      [['token', '--node', 'a', '--ttl', '0'], /--ttl cannot be/],
      [['import'], /nothing to import/],
      [['import', '--cert', 'x'], /one half/],
      [['export', '--key'], /needs a passphrase/],
    ] as const) {
      const { code, err } = await world.weft(...args);
      assert.equal(code, 2, args.join(' '));
      assert.match(err, message);
    }
    assert.match((await world.weft('status')).err, /WEFT_CLI_NO_AUTHORITY: no authority answers on .*ca\.sock\nnext: run this where/);
  });
});

describe('weft ca, on a directory', () => {
  test('import makes the given authority the active one, and export --key gives it back', async () => {
    await using world = new CaWorld();
    const root = await forgeRoot();
    const cert = world.file('root.pem', root.pem);
    const key = world.file('root.key', root.privateKey);
    const secret = world.file('secret', 'correct horse\n');
    const where = ['--ca-dir', join(world.directory, 'ca'), '--trust-domain', 'example.org'];
    const imported = await world.weft('import', '--cert', cert, '--key', key, ...where);
    assert.equal(imported.code, 0, imported.err);
    const exported = await world.weft('export', '--key', '--passphrase-file', secret, ...where);
    assert.match(exported.out, /^-----BEGIN ENCRYPTED PRIVATE KEY-----/);
    const certificate = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(exported.out)?.[0] ?? '';
    assert.equal(new X509Certificate(certificate).fingerprint256, new X509Certificate(root.pem).fingerprint256);
    // What was exported can be imported.
    const again = new CaWorld();
    const [backupCert, backupKey] = [again.file('c', exported.out), again.file('k', exported.out)];
    const back = await again.weft(
      'import',
      '--cert',
      backupCert,
      '--key',
      backupKey,
      '--passphrase-file',
      secret,
      '--ca-dir',
      join(again.directory, 'ca'),
      '--trust-domain',
      'example.org',
    );
    assert.equal(back.code, 0, back.err);
    // As one PKCS#12 file too.
    const file = join(world.directory, 'backup.p12');
    const asFile = await world.weft('export', '--key', '--pkcs12', '--out', file, '--passphrase-file', secret, ...where);
    assert.equal(asFile.code, 0, asFile.err);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const third = ['--ca-dir', join(world.directory, 'third'), '--trust-domain', 'example.org'];
    const fromFile = await world.weft('import', '--pkcs12', file, '--password-file', secret, ...third);
    assert.equal(fromFile.code, 0, fromFile.err);
    assert.match((await world.weft('export', '--key', '--pkcs12', '--passphrase-file', secret, ...where)).err, /--out/);
  });

  test('import refuses while the authority runs', async () => {
    await using world = await new CaWorld().serve();
    const root = await forgeRoot();
    const { err } = await world.weft(
      'import',
      '--cert',
      world.file('r', root.pem),
      '--key',
      world.file('k', root.privateKey),
      '--ca-dir',
      join(world.directory, 'ca'),
    );
    assert.match(err, /WEFT_CLI_AUTHORITY_RUNS/);
  });
});
