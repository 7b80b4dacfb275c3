import assert from 'node:assert/strict';
import { BlockList } from 'node:net';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { canonicalBlock, canonicalIp } from '../../../src/config/ip-address.ts';

describe('canonicalIp', () => {
  it('spells every address in one way', () => {
    const cases: [string, string | null][] = [
      ['10.0.0.1', '10.0.0.1'],
      ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
      ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
      ['::ffff:1.2.3.4', '1.2.3.4'],
      ['0:0:0:0:0:FFFF:0102:0304', '1.2.3.4'],
      ['::', '::'],
      ['010.0.0.1', null],
      ['0x0a.0.0.1', null],
      ['10.1', null],
      ['167772161', null],
      ['10.0.0.256', null],
      [' 10.0.0.1', null],
      ['10.0.0.1\n', null],
      ['[::1]', null],
      ['fe80::1%eth0', null],
      ['', null],
    ];
    for (const [text, expected] of cases) assert.equal(canonicalIp(text), expected, JSON.stringify(text));
  });
});

describe('canonicalBlock', () => {
  it('clears the host bits', () => {
    const cases: [string, string | null][] = [
      ['10.1.2.3/8', '10.0.0.0/8'],
      ['10.1.2.255/25', '10.1.2.128/25'],
      ['255.255.255.255/0', '0.0.0.0/0'],
      ['192.168.0.1', '192.168.0.1/32'],
      ['FD00::1', 'fd00::1/128'],
      ['2001:db8:ffff::1/33', '2001:db8:8000::/33'],
      ['::1/0', '::/0'],
      ['::ffff:10.1.2.3/104', '10.0.0.0/8'],
      ['::ffff:10.1.2.3', '10.1.2.3/32'],
      ['::ffff:10.1.2.3/64', null],
      ['10.0.0.0/', null],
      ['10.0.0.0/-1', null],
      ['10.0.0.0/8/8', null],
      ['10.0.0.0/33', null],
      ['fd00::/129', null],
      ['10.0.0.0/255.0.0.0', null],
    ];
    for (const [text, expected] of cases) assert.equal(canonicalBlock(text), expected, JSON.stringify(text));
  });

  it('names the same addresses as the text it came from', () => {
    const v4 = fc.tuple(fc.ipV4(), fc.integer({ min: 0, max: 32 }), fc.constant('ipv4' as const));
    const v6 = fc.tuple(fc.ipV6(), fc.integer({ min: 0, max: 128 }), fc.constant('ipv6' as const));
    const property = fc.property(fc.oneof(v4, v6), fc.infiniteStream(fc.nat(0xffff)), ([address, prefix, family], randomness) => {
      if (canonicalIp(address)?.includes(':') !== (family === 'ipv6')) return;
      const block = canonicalBlock(`${address}/${prefix}`);
      assert.ok(block !== null);
      assert.equal(canonicalBlock(block), block, 'canonical text stays as it is');
      const [base = '', length] = block.split('/');
      const ours = new BlockList();
      ours.addSubnet(base, Number(length), family);
      const theirs = new BlockList();
      theirs.addSubnet(address, prefix, family);
      const numbers = [...randomness.take(8)];
      const other =
        family === 'ipv4'
          ? numbers
              .slice(0, 4)
              .map((n) => n & 255)
              .join('.')
          : numbers.map((n) => n.toString(16)).join(':');
      for (const probe of [address, base, other])
        assert.equal(ours.check(probe, family), theirs.check(probe, family), `${probe} in ${block}`);
    });
    fc.assert(property, { numRuns: 500 });
  });
});
