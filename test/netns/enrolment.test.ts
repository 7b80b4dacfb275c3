import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { describe, it } from 'node:test';
import { Mesh } from '../kit/mesh.ts';

describe('an enrolled pod', () => {
  it('stays captured, and keeps its tunnel port, when its Workload gets another name and service account', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
    await using stranger = mesh.keepCalling(mesh.stranger, [mesh.far]);
    await stranger.more(2);
    const workloads = readFileSync(mesh.config.path('workloads'), 'utf8');
    const renamed = workloads.replace(/name: far$/m, 'name: farther').replace('serviceAccount: far', 'serviceAccount: other');
    assert.notEqual(renamed, workloads);
    mesh.config.apply('workloads', renamed);
    const state = await mesh.agentB.waitForState('farther is enrolled', ({ enrolments }) =>
      enrolments.some((found) => found.workload === 'shop/farther' && found.state === 'enrolled'),
    );
    const enrolment = state.enrolments.find(({ workload }) => workload === 'shop/farther');
    assert.deepEqual(enrolment?.conflicts, []);
    assert.equal(enrolment?.ports?.tunnel, 15_008);
    await stranger.more(2);
    await stranger.stop();
    assert.equal(stranger.statuses.has(200), false, 'plaintext reached the application');
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far, '/renamed'))).status, 200);
    const line = await mesh.accessLog(mesh.agentB, ({ path }) => path === '/renamed');
    assert.equal(line.destination.identity, 'spiffe://cluster.local/ns/shop/sa/other');
    assert.equal(line.security, 'mtls');
  });

  it('shows its new identity when its service account changes', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    const workloads = readFileSync(mesh.config.path('workloads'), 'utf8');
    mesh.config.apply('workloads', workloads.replace('serviceAccount: far', 'serviceAccount: other'));
    const identity = 'spiffe://cluster.local/ns/shop/sa/other';
    await mesh.agentB.waitForState('far has its new identity', ({ enrolments }) => enrolments.some((found) => found.identity === identity));
    let status = 0;
    for (let attempt = 0; attempt < 20 && status !== 200; attempt++)
      status = (await mesh.curl(mesh.client, mesh.url(mesh.far, '/new'))).status;
    assert.equal(status, 200);
    assert.equal((await mesh.accessLog(mesh.agentB, ({ path }) => path === '/new')).destination.identity, identity);
  });

  it('keeps its policy when its agent starts and finds its configuration broken; without what was kept it stays closed', async () => {
    await using mesh = await Mesh.start({ mode: 'strict' });
    await mesh.agentB.stop();
    mesh.config.apply('workloads', 'kind: [broken');
    mesh.config.apply('namespace-shop', 'kind: [broken');
    await mesh.startAgentB();
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 403);
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far))).status, 200);
    await mesh.agentB.stop();
    rmSync(`${mesh.nodeB.directory}/state/last-good`, { recursive: true });
    await mesh.startAgentB();
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far))).status, 0);
  });
});
