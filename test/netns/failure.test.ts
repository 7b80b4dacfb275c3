import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import type { CountersAnswer, StateAnswer } from '../../src/model/admin-api.ts';
import { agentCommand, app, exec } from '../kit/lab/index.ts';
import { Mesh, readAccessLog } from '../kit/mesh.ts';

/** curl's exit codes. */
const COULD_NOT_CONNECT = 7;

describe('an agent that is killed', () => {
  it('strict, the server side: new connections are refused, never sent in plaintext, until it is back', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
    mesh.agentB.process.kill('SIGKILL');
    await mesh.agentB.process.exited;
    for (const family of ['v4', 'v6'] as const) {
      const stranger = await mesh.curl(mesh.stranger, mesh.url(mesh.far, '/', family));
      assert.equal(stranger.status, 0);
      assert.equal(stranger.result.code, COULD_NOT_CONNECT, stranger.result.stderr);
    }
    await using wire = await mesh.nodeA.capture(mesh.nodeA.interfaceTo(mesh.nodeB));
    const refused = await mesh.curl(mesh.client, mesh.url(mesh.far, '/never-in-plaintext'));
    assert.equal(refused.status, 0);
    assert.equal((await wire.stop()).contains('never-in-plaintext'), false);
    await mesh.startAgentB();
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 403);
  });

  it('strict, the client side: connect() fails with EPERM until it is back', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    mesh.agentA.process.kill('SIGKILL');
    await mesh.agentA.process.exited;
    for (const family of ['v4', 'v6'] as const) {
      const refused = await mesh.curl(mesh.client, mesh.url(mesh.far, '/', family));
      assert.equal(refused.status, 0);
      assert.equal(refused.result.code, COULD_NOT_CONNECT, refused.result.stderr);
    }
    await mesh.startAgentA();
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.near))).status, 200);
  });

  it('permissive: connections pass untouched while either agent is away, and join the mesh again after', async () => {
    await using mesh = await Mesh.start({ mode: 'permissive' });
    for (const [kill, restart] of [
      ['agentA', 'startAgentA'],
      ['agentB', 'startAgentB'],
    ] as const) {
      mesh[kill].process.kill('SIGKILL');
      await mesh[kill].process.exited;
      for (const server of [mesh.near, mesh.far]) {
        for (const family of ['v4', 'v6'] as const) {
          const passed = await mesh.curl(mesh.client, mesh.url(server, '/', family));
          assert.equal(passed.status, 200, `${kill} away, ${server.name} ${family}: ${passed.result.stderr}`);
        }
      }
      await mesh[restart]();
      const marker = `/after-${kill}`;
      // A node that was away is tried again after a second.
      await new Promise((resolve) => setTimeout(resolve, 1_100));
      assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far, marker))).status, 200);
      assert.equal((await mesh.accessLog(mesh.agentB, (line) => line.path === marker)).security, 'mtls');
    }
  });

  it('under load in strict: every call either succeeds or is refused, and all succeed again after a restart', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    await using caller = mesh.keepCalling(mesh.client, [mesh.far]);
    await caller.more(5);
    mesh.agentB.process.kill('SIGKILL');
    await mesh.agentB.process.exited;
    await mesh.startAgentB();
    await caller.more(2);
    caller.statuses.clear();
    await caller.more(5);
    await caller.stop();
    const failures = readAccessLog(mesh.agentA).filter(({ verdict }) => verdict === 'error');
    assert.deepEqual([...caller.statuses.keys()], [200], JSON.stringify(failures.slice(-5), null, 2));
  });

  it('a client that waits while the far agent restarts is served, not lost', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    await mesh.agentB.stop();
    const waiting = mesh.curl(mesh.client, mesh.url(mesh.far, '/patient'));
    await mesh.startAgentB();
    assert.equal((await waiting).status, 200);
  });
});

describe('an agent that starts', () => {
  it('adopts what a former one left, and releases who is gone meanwhile', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    await mesh.agentB.stop();
    const links = `${mesh.nodeB.bpfDirectory}/v1/links`;
    assert.ok(readdirSync(links).some((name) => name.startsWith('inbound-')));
    mesh.config.namespaceMode('shop', 'off');
    await mesh.startAgentB();
    assert.equal(
      readdirSync(links).some((name) => name.startsWith('inbound-')),
      false,
    );
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 200);
  });

  it('denies what it denied, with a policy file that was broken meanwhile', async () => {
    const deny = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all, namespace: shop}
spec: {action: DENY, rules: [{}]}
`;
    await using mesh = await Mesh.start({ mode: 'strict', config: { deny } });
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 403);
    await mesh.agentB.stop();
    mesh.config.apply('deny', deny.replace('rules: [{}]', 'rules: [{'));
    await mesh.startAgentB();
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 403);
    const { problems } = await mesh.agentB.json<StateAnswer>('/v1/state');
    assert.match(problems.join('\n'), /the last good state of .* is in force/);
  });

  it('refuses to run beside another one, and harms nothing', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    const second = await mesh.nodeB.spawn(agentCommand(mesh.nodeB, { config: mesh.config }), { cgroup: 'agent' });
    assert.equal((await second.exited).code, 1);
    assert.match(second.stderr, /WEFT_AGENT_RUNNING/);
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
  });
});

describe('limits', () => {
  for (const mode of ['strict', 'permissive'] as const) {
    it(`${mode}: a workload at its share of the map is refused more, counted, and keeps no other from connecting`, async () => {
      await using mesh = await Mesh.start({ mode, agent: { arguments: ['--max-connections', '1024'] } });
      const share = 128;
      const refused = async (): Promise<number> => (await mesh.agentA.json<CountersAnswer>('/v1/counters')).kernel.refused_too_many;
      // Twice: the share is whole again after the connections have closed.
      for (const round of [1, 2]) {
        const before = await refused();
        const holder = await mesh.client.spawn(app('connections', 'hold', mesh.near.addresses.v4, 8080, share + 20), { stdin: 'pipe' });
        const [, open, failed] = await holder.waitForLine(/holding (\d+) (\d+)/, 30_000);
        assert.deepEqual([Number(open), Number(failed)], [share, 20], `round ${round}`);
        assert.equal((await refused()) - before, 20);
        const full = await mesh.curl(mesh.client, mesh.url(mesh.far));
        assert.equal(full.status, 0);
        assert.equal(full.result.code, COULD_NOT_CONNECT, full.result.stderr);
        assert.equal((await mesh.curl(mesh.near, mesh.url(mesh.far))).status, 200);
        await holder.stop();
        assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.near))).status, 200);
      }
    });
  }

  it('the share counts connections that outlive an enrolment, and is whole when they have closed', async () => {
    await using mesh = await Mesh.start({ mode: 'strict', agent: { arguments: ['--max-connections', '1024'] } });
    const holder = await mesh.client.spawn(app('connections', 'hold', mesh.near.addresses.v4, 8080, 100), { stdin: 'pipe' });
    await holder.waitForLine(/holding 100 0/, 30_000);
    await mesh.setMode('shop', 'off');
    await mesh.setMode('shop', 'strict');
    const second = await mesh.client.spawn(app('connections', 'hold', mesh.near.addresses.v4, 8080, 100), { stdin: 'pipe' });
    const [, open] = await second.waitForLine(/holding (\d+) (\d+)/, 30_000);
    const { kernelEntries } = await mesh.agentA.json<CountersAnswer>('/v1/counters');
    assert.ok(Number(open) >= 28 && kernelEntries.originalDestinations <= 128, `${open} open, ${JSON.stringify(kernelEntries)}`);
    await Promise.all([holder.stop(), second.stop()]);
    const third = await mesh.client.spawn(app('connections', 'hold', mesh.near.addresses.v4, 8080, 128), { stdin: 'pipe' });
    await third.waitForLine(/holding 128 0/, 30_000);
    await third.stop();
  });

  it('connections opened and closed leave descriptors and map entries where they were', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    const churn = async (count: number): Promise<void> => {
      for (const server of [mesh.near, mesh.far]) {
        const done = await mesh.client.exec(app('connections', 'churn', server.addresses.v4, 8080, count, 16), { timeoutMs: 60_000 });
        assert.match(done.stdout, new RegExp(`done ${count} 0`));
      }
    };
    const counters = async (): Promise<CountersAnswer> => {
      await new Promise((resolve) => setTimeout(resolve, 300));
      return mesh.agentA.json<CountersAnswer>('/v1/counters');
    };
    await churn(100);
    const before = await counters();
    await churn(1_000);
    const after = await counters();
    assert.deepEqual(after.kernelEntries, { originalDestinations: 0, presentedPeers: 0 });
    assert.ok(after.openFileDescriptors <= before.openFileDescriptors + 4, `${before.openFileDescriptors} -> ${after.openFileDescriptors}`);
  });
});

describe('a pod that goes away', () => {
  it('is released: its namespace is not kept alive, and its enrolment ends', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    const { netnsName } = mesh.near;
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.near))).status, 200);
    await exec(['ip', 'netns', 'delete', netnsName]);
    await mesh.agentA.waitForState('near is not enrolled', ({ enrolments }) =>
      enrolments.every(({ workload, state }) => workload !== 'shop/near' || state === 'waiting'),
    );
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
  });
});

describe('weft uninstall', () => {
  it('leaves no pin behind, and every workload talks as without a mesh', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    await mesh.agentB.stop();
    const uninstall = await exec([
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      'src/cli/main.ts',
      'uninstall',
      `--bpf-dir=${mesh.nodeB.bpfDirectory}`,
      `--run-dir=${mesh.nodeB.directory}/run`,
      `--state-dir=${mesh.nodeB.directory}/state`,
    ]);
    assert.equal(uninstall.code, 0, uninstall.stderr);
    assert.equal(existsSync(`${mesh.nodeB.bpfDirectory}/v1`), false);
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 200);
  });
});
