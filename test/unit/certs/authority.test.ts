import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Authority, type OpenOptions } from '../../../certs/authority/authority.ts';
import { KEY_USAGE, readCertificateFields } from '../../../certs/x509/certificate-fields.ts';
import { createPrivateFile, readPrivateFile } from '../../../certs/private-file.ts';
import { certificatesToPem } from '../../../certs/x509/pem.ts';
import { TRUST_DOMAIN } from './forge.ts';
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
