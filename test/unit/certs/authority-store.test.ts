import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { AuthorityDirectory } from '../../../certs/authority/authority-store.ts';

let home: string;

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'weft-store-'));
});

after(() => rm(home, { recursive: true, force: true }));

test('of ten that replace one state at once exactly one succeeds, and its state is the one that is kept', async () => {
  const directory = join(home, 'race');
  const stores = Array.from({ length: 10 }, () => new AuthorityDirectory(directory));
  assert.equal(await stores[0]?.replace(0, 'first'), true);
  const results = await Promise.all(stores.map((store, index) => store.replace(1, `by ${index}`)));
  assert.equal(results.filter((won) => won).length, 1);
  assert.equal((await stores[0]?.load())?.text, `by ${results.indexOf(true)}`);
  assert.deepEqual(await readdir(directory), ['authority-000002.json']);
});

/** One that sleeps between looking and writing, as a process that was stopped does. */
class Sleeper extends AuthorityDirectory {
  #looked = false;
  readonly #whileAsleep: () => Promise<void>;

  constructor(directory: string, whileAsleep: () => Promise<void>) {
    super(directory);
    this.#whileAsleep = whileAsleep;
  }

  override async newest(): Promise<number> {
    const found = await super.newest();
    if (!this.#looked) {
      this.#looked = true;
      await this.#whileAsleep();
    }
    return found;
  }
}

test('one that slept through two changes has lost, though the name it writes is free again', async () => {
  const directory = join(home, 'sleeper');
  const store = new AuthorityDirectory(directory);
  await store.replace(0, 'one');
  const sleeper = new Sleeper(directory, async () => {
    await store.replace(1, 'two');
    await store.replace(2, 'three');
  });
  assert.equal(await sleeper.replace(1, 'stale'), false);
  assert.equal((await store.load())?.text, 'three');
  assert.equal(await store.replace(3, 'four'), true);
  assert.deepEqual(await readdir(directory), ['authority-000004.json']);
});

test('what a process that died left behind goes with the next change, what another is writing does not', async () => {
  const directory = join(home, 'left');
  const store = new AuthorityDirectory(directory);
  await store.replace(0, 'one');
  const [old, young] = ['authority-000002.json.1.aa.tmp', 'authority-000002.json.2.bb.tmp'];
  for (const name of [old, young, 'mine']) await writeFile(join(directory, name as string), '');
  await utimes(join(directory, old as string), 0, 0);
  await store.replace(1, 'two');
  assert.deepEqual((await readdir(directory)).toSorted(), ['authority-000002.json', young, 'mine']);
});
