import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ConnectionsAnswer } from '../../src/model/admin-api.ts';
import { Conversation } from '../kit/conversation.ts';
import { HboneClient, LabAuthority, type TlsMaterial } from '../kit/hbone.ts';
import { app } from '../kit/lab/index.ts';
import { HTTP_PORT, Mesh, readAccessLog } from '../kit/mesh.ts';
import { PodNetwork } from '../kit/pod-network.ts';

const ECHO_PORT = 7000;

function policy(action: 'ALLOW' | 'DENY', rules: string): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: now, namespace: shop}
spec:
  action: ${action}
  rules: ${rules}
`;
}

const GET = 'GET /x HTTP/1.1\r\nHost: server\r\n\r\n';

describe('a policy that changes while connections are open', () => {
  let mesh: Mesh;
  let outside: PodNetwork;
  let valid: TlsMaterial;

  before(async () => {
    mesh = await Mesh.start({ mode: 'permissive' });
    const echo = await mesh.far.spawn(app('tcp-echo', ECHO_PORT));
    await echo.waitForLine(/listening/);
    outside = new PodNetwork(mesh.stranger);
    valid = await (await LabAuthority.open(mesh.lab)).issue('shop', 'client');
  });
  after(async () => {
    outside?.[Symbol.dispose]();
    await mesh?.[Symbol.asyncDispose]();
  });

  async function withPolicy(text: string, body: () => Promise<void>): Promise<void> {
    await mesh.apply('now', text, 'shop/now');
    try {
      await body();
    } finally {
      mesh.config.remove('now');
      for (const agent of [mesh.agentA, mesh.agentB]) await agent.waitForState('no policy', ({ policies }) => policies.length === 0);
    }
  }

  /** A connection to a port of far, each way there is from outside of its node. */
  function each(port: number): readonly (readonly [string, () => Promise<[Conversation, Disposable | null]>])[] {
    return [
      ['in plaintext', async () => [new Conversation(outside.dial(mesh.far.addresses.v4, port)), null]],
      [
        'through a tunnel',
        async () => {
          const client = new HboneClient(outside, mesh.far.addresses.v4, valid);
          return [await client.connect(`${mesh.far.addresses.v4}:${port}`), client];
        },
      ],
    ];
  }

  for (const [way, open] of each(ECHO_PORT)) {
    it(`ends an open connection of bytes that it does not allow any more (${way})`, async () => {
      const [connection, tunnel] = await open();
      using _connection = connection;
      using _tunnel = tunnel;
      await connection.send('hello\n').received(/hello\n$/);
      await withPolicy(policy('ALLOW', `[{to: [{operation: {ports: ["${ECHO_PORT}"]}}]}]`), async () => {
        await connection.send('still\n').received(/still\n$/);
      });
      await connection.send('here\n').received(/here\n$/);
      await withPolicy(policy('DENY', `[{to: [{operation: {ports: ["${ECHO_PORT}"]}}]}]`), async () => {
        assert.notEqual(await connection.ended(), 'open');
        const line = await mesh.accessLog(mesh.agentB, ({ kind, policy: named, destination }) => {
          return kind === 'connection' && named === 'shop/now' && destination.port === ECHO_PORT;
        });
        assert.equal(line.verdict, 'deny');
      });
    });
  }

  for (const [way, open] of each(HTTP_PORT)) {
    it(`answers the next request of a kept connection by the new policy, and goes on with it (${way})`, async () => {
      const [connection, tunnel] = await open();
      using _connection = connection;
      using _tunnel = tunnel;
      await connection.send(GET).received(/^HTTP\/1\.1 200 [^]*}\n$/);
      await withPolicy(policy('DENY', '[{to: [{operation: {methods: [GET]}}]}]'), async () => {
        await connection.send(GET).received(/HTTP\/1\.1 403 [^]*x-weft-denied-by: shop\/now/i);
      });
      await connection.send(GET.replace('/x', '/again')).received(/HTTP\/1\.1 403 [^]*HTTP\/1\.1 200 [^]*"path":"\/again"/);
    });

    it(`answers 403 to a request that waits for the application when it becomes forbidden (${way})`, async () => {
      const [connection, tunnel] = await open();
      using _connection = connection;
      using _tunnel = tunnel;
      connection.send('GET /slow?ms=4000 HTTP/1.1\r\nHost: server\r\n\r\n');
      await new Promise((resolve) => setTimeout(resolve, 200));
      await withPolicy(policy('DENY', '[{to: [{operation: {methods: [GET]}}]}]'), async () => {
        await connection.received(/^HTTP\/1\.1 403 /, 2_000);
      });
    });
  }

  it('decides the same on one node, for a peer that the kernel attests', async () => {
    const keepalive = await mesh.client.spawn(
      [
        process.execPath,
        '-e',
        `const s = require('node:net').connect(${HTTP_PORT}, '${mesh.near.addresses.v4}');
       s.on('data', (d) => console.log(d.toString().split('\\r\\n')[0]));
       s.on('close', () => console.log('closed'));
       process.stdin.on('data', () => s.write(${JSON.stringify(GET)}));`,
      ],
      { stdin: 'pipe' },
    );
    keepalive.input?.write('.');
    await keepalive.waitForLine(/ 200 /);
    await withPolicy(
      policy('DENY', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}], to: [{operation: {methods: [GET]}}]}]'),
      async () => {
        keepalive.input?.write('.');
        await keepalive.waitForLine(/ 403 /);
      },
    );
    await keepalive.stop();
  });

  it('strict after permissive refuses what a plaintext connection asks next, and not what mTLS brings', async () => {
    using plaintext = new Conversation(outside.dial(mesh.far.addresses.v4, HTTP_PORT));
    using bytes = new Conversation(outside.dial(mesh.far.addresses.v4, ECHO_PORT));
    using client = new HboneClient(outside, mesh.far.addresses.v4, valid);
    using proven = await client.connect(`${mesh.far.addresses.v4}:${HTTP_PORT}`);
    for (const connection of [plaintext, proven]) await connection.send(GET).received(/^HTTP\/1\.1 200 [^]*}\n$/);
    await bytes.send('hello\n').received(/^hello\n$/);
    await mesh.setMode('shop', 'strict');
    assert.notEqual(await bytes.ended(), 'open');
    await plaintext.send(GET).received(/HTTP\/1\.1 403 [^]*strict mode requires mTLS/);
    await proven.send(GET.replace('/x', '/proven')).received(/HTTP\/1\.1 200 [^]*"path":"\/proven"/);
    await mesh.setMode('shop', 'permissive');
    await plaintext.send(GET.replace('/x', '/later')).received(/HTTP\/1\.1 200 [^]*"path":"\/later"/);
  });

  it('an open connection shows in the admin endpoint, with its state', async () => {
    using bytes = new Conversation(outside.dial(mesh.far.addresses.v4, ECHO_PORT));
    await bytes.send('\x00\x01\n').received(/\n$/);
    const { connections } = await mesh.agentB.json<ConnectionsAnswer>('/v1/connections');
    const found = connections.find(({ destination }) => destination.endsWith(`:${ECHO_PORT}`));
    assert.equal(found?.state, 'opaque');
    assert.equal(found?.security, 'plaintext');
  });
});

describe('what an agent writes down', () => {
  it('holds no queries, headers, bodies or keys; what is private is private', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    const secret = 'hunter2-8417';
    for (const server of [mesh.near, mesh.far]) {
      const args = ['-H', `Authorization: Bearer ${secret}`, '-H', `Cookie: ${secret}`, '-u', `user:${secret}`, '--data', secret];
      const answer = await mesh.curl(mesh.client, mesh.url(server, `/login?token=${secret}`), ...args);
      assert.equal(answer.status, 200);
      assert.match(answer.body, new RegExp(secret), 'the application got it');
    }
    // Refused ones too: they are described in other places.
    await mesh.curl(mesh.stranger, mesh.url(mesh.far, `/login?token=${secret}`), '-H', `X-Secret: ${secret}`);
    await mesh.accessLog(mesh.agentB, ({ path, status }) => path === '/login' && status === 403);
    await mesh.accessLog(mesh.agentA, ({ path }) => path === '/login');
    for (const agent of [mesh.agentA, mesh.agentB]) {
      assert.ok(readAccessLog(agent).length > 0);
      assert.equal(readFileSync(agent.accessLog, 'utf8').includes(secret), false);
      for (const path of ['/v1/state', '/v1/connections', '/v1/svids', '/v1/counters', '/metrics']) {
        const { body } = await agent.get(path);
        assert.equal(body.includes(secret), false, path);
        assert.doesNotMatch(body, /PRIVATE KEY/, path);
      }
      assert.equal(`${agent.process.stdout}${agent.process.stderr}`.includes(secret), false);
      for (const socket of ['admin.sock', 'ca.sock']) assert.equal(statSync(`${agent.node.directory}/run/${socket}`).mode & 0o777, 0o600);
      // Others pass to the Workload API below it, and can list nothing.
      assert.equal(statSync(`${agent.node.directory}/run`).mode & 0o777, 0o711);
    }
    const withKeys: string[] = [];
    for (const entry of readdirSync(mesh.lab.directory, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (entry.isFile() && /PRIVATE KEY/.test(readFileSync(path, 'latin1'))) withKeys.push(path);
    }
    assert.equal(withKeys.length, 1);
    assert.match(withKeys[0] as string, /\/ca\/authority-[0-9]{6}\.json$/);
    assert.equal(statSync(withKeys[0] as string).mode & 0o777, 0o600);
    assert.equal(statSync(join(mesh.lab.directory, 'ca')).mode & 0o077, 0);
  });
});
