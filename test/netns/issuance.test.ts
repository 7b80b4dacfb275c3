import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AuthorityStatusAnswer } from '../../src/model/authority-api.ts';
import { agentRunDirectory, app, type ExecResult, Lab, LabAgent, type LabNode, type LabPod } from '../kit/lab/index.ts';
import { readAccessLog } from '../kit/mesh.ts';

const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
const CA_PORT = 15_012;
const HTTP_PORT = 8080;

/** `weft ca …` on a node. */
async function ca(node: LabNode, ...args: readonly string[]): Promise<ExecResult> {
  return node.exec([WEFT, 'ca', ...args, '--run-dir', agentRunDirectory(node)]);
}

async function status(node: LabNode): Promise<AuthorityStatusAnswer> {
  return JSON.parse((await ca(node, 'status', '--json')).stdout) as AuthorityStatusAnswer;
}

/** The status of a request from one pod to another, 0 when there was no answer. */
async function call(from: LabPod, address: string): Promise<number> {
  const url = `http://${address.includes(':') ? `[${address}]` : address}:${HTTP_PORT}/`;
  const { stdout } = await from.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '10', url]);
  return Number(stdout);
}

test('a node joins the authority of another with a token, once, and comes back without one', async () => {
  await using lab = await Lab.create({ name: 'issuance' });
  const nodeA = await lab.node('node-a');
  const nodeB = await lab.node('node-b');
  const client = await nodeA.pod('client', { namespace: 'shop' });
  const far = await nodeB.pod('far', { namespace: 'shop' });
  const config = lab.writeConfig({ modes: { shop: 'strict' } });
  await using server = await far.spawn(app('http-server', HTTP_PORT));
  await server.waitForLine(/listening/);
  await using agentA = await LabAgent.start(nodeA, { config, arguments: ['--ca-listen', `[::]:${CA_PORT}`] });

  const token = await ca(nodeA, 'token', '--node', 'node-b');
  assert.equal(token.code, 0, token.stderr);
  assert.match(token.stdout, /^weft-join-1\.[\w-]+\.[\w-]+\n$/);
  const tokenFile = `${nodeB.directory}/token`;
  writeFileSync(tokenFile, token.stdout, { mode: 0o600 });
  const remote = (address: string): string[] => [
    '--ca-server',
    address.includes(':') ? `[${address}]:${CA_PORT}` : `${address}:${CA_PORT}`,
  ];
  {
    await using agentB = await LabAgent.start(nodeB, {
      config,
      caDirectory: null,
      arguments: [...remote(nodeA.addresses.v4), '--ca-token-file', tokenFile],
    });
    for (const address of [far.addresses.v4, far.addresses.v6]) assert.equal(await call(client, address), 200, address);
    const line = readAccessLog(agentB).find(({ direction }) => direction === 'inbound');
    assert.equal(line?.security, 'mtls');
    assert.equal(line?.source.identity, 'spiffe://cluster.local/ns/shop/sa/client');
    const { sequence, nodes } = await status(nodeA);
    const joined = nodes.find(({ name }) => name === 'node-b');
    assert.equal(joined?.acknowledged, sequence);
    assert.ok(Math.abs(joined?.clockSkewSeconds ?? Number.NaN) < 1);
    await agentB.stop();
  }

  // Without a token, and by the other address family.
  await using agentB = await LabAgent.start(nodeB, { config, caDirectory: null, arguments: remote(nodeA.addresses.v6) });
  assert.equal(await call(client, far.addresses.v4), 200);
  assert.equal((await agentB.process.status) ?? null, null);

  // The token is spent: another node, or this one without its state, cannot use it.
  const nodeC = await lab.node('node-c');
  await assert.rejects(
    LabAgent.start(nodeC, { config, caDirectory: null, arguments: [...remote(nodeA.addresses.v4), '--ca-token-file', tokenFile] }),
    /WEFT_CERTS_JOIN: the authority refused the join token/,
  );
  assert.match(agentA.process.stderr, /unknown, or was used before/);
});
