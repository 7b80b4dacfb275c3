import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeGlobal } from '../src/bpf-object.ts';
import { type ElfSymbol, readElfVariables } from '../src/elf-symbols.ts';
import { LibbpfError } from '../src/index.ts';
import { fixture } from './kit.ts';

const image = new Uint8Array(readFileSync(fixture('kit')));

function check(data: Uint8Array): void {
  try {
    readElfVariables(data);
  } catch (error) {
    assert.ok(error instanceof LibbpfError && error.code === 'LIBBPF_OBJECT_FORMAT', String(error));
  }
}

function variable(size: number): ElfSymbol {
  return { name: 'x', section: '.rodata', offset: 0, size };
}

test('the variables of an object file are found with section, offset and size', () => {
  const variables = readElfVariables(image);
  assert.equal(variables.get('watched_port')?.section, '.rodata');
  assert.equal(variables.get('watched_port')?.size, 2);
  assert.equal(variables.get('wide')?.size, 8);
  assert.equal((variables.get('wide')?.offset ?? 1) % 8, 0);
  assert.equal(variables.get('start_value')?.section, '.data');
  assert.equal(variables.has('on_connect'), false, 'a function is no variable');
});

test('an object file cut off or damaged anywhere is refused or read, and never anything else', () => {
  for (let length = 0; length < image.length; length += 37) check(image.slice(0, length));
  fc.assert(
    fc.property(fc.nat(image.length - 1), fc.nat(255), (index, value) => {
      const damaged = image.slice();
      damaged[index] = value;
      check(damaged);
    }),
    { numRuns: 300 },
  );
  // The section headers, at the end, and the file header are where damage matters most.
  for (let index = Number(new DataView(image.buffer).getBigUint64(40, true)); index < image.length; index++) {
    const damaged = image.slice();
    damaged[index] = 0xff;
    check(damaged);
  }
  for (let index = 0; index < 64; index++) {
    const damaged = image.slice();
    damaged[index] = 0xff;
    check(damaged);
  }
});

test('a global takes values of its own size and range only', () => {
  assert.deepEqual([...encodeGlobal(variable(1), true)], [1]);
  assert.deepEqual([...encodeGlobal(variable(2), -2)], [0xfe, 0xff]);
  assert.deepEqual([...encodeGlobal(variable(4), 0xffffffff)], [255, 255, 255, 255]);
  assert.deepEqual([...encodeGlobal(variable(8), 2n ** 63n)], [0, 0, 0, 0, 0, 0, 0, 0x80]);
  assert.deepEqual([...encodeGlobal(variable(3), new Uint8Array([1, 2, 3]))], [1, 2, 3]);
  for (const [size, value] of [
    [1, 256],
    [1, -129],
    [2, 65536],
    [4, 2 ** 32],
    [8, 2n ** 64n],
    [3, 1],
    [4, 1.5],
    [4, new Uint8Array(3)],
  ] as const) {
    assert.throws(() => encodeGlobal(variable(size), value), { code: 'LIBBPF_GLOBAL' });
  }
});
