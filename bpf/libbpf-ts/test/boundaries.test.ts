import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const sources = join(import.meta.dirname, '..', 'src');

test('one file uses node:ffi, and the package imports nothing but itself and Node', () => {
  const ffi: string[] = [];
  for (const file of readdirSync(sources)) {
    for (const [, specifier = ''] of readFileSync(join(sources, file), 'utf8').matchAll(/\bfrom '([^']+)'|\bimport\('([^']+)'\)/g)) {
      if (specifier === 'node:ffi') ffi.push(file);
      assert.match(specifier, /^(node:[\w/]+|\.\/[\w-]+\.ts)$/, `${file} imports ${specifier}`);
    }
  }
  assert.deepEqual(ffi, ['ffi.ts']);
});

test('the compiled test programs hold no path of the machine they were made on', () => {
  const fixtures = join(import.meta.dirname, 'fixtures');
  for (const file of readdirSync(fixtures).filter((name) => name.endsWith('.o'))) {
    const paths = readFileSync(join(fixtures, file), 'latin1').match(/\/(home|root|work|tmp|usr|build)\/[\w./-]*/g) ?? [];
    assert.deepEqual(paths, [], file);
  }
});
