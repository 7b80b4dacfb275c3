import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { uninstall, type UninstallOptions } from '../../../src/cli/commands/uninstall.ts';
import { FakeAgent } from './fake-agent.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const HASH = 'ab'.repeat(32);
/** As writers that were killed leave them, too. */
const AUTHORITY = [
  'authority-000012.json',
  'authority-000013.json.12.0123456789ab.tmp',
  'nodes/node-a.example.json',
  'nodes/.node-a.example.12.0123456789ab',
  `tokens/${HASH}.json`,
  `tokens/${HASH}.json.12.0123456789ab.tmp`,
  'joined/node-b.json',
  'joined/node-b.evicted',
  'joined/node-b.evicted.12.0123456789ab.tmp',
  `last-good/${HASH}`,
  `last-good/${HASH}.new`,
];
const STATE = [
  'node/node.json',
  'node/node.json.12.0123456789ab.tmp',
  'bundles/other.example.json',
  `bundles/~${HASH}.json`,
  `last-good/${HASH}`,
];

function write(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, '');
}

/** What an agent that was killed leaves behind, in a directory of its own. */
class Remains implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'weft-uninstall-'));
  readonly options: UninstallOptions;
  pins = 3;

  constructor() {
    const [bpfDirectory, runDirectory, stateDirectory, caDirectory] = ['bpf', 'run', 'state', 'state/ca'].map((name) =>
      join(this.root, name),
    ) as [string, string, string, string];
    for (const directory of [bpfDirectory, runDirectory, stateDirectory, caDirectory]) mkdirSync(directory);
    for (const name of ['admin.sock', 'ca.sock', 'public/workload-api.sock']) write(join(runDirectory, name));
    for (const name of AUTHORITY) write(join(caDirectory, name));
    for (const name of STATE) write(join(stateDirectory, name));
    this.options = { bpfDirectory, runDirectory, stateDirectory, caDirectory, cgroupParent: null, purge: false, force: false };
  }

  async uninstall(change: Partial<UninstallOptions> = {}): Promise<string> {
    const terminal = new RecordedTerminal();
    await uninstall({ ...this.options, ...change }, terminal, () => {
      const { pins } = this;
      this.pins = 0;
      return pins;
    });
    return terminal.output;
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

test('weft uninstall removes hooks and the run directory, keeps the keys, and says both', async () => {
  using remains = new Remains();
  const { runDirectory, bpfDirectory, caDirectory, stateDirectory } = remains.options;
  const output = await remains.uninstall();
  assert.match(output, /^kept {5}the certificate authority in .*--purge removes it$/m);
  assert.match(output, /^removed {2}3 pinned kernel hooks and maps in /m);
  assert.match(output, /^removed {2}.*admin\.sock$/m);
  assert.match(output, /^kept {5}the node's own SVID and key in .*--purge removes it$/m);
  assert.deepEqual([existsSync(runDirectory), existsSync(bpfDirectory)], [false, false]);
  const kept = [...AUTHORITY.map((name) => join(caDirectory, name)), ...STATE.map((name) => join(stateDirectory, name))];
  assert.deepEqual(
    kept.filter((path) => !existsSync(path)),
    [],
  );
});

test('weft uninstall --purge leaves nothing, and a second time is no harm', async () => {
  using remains = new Remains();
  await remains.uninstall({ purge: true });
  assert.equal(existsSync(remains.options.stateDirectory), false);
  assert.equal(await remains.uninstall({ purge: true }), 'There was nothing to remove.\n');
});

test('weft uninstall touches no file that is not of Weft', async () => {
  using remains = new Remains();
  const { root, options } = remains;
  const { runDirectory, stateDirectory, caDirectory } = options;
  const elsewhere = join(root, 'elsewhere');
  const mine = [
    join(runDirectory, 'mine'),
    join(runDirectory, 'public/mine'),
    join(stateDirectory, 'node.json'),
    join(stateDirectory, 'bundles/notes.txt'),
    join(stateDirectory, 'bundles/more.json/deep.json'),
    join(caDirectory, 'my-authority-000012.json'),
    join(caDirectory, 'tokens/mine.json'),
    join(elsewhere, 'node-b.json'),
  ];
  for (const path of mine) write(path);
  rmSync(join(caDirectory, 'joined'), { recursive: true });
  symlinkSync(elsewhere, join(caDirectory, 'joined'));
  await remains.uninstall({ purge: true });
  assert.deepEqual(
    mine.filter((path) => !existsSync(path)),
    [],
  );
  assert.equal(existsSync(join(stateDirectory, 'node')), false);
});

test('weft uninstall refuses while an agent runs, unless forced', async () => {
  using remains = new Remains();
  await using agent = await FakeAgent.start({ 'GET /ready': () => ({ status: 500, body: 'busy' }) });
  const { runDirectory } = agent;
  await assert.rejects(remains.uninstall({ runDirectory }), { code: 'WEFT_CLI_AGENT_RUNS', nextStep: /stop it first/ });
  assert.equal(remains.pins, 3);
  await remains.uninstall({ runDirectory, force: true });
  assert.equal(remains.pins, 0);
});

test('weft uninstall refuses while an authority runs without an agent, unless forced', async () => {
  using remains = new Remains();
  await using authority = await FakeAgent.start({ 'GET /ready': () => ({ status: 500, body: 'busy' }) }, 'ca.sock');
  const { runDirectory } = authority;
  await assert.rejects(remains.uninstall({ runDirectory, purge: true }), { code: 'WEFT_CLI_AUTHORITY_RUNS', nextStep: /weft ca serve/ });
  assert.equal(existsSync(remains.options.caDirectory), true);
  await remains.uninstall({ runDirectory, purge: true, force: true });
  assert.equal(existsSync(remains.options.caDirectory), false);
});
