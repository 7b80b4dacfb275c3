import assert from 'node:assert/strict';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { inForeground } from '../../../src/cli/signal-forwarding.ts';
import { Child, exec, type ExecResult } from '../../kit/child.ts';
import { enrollingAnswers, FakeAgent } from './fake-agent.ts';

const NODE = [process.execPath, '--disable-warning=ExperimentalWarning', fileURLToPath(new URL('./run-harness.ts', import.meta.url))];

function cgroupOf(agent: FakeAgent): string {
  return join(agent.runDirectory, 'cgroup');
}

function harness(agent: FakeAgent, command: readonly string[], ...flags: string[]): string[] {
  return [...NODE, agent.runDirectory, cgroupOf(agent), ...flags, '--', ...command];
}

function run(agent: FakeAgent, command: readonly string[], ...flags: string[]): Promise<ExecResult> {
  return exec(harness(agent, command, ...flags));
}

/** A command that says when it is up, and which signals it gets. */
const TRAPS = ['USR1', 'USR2', 'HUP', 'INT', 'QUIT'].map((name) => `trap 'echo got ${name}' ${name}`).join('; ');
const SIGNAL_TELLER = ['sh', '-c', `${TRAPS}; trap 'exit 9' TERM; echo up; i=0; while [ $((i+=1)) -lt 500 ]; do sleep 0.02; done`];

describe('weft run', { concurrency: 2 }, () => {
  test('enrols, runs inside, un-enrols; in this order', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    const result = await run(agent, ['sh', '-c', 'echo "member of $WEFT_TEST_MEMBER"; cat "$WEFT_TEST_MEMBER"; exit 7']);
    assert.equal(result.code, 7);
    assert.equal(result.stdout, `member of ${cgroupOf(agent)}\nempty`);
    assert.equal(result.stderr, '');
    assert.deepEqual(agent.requests, ['GET /ready', 'POST /v1/workloads', 'DELETE /v1/workloads/shop/cart-1']);
    assert.deepEqual(agent.bodies, [{ namespace: 'shop', serviceAccount: 'cart', name: null, cgroup: cgroupOf(agent) }]);
    assert.equal(existsSync(cgroupOf(agent)), false);
  });

  test('arguments are passed as they are', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    const result = await run(agent, ['printf', '[%s]', '', '$HOME', 'a b', '--wait', '--', '"']);
    assert.equal(result.stdout, '[][$HOME][a b][--wait][--]["]');
  });

  test('a command that a signal ends is 128 + n', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    assert.equal((await run(agent, ['sh', '-c', 'kill -KILL $$'])).code, 137);
    assert.ok(agent.requests.includes('DELETE /v1/workloads/shop/cart-1'));
  });

  test('a command that is not there is 127, one that cannot be executed is 126', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    const missing = await run(agent, ['weft-no-such-command']);
    assert.equal(missing.code, 127);
    assert.match(missing.stderr, /^weft: WEFT_CLI_NOT_FOUND: there is no command "weft-no-such-command"\nnext: .*PATH\n$/);
    const plain = join(agent.runDirectory, 'plain');
    writeFileSync(plain, 'text');
    const notExecutable = await run(agent, [plain]);
    assert.equal(notExecutable.code, 126);
    assert.match(notExecutable.stderr, /^weft: WEFT_CLI_NOT_EXECUTABLE: .*EACCES/);
    writeFileSync(plain, '#!/no/such/interpreter\n');
    chmodSync(plain, 0o755);
    const noInterpreter = await run(agent, [plain]);
    assert.equal(noInterpreter.code, 126);
    assert.match(noInterpreter.stderr, /its interpreter is missing/);
    assert.equal(agent.requests.filter((request) => request.startsWith('DELETE')).length, 3);
    assert.equal(existsSync(cgroupOf(agent)), false);
  });

  test('without an agent the command does not run', async () => {
    await using agent = await FakeAgent.start({});
    await agent.stop();
    const result = await run(agent, ['echo', 'ran']);
    assert.equal(result.code, 1);
    assert.equal(result.stdout, '');
    assert.match(result.stderr, /^weft: WEFT_CLI_NO_AGENT: no agent answers on .*admin\.sock\nnext: /);
    assert.equal(existsSync(cgroupOf(agent)), false);
  });

  test('what the agent refuses does not run, and its reason is shown', async () => {
    await using agent = await FakeAgent.start({
      ...enrollingAnswers(),
      'POST /v1/workloads': () => ({
        status: 409,
        body: { code: 'WEFT_AGENT_WORKLOAD_EXISTS', message: 'there is a workload shop/cart already', nextStep: 'choose another --name' },
      }),
    });
    const result = await run(agent, ['echo', 'ran']);
    assert.deepEqual(
      [result.code, result.stdout, result.stderr],
      [1, '', 'weft: WEFT_AGENT_WORKLOAD_EXISTS: there is a workload shop/cart already\nnext: choose another --name\n'],
    );
    assert.equal(existsSync(cgroupOf(agent)), false);
  });

  test('an agent that is starting is waited for', async () => {
    let asked = 0;
    await using agent = await FakeAgent.start({
      ...enrollingAnswers(),
      'GET /ready': () =>
        ++asked < 3
          ? { status: 503, body: { ready: false, waitingFor: ['start'] } }
          : { status: 200, body: { ready: true, waitingFor: [] } },
    });
    assert.equal((await run(agent, ['true'])).code, 0);
    assert.equal(asked, 3);
  });

  test('an agent that drains takes nobody in', async () => {
    await using agent = await FakeAgent.start({
      ...enrollingAnswers(),
      'GET /ready': () => ({ status: 503, body: { ready: false, waitingFor: ['draining'] } }),
    });
    const result = await run(agent, ['echo', 'ran']);
    assert.deepEqual([result.code, result.stdout], [1, '']);
    assert.match(result.stderr, /WEFT_CLI_AGENT_NOT_READY: .*draining/);
  });

  test('an answer that makes no sense is an error, not a crash', async () => {
    await using agent = await FakeAgent.start({ ...enrollingAnswers(), 'POST /v1/workloads': () => ({ status: 201, body: '<html>' }) });
    const result = await run(agent, ['echo', 'ran']);
    assert.deepEqual([result.code, result.stdout], [1, '']);
    assert.match(result.stderr, /^weft: WEFT_CLI_AGENT_ANSWER: .*not JSON \(status 201\)\nnext: /);
  });

  test('signals are passed on, and the command decides what they do', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    await using child = await Child.start(harness(agent, SIGNAL_TELLER));
    await child.waitForLine(/^up$/);
    for (const name of ['USR1', 'USR2', 'HUP', 'INT', 'QUIT']) {
      child.kill(`SIG${name}` as NodeJS.Signals);
      await child.waitForLine(new RegExp(`^got ${name}$`));
    }
    assert.equal(child.status, null);
    child.kill('SIGTERM');
    assert.equal((await child.exited).code, 9);
  });

  test('SIGTERM ends a command that does not mind, as 143', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    await using child = await Child.start(harness(agent, ['sh', '-c', 'echo up; exec sleep 20']));
    await child.waitForLine(/^up$/);
    child.kill('SIGTERM');
    assert.deepEqual(await child.exited, { code: 128 + constants.signals.SIGTERM, signal: null });
    assert.equal(agent.requests.at(-1), 'DELETE /v1/workloads/shop/cart-1');
  });

  test('SIGTSTP stops the command and weft, SIGCONT lets both go on', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    // A job of a shell, in a process group of its own: the kernel stops no process of a group that no shell looks after (setpgid(2), orphaned).
    await using shell = await Child.start([
      'bash',
      '-c',
      'set -m; "$@" & echo "weft $!"; wait -f $!',
      'bash',
      ...harness(agent, ['sh', '-c', 'echo up $$; i=0; while [ $((i+=1)) -lt 500 ]; do sleep 0.02; done']),
    ]);
    const weft = Number((await shell.waitForLine(/^weft (\d+)$/))[1]);
    const command = Number((await shell.waitForLine(/^up (\d+)$/))[1]);
    const states = (): string => [weft, command].map((each) => /\) (\S)/.exec(readFileSync(`/proc/${each}/stat`, 'utf8'))?.[1]).join('');
    const until = async (pattern: RegExp): Promise<void> => {
      for (let turn = 0; turn < 200 && !pattern.test(states()); turn++) await sleep(10);
      assert.match(states(), pattern);
    };
    process.kill(weft, 'SIGTSTP');
    await until(/^TT$/);
    process.kill(weft, 'SIGCONT');
    await until(/^[RSD]{2}$/);
    process.kill(weft, 'SIGTERM');
    assert.equal((await shell.exited).code, 143);
  });

  test('SIGTSTP stops neither where no shell could let them go on', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    await using child = await Child.start(['setsid', '--wait', ...harness(agent, ['sh', '-c', 'echo up $PPID; exec sleep 20'])]);
    const weft = Number((await child.waitForLine(/^up (\d+)$/))[1]);
    process.kill(weft, 'SIGTSTP');
    process.kill(weft, 'SIGTERM');
    assert.equal((await child.exited).code, 143);
  });

  test('a signal before the command runs keeps it from running', async () => {
    const posted = Promise.withResolvers<void>();
    const answers = enrollingAnswers();
    let ready = false;
    await using agent = await FakeAgent.start({
      ...answers,
      'GET /ready': () => {
        posted.resolve();
        return { status: 200, body: { ready, waitingFor: ready ? [] : ['start'] } };
      },
    });
    await using child = await Child.start(harness(agent, ['echo', 'ran']));
    await posted.promise;
    child.kill('SIGTERM');
    const { code } = await child.exited;
    ready = true;
    assert.equal(code, 143);
    assert.equal(child.stdout, '');
    assert.ok(!agent.requests.includes('POST /v1/workloads'));
  });

  test('a signal during the enrolment keeps it from running too, and is cleaned up after', async () => {
    const answers = enrollingAnswers();
    const enrol = answers['POST /v1/workloads'];
    assert.ok(enrol);
    let signal = (): void => {};
    await using agent = await FakeAgent.start({
      ...answers,
      'POST /v1/workloads': async (body) => {
        signal();
        // Until the signal has arrived for sure.
        await sleep(200);
        return enrol(body);
      },
    });
    await using child = await Child.start(harness(agent, ['echo', 'ran']));
    signal = () => child.kill('SIGINT');
    assert.equal((await child.exited).code, 130);
    assert.equal(child.stdout, '');
    assert.equal(agent.requests.at(-1), 'DELETE /v1/workloads/shop/cart-1');
  });

  test('what the command leaves behind stays in the mesh, and is named', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    const result = await run(agent, ['sh', '-c', 'printf populated > "$WEFT_TEST_MEMBER"; exit 3']);
    assert.equal(result.code, 3);
    assert.match(result.stderr, /1 process of shop\/cart-1 still running, and still in the mesh: .*cgroup\nnext: use --wait/);
    assert.ok(!agent.requests.some((request) => request.startsWith('DELETE')));
    assert.ok(existsSync(cgroupOf(agent)));
  });

  test('--wait waits for what the command leaves behind', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    const leave = 'printf populated > "$WEFT_TEST_MEMBER"; (sleep 0.6; printf empty > "$WEFT_TEST_MEMBER") >/dev/null 2>&1 & exit 3';
    const result = await run(agent, ['sh', '-c', leave], '--wait');
    assert.deepEqual([result.code, result.stderr], [3, '']);
    assert.equal(agent.requests.at(-1), 'DELETE /v1/workloads/shop/cart-1');
  });

  test('a signal ends the wait', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    await using child = await Child.start(harness(agent, ['sh', '-c', 'printf populated > "$WEFT_TEST_MEMBER"; echo left'], '--wait'));
    await child.waitForLine(/^left$/);
    await sleep(200);
    child.kill('SIGTERM');
    assert.equal((await child.exited).code, 0);
    assert.match(child.stderr, /still in the mesh/);
  });

  test('a restarted agent is told of the command again, under the same name', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    await using child = await Child.start(harness(agent, ['sh', '-c', 'echo up; exec sleep 20']));
    await child.waitForLine(/^up$/);
    await agent.stop();
    await agent.listen();
    for (let turn = 0; turn < 300 && agent.bodies.length < 2; turn++) await sleep(10);
    assert.deepEqual(agent.bodies[1], { namespace: 'shop', serviceAccount: 'cart', name: 'cart-1', cgroup: cgroupOf(agent) });
    await sleep(700);
    assert.equal(agent.bodies.length, 2);
    child.kill('SIGTERM');
    await child.exited;
  });

  test('an agent that is gone at the end does not change the exit code', async () => {
    await using agent = await FakeAgent.start(enrollingAnswers());
    await using child = await Child.start(harness(agent, ['sh', '-c', 'echo up; sleep 0.3; exit 5']));
    await child.waitForLine(/^up$/);
    await agent.stop();
    assert.equal((await child.exited).code, 5);
    assert.equal(child.stderr, '');
    assert.equal(existsSync(cgroupOf(agent)), false);
  });
});

test('the foreground of a terminal is told from /proc/self/stat', () => {
  assert.equal(inForeground('12 (a b) c) S 1 12 12 34816 12 4194304 0'), true);
  assert.equal(inForeground('12 (a b) c) S 1 12 12 34816 99 4194304 0'), false);
  assert.equal(inForeground('12 (node) S 1 12 12 0 -1 4194304 0'), false);
});
