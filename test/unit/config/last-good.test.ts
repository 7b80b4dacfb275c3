import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { ConfigDirectory } from '../../../src/config/config-directory.ts';

const DEADLINE_MS = 10_000;

/** A configuration directory, and a place for its last good texts. */
class World implements AsyncDisposable {
  readonly root: string;
  readonly path: string;
  readonly kept: string;
  readonly errors: unknown[] = [];

  private constructor(root: string) {
    this.root = root;
    this.path = join(root, 'config');
    this.kept = join(root, 'state', 'last-good');
  }

  static async make(): Promise<World> {
    const world = new World(await mkdtemp(join(tmpdir(), 'weft-last-good-')));
    await mkdir(world.path);
    return world;
  }

  async put(name: string, text: string): Promise<void> {
    const temporary = join(this.root, `new-${name}`);
    await writeFile(temporary, text);
    await rename(temporary, join(this.path, name));
  }

  remove(name: string): Promise<void> {
    return unlink(join(this.path, name));
  }

  open(): Promise<ConfigDirectory> {
    return ConfigDirectory.open(this.path, {
      onChange: () => {},
      onKeepError: (error) => void this.errors.push(error),
      debounceMs: 20,
      rescanMs: 60_000,
      lastGoodDirectory: this.kept,
    });
  }

  /** One life of an agent: what it had in force at its start. */
  async life(): Promise<string> {
    await using config = await this.open();
    return stateOf(config);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.root, { recursive: true });
  }
}

/** Names in force, and codes of the problems. */
function stateOf({ resources, problems }: ConfigDirectory): string {
  const names = resources.map(({ metadata }) => metadata.name);
  return [...names, '|', ...problems.map(({ code }) => code.slice('WEFT_CONFIG_'.length))].join(' ');
}

async function until(config: ConfigDirectory, state: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (stateOf(config) !== state) {
    assert.ok(performance.now() < deadline, `waited for ${state}, has ${stateOf(config)}`);
    await delay(10);
  }
}

function namespaces(...names: string[]): string {
  return names.map((name) => `---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ${name}}\n`).join('');
}

const BROKEN = 'kind: [broken';

describe('a file that is broken when the agent starts', () => {
  it('begins from its last good state, and says of when that is', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('a1', 'a2'));
    await world.put('b.yaml', namespaces('b'));
    assert.equal(await world.life(), 'a1 a2 b |');
    await world.put('a.yaml', BROKEN);
    await using config = await world.open();
    assert.equal(stateOf(config), 'a1 a2 b | YAML LAST_GOOD');
    const said = config.problems[1];
    assert.equal(said?.file, join(world.path, 'a.yaml'));
    assert.match(said?.message ?? '', /the last good state of 20\d\d-\d\d-\d\dT[\d:.]+Z is in force/);
    // It says so as long as it is so.
    await world.put('a.yaml', `# otherwise\n${BROKEN}`);
    config.refresh();
    await delay(150);
    assert.equal(stateOf(config), 'a1 a2 b | YAML LAST_GOOD');
    await world.put('a.yaml', namespaces('a3'));
    await until(config, 'a3 b |');
    await world.put('a.yaml', BROKEN);
    await until(config, 'a3 b | YAML');
  });

  for (const [what, breakIt, code] of [
    ['empty', (world: World) => world.put('a.yaml', ''), 'EMPTY_FILE'],
    [
      'unreadable',
      async (world: World) => {
        await world.remove('a.yaml');
        await mkdir(join(world.path, 'a.yaml'));
      },
      'UNREADABLE',
    ],
  ] as const) {
    it(`the same for one that is ${what}`, async () => {
      await using world = await World.make();
      await world.put('a.yaml', namespaces('a'));
      await world.life();
      await breakIt(world);
      assert.equal(await world.life(), `a | ${code} LAST_GOOD`);
    });
  }

  it('stays in its last good state over any number of starts', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('a'));
    await world.life();
    await world.put('a.yaml', BROKEN);
    for (let start = 0; start < 3; start++) assert.equal(await world.life(), 'a | YAML LAST_GOOD');
  });

  it('begins from what was good while the agent ran, not only from what was good at its start', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('old'));
    {
      await using config = await world.open();
      await world.put('a.yaml', namespaces('new'));
      await until(config, 'new |');
      await world.put('a.yaml', BROKEN);
      await until(config, 'new | YAML');
    }
    assert.equal(await world.life(), 'new | YAML LAST_GOOD');
  });

  it('has nothing in force when it was never good', async () => {
    await using world = await World.make();
    await world.put('a.yaml', BROKEN);
    await world.life();
    assert.equal(await world.life(), '| YAML');
  });

  it('does not take back what another file has in force now', async () => {
    await using world = await World.make();
    await world.put('b.yaml', namespaces('moved'));
    await world.life();
    await world.put('b.yaml', BROKEN);
    await world.put('a.yaml', namespaces('moved'));
    assert.equal(await world.life(), 'moved | YAML');
  });

  it('begins from what was in force, not from a good text that another file kept out', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('a'));
    await world.put('b.yaml', namespaces('b'));
    {
      await using config = await world.open();
      await world.put('b.yaml', namespaces('a', 'c'));
      await until(config, 'a b | DUPLICATE_RESOURCE');
    }
    await world.put('b.yaml', BROKEN);
    assert.equal(await world.life(), 'a b | YAML LAST_GOOD');
  });
});

describe('a file that was deleted', () => {
  it('while the agent ran does not come back when a broken one takes its place', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('a'));
    {
      await using config = await world.open();
      await world.remove('a.yaml');
      await until(config, '|');
    }
    assert.deepEqual(await readdir(world.kept), []);
    await world.put('a.yaml', BROKEN);
    assert.equal(await world.life(), '| YAML');
  });

  it('while no agent ran does not come back either', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('a'));
    await world.life();
    await world.remove('a.yaml');
    assert.equal(await world.life(), '|');
    await world.put('a.yaml', BROKEN);
    assert.equal(await world.life(), '| YAML');
  });
});

describe('what is kept', () => {
  it('is for root only', async () => {
    await using world = await World.make();
    await world.put('a.yaml', namespaces('a'));
    await world.life();
    assert.equal((await stat(world.kept)).mode & 0o777, 0o700);
    const [name = ''] = await readdir(world.kept);
    assert.equal((await stat(join(world.kept, name))).mode & 0o777, 0o600);
  });

  for (const [what, change] of [
    ['torn', (text: string) => text.slice(0, -5)],
    ['altered', (text: string) => text.replace('name: a', 'name: x')],
    ['empty', () => ''],
    ['without a header', () => namespaces('x')],
    ['with a header that is none', () => `null\n${namespaces('x')}`],
  ] as const) {
    it(`counts as not there when it is ${what}, and is replaced by the next good text`, async () => {
      await using world = await World.make();
      await world.put('a.yaml', namespaces('a'));
      await world.life();
      const [name = ''] = await readdir(world.kept);
      const path = join(world.kept, name);
      await writeFile(path, change(await readFile(path, 'utf8')));
      await world.put('a.yaml', BROKEN);
      assert.equal(await world.life(), '| YAML');
      await world.put('a.yaml', namespaces('a'));
      await world.life();
      await world.put('a.yaml', BROKEN);
      assert.equal(await world.life(), 'a | YAML LAST_GOOD');
    });
  }

  it('cannot be kept: the agent runs without, and its owner is told', async () => {
    await using world = await World.make();
    await writeFile(join(world.root, 'state'), 'not a directory');
    await world.put('a.yaml', namespaces('a'));
    assert.equal(await world.life(), 'a |');
    assert.equal(world.errors.length, 1);
  });
});
