import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConfiguredPlacements } from '../../../src/config/placements.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';

function resources(yaml: string): ReturnType<typeof parseResources>['resources'] {
  const { resources: found, problems } = parseResources(yaml, 'mesh.yaml');
  assert.deepEqual(problems, []);
  return found;
}

const workload = (name: string, node: string, more = ''): string => `---
apiVersion: weft.dev/v1
kind: Workload
metadata: {name: ${name}, namespace: shop${more}}
spec: {node: ${node}, serviceAccount: ${name}, addresses: [], cgroup: /sys/fs/cgroup/${name}}
`;
const namespace = (mode: string): string => `---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/mode: ${mode}}}
`;
const id = (name: string): string => `spiffe://cluster.local/ns/shop/sa/${name}`;

test('a workload of the mesh is placed on its node, and on no other', () => {
  const placements = new ConfiguredPlacements('cluster.local');
  assert.equal(placements.runsOn('node-a', id('web')), false);
  placements.update(resources(namespace('permissive') + workload('web', 'node-a') + workload('db', 'node-b')));
  assert.deepEqual(
    [placements.runsOn('node-a', id('web')), placements.runsOn('node-b', id('web')), placements.runsOn('node-b', id('db'))],
    [true, false, true],
  );
  assert.equal(placements.runsOn('node-a', 'spiffe://other.test/ns/shop/sa/web'), false);
});

test('one that is off is placed nowhere, by its own mode or that of its namespace', () => {
  const placements = new ConfiguredPlacements('cluster.local');
  const labelled = (mode: string): string => `, labels: {weft.dev/mode: ${mode}}`;
  placements.update(resources(namespace('off') + workload('web', 'node-a') + workload('db', 'node-a', labelled('strict'))));
  assert.deepEqual([placements.runsOn('node-a', id('web')), placements.runsOn('node-a', id('db'))], [false, true]);
  placements.update(resources(namespace('strict') + workload('web', 'node-a', labelled('off'))));
  assert.equal(placements.runsOn('node-a', id('web')), false);
});

test('a workload that left the configuration is placed nowhere', () => {
  const placements = new ConfiguredPlacements('cluster.local');
  placements.update(resources(namespace('strict') + workload('web', 'node-a')));
  placements.update(resources(namespace('strict')));
  assert.equal(placements.runsOn('node-a', id('web')), false);
});
