import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { uninstall, type UninstallOptions } from '../../../src/cli/commands/uninstall.ts';
import { FakeAgent } from './fake-agent.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

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
    writeFileSync(join(runDirectory, 'admin.sock'), '');
    writeFileSync(join(caDirectory, 'authority-000012.json'), 'key');
    for (const folder of ['nodes', 'tokens']) {
      mkdirSync(join(caDirectory, folder));
      writeFileSync(join(caDirectory, folder, 'one.json'), '');
    }
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

test('weft uninstall removes hooks and the run directory, keeps the authority, and says both', async () => {
  using remains = new Remains();
  const { runDirectory, bpfDirectory, caDirectory } = remains.options;
  const output = await remains.uninstall();
  assert.match(output, /^kept {5}the certificate authority in .*--purge removes it$/m);
  assert.match(output, /^removed {2}3 pinned kernel hooks and maps in /m);
  assert.match(output, /^removed {2}.*admin\.sock$/m);
  assert.deepEqual(
    [existsSync(runDirectory), existsSync(bpfDirectory), existsSync(join(caDirectory, 'authority-000012.json'))],
    [false, false, true],
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
  const mine = [join(remains.options.runDirectory, 'mine'), join(remains.options.stateDirectory, 'mine')];
  for (const path of mine) writeFileSync(path, '');
  await remains.uninstall({ purge: true });
  assert.deepEqual(
    mine.map((path) => existsSync(path)),
    [true, true],
  );
  assert.equal(existsSync(remains.options.caDirectory), false);
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
