import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AF_INET, AF_INET6, decodeSocketAddress, encodeSocketAddress } from '../src/sys.ts';

const refused = { code: 'LIBBPF_SOCKET_ADDRESS' };

test('an IPv4 address lies in memory as struct sockaddr_in', () => {
  const data = encodeSocketAddress({ address: '192.0.2.7', port: 8080 });
  assert.deepEqual([...data], [2, 0, 0x1f, 0x90, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(decodeSocketAddress(data), { family: AF_INET, address: '192.0.2.7', port: 8080 });
});

test('an IPv6 address lies in memory as struct sockaddr_in6, with its scope', () => {
  const data = encodeSocketAddress({ address: 'fe80::1:2', port: 443, scopeId: 3 });
  assert.equal(data.length, 28);
  assert.deepEqual([...data.subarray(0, 4)], [10, 0, 1, 0xbb]);
  assert.deepEqual([...data.subarray(8, 24)], [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
  assert.equal(data[24], 3);
  assert.deepEqual(decodeSocketAddress(data), { family: AF_INET6, address: 'fe80::1:2', port: 443, scopeId: 3 });
});

test('an IPv4-mapped address keeps its dotted form', () => {
  const data = encodeSocketAddress({ address: '::ffff:10.0.0.1', port: 1 });
  assert.deepEqual([...data.subarray(16, 24)], [0, 0, 0xff, 0xff, 10, 0, 0, 1]);
  assert.equal(decodeSocketAddress(data).address, '::ffff:10.0.0.1');
});

test('every IPv6 address decodes to the canonical form that the URL parser gives', () => {
  // The group 0 is made likely, so that runs of it occur; mapped addresses differ (dotted) and are tested above.
  const group = fc.oneof(fc.constant(0), fc.nat(0xffff));
  fc.assert(
    fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
      fc.pre(!(groups.slice(0, 5).every((g) => g === 0) && groups[5] === 0xffff));
      const text = groups.map((g) => g.toString(16)).join(':');
      const canonical = new URL(`http://[${text}]/`).hostname.slice(1, -1);
      for (const form of [text, canonical]) {
        assert.equal(decodeSocketAddress(encodeSocketAddress({ address: form, port: 0 })).address, canonical);
      }
    }),
  );
});

test('what is no address, port or scope is refused', () => {
  for (const address of ['', 'localhost', '1.2.3', '1.2.3.4.5', '01.2.3.4', '::1%lo', '::1::', '[::1]']) {
    assert.throws(() => encodeSocketAddress({ address, port: 1 }), refused, address);
  }
  for (const port of [-1, 65536, 1.5, Number.NaN]) assert.throws(() => encodeSocketAddress({ address: '::1', port }), refused);
  assert.throws(() => encodeSocketAddress({ address: 'fe80::1', port: 1, scopeId: -1 }), refused);
  assert.throws(() => encodeSocketAddress({ address: '::1', port: 1, family: AF_INET }), refused);
});

test('bytes that are no IP socket address are refused', () => {
  for (const data of [[], [2], [2, 0, 0, 1], [1, 0, 47, 0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0, 0, 0]]) {
    assert.throws(() => decodeSocketAddress(new Uint8Array(data)), refused);
  }
});
