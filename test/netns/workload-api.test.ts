import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Child, ExecResult } from '../kit/child.ts';
import { agentRunDirectory, type LabNode, type LabPod } from '../kit/lab/index.ts';
import { Mesh } from '../kit/mesh.ts';
import { spiffeGo } from '../kit/spiffe-go.ts';

const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
const ID = 'spiffe://cluster.local/ns/shop/sa/';
/** Short, so that a renewal is seen. */
const SVID_TTL_SECONDS = 8;

interface Said {
  readonly id?: string;
  readonly token?: string;
  readonly jwt?: number;
  readonly serial?: string;
  readonly watchError?: string;
  readonly code?: string;
  readonly listening?: string;
  readonly peer?: string;
  readonly echo?: string;
  readonly error?: string;
}

function said(output: { readonly stdout: string }): Said[] {
  const lines = output.stdout.split('\n').filter((line) => line.startsWith('{'));
  return lines.map((line) => JSON.parse(line) as Said);
}

async function until(what: string, child: Child, wanted: (all: readonly Said[]) => boolean): Promise<Said[]> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const all = said(child);
    if (wanted(all)) return all;
    assert.ok(performance.now() < deadline && child.status === null, `${what}: ${child.stdout} ${child.stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

describe('the Workload API of an agent', () => {
  const client = spiffeGo();
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', agent: { arguments: ['--svid-ttl', String(SVID_TTL_SECONDS)] } });
  });
  after(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  function endpoint(node: LabNode): { env: Record<string, string> } {
    return { env: { SPIFFE_ENDPOINT_SOCKET: `unix://${agentRunDirectory(node)}/public/workload-api.sock` } };
  }

  function run(place: LabPod | LabNode, node: LabNode, ...args: readonly string[]): Promise<ExecResult> {
    return place.exec([client, ...args], endpoint(node));
  }

  it('gives a pod its SVID, known by its network namespace alone', async () => {
    const [answer] = said(await run(mesh.client, mesh.nodeA, 'x509'));
    assert.equal(answer?.id, `${ID}client`, JSON.stringify(answer));
    assert.equal(said(await run(mesh.near, mesh.nodeA, 'x509'))[0]?.id, `${ID}near`);
  });

  it('denies the host’s own processes, pods of the mode off, and pods of another node’s agent', async () => {
    assert.equal(said(await run(mesh.nodeA, mesh.nodeA, 'x509'))[0]?.code, 'PermissionDenied');
    assert.equal(said(await run(mesh.stranger, mesh.nodeA, 'x509'))[0]?.code, 'PermissionDenied');
    assert.equal(said(await run(mesh.far, mesh.nodeA, 'x509'))[0]?.code, 'PermissionDenied');
    assert.equal(said(await run(mesh.far, mesh.nodeB, 'x509'))[0]?.id, `${ID}far`);
  });

  it('gives a pod a token that the pod of the other node verifies with its own agent’s key set', async () => {
    const [fetched] = said(await run(mesh.client, mesh.nodeA, 'jwt', 'far'));
    assert.equal(fetched?.id, `${ID}client`, JSON.stringify(fetched));
    const validate = (audience: string): Promise<ExecResult> => run(mesh.far, mesh.nodeB, 'validate', audience, fetched.token as string);
    assert.equal(said(await validate('far'))[0]?.id, `${ID}client`);
    assert.equal(said(await validate('other'))[0]?.code, 'InvalidArgument');
    const [bundle] = said(await run(mesh.client, mesh.nodeA, 'bundles'));
    assert.ok((bundle?.jwt ?? 0) >= 1, JSON.stringify(bundle));
  });

  it('gives a command of weft run its SVID, known by its cgroup, and names the socket to it', async () => {
    const flags = ['--run-dir', agentRunDirectory(mesh.nodeA), '--cgroup-parent', mesh.nodeA.cgroupPath];
    const run = [WEFT, 'run', '--namespace', 'shop', '--service-account', 'jobs', ...flags, '--'];
    const { SPIFFE_ENDPOINT_SOCKET: _, ...env } = process.env as Record<string, string>;
    const stock = await mesh.nodeA.exec([...run, 'env', '-u', 'NOTHING', client, 'x509'], { env });
    assert.equal(said(stock)[0]?.id, `${ID}jobs`, stock.stdout + stock.stderr);
    const own = await mesh.nodeA.exec([...run, WEFT, 'svid', 'fetch', '--json'], { env });
    assert.equal((JSON.parse(own.stdout) as { spiffeId: string }).spiffeId, `${ID}jobs`, own.stderr);
  });

  it('pushes each renewal to a stock client', async () => {
    await using watching = await mesh.client.spawn([client, 'watch', '3'], endpoint(mesh.nodeA));
    const all = await until('no renewals', watching, (seen) => seen.length >= 3);
    assert.equal(new Set(all.map(({ serial }) => serial)).size, 3);
    assert.deepEqual(new Set(all.map(({ id }) => id)), new Set([`${ID}client`]));
  });

  it('lets pods of two nodes speak mTLS of their own, with each other’s names', async () => {
    await using server = await mesh.far.spawn([client, 'serve', '0.0.0.0:9443', `${ID}client`], endpoint(mesh.nodeB));
    await until('the server does not listen', server, ([first]) => first?.listening !== undefined);
    const [answer] = said(await run(mesh.client, mesh.nodeA, 'dial', `${mesh.far.addresses.v4}:9443`, `${ID}far`));
    assert.deepEqual([answer?.peer, answer?.echo], [`${ID}far`, 'hello'], JSON.stringify(answer));
  });

  it('leaves its socket to everybody, and the rest of the run directory to root', () => {
    const run = agentRunDirectory(mesh.nodeA);
    const mode = (path: string): number => statSync(path).mode & 0o777;
    assert.deepEqual(
      [mode(run), mode(`${run}/public`), mode(`${run}/public/workload-api.sock`), mode(`${run}/admin.sock`)],
      [0o711, 0o755, 0o666, 0o600],
    );
  });

  // Last: it changes the mesh.
  it('ends the streams of a workload that leaves the mesh, and serves it again when it is back', async () => {
    await using watching = await mesh.near.spawn([client, 'watch', '99'], endpoint(mesh.nodeA));
    await until('no first message', watching, (seen) => seen.length > 0);
    await mesh.setMode('shop', 'off');
    await until('the stream goes on', watching, (seen) => seen.some(({ watchError }) => watchError === 'PermissionDenied'));
    assert.equal(said(await run(mesh.near, mesh.nodeA, 'x509'))[0]?.code, 'PermissionDenied');
    const before = said(watching).length;
    await mesh.setMode('shop', 'strict');
    await until('not served again', watching, (seen) => seen.slice(before).some(({ id }) => id === `${ID}near`));
  });
});
