import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { test } from 'node:test';
import { readJwtBundles, readX509Bundles } from '../../../../certs/spire/read-bundles.ts';
import { forge, forgeRoot } from '../forge.ts';

test('what another trust domain has in its bundle, and can be no root, is left out, and keeps nothing else out', async () => {
  const [own, foreign] = [await forgeRoot(), await forgeRoot()];
  const leaf = await forge({ issuer: foreign });
  const bundles = new Map<string, Uint8Array>([
    ['spiffe://own.test', own.der],
    ['spiffe://foreign.test', Buffer.concat([leaf.der, foreign.der])],
    ['spiffe://other.test', leaf.der],
  ]);
  assert.deepEqual(
    [...readX509Bundles(bundles, 'own.test')].map(([trustDomain, roots]) => [trustDomain, roots.map((der) => Buffer.from(der))]),
    [
      ['own.test', [Buffer.from(own.der)]],
      ['foreign.test', [Buffer.from(foreign.der)]],
      ['other.test', []],
    ],
  );
  bundles.set('spiffe://own.test', Buffer.concat([own.der, leaf.der]));
  assert.throws(() => readX509Bundles(bundles, 'own.test'), { code: 'WEFT_CERTS_SPIRE_MESSAGE' });
});

test('a JWT bundle of another trust domain that cannot be used is trusted for nothing, and keeps no revocation of our own from us', () => {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const keySet = (kids: readonly string[]): Buffer =>
    Buffer.from(JSON.stringify({ keys: kids.map((kid) => ({ ...publicKey.export({ format: 'jwk' }), kid })) }));
  const tooMany = keySet(Array.from({ length: 257 }, (_, index) => `k${index}`));
  const bundles = new Map<string, Uint8Array>([
    ['spiffe://own.test', keySet(['own'])],
    ['spiffe://many.test', tooMany],
    ['spiffe://text.test', Buffer.from('none')],
    ['spiffe://fine.test', keySet(['fine'])],
  ]);
  assert.deepEqual(
    [...readJwtBundles(bundles, 'own.test')].map(([trustDomain, keys]) => [trustDomain, keys.map(({ keyId }) => keyId)]),
    [
      ['own.test', ['own']],
      ['many.test', []],
      ['text.test', []],
      ['fine.test', ['fine']],
    ],
  );
  bundles.set('spiffe://own.test', tooMany);
  assert.throws(() => readJwtBundles(bundles, 'own.test'), { code: 'WEFT_CERTS_SPIRE_MESSAGE' });
});
