import assert from 'node:assert/strict';
import { createPrivateKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { describe, test } from 'node:test';
import { isWiped, keyObject, shareKey, wipeKey, withPemKey } from '../../../certs/svid/private-key.ts';

function der(key: KeyObject): Uint8Array {
  return key.export({ type: 'pkcs8', format: 'der' });
}

const p256 = (): KeyObject => generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;

describe('a private key', () => {
  test('moves to shared memory, and its first copy is wiped', () => {
    const key = der(p256());
    const expected = Buffer.from(key);
    const shared = shareKey(key);
    assert.ok(shared.buffer instanceof SharedArrayBuffer);
    assert.deepEqual(Buffer.from(shared), expected);
    assert.ok(key.every((byte) => byte === 0));
    assert.equal(shareKey(shared), shared);
  });

  test('is gone for every thread at once when it is wiped', () => {
    const shared = shareKey(der(p256()));
    const elsewhere = new Uint8Array(structuredClone(shared.buffer));
    assert.equal(isWiped(elsewhere), false);
    wipeKey(shared);
    assert.ok(elsewhere.every((byte) => byte === 0));
    assert.equal(isWiped(elsewhere), true);
    assert.throws(() => keyObject(elsewhere));
  });

  // 119 to 138 bytes, RSA with over a thousand: with and without padding and a full last line.
  const keys: [string, KeyObject][] = [
    ['P-256', p256()],
    ['P-384', generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey],
    ['Ed25519', generateKeyPairSync('ed25519').privateKey],
    ['RSA', generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey],
  ];
  for (const [name, key] of keys) {
    test(`on ${name} is lent as the PEM that OpenSSL writes`, () => {
      const pem = withPemKey(der(key), (lent) => lent.toString('latin1'));
      assert.equal(pem, key.export({ type: 'pkcs8', format: 'pem' }));
      assert.ok(createPrivateKey(pem).equals(key));
    });
  }

  test('is lent for the length of one call', () => {
    let kept: Uint8Array = new Uint8Array(0);
    withPemKey(der(p256()), (pem) => {
      kept = pem;
      assert.match(pem.toString('latin1'), /^-----BEGIN PRIVATE KEY-----\n/);
    });
    assert.ok(kept.length > 0 && kept.every((byte) => byte === 0));
    assert.throws(() =>
      withPemKey(der(p256()), (pem) => {
        kept = pem;
        throw new Error('cannot use it');
      }),
    );
    assert.ok(kept.every((byte) => byte === 0));
  });
});
