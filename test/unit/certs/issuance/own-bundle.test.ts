import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TrustState } from '../../../../certs/bundle/trust-state.ts';
import { OwnBundle } from '../../../../certs/issuance/own-bundle.ts';

test('a trust state with other roots, or other revoked keys, counts at once, also under the sequence of the one before', () => {
  const state = (root: number, revokedKeys: readonly string[] = []): TrustState => {
    const bundle = {
      trustDomain: 'own.test',
      x509Authorities: [Uint8Array.of(root)],
      jwtAuthorities: [],
      sequence: 0n,
      refreshHintSeconds: null,
    };
    return { sequence: 0n, bundle, taintedKeys: [], revokedKeys };
  };
  let trust = state(1);
  const own = new OwnBundle(() => trust);
  const first = own.bundle('own.test');
  trust = state(1);
  assert.equal(own.bundle('own.test'), first, 'what is the same stays the same, for the caches built on it');
  trust = state(2);
  const second = own.bundle('own.test');
  assert.deepEqual(second?.roots, [Uint8Array.of(2)]);
  trust = state(2, ['00']);
  const third = own.bundle('own.test');
  assert.deepEqual(third?.revokedKeys, ['00']);
  assert.equal(new Set([first, second, third].map((each) => each?.sequence)).size, 3);
});
