import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readX509Bundles } from '../../../../certs/spire/read-bundles.ts';
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
