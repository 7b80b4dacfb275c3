import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
let copy: string;

/** The sources as they are in another checkout, at a path of another length. */
before(() => {
  copy = mkdtempSync(join(tmpdir(), 'weft-bpf-objects-'));
  mkdirSync(join(copy, 'bpf'));
  cpSync(join(root, 'scripts'), join(copy, 'scripts'), { recursive: true });
  cpSync(join(root, 'bpf/objects'), join(copy, 'bpf/objects'), { recursive: true });
  for (const name of readdirSync(join(root, 'bpf'))) {
    if (/\.[ch]$/.test(name)) cpSync(join(root, 'bpf', name), join(copy, 'bpf', name));
  }
});
after(() => rmSync(copy, { recursive: true, force: true }));

function objects(directory: string): Record<string, string> {
  return Object.fromEntries(readdirSync(directory).map((name) => [name, readFileSync(join(directory, name)).toString('base64')]));
}

test('the BPF objects that are checked in are what their sources compile to, wherever the checkout is', () => {
  execFileSync('sh', [join(copy, 'scripts/build-bpf.sh'), 'rebuilt'], { cwd: copy });
  const rebuilt = objects(join(copy, 'rebuilt'));
  const checkedIn = objects(join(root, 'bpf/objects'));
  assert.ok(Object.keys(rebuilt).length > 0);
  assert.deepEqual(Object.keys(rebuilt), Object.keys(checkedIn));
  const different = Object.keys(rebuilt).filter((name) => rebuilt[name] !== checkedIn[name]);
  assert.deepEqual(different, [], 'run npm run build:bpf and commit bpf/objects');
});

test('build-bpf.sh --check names the object whose source was changed', () => {
  const check = (): ReturnType<typeof spawnSync> => spawnSync('sh', [join(copy, 'scripts/build-bpf.sh'), '--check'], { encoding: 'utf8' });
  assert.equal(check().status, 0);
  const source = readdirSync(join(copy, 'bpf')).find((name) => name.endsWith('.bpf.c')) as string;
  appendFileSync(join(copy, 'bpf', source), '\nconst int an_addition SEC(".rodata") = 1;\n');
  const changed = check();
  assert.equal(changed.status, 1);
  assert.match(String(changed.stderr), new RegExp(`${source.replace(/c$/, 'o')} is not what`));
});
