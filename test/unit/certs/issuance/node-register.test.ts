import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, describe, test } from 'node:test';
import { BACKDATE_SECONDS } from '../../../../certs/authority/authority-material.ts';
import { isRefused, NodeRegister } from '../../../../certs/issuance/node-register.ts';

const home = mkdtempSync(join(tmpdir(), 'weft-register-'));
let directory: string;
let counter = 0;
/** Whole seconds. */
const NOW = 1_900_000_000_000;

beforeEach(() => {
  directory = join(home, String(counter++), 'joined');
});
after(() => rmSync(home, { recursive: true }));

/** As a process has it that was started before anything happened. */
async function running(): Promise<NodeRegister> {
  const register = new NodeRegister(directory);
  assert.equal((await register.standing('node-b')).evicted, false);
  return register;
}

async function joins(register: NodeRegister, namespaces: readonly string[] = [], now = NOW): Promise<void> {
  await register.joined(await register.standing('node-b'), namespaces, now);
}

const cannotTell = { code: 'WEFT_CERTS_NODE_REGISTER', message: /cannot tell whether node-b was evicted/ };

describe('of two processes on one directory', () => {
  test('each honours at once what the other has evicted, and let in again', async () => {
    const [one, two] = [await running(), await running()];
    await one.evict('node-b');
    assert.equal((await two.standing('node-b')).evicted, true);
    assert.deepEqual((await two.evicted()).names, new Set(['node-b']));
    await joins(two, ['batch']);
    for (const register of [one, two, new NodeRegister(directory)]) {
      const standing = await register.standing('node-b');
      assert.deepEqual([standing.evicted, standing.namespaces], [false, ['batch']]);
      assert.equal(isRefused(standing, NOW - (BACKDATE_SECONDS + 1) * 1000), true);
      assert.equal(isRefused(standing, NOW - BACKDATE_SECONDS * 1000), false);
    }
    await two.evict('node-b');
    assert.deepEqual(await one.standing('node-b').then(({ evicted, namespaces }) => [evicted, namespaces]), [true, []]);
  });

  test('a join that one began before an eviction by the other does not undo it, whichever is written last', async () => {
    const [one, two] = [await running(), await running()];
    const before = await one.standing('node-b');
    await two.evict('node-b');
    await one.joined(before, ['batch'], NOW);
    assert.equal((await two.standing('node-b')).evicted, true);

    // The same for a node that joined again after an earlier eviction.
    await joins(one, ['batch']);
    const again = await one.standing('node-b');
    assert.equal(again.evicted, false);
    await two.evict('node-b');
    await one.joined(again, ['shop'], NOW);
    assert.equal((await one.standing('node-b')).evicted, true);
  });

  test('no eviction is lost among many joins and evictions at once', async () => {
    const registers = [await running(), await running()];
    const before = await Promise.all(registers.map((register) => register.standing('node-b')));
    const writes = Array.from({ length: 20 }, (_, index) => {
      const register = registers[index % 2] as NodeRegister;
      return index % 5 === 0 ? register.evict('node-b') : register.joined(before[index % 2] as (typeof before)[0], [`ns-${index}`], NOW);
    });
    await Promise.all(writes);
    for (const register of registers) assert.equal((await register.standing('node-b')).evicted, true);
  });
});

describe('what cannot be read refuses the node, and no other', () => {
  const broken: readonly [string, (path: string) => void][] = [
    ['that is no JSON', (path) => writeFileSync(path, 'x', { mode: 0o600 })],
    ['that is empty', (path) => writeFileSync(path, '', { mode: 0o600 })],
    ['that says nothing', (path) => writeFileSync(path, 'null', { mode: 0o600 })],
    ['that others can read', (path) => (writeFileSync(path, '{}', { mode: 0o600 }), chmodSync(path, 0o644))],
    ['that is a directory', (path) => mkdirSync(path)],
  ];
  for (const [what, damage] of broken) {
    for (const file of ['node-b.evicted', 'node-b.json']) {
      test(`a file ${file} ${what}`, async () => {
        const register = await running();
        mkdirSync(directory, { recursive: true, mode: 0o700 });
        damage(join(directory, file));
        await assert.rejects(register.standing('node-b'), cannotTell);
        assert.equal((await register.standing('node-c')).evicted, false);
        // It is shown.
        const { names, problems } = await register.evicted();
        assert.deepEqual(names, new Set(['node-b']));
        assert.match(problems.join(), /cannot tell whether node-b was evicted/);
      });
    }
  }

  test('evicted anew, the node can join again', async () => {
    const register = await running();
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    for (const file of ['node-b.evicted', 'node-b.json']) writeFileSync(join(directory, file), 'x', { mode: 0o600 });
    await register.evict('node-b');
    assert.equal((await register.standing('node-b')).evicted, true);
    await joins(register);
    assert.equal((await register.standing('node-b')).evicted, false);
  });

  test('a directory that is gone', async () => {
    const register = await running();
    await register.evict('node-b');
    rmSync(directory, { recursive: true });
    await assert.rejects(register.standing('node-b'), cannotTell);
    assert.match((await register.evicted()).problems.join(), /ENOENT/);
  });

  test('the eviction alone that is gone, of a node that has joined again', async () => {
    const register = await running();
    await register.evict('node-b');
    await joins(register);
    rmSync(join(directory, 'node-b.evicted'));
    assert.equal((await register.standing('node-b')).evicted, true);
  });
});

test('what an earlier version wrote still counts', async () => {
  const register = await running();
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const write = (content: object): void => writeFileSync(join(directory, 'node-b.json'), JSON.stringify(content), { mode: 0o600 });
  write({ namespaces: ['batch'], evicted: false, joinedAgainAt: 1000 });
  assert.deepEqual((await register.standing('node-b')).namespaces, ['batch']);
  write({ namespaces: [], evicted: true, joinedAgainAt: 0 });
  assert.equal((await register.standing('node-b')).evicted, true);
  assert.deepEqual((await register.evicted()).names, new Set(['node-b']));
  await joins(register);
  assert.equal((await register.standing('node-b')).evicted, false);
});

test('names are file names: none leads elsewhere, and the longest can be evicted', async () => {
  const register = await running();
  for (const node of ['..', '../x', 'a/b', '', '.a', 'a\0', 'a'.repeat(201)]) {
    await assert.rejects(register.standing(node), { code: 'WEFT_CERTS_NODE_NAME' });
    await assert.rejects(register.evict(node), { code: 'WEFT_CERTS_NODE_NAME' });
  }
  const longest = 'a'.repeat(200);
  await register.evict(longest);
  assert.equal((await register.standing(longest)).evicted, true);
  // A name that looks like the file of another is another all the same.
  await register.evict('node-b.evicted');
  assert.equal((await register.standing('node-b')).evicted, false);
  assert.equal(readdirSync(directory).length, 2);
});
