import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { isStrongKey } from '../../../certs/x509/public-key.ts';

/** A public key of that size. Nobody has the private one. */
function rsa(bits: number, exponent: Buffer): KeyObject {
  const modulus = randomBytes(bits / 8);
  modulus[0] = 0xff;
  modulus[modulus.length - 1] = 0xff;
  return createPublicKey({ key: { kty: 'RSA', n: modulus.toString('base64url'), e: exponent.toString('base64url') }, format: 'jwk' });
}

const F4 = Buffer.from([1, 0, 1]);

test('RSA keys are neither weak nor so large that checking a signature with them holds up an event loop', () => {
  const sizes = [1024, 2040, 2048, 3072, 4096, 8192, 8200, 16_384];
  assert.deepEqual(
    sizes.filter((bits) => isStrongKey(rsa(bits, F4))),
    [2048, 3072, 4096, 8192],
  );
  assert.equal(isStrongKey(rsa(2048, Buffer.from([3]))), true);
  assert.equal(isStrongKey(rsa(2048, Buffer.from([1, 0, 3]))), false);
  assert.equal(isStrongKey(rsa(2048, Buffer.alloc(255, 0x7f))), false);
});

test('an RSA key with an exponent that no honest key has is weak: with 1, what is signed is the signature', () => {
  for (const exponent of [0, 1, 2, 4]) assert.equal(isStrongKey(rsa(2048, Buffer.from([exponent]))), false, `${exponent}`);
});

test('other keys are those of the NIST curves from P-256, and Ed25519', () => {
  const strong = (type: 'ec' | 'ed25519' | 'ed448' | 'x25519', namedCurve = 'P-256'): boolean =>
    isStrongKey(generateKeyPairSync(type as 'ec', { namedCurve }).publicKey);
  assert.deepEqual(
    ['P-256', 'P-384', 'P-521', 'P-224', 'secp256k1'].map((curve) => strong('ec', curve)),
    [true, true, true, false, false],
  );
  assert.deepEqual([strong('ed25519'), strong('ed448'), strong('x25519')], [true, false, false]);
});
