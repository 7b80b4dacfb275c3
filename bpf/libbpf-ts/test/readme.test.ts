import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LibbpfError } from '../src/index.ts';

const home = join(import.meta.dirname, '..');
const readme = readFileSync(join(home, 'README.md'), 'utf8');

test('the example of the README runs and prints what the README says', () => {
  const [, program = ''] = /```ts\n([\s\S]*?)```/.exec(readme) ?? [];
  const [, output = ''] = /It prints\n\n```\n([\s\S]*?)```/.exec(readme) ?? [];
  const child = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module-typescript', '-e', program], {
    cwd: home,
    encoding: 'utf8',
  });
  assert.equal(child.status, 0, child.stderr);
  assert.deepEqual(child.stdout.split('\n').toSorted(), output.split('\n').toSorted());
});

test('the README has a line for every error code', () => {
  const source = readFileSync(join(home, 'src', 'errors.ts'), 'utf8');
  const codes = [...source.matchAll(/\| '(LIBBPF_\w+)'/g)].map((match) => match[1] ?? '');
  assert.ok(codes.length > 15);
  for (const code of codes) assert.match(readme, new RegExp(`^\\| ${code} +\\|`, 'm'));
  assert.equal(new LibbpfError('LIBBPF_PIN', 'x').code, 'LIBBPF_PIN');
});
