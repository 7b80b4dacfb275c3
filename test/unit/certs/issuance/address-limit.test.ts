import assert from 'node:assert/strict';
import { test } from 'node:test';
import { IssuanceCounts } from '../../../../certs/issuance/issuance-counts.ts';
import { IssuanceService } from '../../../../certs/issuance/issuance-service.ts';
import type { IssuingAuthority } from '../../../../certs/issuance/issuing-authority.ts';
import { NodeRegister } from '../../../../certs/issuance/node-register.ts';
import { Metadata } from '../../../../src/grpc/metadata.ts';

test('who shows no SVID has no more tries for having an IPv6 /64 of addresses', () => {
  const bundle = { trustDomain: 'a.test', x509Authorities: [], jwtAuthorities: [], sequence: 1n, refreshHintSeconds: null };
  const service = new IssuanceService({
    authority: { tokens: {}, trust: () => ({ sequence: 1n, bundle, taintedKeys: [], revokedKeys: [] }) } as unknown as IssuingAuthority,
    nodes: new NodeRegister('/nonexistent'),
    counts: new IssuanceCounts(),
    placements: { runsOn: () => false },
    log: { info: () => {}, warn: () => {}, error: () => {} },
    perAddress: { perSecond: 0.001, burst: 2 },
  });
  const ask = (address: string): unknown =>
    service.fetchRoots({
      peer: { address, identity: null, validFrom: null, expiresAt: null },
      metadata: new Metadata([]),
      signal: new AbortController().signal,
    });
  ask('2001:db8::1');
  ask('2001:db8::2');
  assert.throws(() => ask('2001:db8:0:0:ffff::3'), { code: 'WEFT_CERTS_CALLER_LIMIT' });
  ask('2001:db8:0:1::1');
});
