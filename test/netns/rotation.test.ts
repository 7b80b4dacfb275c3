import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { AuthorityStatusAnswer } from '../../src/model/authority-api.ts';
import { type Child, exec } from '../kit/child.ts';
import { fileURLToPath } from 'node:url';
import { agentRunDirectory } from '../kit/lab/agent.ts';
import { app } from '../kit/lab/index.ts';
import { HTTP_PORT, Mesh } from '../kit/mesh.ts';

const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
const CONNECTIONS = 16;
const TRAFFIC_MS = 60_000;
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

describe('the root is rotated under traffic', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', agent: { arguments: ['--svid-ttl', String(SVID_TTL_SECONDS)] } });
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  async function weft(...args: readonly string[]): Promise<string> {
    const result = await exec([WEFT, ...args, '--run-dir', agentRunDirectory(mesh.nodeA)], { timeoutMs: 100_000 });
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
});
