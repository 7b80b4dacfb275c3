import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { AuthorityStatusAnswer } from '../../src/model/authority-api.ts';
import { type Child, exec, type ExecResult } from '../kit/child.ts';
import { fileURLToPath } from 'node:url';
import { agentRunDirectory } from '../kit/lab/agent.ts';
import { app, type LabPod } from '../kit/lab/index.ts';
import { HTTP_PORT, Mesh } from '../kit/mesh.ts';

const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
const CONNECTIONS = 16;
const TRAFFIC_MS = 60_000;
const HELD = 5;
const EVENTUALLY_MS = 15_000;
/** Short, so that every SVID is renewed several times while the root is rotated. */
const SVID_TTL_SECONDS = 20;

interface Calls {
  readonly succeeded: number;
  readonly failed: number;
  readonly failures: readonly string[];
}

/** Ends a steady client, and gives what it counted. */
async function finish(client: Child): Promise<Calls> {
  client.input?.end();
  const [line] = await client.waitForLine(/^\{.*/);
  return JSON.parse(line) as Calls;
}

async function eventually(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + EVENTUALLY_MS;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `within ${EVENTUALLY_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

describe('the root is rotated under traffic', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', agent: { arguments: ['--svid-ttl', String(SVID_TTL_SECONDS)] } });
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  const tryWeft = (...args: readonly string[]): Promise<ExecResult> =>
    exec([WEFT, ...args, '--run-dir', agentRunDirectory(mesh.nodeA)], { timeoutMs: 100_000 });

  async function weft(...args: readonly string[]): Promise<string> {
    const result = await tryWeft(...args);
    assert.equal(result.code, 0, result.stderr);
    return result.stdout;
  }

  async function status(): Promise<AuthorityStatusAnswer> {
    return JSON.parse(await weft('ca', 'status', '--json')) as AuthorityStatusAnswer;
  }

  it('through prepare, activate and prune, without one failed request', async () => {
    const [old] = (await status()).slots;
    assert.equal(old?.state, 'active');
    const client = await mesh.client.spawn(app('steady-client', mesh.far.addresses.v4, HTTP_PORT, CONNECTIONS), { stdin: 'pipe' });
    const ends = performance.now() + TRAFFIC_MS;
    await weft('ca', 'rotate', '--wait');
    const slots = (await status()).slots;
    assert.equal(slots.length, 1, 'the old root is pruned');
    assert.equal(slots[0]?.state, 'active');
    assert.notEqual(slots[0]?.id, old?.id, 'by a new one');
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, ends - performance.now())));
    const calls = await finish(client);
    assert.equal(calls.failed, 0, calls.failures.join('\n'));
    assert.ok(calls.succeeded > 1_000, `only ${calls.succeeded} requests`);
  });

  it('when the old root is revoked, what goes by its certificates ends at once, and comes back with new ones', async () => {
    const old = (await status()).slots.find(({ state }) => state === 'active')?.id as string;
    const hold = (to: LabPod): Promise<Child> =>
      mesh.client.spawn(app('connections', 'hold', to.addresses.v6, HTTP_PORT, HELD), { stdin: 'pipe' });
    const [tunnelled, local] = await Promise.all([hold(mesh.far), hold(mesh.near)]);
    for (const child of [tunnelled, local]) await child.waitForLine(new RegExp(`^holding ${HELD} 0$`));

    await weft('ca', 'prepare');
    const next = (await status()).slots.find(({ state }) => state === 'prepared')?.id as string;
    await eventually('both nodes have the new root', async () => (await tryWeft('ca', 'activate', next)).code === 0);
    await weft('ca', 'taint', old);
    await weft('ca', 'revoke', old);

    await eventually('a new request goes through', async () => (await mesh.curl(mesh.client, mesh.url(mesh.far))).status === 200);
    for (const [child, lost] of [
      [tunnelled, HELD],
      [local, 0],
    ] as const) {
      child.input?.end();
      await child.waitForLine(new RegExp(`^lost ${lost}$`));
    }
    const { slots } = await status();
    assert.deepEqual(
      slots.map(({ id, state }) => [id, state]),
      [[next, 'active']],
    );
    // Whoever hears of it first ends the tunnel, and is the one that counts it.
    const metrics = await Promise.all([mesh.agentA, mesh.agentB].map(async (agent) => (await agent.get('/metrics')).body));
    assert.ok(
      metrics.some((text) => /^weft_tunnels_revoked_total\{side="\w+"\} [1-9]/m.test(text)),
      'no agent says that it ended a tunnel for a revoked certificate',
    );
  });
});
