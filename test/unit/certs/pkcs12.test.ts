import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { createKeyStore, createTrustStore, readKeyStore } from '../../../certs/keystore/pkcs12.ts';
import { checkMaterial, materialFromKeyStore } from '../../../certs/authority/authority-material.ts';
import { type Forged, forge, forgeRoot, pemKey, TRUST_DOMAIN } from './forge.ts';

const run = promisify(execFile);
const PASSWORD = 'pass: word!';
let home: string;
let root: Forged;
let signer: Forged;
let key: Uint8Array;

function der(pem: string): Uint8Array {
  return createPrivateKey(pem).export({ type: 'pkcs8', format: 'der' });
}

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'weft-keystore-'));
  root = await forgeRoot();
  signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
  key = der(pemOf(signer));
});

after(() => rm(home, { recursive: true, force: true }));

function pemOf(one: Forged): string {
  return typeof one.privateKey === 'string' ? one.privateKey : pemKey(one.privateKey);
}

const store = (): Promise<Uint8Array> =>
  createKeyStore({ privateKey: key, certificates: [signer.der, root.der], password: PASSWORD, friendlyName: 'weft' });

test('a keystore with an EC key comes back as it went in, whatever the order of its certificates', async () => {
  for (const certificates of [
    [signer.der, root.der],
    [root.der, signer.der],
  ]) {
    const content = await readKeyStore(
      await createKeyStore({ privateKey: key, certificates, password: PASSWORD, friendlyName: 'weft' }),
      PASSWORD,
    );
    assert.deepEqual(content.privateKey?.export({ type: 'pkcs8', format: 'der' }), Buffer.from(key));
    assert.deepEqual(
      content.certificates.map((one) => Buffer.from(one)),
      [Buffer.from(signer.der), Buffer.from(root.der)],
    );
  }
});

test('a keystore with an RSA key comes back as an authority', async () => {
  const keyAlgorithm = { name: 'RSASSA-PKCS1-v1_5', modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1), hash: 'SHA-256' };
  const rsa = await forgeRoot({ keyAlgorithm, signingAlgorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' } });
  const file = await createKeyStore({ privateKey: der(pemOf(rsa)), certificates: [rsa.der], password: PASSWORD, friendlyName: 'ca' });
  const material = await materialFromKeyStore(file, PASSWORD);
  assert.equal(checkMaterial(material, TRUST_DOMAIN).trustDomain, TRUST_DOMAIN);
});

test('OpenSSL reads our keystores, and we read those of OpenSSL', async () => {
  const ours = join(home, 'ours.p12');
  await writeFile(ours, await store());
  const { stdout } = await run('openssl', ['pkcs12', '-in', ours, '-nodes', '-passin', `pass:${PASSWORD}`]);
  assert.equal(stdout.match(/BEGIN CERTIFICATE/g)?.length, 2);
  assert.equal(createPrivateKey(stdout).equals(createPrivateKey(pemOf(signer))), true);

  const files = {
    key: join(home, 'key.pem'),
    cert: join(home, 'cert.pem'),
    chain: join(home, 'chain.pem'),
    theirs: join(home, 'theirs.p12'),
  };
  await writeFile(files.key, pemOf(signer));
  await writeFile(files.cert, signer.pem);
  await writeFile(files.chain, root.pem);
  await run('openssl', [
    'pkcs12',
    '-export',
    '-inkey',
    files.key,
    '-in',
    files.cert,
    '-certfile',
    files.chain,
    '-out',
    files.theirs,
    '-passout',
    `pass:${PASSWORD}`,
  ]);
  const content = await readKeyStore(await readFile(files.theirs), PASSWORD);
  assert.equal(content.privateKey?.equals(createPrivateKey(pemOf(signer))), true);
  assert.deepEqual(
    content.certificates.map((one) => new X509Certificate(one).subject),
    ['CN=signer', 'CN=test root'],
  );
});

// Where there is no Java, what it needs is still held fast: the attribute that marks certificates as trusted, found by OpenSSL.
test('a truststore has entries that Java trusts', async () => {
  const file = join(home, 'trust.p12');
  await writeFile(file, await createTrustStore({ certificates: [root.der, signer.der], password: 'changeit', friendlyName: 'weft' }));
  const { stdout } = await run('openssl', ['pkcs12', '-in', file, '-nokeys', '-passin', 'pass:changeit']);
  assert.equal(stdout.match(/2\.16\.840\.1\.113894\.746875\.1\.1/g)?.length, 2);
  if (!existsSync('/usr/bin/keytool')) return;
  const listed = await run('/usr/bin/keytool', [
    '-J-Xshare:auto',
    '-J-XX:TieredStopAtLevel=1',
    '-list',
    '-keystore',
    file,
    '-storepass',
    'changeit',
  ]);
  assert.equal(listed.stdout.match(/trustedCertEntry/g)?.length, 2);
  const keyFile = join(home, 'key.p12');
  await writeFile(
    keyFile,
    await createKeyStore({ privateKey: key, certificates: [signer.der, root.der], password: 'changeit', friendlyName: 'weft' }),
  );
  const entry = await run('/usr/bin/keytool', [
    '-J-Xshare:auto',
    '-J-XX:TieredStopAtLevel=1',
    '-list',
    '-v',
    '-keystore',
    keyFile,
    '-storepass',
    'changeit',
  ]);
  assert.match(entry.stdout, /PrivateKeyEntry\s+Certificate chain length: 2/);
});

test('a wrong password, noise and files cut short are refused with one clear error that shows nothing', async () => {
  const file = await store();
  const wrong = { code: 'WEFT_CERTS_KEY_STORE', message: /password is wrong, or the file is damaged/ };
  await assert.rejects(readKeyStore(file, 'other'), wrong);
  for (const length of [0, 1, 100, file.length - 1]) await assert.rejects(readKeyStore(file.subarray(0, length), PASSWORD), wrong);
  const flipped = Uint8Array.from(file);
  flipped[300] = (flipped[300] as number) ^ 1;
  await assert.rejects(readKeyStore(flipped, PASSWORD), wrong);
  await assert.rejects(readKeyStore(new Uint8Array(300_000), PASSWORD), { code: 'WEFT_CERTS_KEY_STORE', message: /bytes/ });
});

test('a file that asks for a key derivation of days is refused at once', async () => {
  const file = Buffer.from(await store());
  // The salt of the key derivation has 16 bytes and comes before its count: one byte of it makes room for a larger count.
  const count = file.lastIndexOf(Buffer.from('02022710', 'hex'), file.length - 10);
  assert.equal(file.subarray(count - 18, count - 16).toString('hex'), '0410');
  const costly = Buffer.concat([
    file.subarray(0, count - 17),
    Buffer.from('0f', 'hex'),
    file.subarray(count - 15, count),
    Buffer.from('02037fffff', 'hex'),
    file.subarray(count + 4),
  ]);
  assert.equal(costly.length, file.length);
  await assert.rejects(readKeyStore(costly, PASSWORD), { code: 'WEFT_CERTS_KEY_STORE', message: /rounds/ });
});

test('a password that is empty, or that programs disagree about, is refused', async () => {
  await assert.rejects(createKeyStore({ privateKey: key, certificates: [], password: '', friendlyName: 'weft' }), {
    code: 'WEFT_CERTS_KEY_STORE',
  });
});
