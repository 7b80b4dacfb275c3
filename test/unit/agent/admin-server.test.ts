import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { AdminServer, type AdminSource } from '../../../src/agent/admin-server.ts';
import { AgentError } from '../../../src/agent/agent-error.ts';
import { createLog } from '../../../src/log/log.ts';
import { ADMIN_SOCKET_NAME } from '../../../src/model/admin-api.ts';

class AdminWorld implements AsyncDisposable {
  readonly directory: string = mkdtempSync(join(tmpdir(), 'weft-admin-'));
  readonly socket: string = join(this.directory, ADMIN_SOCKET_NAME);
  readonly logged: string[] = [];
  readonly source: Partial<AdminSource> = {};
  readonly #stack = new AsyncDisposableStack();

  async listen(metrics: { host: string; port: number } | null = null): Promise<AdminServer> {
    const log = createLog('info', { write: (line: string) => void this.logged.push(line) });
    return this.#stack.use(await AdminServer.listen(this.source as AdminSource, { runDirectory: this.directory, metrics, log }));
  }

  async ask(path: string, method = 'GET', body: string | null = null): Promise<{ status: number | undefined; body: string }> {
    const asked = request({ socketPath: this.socket, path, method, agent: false });
    asked.end(body ?? undefined);
    const [response] = await once(asked, 'response');
    return { status: response.statusCode, body: await text(response) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
    rmSync(this.directory, { recursive: true });
  }
}

describe('the admin endpoint', () => {
  it('is root’s alone, and goes with the agent', async () => {
    const world = new AdminWorld();
    const { socket } = world;
    await world.listen();
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    await world[Symbol.asyncDispose]();
    assert.equal(existsSync(socket), false);
  });

  it('answers what is not there with a 404, however it is written, and writes no log about it', async () => {
    await using world = new AdminWorld();
    await world.listen();
    for (const path of ['/nothing', '//', '//[', '/v1/../ready', '/%']) assert.equal((await world.ask(path)).status, 404, path);
    assert.deepEqual(world.logged, []);
  });

  it('names the code and the next step of what it refuses', async () => {
    await using world = new AdminWorld();
    await world.listen();
    world.source.addHostWorkload = async () => {
      throw new AgentError('WEFT_AGENT_WORKLOAD_EXISTS', 'there is one', { nextStep: 'choose another' });
    };
    const wish = { namespace: 'shop', serviceAccount: 'job', name: 'job', cgroup: '/sys/fs/cgroup/job' };
    const conflict = await world.ask('/v1/workloads', 'POST', JSON.stringify(wish));
    assert.equal(conflict.status, 409);
    assert.deepEqual(JSON.parse(conflict.body), {
      code: 'WEFT_AGENT_WORKLOAD_EXISTS',
      message: 'there is one',
      nextStep: 'choose another',
    });
    for (const bad of ['{', '[]', 'null', JSON.stringify({ ...wish, cgroup: 'relative' }), JSON.stringify({ ...wish, namespace: 'A b' })]) {
      assert.equal((await world.ask('/v1/workloads', 'POST', bad)).status, 400, bad);
    }
    assert.equal((await world.ask('/v1/workloads', 'POST', ' '.repeat(70_000))).status, 400);
  });

  it('hides an internal failure from who asks, and logs it', async () => {
    await using world = new AdminWorld();
    await world.listen();
    world.source.counters = () => {
      throw new Error('secret detail');
    };
    const answer = await world.ask('/v1/counters');
    assert.equal(answer.status, 500);
    assert.equal(answer.body.includes('secret'), false);
    assert.match(world.logged.join(), /secret detail/);
  });

  it('refuses a second agent, and leaves the first one be', async () => {
    await using world = new AdminWorld();
    await world.listen();
    await assert.rejects(world.listen(), { code: 'WEFT_AGENT_RUNNING' });
    world.source.ready = () => ({ ready: true, waitingFor: [] });
    assert.equal((await world.ask('/ready?verbose')).status, 200);
  });

  it('leaves nothing open when the port of the metrics is taken', async () => {
    await using world = new AdminWorld();
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    await assert.rejects(world.listen({ host: '127.0.0.1', port: (taken.address() as AddressInfo).port }), { code: 'WEFT_AGENT_LISTEN' });
    assert.equal(existsSync(world.socket), false);
    taken.close();
  });
});
