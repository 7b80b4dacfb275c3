import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { exec, type ExecResult } from '../../kit/child.ts';

const RUN_TESTS = fileURLToPath(new URL('../../kit/run-tests.ts', import.meta.url));
/** A slow machine starts a file in less. */
const LIMIT_MS = 5_000;
const PASSES = "test('it passes', () => {});";

describe('a run of test files', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'weft-run-tests-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  function runTests(files: Readonly<Record<string, string>>, limitMs = 60_000): Promise<ExecResult> {
    for (const [name, body] of Object.entries(files)) {
      writeFileSync(join(directory, `${name}.test.mjs`), `import { test } from 'node:test';\n${body}\n`);
    }
    // Without the variable by which a runner inside a runner would report to the outer one.
    const env = ['env', '-u', 'NODE_TEST_CONTEXT', `WEFT_TEST_FILE_LIMIT_MS=${limitMs}`];
    return exec([...env, process.execPath, RUN_TESTS, join(directory, '*.test.mjs')], { timeoutMs: 120_000 });
  }

  it('ends well when every test has passed', async () => {
    const { code, stdout } = await runTests({ passes: PASSES });
    assert.equal(code, 0);
    assert.match(stdout, /tests 1\n.*suites 0\n.*pass 1\n/);
  });

  for (const [what, body] of [
    ['failed', "test('it fails', () => { throw new Error('no'); });"],
    ['was skipped', "test('it skips', { skip: true }, () => {});"],
    ['is to do', "test('it is to do', { todo: true }, () => {});"],
  ] as const) {
    it(`fails when a test ${what}`, async () => {
      assert.equal((await runTests({ passes: PASSES, other: body })).code, 1);
    });
  }

  it('fails when there is no test', async () => {
    assert.equal((await runTests({})).code, 1);
  });

  it('ends a file whose event loop is blocked, says where, and goes on', async () => {
    const blocked =
      "test('it blocks', async () => { await null; blockForEver(); });\nfunction blockForEver() { for (let i = 0; ; i++) Math.sqrt(i); }";
    const { code, stdout, stderr } = await runTests({ blocked, passes: PASSES }, LIMIT_MS);
    assert.equal(code, 1);
    assert.match(stderr, /blocked\.test\.mjs did not end in 5 s and is killed/);
    assert.match(stderr, /JavaScript of \d+: blockForEver .*blocked\.test\.mjs:3/);
    assert.match(stdout, /it passes/);
  });

  it('ends a file that leaves a process behind which holds its output', async () => {
    const leaves =
      "import { spawn } from 'node:child_process';\ntest('it leaves one', () => { spawn('sleep', ['1000'], { stdio: 'inherit' }); });";
    const { code, stderr } = await runTests({ leaves }, LIMIT_MS);
    assert.equal(code, 1);
    assert.match(stderr, /leaves\.test\.mjs did not end in 5 s[\s\S]*sleep 1000/);
  });
});
