import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runCli } from '../../../src/cli/program.ts';
import { oneLine } from '../../../src/cli/terminal.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const launcher = fileURLToPath(new URL('../../../src/cli/weft', import.meta.url));
const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string };

async function weft(...args: string[]): Promise<RecordedTerminal & { code: number }> {
  const terminal = new RecordedTerminal();
  const code = await runCli(args, terminal);
  return Object.assign(terminal, { code });
}

test('weft --version says the version of the package', async () => {
  const { code, output, errors } = await weft('--version');
  assert.deepEqual([code, output, errors], [0, `${version}\n`, '']);
});

test('weft alone shows its help as a mistake', async () => {
  const { code, output, errors } = await weft();
  assert.equal(code, 2);
  assert.equal(output, '');
  assert.match(errors, /^Usage: weft /);
});

for (const command of ['agent', 'run', 'status', 'policy', 'doctor', 'uninstall']) {
  test(`weft ${command} --help has examples`, async () => {
    const { code, output, errors } = await weft(command, '--help');
    assert.equal(code, 0);
    assert.equal(errors, '');
    assert.match(output, new RegExp(`^Usage: weft ${command} `));
    assert.match(output, new RegExp(`Examples:\\n {2}weft ${command}`));
  });
}

const MISTAKES: readonly (readonly [args: readonly string[], message: RegExp, nextStep: RegExp])[] = [
  [['frobnicate'], /unknown command 'frobnicate'/, /weft --help/],
  [['agent'], /'--config <dir>' not specified/, /weft agent --help/],
  [['agent', '--config', '/tmp', '--wrokers', '2'], /unknown option '--wrokers'/, /weft agent --help/],
  [['agent', '--config', '/tmp', 'extra'], /too many arguments/, /weft agent --help/],
  [['agent', '--config', '/tmp', '--workers', 'all'], /--workers cannot be "all"/, /from 1 to 64/],
  [['run', '--namespace', 'a', '--', 'true'], /'-s, --service-account <name>' not specified/, /weft run --help/],
  [['run', '--namespace', 'a', '--service-account', 'b'], /missing required argument 'command'/, /weft run --help/],
  [['run', '--namespace', 'A', '--service-account', 'b', '--', 'true'], /--namespace cannot be "A"/, /lower-case/],
  [['run', '--namespace', 'a', '--service-account', '../b', '--', 'true'], /--service-account cannot be/, /lower-case/],
  [['run', '--namespace', 'a', '--service-account', 'b', '--name', 'x/y', '--', 'true'], /--name cannot be/, /lower-case/],
  [['status', 'everything'], /everything/, /weft status --help/],
  [['policy', 'lint'], /missing required argument 'file'/, /weft policy lint --help/],
  [['policy', 'bless'], /unknown command 'bless'/, /weft policy --help/],
];

for (const [args, message, nextStep] of MISTAKES) {
  test(`weft ${args.join(' ')} is refused in two lines, with exit code 2`, async () => {
    const { code, output, errors } = await weft(...args);
    assert.equal(code, 2);
    assert.equal(output, '');
    const [first = '', second = '', ...rest] = errors.split('\n');
    assert.match(first, /^weft: WEFT_CLI_USAGE: /);
    assert.match(first, message);
    assert.match(second, /^next: /);
    assert.match(second, nextStep);
    assert.deepEqual(rest, ['']);
  });
}

test('what comes from elsewhere cannot write to the terminal', () => {
  assert.equal(oneLine('a\n  b\u001b[2Jc\u009b'), 'a b\\x1b[2Jc\\x9b');
});

test('the launcher runs through symbolic links, from anywhere, whatever node the machine has', () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft cli '));
  try {
    symlinkSync(launcher, join(directory, 'one'));
    symlinkSync('one', join(directory, 'weft'));
    const { status, stdout, stderr } = spawnSync(join(directory, 'weft'), ['--version'], {
      cwd: '/',
      env: { PATH: '/usr/bin:/bin' },
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout, stderr], [0, `${version}\n`, '']);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
