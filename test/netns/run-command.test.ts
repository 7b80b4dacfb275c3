import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { exec, type ExecResult } from '../kit/child.ts';
import { cgroup2Mount, removeCgroupTree } from '../kit/lab/cgroup.ts';
import { enrollingAnswers, FakeAgent } from '../unit/cli/fake-agent.ts';

/** `weft run` with real cgroups, and an agent that only says yes. */
const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
let agent: FakeAgent;
let parent: string;

beforeEach(async () => {
  agent = await FakeAgent.start(enrollingAnswers());
  parent = join(cgroup2Mount(), `weft-run-test-${process.pid}`);
  mkdirSync(parent);
});

afterEach(async () => {
  removeCgroupTree(parent);
  await agent[Symbol.asyncDispose]();
});

function run(command: readonly string[], ...flags: string[]): Promise<ExecResult> {
  const where = ['--run-dir', agent.runDirectory, '--cgroup-parent', parent];
  return exec([WEFT, 'run', '--namespace', 'shop', '--service-account', 'cart', ...where, ...flags, '--', ...command]);
}

function enrolledCgroup(index = 0): string {
  return (agent.bodies[index] as { cgroup: string }).cgroup;
}

function members(cgroup: string): string[] {
  return readFileSync(join(cgroup, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
}

async function killMembers(cgroup: string): Promise<void> {
  for (const pid of members(cgroup)) process.kill(Number(pid), 'SIGKILL');
  for (let tries = 0; members(cgroup).length > 0; tries++) {
    assert.ok(tries < 200, `processes ${members(cgroup).join()} do not end`);
    await sleep(50);
  }
}

test('the command is in the cgroup that was enrolled, alone, and the cgroup goes with it', async () => {
  // `weft run` starts the command inside and then leaves: which of the two goes on first is the scheduler's. The shell counts without a
  // process of its own.
  const script = [
    'grep ^0:: /proc/self/cgroup; echo "$$"; tries=0',
    `set -- ${parent}/weft/*/cgroup.procs`,
    'members() { inside=; while read -r pid; do inside="$inside $pid"; done; }',
    'until members < "$1"; [ "$inside" = " $$" ] || [ $tries -eq 100 ]; do tries=$((tries + 1)); sleep 0.05; done',
    'echo $inside',
  ];
  const { code, stdout, stderr } = await run(['sh', '-c', script.join('\n')]);
  const [cgroup = '', shell = '', inside] = stdout.split('\n').filter(Boolean);
  assert.deepEqual([code, stderr], [0, '']);
  assert.equal(basename(cgroup), basename(enrolledCgroup()));
  assert.equal(inside, shell);
  assert.equal(existsSync(enrolledCgroup()), false);
});

test('what a command leaves behind stays in the cgroup, and the next weft run clears it when it has ended', async () => {
  const first = await run(['sh', '-c', 'sleep 100 >/dev/null 2>&1 & exit 4']);
  assert.equal(first.code, 4);
  assert.match(first.stderr, /1 process of shop\/cart-1 still running/);
  const left = enrolledCgroup(0);
  assert.equal(members(left).length, 1);
  await run(['true']);
  assert.ok(existsSync(left));
  await killMembers(left);
  await run(['true']);
  assert.equal(existsSync(left), false);
  assert.deepEqual(
    readdirSync(join(parent, 'weft'), { withFileTypes: true }).filter((entry) => entry.isDirectory()),
    [],
  );
});

test('a directory that is no cgroup is refused before anything runs', async () => {
  const { code, stdout, stderr } = await run(['echo', 'ran'], '--cgroup-parent', agent.runDirectory);
  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /^weft: WEFT_CLI_CGROUP: cannot make a cgroup below .*\nnext: run it as root/);
  assert.deepEqual(agent.bodies, []);
});

test('weft uninstall removes empty run cgroups, and names those that are in use', async () => {
  await run(['sh', '-c', 'sleep 100 >/dev/null 2>&1 & exit 0']);
  const empty = join(parent, 'weft', 'run-1-00000000');
  mkdirSync(empty);
  const uninstall = (): Promise<ExecResult> => {
    const directories = ['run', 'bpf', 'state'].flatMap((name) => [`--${name}-dir`, join(agent.runDirectory, 'none', name)]);
    return exec([WEFT, 'uninstall', '--cgroup-parent', parent, ...directories]);
  };
  const [pid] = members(enrolledCgroup());
  const busy = await uninstall();
  assert.equal(busy.code, 1);
  assert.match(busy.stdout, new RegExp(`^removed  ${empty}$`, 'm'));
  assert.match(busy.stdout, new RegExp(`^left     ${enrolledCgroup()}: processes ${pid} still run`, 'm'));
  assert.match(busy.stderr, /WEFT_CLI_UNINSTALL_INCOMPLETE/);
  await killMembers(enrolledCgroup());
  assert.equal((await uninstall()).code, 0);
  assert.equal(existsSync(join(parent, 'weft')), false);
});
