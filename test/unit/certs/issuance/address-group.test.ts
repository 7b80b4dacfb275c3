import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressGroup } from '../../../../certs/issuance/address-group.ts';

test('an IPv4 address counts by itself, an IPv6 address as its /64, however it is written', () => {
  assert.equal(addressGroup('192.0.2.1'), '192.0.2.1');
  const groups = ['2001:db8:0:1::1', '2001:db8:0:1:ffff:ffff:ffff:ffff', '2001:db8:0:2::1', '2001:db8::1', '2001:db8::', '::1', '::', ''];
  assert.deepEqual(groups.map(addressGroup), [
    '2001:db8:0:1',
    '2001:db8:0:1',
    '2001:db8:0:2',
    '2001:db8:0:0',
    '2001:db8:0:0',
    '0:0:0:0',
    '0:0:0:0',
    '',
  ]);
});
