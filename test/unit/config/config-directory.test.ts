import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rename, rm, symlink, truncate, unlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { ConfigDirectory } from '../../../src/config/config-directory.ts';
import type { ConfigProblem } from '../../../src/config/config-problem.ts';
import { MAX_FILE_BYTES } from '../../../src/config/limits.ts';
import type { Resource } from '../../../src/model/resources.ts';

const DEADLINE_MS = 10_000;

/** One state that onChange was given: names of the resources, and codes of the problems. */
interface Seen {
  readonly names: string;
  readonly codes: string;
}

/** A directory of its own, a ConfigDirectory on it, and everything that it reported. */
class Watched implements AsyncDisposable {
  readonly root: string;
  readonly path: string;
  readonly seen: Seen[] = [];
  config!: ConfigDirectory;
  #waiting: (() => void) | null = null;

  private constructor(root: string) {
    this.root = root;
    this.path = join(root, 'config');
  }

  static async make(prepare: (watched: Watched) => Promise<void>, { rescanMs = 60_000, debounceMs = 20 } = {}): Promise<Watched> {
    const watched = new Watched(await mkdtemp(join(tmpdir(), 'weft-config-')));
    await mkdir(watched.path);
    await prepare(watched);
    const onChange = (resources: readonly Resource[], problems: readonly ConfigProblem[]): void => {
      watched.seen.push({
        names: resources.map(({ metadata }) => metadata.name).join(' '),
        codes: problems.map(({ code }) => code.slice('WEFT_CONFIG_'.length)).join(' '),
      });
      watched.#waiting?.();
    };
    watched.config = await ConfigDirectory.open(watched.path, { onChange, debounceMs, rescanMs });
    return watched;
  }

  /** Writes a file as one should: elsewhere, then renamed into place. */
  async put(name: string, text: string): Promise<void> {
    const temporary = join(this.root, `new-${name}`);
    await writeFile(temporary, text);
    await rename(temporary, join(this.path, name));
  }

  async remove(name: string): Promise<void> {
    await unlink(join(this.path, name));
  }

  get last(): Seen | undefined {
    return this.seen.at(-1);
  }

  /** Waits until the last report is this one. */
  async until(names: string, codes = ''): Promise<void> {
    const deadline = performance.now() + DEADLINE_MS;
    while (this.last?.names !== names || this.last.codes !== codes) {
      const left = deadline - performance.now();
      assert.ok(left > 0, `waited for ${JSON.stringify({ names, codes })}, saw ${JSON.stringify(this.seen)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#waiting = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.config[Symbol.asyncDispose]();
    await rm(this.root, { recursive: true });
  }
}

function namespaces(...names: string[]): string {
  return names.map((name) => `---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ${name}}\n`).join('');
}

describe('ConfigDirectory.open', () => {
  it('reads the YAML files of the directory by name, and nothing else', async () => {
    await using watched = await Watched.make(async ({ path }) => {
      await writeFile(join(path, 'b.yml'), namespaces('b'));
      await writeFile(join(path, 'a.yaml'), namespaces('a1', 'a2'));
      await writeFile(join(path, '.hidden.yaml'), namespaces('hidden'));
      await writeFile(join(path, 'a.yaml~'), namespaces('backup'));
      await writeFile(join(path, 'notes.txt'), 'x');
      await mkdir(join(path, 'sub'));
      await writeFile(join(path, 'sub', 'c.yaml'), namespaces('sub'));
    });
    assert.deepEqual(watched.seen, [{ names: 'a1 a2 b', codes: '' }]);
    assert.equal(watched.config.resources.length, 3);
    assert.equal(watched.config.resources[0]?.location.file, join(watched.path, 'a.yaml'));
    assert.equal(watched.config.watching, true);
  });

  it('reports a bad file and uses the others', async () => {
    await using watched = await Watched.make(async ({ path }) => {
      await writeFile(join(path, 'a.yaml'), 'kind: Nothing\n');
      await writeFile(join(path, 'b.yaml'), namespaces('b'));
    });
    assert.deepEqual(watched.seen, [{ names: 'b', codes: 'MISSING_FIELD' }]);
    assert.equal(watched.config.problems[0]?.file, join(watched.path, 'a.yaml'));
  });

  it('is refused for a directory that is missing or none', async () => {
    const root = await mkdtemp(join(tmpdir(), 'weft-config-'));
    const options = { onChange: () => assert.fail('nothing to report') };
    try {
      await assert.rejects(ConfigDirectory.open(join(root, 'none'), options), { code: 'WEFT_CONFIG_DIRECTORY', name: 'ConfigError' });
      await writeFile(join(root, 'file'), '');
      await assert.rejects(ConfigDirectory.open(join(root, 'file'), options), { code: 'WEFT_CONFIG_DIRECTORY' });
    } finally {
      await rm(root, { recursive: true });
    }
  });

  it('refuses what is not a readable text file, without being held by it', async () => {
    await using watched = await Watched.make(async ({ path }) => {
      await writeFile(join(path, 'a.yaml'), namespaces('a'));
      await mkdir(join(path, 'directory.yaml'));
      execFileSync('mkfifo', [join(path, 'pipe.yaml')]);
      await symlink('/dev/zero', join(path, 'zero.yaml'));
      await symlink('nowhere', join(path, 'link.yaml'));
      await symlink('loop.yaml', join(path, 'loop.yaml'));
      await writeFile(join(path, 'empty.yaml'), '');
      await writeFile(join(path, 'binary.yaml'), Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 0, 0xff));
      // Sparse: it has no blocks on disk, and must not be read.
      await writeFile(join(path, 'huge.yaml'), '');
      await truncate(join(path, 'huge.yaml'), 4 * 1024 * MAX_FILE_BYTES);
    });
    assert.equal(watched.last?.names, 'a');
    assert.deepEqual(
      watched.config.problems.map(({ file, code }) => `${file.slice(watched.path.length + 1)} ${code.slice('WEFT_CONFIG_'.length)}`),
      [
        'binary.yaml ENCODING',
        'directory.yaml UNREADABLE',
        'empty.yaml EMPTY_FILE',
        'huge.yaml TOO_LARGE',
        'link.yaml UNREADABLE',
        'loop.yaml UNREADABLE',
        'pipe.yaml UNREADABLE',
        'zero.yaml UNREADABLE',
      ],
    );
  });
});

describe('a watched directory', () => {
  it('follows files that are added, changed and removed', async () => {
    await using watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a')));
    await watched.put('b.yaml', namespaces('b'));
    await watched.until('a b');
    await watched.put('a.yaml', namespaces('x'));
    await watched.until('x b');
    await watched.remove('a.yaml');
    await watched.until('b');
    // Written in place, with the same length.
    await writeFile(join(watched.path, 'b.yaml'), namespaces('c'));
    await watched.until('c');
  });

  it('keeps the last good state of a file that breaks, is emptied or becomes unreadable', async () => {
    await using watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a', 'b')));
    await watched.put('a.yaml', `${namespaces('a')}---\nkind: [\n`);
    await watched.until('a b', 'YAML');
    await writeFile(join(watched.path, 'a.yaml'), '');
    await watched.until('a b', 'EMPTY_FILE');
    await symlink('nowhere', join(watched.root, 'link'));
    await rename(join(watched.root, 'link'), join(watched.path, 'a.yaml'));
    await watched.until('a b', 'UNREADABLE');
    await watched.remove('a.yaml');
    await watched.until('');
  });

  it('puts a change of several files in force at once', async () => {
    await using watched = await Watched.make(
      async ({ path }) => {
        for (let index = 0; index < 20; index += 1) await writeFile(join(path, `f${index}.yaml`), namespaces(`old-${index}`));
      },
      { debounceMs: 300 },
    );
    for (let index = 0; index < 20; index += 1) await watched.put(`f${index}.yaml`, namespaces(`new-${index}`));
    const expected = Array.from({ length: 20 }, (_, index) => `f${index}.yaml`)
      .toSorted()
      .map((name) => `new-${name.slice(1, -5)}`)
      .join(' ');
    await watched.until(expected);
    assert.equal(watched.seen.length, 2, JSON.stringify(watched.seen));
  });

  it('says nothing when nothing changed', async () => {
    await using watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a')));
    const resources = watched.config.resources;
    const now = new Date();
    await utimes(join(watched.path, 'a.yaml'), now, now);
    await watched.put('a.yaml', namespaces('a'));
    await writeFile(join(watched.path, '.a.yaml.swp'), 'x');
    await delay(200);
    assert.equal(watched.seen.length, 1);
    assert.equal(watched.config.resources, resources);
  });

  it('follows a mounted ConfigMap, whose files all change with one link', async () => {
    await using watched = await Watched.make(async ({ path }) => {
      await mkdir(join(path, '..2026_01'));
      await writeFile(join(path, '..2026_01', 'a.yaml'), namespaces('a'));
      await writeFile(join(path, '..2026_01', 'b.yaml'), namespaces('b'));
      await symlink('..2026_01', join(path, '..data'));
      await symlink(join('..data', 'a.yaml'), join(path, 'a.yaml'));
      await symlink(join('..data', 'b.yaml'), join(path, 'b.yaml'));
    });
    assert.equal(watched.last?.names, 'a b');
    await mkdir(join(watched.path, '..2026_02'));
    await writeFile(join(watched.path, '..2026_02', 'a.yaml'), namespaces('c'));
    await writeFile(join(watched.path, '..2026_02', 'b.yaml'), namespaces('d'));
    await symlink('..2026_02', join(watched.path, '..data_tmp'));
    await rename(join(watched.path, '..data_tmp'), join(watched.path, '..data'));
    await rm(join(watched.path, '..2026_01'), { recursive: true });
    await watched.until('c d');
    assert.deepEqual(
      watched.seen.map(({ names }) => names),
      ['a b', 'c d'],
    );
  });

  it('keeps everything while the directory is gone, and follows the one that takes its place', async () => {
    await using watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a')));
    await rename(watched.path, join(watched.root, 'away'));
    await watched.until('a', 'DIRECTORY');
    await mkdir(watched.path);
    await writeFile(join(watched.path, 'b.yaml'), namespaces('b'));
    await watched.until('b');
    await watched.put('c.yaml', namespaces('c'));
    await watched.until('b c');
  });

  it('does not take a directory that is still being filled for an empty one', async () => {
    await using watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a')), { debounceMs: 800 });
    await rename(watched.path, join(watched.root, 'away'));
    await watched.until('a', 'DIRECTORY');
    await mkdir(watched.path);
    // Longer than it takes to notice the new directory, shorter than the debounce time.
    await delay(300);
    await watched.put('a.yaml', namespaces('b'));
    await watched.until('b');
    assert.deepEqual(
      watched.seen.map(({ names }) => names),
      ['a', 'a', 'b'],
    );
  });

  it('is read now and then even when it never gets quiet', async () => {
    await using watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a')), { debounceMs: 100 });
    await watched.put('a.yaml', namespaces('b'));
    const noise = setInterval(() => void writeFile(join(watched.path, '.noise'), String(performance.now())), 5);
    try {
      await watched.until('b');
    } finally {
      clearInterval(noise);
      await delay(20);
    }
  });

  it('is looked through even when no event comes', async () => {
    await using watched = await Watched.make(
      async ({ path, root }) => {
        await writeFile(join(root, 'elsewhere'), namespaces('a'));
        await symlink(join(root, 'elsewhere'), join(path, 'a.yaml'));
      },
      { rescanMs: 100 },
    );
    // The kernel reports changes of the directory, not of a file that a link in it leads to.
    await writeFile(join(watched.root, 'elsewhere'), namespaces('b'));
    await watched.until('b');
  });

  it('says nothing any more once it is disposed', async () => {
    const watched = await Watched.make(({ path }) => writeFile(join(path, 'a.yaml'), namespaces('a')), { rescanMs: 20 });
    await watched.put('a.yaml', namespaces('b'));
    await watched.config[Symbol.asyncDispose]();
    await delay(150);
    watched.config.refresh();
    await delay(50);
    assert.equal(watched.seen.length, 1);
    await watched[Symbol.asyncDispose]();
  });
});
