import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ConnectionAttributes } from '../../../src/model/policy.ts';
import { allow, serviceEntry, viewOf, workloadEntry } from './mesh-fixture.ts';

const PEER: ConnectionAttributes = { sourceIdentity: null, sourceAddress: '10.0.0.9', destinationAddress: '10.0.0.1', destinationPort: 80 };

describe('the view of the mesh', () => {
  it('finds workloads by number and by each address', () => {
    const web = workloadEntry(1, 'web', { addresses: ['10.0.0.1', 'fd00::1'] });
    const view = viewOf([web]);
    assert.equal(view.workload(1), web);
    assert.equal(view.workload(2), undefined);
    assert.equal(view.workloadAt('10.0.0.1'), web);
    assert.equal(view.workloadAt('fd00::1'), web);
    assert.equal(view.workloadAt('10.0.0.2'), undefined);
  });

  it('finds a service by address and port, with the endpoints that can be dialled', () => {
    const web = workloadEntry(1, 'web');
    const bare = workloadEntry(2, 'bare', { addresses: [] });
    const view = viewOf([web, bare], [serviceEntry('front', { endpoints: [1, 2, 99] })]);
    const target = view.serviceAt('10.96.0.1', 80);
    assert.equal(target?.targetPort, 8080);
    assert.deepEqual(target?.endpoints, [web]);
    assert.equal(view.serviceAt('10.96.0.1', 81), undefined);
    assert.equal(view.serviceAt('10.0.0.1', 80), undefined);
    assert.equal(view.serviceOf(web), 'shop/front');
  });

  it('tells the mode of a port before that of the workload', () => {
    const web = workloadEntry(1, 'web', { mode: 'permissive', portModes: [[9090, 'strict']] });
    const view = viewOf([web]);
    assert.equal(view.modeOf(web, 9090), 'strict');
    assert.equal(view.modeOf(web, 8080), 'permissive');
  });

  it('knows what a port speaks from its services, and looks itself where they disagree', () => {
    const web = workloadEntry(1, 'web');
    const ports = [
      { port: 80, targetPort: 8080, protocol: 'http' as const },
      { port: 5432, targetPort: 5432, protocol: 'tcp' as const },
    ];
    const other = [{ port: 1, targetPort: 8080, protocol: 'tcp' as const }];
    assert.equal(viewOf([web], [serviceEntry('a', { ports, endpoints: [1] })]).protocolOf(web, 8080), 'http');
    const view = viewOf([web], [serviceEntry('a', { ports, endpoints: [1] }), serviceEntry('b', { ports: other, endpoints: [1] })]);
    assert.equal(view.protocolOf(web, 8080), 'auto');
    assert.equal(view.protocolOf(web, 5432), 'tcp');
    assert.equal(view.protocolOf(web, 1), 'auto');
  });

  it('gives each workload the policies that it names, and no others', () => {
    const guarded = workloadEntry(1, 'guarded', { policies: [1] });
    const open = workloadEntry(2, 'open');
    const view = viewOf([guarded, open], [], [allow('shop/all'), allow('shop/none', { from: [{ namespaces: ['other'] }] })]);
    assert.equal(view.policyOf(guarded).bind(PEER).tcp.verdict, 'deny');
    assert.equal(view.policyOf(open).bind(PEER).tcp.verdict, 'allow');
    assert.equal(view.policyOf(guarded), view.policyOf(guarded), 'compiled once');
  });

  it('is closed for a workload that names a policy which is not there', () => {
    const web = workloadEntry(1, 'web', { policies: [0, 1] });
    const decision = viewOf([web], [], [allow('shop/all')])
      .policyOf(web)
      .bind(PEER).tcp;
    assert.equal(decision.verdict, 'deny');
    assert.equal(decision.policy, 'unknown policy');
  });
});
