import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { after, afterEach, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { StateAnswer } from '../../src/model/admin-api.ts';
import type { Child, ExecResult } from '../kit/lab/index.ts';
import { HTTP_PORT, Mesh } from '../kit/mesh.ts';

const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
const JOBS_ID = 'spiffe://cluster.local/ns/shop/sa/jobs';
const NO_INTERN = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-intern, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {serviceAccounts: [intern]}}]}]
`;
/** Connects to $1 port $2 for every line of standard input, and tells how that went. */
const DIALER = `const [address, port] = process.argv.slice(1);
process.stdin.on('data', () => {
  const socket = require('node:net').connect(Number(port), address);
  socket.on('connect', () => socket.end('GET /dialer HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'));
  socket.on('data', (chunk) => console.log('got ' + chunk.toString().slice(9, 12)));
  socket.on('error', (error) => console.log('got ' + error.code));
});
console.log('ready');`;

/** Makes the dialer dial once more, and returns how its dial number `count` went. */
async function dial(child: Child, count: number): Promise<string> {
  child.input?.write('.\n');
  for (let turn = 0; turn < 500; turn++) {
    const answers = child.stdout.split('\n').filter((line) => line.startsWith('got '));
    if (answers.length >= count) return answers[count - 1] as string;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`no answer ${count}: ${child.stdout} ${child.stderr}`);
}

function runWorkloads({ enrolments }: StateAnswer): StateAnswer['enrolments'] {
  return enrolments.filter(({ workload }) => /^shop\/(?:run-|job$)/.test(workload));
}

describe('weft run, on a node with its agent', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', config: { policy: NO_INTERN } });
  });
  after(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });
  /** After each test nothing may be left, whatever the command did. */
  afterEach(async () => {
    assert.deepEqual(runCgroups(), []);
    await mesh.agentA.waitForState('no workload of weft run', (state) => runWorkloads(state).length === 0);
  });

  function runCgroups(): string[] {
    const folder = `${mesh.nodeA.cgroupPath}/weft`;
    return existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith('run-')) : [];
  }

  function weftRun(serviceAccount: string, ...command: readonly string[]): string[] {
    const flags = ['--run-dir', `${mesh.nodeA.directory}/run`, '--cgroup-parent', mesh.nodeA.cgroupPath];
    return [WEFT, 'run', '--namespace', 'shop', '--service-account', serviceAccount, ...flags, '--', ...command];
  }

  function exec(serviceAccount: string, ...command: readonly string[]): Promise<ExecResult> {
    return mesh.nodeA.exec(weftRun(serviceAccount, ...command));
  }

  const status = ['curl', '-sS', '--max-time', '10', '-o', '/dev/null', '-w', '%{http_code}'];

  for (const family of ['v4', 'v6'] as const) {
    it(`a command is captured with its identity: mTLS to the other node, the kernel's word on this one (${family})`, async () => {
      for (const [server, agent, security] of [
        [mesh.far, mesh.agentB, 'mtls'],
        [mesh.near, mesh.agentA, 'kernel'],
      ] as const) {
        const path = `/run-${family}-${security}`;
        const done = await exec('jobs', ...status, mesh.url(server, path, family));
        assert.equal(done.stdout, '200', done.stderr);
        assert.equal(done.code, 0);
        const line = await mesh.accessLog(agent, (found) => found.direction === 'inbound' && found.path === path);
        assert.equal(line.security, security);
        assert.equal(line.source.identity, JOBS_ID);
      }
    });
  }

  it('what it calls arrives from the node’s own address', async () => {
    const done = await exec('jobs', 'curl', '-sS', '--max-time', '10', mesh.url(mesh.far, '/address'));
    assert.equal((JSON.parse(done.stdout) as { remoteAddress: string }).remoteAddress, mesh.nodeA.addresses.v4);
  });

  it('the same command without weft run is a stranger', async () => {
    for (const server of [mesh.near, mesh.far]) {
      assert.equal((await mesh.nodeA.exec([...status, mesh.url(server)])).stdout, '403');
    }
  });

  it('its children are captured too, and policy knows who they are', async () => {
    const url = mesh.url(mesh.far, '/child');
    assert.equal((await exec('jobs', 'sh', '-c', `(${status.join(' ')} ${url}) & wait`)).stdout, '200');
    assert.equal((await exec('intern', 'sh', '-c', `(${status.join(' ')} ${url}) & wait`)).stdout, '403');
  });

  it('two at once keep their identities apart', async () => {
    const script = `sleep 0.5; ${status.join(' ')} ${mesh.url(mesh.near, '/both')}`;
    const [jobs, intern] = await Promise.all([exec('jobs', 'sh', '-c', script), exec('intern', 'sh', '-c', script)]);
    assert.equal(jobs.stdout, '200', jobs.stderr);
    assert.equal(intern.stdout, '403', intern.stderr);
  });

  it('a name can be used again at once, and not twice at a time', async () => {
    const named = (...command: readonly string[]): string[] => weftRun('jobs', ...command).toSpliced(2, 0, '--name', 'job');
    for (let i = 0; i < 2; i++) assert.equal((await mesh.nodeA.exec(named(...status, mesh.url(mesh.near)))).stdout, '200');
    const first = await mesh.nodeA.spawn(named('sh', '-c', 'echo up; exec sleep 60'));
    await first.waitForLine(/^up$/);
    const second = await mesh.nodeA.exec(named('sh', '-c', 'echo it ran'));
    assert.equal(second.code, 1);
    assert.equal(second.stdout, '');
    assert.match(second.stderr, /WEFT_AGENT_WORKLOAD_EXISTS/);
    await first.stop();
  });

  it('passes input, output and the exit code through', async () => {
    const done = await mesh.nodeA.exec(weftRun('jobs', 'sh', '-c', 'cat; echo oops >&2; exit 42'), { input: 'to cat\n' });
    assert.equal(done.code, 42);
    assert.equal(done.stdout, 'to cat\n');
    assert.equal(done.stderr, 'oops\n');
  });

  it('a command that is not there is 127, one that cannot be executed is 126', async () => {
    const missing = await exec('jobs', 'no-such-command-anywhere');
    assert.equal(missing.code, 127);
    assert.match(missing.stderr, /WEFT_CLI_NOT_FOUND/);
    assert.equal((await exec('jobs', mesh.config.path('workloads'))).code, 126);
  });

  it('passes signals on, and ends as the command does', async () => {
    const trapped = await mesh.nodeA.spawn(
      weftRun('jobs', 'sh', '-c', "trap 'echo hup' HUP; trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"),
    );
    await trapped.waitForLine(/^up$/);
    trapped.kill('SIGHUP');
    await trapped.waitForLine(/^hup$/);
    assert.deepEqual(await trapped.stop({ signal: 'SIGTERM' }), { code: 7, signal: null });
    const plain = await mesh.nodeA.spawn(weftRun('jobs', 'sh', '-c', 'echo up; exec sleep 60'));
    await plain.waitForLine(/^up$/);
    assert.deepEqual(await plain.stop({ signal: 'SIGTERM' }), { code: 143, signal: null });
  });

  it('while it runs it is a workload of the agent, in a cgroup of its own', async () => {
    const running = await mesh.nodeA.spawn(weftRun('jobs', 'sh', '-c', 'echo up; exec sleep 60'));
    await running.waitForLine(/^up$/);
    const [found, ...more] = runWorkloads(await mesh.agentA.json<StateAnswer>('/v1/state'));
    assert.equal(more.length, 0);
    assert.equal(found?.state, 'enrolled');
    assert.equal(found?.identity, JOBS_ID);
    assert.equal(found?.mode, 'strict');
    assert.equal(found?.place, `cgroup ${mesh.nodeA.cgroupPath}/weft/${runCgroups()[0]}`);
    await running.stop();
  });

  it('strict: while the agent is away connect() fails with EPERM, and the next agent carries it again under the same identity', async () => {
    const children = await Promise.all(
      ([mesh.far.addresses.v4, mesh.far.addresses.v6] as const).map((address) =>
        mesh.nodeA.spawn(weftRun('jobs', process.execPath, '-e', DIALER, '--', address, String(HTTP_PORT)), { stdin: 'pipe' }),
      ),
    );
    for (const child of children) {
      await child.waitForLine(/^ready$/);
      assert.equal(await dial(child, 1), 'got 200');
    }
    mesh.agentA.process.kill('SIGKILL');
    await mesh.agentA.process.exited;
    for (const child of children) assert.equal(await dial(child, 2), 'got EPERM');
    await mesh.startAgentA();
    for (const child of children) assert.equal(await dial(child, 3), 'got 200');
    for (const child of children) await child.stop();
  });

  it('without an agent the command does not run', async () => {
    await mesh.agentA.stop();
    try {
      const refused = await exec('jobs', 'sh', '-c', 'echo it ran');
      assert.equal(refused.code, 1);
      assert.equal(refused.stdout, '');
      assert.match(refused.stderr, /WEFT_CLI_NO_AGENT/);
    } finally {
      await mesh.startAgentA();
    }
  });

  it('a namespace or an account that is none is refused before anything runs', async () => {
    for (const account of ['../escape', 'UPPER', '']) {
      const refused = await exec(account, 'sh', '-c', 'echo it ran');
      assert.equal(refused.code, 2, refused.stderr);
      assert.equal(refused.stdout, '');
    }
  });
});
