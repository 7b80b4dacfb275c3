import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { app, type ExecResult, type LabPod } from '../kit/lab/index.ts';
import { type AccessLogLine, Mesh } from '../kit/mesh.ts';

const PORT = 9090;

/** Allows the client of the mesh what a test names. */
function allow(paths: readonly string[]): string {
  return `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: http2, namespace: shop}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]
    to: [{operation: {paths: ${JSON.stringify(paths)}}}]
`;
}

describe('HTTP/2 and gRPC through a strict mesh', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', config: { policy: allow(['/public/*', '/shop.Items/*']) } });
    for (const pod of [mesh.near, mesh.far]) {
      const server = await pod.spawn(app('http2-server', PORT));
      await server.waitForLine(/listening/);
    }
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  function curl(pod: LabPod, path: string, ...args: readonly string[]): Promise<ExecResult> {
    return mesh.client.exec(['curl', '-sS', '-i', '--http2-prior-knowledge', '--max-time', '10', ...args, mesh.url(pod, path, 'v4', PORT)]);
  }

  for (const where of ['near', 'far'] as const) {
    it(`each request has its decision (${where})`, async () => {
      const pod = mesh[where];
      const agent = where === 'near' ? mesh.agentA : mesh.agentB;
      const allowed = await curl(pod, '/public/../public/x?y=1');
      assert.match(allowed.stdout, /^HTTP\/2 200/, allowed.stderr);
      assert.match(allowed.stdout, /"path":"\/public\/x\?y=1"/);
      assert.match(allowed.stdout, new RegExp(`"remoteAddress":"${mesh.client.addresses.v4}"`));
      const denied = await curl(pod, '/private');
      assert.match(denied.stdout, /^HTTP\/2 403/);
      assert.match(denied.stdout, /x-weft-denied-by: shop\/http2/);
      const grpc = ['-H', 'content-type: application/grpc', '-H', 'te: trailers', '--data-binary', 'x'];
      const call = await curl(pod, '/shop.Items/Get', ...grpc);
      assert.match(call.stdout, /grpc-status: 0/);
      const refused = await curl(pod, '/shop.Users/Delete', ...grpc);
      assert.match(refused.stdout, /^HTTP\/2 200/);
      assert.match(refused.stdout, /grpc-status: 7/);
      assert.match(refused.stdout, /grpc-message: weft: request denied by policy shop\/http2/);
      const line = await mesh.accessLog(agent, ({ path }) => path === '/shop.Users/Delete');
      const { protocol, verdict, policy, status, grpc_status: grpcStatus } = line as AccessLogLine & { grpc_status?: number };
      assert.deepEqual([protocol, verdict, policy, status, grpcStatus], ['grpc', 'deny', 'shop/http2', 200, 7]);
      assert.equal(line.security, where === 'near' ? 'kernel' : 'mtls');
      assert.equal((await mesh.accessLog(agent, ({ path }) => path === '/public/x')).protocol, 'http2');
    });
  }

  it('a stream that the policy no longer allows is ended, at both ends', async () => {
    const watch = await mesh.client.spawn([
      'curl',
      '-sS',
      '-N',
      '--http2-prior-knowledge',
      '--max-time',
      '20',
      mesh.url(mesh.far, '/public/watch', 'v4', PORT),
    ]);
    await watch.waitForLine(/tick/);
    mesh.config.apply('policy', allow(['/shop.Items/*']));
    await watch.waitForLine(/was not closed cleanly: CANCEL/);
    const line = await mesh.accessLog(mesh.agentB, ({ path }) => path === '/public/watch');
    assert.equal(line.verdict, 'deny');
    assert.equal(line.error, 'policy-changed');
  });
});
