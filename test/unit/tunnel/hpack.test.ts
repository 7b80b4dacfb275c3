import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Http2Error } from '../../../src/transport/http2/errors.ts';
import { HpackDecoder, HpackEncoder, decodeHuffman } from '../../../src/transport/http2/hpack.ts';

const LIMITS = { tableSize: 4096, listSize: 65_536, listCount: 128 };

function hex(text: string): Buffer {
  return Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
}

function decode(decoder: HpackDecoder, block: string | Buffer): string[] {
  const list: string[] = [];
  assert.equal(decoder.decode(typeof block === 'string' ? hex(block) : block, list), true);
  return list;
}

function refused(block: string | Buffer, decoder: HpackDecoder = new HpackDecoder(LIMITS)): void {
  assert.throws(() => decoder.decode(typeof block === 'string' ? hex(block) : block, []), { code: 'WEFT_HTTP2_COMPRESSION' });
}

describe('HPACK, RFC 7541 Appendix C', () => {
  it('C.2: each representation', () => {
    const decoder = new HpackDecoder(LIMITS);
    assert.deepEqual(decode(decoder, '400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572'), ['custom-key', 'custom-header']);
    assert.equal(decoder.tableBytes, 55);
    assert.deepEqual(decode(decoder, '040c 2f73 616d 706c 652f 7061 7468'), [':path', '/sample/path']);
    assert.deepEqual(decode(decoder, '1008 7061 7373 776f 7264 0673 6563 7265 74'), ['password', 'secret']);
    assert.equal(decoder.tableBytes, 55);
    assert.deepEqual(decode(decoder, '82'), [':method', 'GET']);
  });

  const requests = [
    [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com'],
    [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com', 'cache-control', 'no-cache'],
    [':method', 'GET', ':scheme', 'https', ':path', '/index.html', ':authority', 'www.example.com', 'custom-key', 'custom-value'],
  ];

  it('C.3: requests without Huffman coding', () => {
    const decoder = new HpackDecoder(LIMITS);
    assert.deepEqual(decode(decoder, '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d'), requests[0]);
    assert.equal(decoder.tableBytes, 57);
    assert.deepEqual(decode(decoder, '8286 84be 5808 6e6f 2d63 6163 6865'), requests[1]);
    assert.equal(decoder.tableBytes, 110);
    assert.deepEqual(decode(decoder, '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65'), requests[2]);
    assert.equal(decoder.tableBytes, 164);
  });

  it('C.4: requests with Huffman coding', () => {
    const decoder = new HpackDecoder(LIMITS);
    assert.deepEqual(decode(decoder, '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff'), requests[0]);
    assert.deepEqual(decode(decoder, '8286 84be 5886 a8eb 1064 9cbf'), requests[1]);
    assert.deepEqual(decode(decoder, '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf'), requests[2]);
    assert.equal(decoder.tableBytes, 164);
  });

  const cookie = 'foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1';
  const responses = [
    [':status', '302', 'cache-control', 'private', 'date', 'Mon, 21 Oct 2013 20:13:21 GMT', 'location', 'https://www.example.com'],
    [':status', '307', 'cache-control', 'private', 'date', 'Mon, 21 Oct 2013 20:13:21 GMT', 'location', 'https://www.example.com'],
    [
      ':status',
      '200',
      'cache-control',
      'private',
      'date',
      'Mon, 21 Oct 2013 20:13:22 GMT',
      'location',
      'https://www.example.com',
      'content-encoding',
      'gzip',
      'set-cookie',
      cookie,
    ],
  ];

  it('C.5: responses, with a table of 256 bytes that evicts', () => {
    const decoder = new HpackDecoder({ ...LIMITS, tableSize: 256 });
    const first =
      '4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d';
    assert.deepEqual(decode(decoder, first), responses[0]);
    assert.equal(decoder.tableBytes, 222);
    assert.deepEqual(decode(decoder, '4803 3330 37c1 c0bf'), responses[1]);
    assert.equal(decoder.tableBytes, 222);
    const third =
      '88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31';
    assert.deepEqual(decode(decoder, third), responses[2]);
    assert.equal(decoder.tableBytes, 215);
  });

  it('C.6: responses with Huffman coding', () => {
    const decoder = new HpackDecoder({ ...LIMITS, tableSize: 256 });
    const first =
      '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3';
    assert.deepEqual(decode(decoder, first), responses[0]);
    assert.deepEqual(decode(decoder, '4883 640e ffc1 c0bf'), responses[1]);
    const third =
      '88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07';
    assert.deepEqual(decode(decoder, third), responses[2]);
    assert.equal(decoder.tableBytes, 215);
  });
});

describe('HPACK decoder', () => {
  it('refuses what RFC 7541 forbids', () => {
    refused('80'); // index 0
    refused('be'); // dynamic index in an empty table
    refused('ff ff ff ff ff 0f'); // an integer over 2^32
    refused('ff 80 80 80 80 00'); // an integer padded with zeros
    refused('ff 80'); // cut inside an integer
    refused('82 3f e1 1f'); // a size update after a field
    refused('3f e2 1f'); // a table larger than offered (4097)
    refused('40 0a 6375'); // a string longer than the block
    refused('00'); // cut before the name
    refused('00 01 61'); // cut before the value
    refused('00 81 ff 00'); // Huffman: eight bits of padding
    refused('00 84 ff ff ff fc 00'); // Huffman: EOS
    refused('00 81 18 00'); // Huffman: padding with zeros ("a" is 00011)
    refused('00 82 1f ff 00'); // Huffman: a whole byte of padding after "a"
  });

  it('accepts size updates, down and up again, and evicts', () => {
    const decoder = new HpackDecoder(LIMITS);
    decode(decoder, '400161 0162');
    assert.equal(decoder.tableBytes, 34);
    assert.deepEqual(decode(decoder, '20 3fe11f 82'), [':method', 'GET']);
    assert.equal(decoder.tableBytes, 0);
    refused('be', decoder);
  });

  it('an entry larger than the table empties it', () => {
    const decoder = new HpackDecoder({ ...LIMITS, tableSize: 64 });
    decode(decoder, '400161 0162');
    assert.deepEqual(decode(decoder, Buffer.concat([hex('400161 28'), Buffer.alloc(40, 0x62)])), ['a', 'b'.repeat(40)]);
    assert.equal(decoder.tableBytes, 0);
  });

  it('keeps no more than the limits, and stays in step', () => {
    const decoder = new HpackDecoder({ tableSize: 4096, listSize: 200, listCount: 3 });
    const list: string[] = [];
    assert.equal(decoder.decode(hex('82 82 82 82 82 400161 0162'), list), false);
    assert.equal(list.length, 6);
    assert.deepEqual(decode(decoder, 'be'), ['a', 'b']);
    const bomb: string[] = [];
    assert.equal(decoder.decode(Buffer.alloc(60_000, 0xbe), bomb), false);
    assert.equal(bomb.length, 6);
  });

  it('never decodes a block cut at any byte into more than a prefix, and never fails in another way', () => {
    const whole = hex('8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf 7f 05 01 61');
    const list = new HpackDecoder(LIMITS);
    const full: string[] = [];
    try {
      list.decode(whole, full);
    } catch {}
    for (let cut = 0; cut < whole.length; cut++) {
      const part: string[] = [];
      try {
        new HpackDecoder(LIMITS).decode(whole.subarray(0, cut), part);
      } catch (error) {
        assert.ok(error instanceof Http2Error);
      }
      assert.deepEqual(part, full.slice(0, part.length));
    }
  });

  it('has the codes of RFC 7541 Appendix B', () => {
    // Padded with ones to whole bytes.
    for (const [code, symbol] of [
      ['1f', 'a'],
      ['07', '0'],
      ['57', '%'],
      ['fe 3f', '!'],
      ['ff c7', '\0'],
      ['ff ff ff f3', '\n'],
    ] as const) {
      const bytes = hex(code);
      assert.equal(decodeHuffman(bytes, 0, bytes.length), symbol);
    }
  });

  it('survives any bytes with an Http2Error at worst', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 80 }), { maxLength: 5 }), (blocks) => {
        const decoder = new HpackDecoder({ ...LIMITS, tableSize: 128 });
        for (const block of blocks) {
          try {
            decoder.decode(Buffer.from(block), []);
          } catch (error) {
            assert.ok(error instanceof Http2Error);
            return;
          }
          assert.ok(decoder.tableBytes <= 128);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

const name = fc.string({ unit: fc.constantFrom(...'abcxyz-0189_'), minLength: 1, maxLength: 20 });
const value = fc.string({ unit: fc.integer({ min: 0x20, max: 0xff }).map((code) => String.fromCharCode(code)), maxLength: 60 });
const someNames = fc.constantFrom(':method', ':path', ':status', 'authorization', 'cookie', 'content-length', 'via');

describe('HPACK encoder', () => {
  it('is read back as it was written', () => {
    fc.assert(
      fc.property(fc.array(fc.array(fc.tuple(fc.oneof(name, someNames), value), { maxLength: 10 }), { maxLength: 4 }), (lists) => {
        const encoder = new HpackEncoder();
        const decoder = new HpackDecoder({ ...LIMITS, listCount: 1000 });
        for (const list of lists) {
          const flat = list.flat();
          assert.deepEqual(decode(decoder, Buffer.from(encoder.encode(flat))), flat);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('puts nothing into the peer’s table, and marks secrets as never indexed', () => {
    const block = Buffer.from(new HpackEncoder().encode(['authorization', 'Bearer x', 'x-plain', 'y']));
    assert.equal(block[0], 0x20);
    assert.equal((block[1] as number) & 0xf0, 0x10);
    const decoder = new HpackDecoder(LIMITS);
    decode(decoder, block);
    assert.equal(decoder.tableBytes, 0);
  });

  it('confirms an empty table first, and again after the peer changed the size', () => {
    const encoder = new HpackEncoder();
    assert.equal(encoder.encode([':method', 'GET'])[0], 0x20);
    assert.equal(encoder.encode([':method', 'GET'])[0], 0x82);
    encoder.tableSizeChanged();
    assert.equal(encoder.encode([':method', 'GET'])[0], 0x20);
  });
});

describe('HPACK beside nghttp2', () => {
  it('reads what nghttp2 encodes, every byte value in Huffman code included, with a dynamic table', async () => {
    // A raw TCP server plays the peer: it takes the HEADERS blocks that node:http2 sends.
    const net = await import('node:net');
    const blocks: Buffer[] = [];
    const arrived = Promise.withResolvers<void>();
    const server = net.createServer((socket) => {
      let bytes = Buffer.alloc(0);
      socket.write(hex('000000 04 00 00000000'));
      socket.on('error', () => {});
      socket.on('data', (chunk: Buffer) => {
        bytes = Buffer.concat([bytes, chunk]);
        let at = 24;
        blocks.length = 0;
        while (bytes.length >= at + 9) {
          const length = bytes.readUIntBE(at, 3);
          if (bytes.length < at + 9 + length) break;
          if (bytes[at + 3] === 1) {
            const priority = ((bytes[at + 4] as number) & 0x20) === 0 ? 0 : 5;
            blocks.push(bytes.subarray(at + 9 + priority, at + 9 + length));
          }
          at += 9 + length;
        }
        if (blocks.length === 4) arrived.resolve();
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const session = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    session.on('error', () => {});
    const visible = Array.from({ length: 0x5f }, (_, i) => String.fromCharCode(0x20 + i)).join('');
    const high = Array.from({ length: 0x80 }, (_, i) => String.fromCharCode(0x80 + i)).join('');
    const lists = [
      { 'x-visible': `a${visible}a` },
      { 'x-visible': `a${visible}a`, 'x-high': `b${high}b` },
      { 'x-high': `b${high}b`, 'x-long': 'e'.repeat(500) },
      { 'x-visible': `a${visible}a`, 'x-long': 'e'.repeat(500), cookie: 'secret' },
    ];
    for (const headers of lists) session.request({ ':path': '/x', ...headers }).on('error', () => {});
    await arrived.promise;
    session.destroy();
    server.close();
    const decoder = new HpackDecoder(LIMITS);
    for (const [i, headers] of lists.entries()) {
      const got = decode(decoder, blocks[i] as Buffer);
      const map = new Map<string, string>();
      for (let at = 0; at < got.length; at += 2) map.set(got[at] as string, got[at + 1] as string);
      assert.equal(map.get(':path'), '/x');
      for (const [name, value] of Object.entries(headers)) assert.equal(map.get(name), value);
    }
    assert.ok(decoder.tableBytes > 0);
  });
});
