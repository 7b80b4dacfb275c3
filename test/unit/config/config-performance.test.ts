import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { BuiltSnapshot } from '../../../src/config/build-snapshot.ts';
import { buildSnapshot, WorkloadIds } from '../../../src/config/build-snapshot.ts';
import type { ConfigProblem } from '../../../src/config/config-problem.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';
import type { Resource } from '../../../src/model/resources.ts';
import { cpuMilliseconds } from './fixtures.ts';

it('5,000 workloads and 1,000 policies are read and built in seconds, not minutes', () => {
  const documents: string[] = [];
  for (let index = 0; index < 50; index += 1)
    documents.push(`apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns-${index}\n  labels:\n    weft.dev/mode: strict`);
  for (let index = 0; index < 5000; index += 1) {
    documents.push(`apiVersion: weft.dev/v1
kind: Workload
metadata:
  name: web-${index}
  namespace: ns-${index % 50}
  labels:
    app: app-${index % 7}
spec:
  node: node-${index % 10}
  serviceAccount: sa-${index % 20}
  addresses: [10.0.${index >> 8}.${index & 255}]
  networkNamespace: /var/run/netns/web-${index}`);
  }
  for (let index = 0; index < 1000; index += 1) {
    documents.push(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: policy-${index}
  namespace: ns-${index % 50}
spec:
  selector:
    matchLabels:
      app: app-${index % 7}
  rules:
  - from:
    - source:
        principals: [example.org/ns/shop/sa/web]
    to:
    - operation:
        methods: [GET]
        paths: [/api/*]`);
  }
  let resources: Resource[] = [];
  let problems: ConfigProblem[] = [];
  const parsing = cpuMilliseconds(() => ({ resources, problems } = parseResources(documents.join('\n---\n'), 'large.yaml')));
  const options = { nodeName: 'node-1', trustDomain: 'example.org', version: 1, enrolled: () => true, workloadIds: new WorkloadIds() };
  let built: BuiltSnapshot | null = null;
  const building = cpuMilliseconds(() => {
    built = buildSnapshot(resources, options);
  });
  const { snapshot, warnings } = built as unknown as BuiltSnapshot;
  assert.deepEqual([problems, warnings], [[], []]);
  assert.equal(snapshot.workloads.length, 5000);
  assert.ok(snapshot.workloads.every(({ mode, policies }) => mode === 'strict' && policies.length > 0));
  // About 1.2 s and 0.06 s on a quiet machine.
  assert.ok(parsing < 6000 && building < 1500, `took ${Math.round(parsing)} + ${Math.round(building)} ms of CPU`);
});
