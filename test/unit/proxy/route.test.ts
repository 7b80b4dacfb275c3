import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Route, RoundRobin, route } from '../../../proxy/outbound/route.ts';
import type { MeshView } from '../../../proxy/mesh-view.ts';
import { serviceEntry, viewOf, workloadEntry } from './mesh-fixture.ts';

function dial(view: MeshView, address: string, port = 80, balance = new RoundRobin()): Route {
  return route(view, { address, port, workloadId: 1 }, balance);
}

describe('where a captured connection goes', () => {
  it('to a workload of this node without a tunnel, to one of another node through one', () => {
    const near = workloadEntry(1, 'near');
    const far = workloadEntry(2, 'far', { local: false });
    const view = viewOf([near, far]);
    assert.deepEqual(dial(view, '10.0.0.1'), { kind: 'local', address: '10.0.0.1', port: 80, server: near, service: null });
    assert.deepEqual(dial(view, '10.0.0.2'), { kind: 'tunnel', address: '10.0.0.2', port: 80, server: far, service: null });
  });

  it('as it was dialled, to who is off, not enrolled or unknown', () => {
    const off = workloadEntry(1, 'off', { mode: 'off', enrolled: false });
    const waiting = workloadEntry(2, 'waiting', { enrolled: false });
    const view = viewOf([off, waiting]);
    for (const address of ['10.0.0.1', '10.0.0.2', '192.0.2.1', '2001:db8::1']) {
      const found = dial(view, address, 443);
      assert.equal(found.kind, 'passthrough');
      assert.deepEqual(found.kind === 'passthrough' && [found.address, found.port], [address, 443]);
    }
  });

  it('to the endpoints of a service in turn, on the port behind it, in the family that was dialled', () => {
    const workloads = [1, 2, 3].map((id) => workloadEntry(id, `web-${id}`, { local: false, addresses: [`10.0.0.${id}`, `fd00::${id}`] }));
    const view = viewOf(workloads, [serviceEntry('web', { addresses: ['10.96.0.1', 'fd00:96::1'], endpoints: [1, 2, 3] })]);
    const balance = new RoundRobin();
    const seen = new Set<string>();
    for (let call = 0; call < 3; call++) {
      const found = dial(view, 'fd00:96::1', 80, balance);
      assert.equal(found.kind === 'tunnel' && found.port, 8080);
      assert.equal(found.service, 'shop/web');
      if (found.kind === 'tunnel') seen.add(found.address);
    }
    assert.deepEqual([...seen].toSorted(), ['fd00::1', 'fd00::2', 'fd00::3']);
  });

  it('to an endpoint of the other family when it has no other address', () => {
    const view = viewOf([workloadEntry(1, 'web')], [serviceEntry('web', { addresses: ['fd00:96::1'], endpoints: [1] })]);
    const found = dial(view, 'fd00:96::1');
    assert.equal(found.kind === 'local' && found.address, '10.0.0.1');
  });

  it('nowhere, when a service has no endpoint that can be dialled', () => {
    const view = viewOf([workloadEntry(1, 'bare', { addresses: [] })], [serviceEntry('web', { endpoints: [1] })]);
    assert.deepEqual(dial(view, '10.96.0.1'), { kind: 'none', service: 'shop/web' });
  });

  it('as it was dialled, to a port of a service address that the service does not have', () => {
    const view = viewOf([workloadEntry(1, 'web')], [serviceEntry('web', { endpoints: [1] })]);
    assert.equal(dial(view, '10.96.0.1', 81).kind, 'passthrough');
  });
});
