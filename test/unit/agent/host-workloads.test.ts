import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { HostWorkloads } from '../../../src/agent/host-workloads.ts';

describe('the workloads of weft run', () => {
  let directory: string;
  let cgroup: string;
  let path: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'weft-host-workloads-'));
    cgroup = join(directory, 'cgroup');
    mkdirSync(cgroup);
    path = join(directory, 'state', 'host-workloads.json');
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const workload = (): { namespace: string; serviceAccount: string; name: string; cgroup: string } => ({
    namespace: 'shop',
    serviceAccount: 'jobs',
    name: 'run-1',
    cgroup,
  });
  const names = (workloads: HostWorkloads): string[] => workloads.resources('node-a', () => false).map(({ metadata }) => metadata.name);

  it('are found again by the next agent', () => {
    new HostWorkloads(path).add(workload());
    assert.deepEqual(names(new HostWorkloads(path)), ['run-1']);
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it('are forgotten with their cgroup', () => {
    const workloads = new HostWorkloads(path);
    workloads.add(workload());
    rmSync(cgroup, { recursive: true });
    assert.deepEqual(names(workloads), []);
    mkdirSync(cgroup);
    assert.deepEqual(names(new HostWorkloads(path)), []);
  });

  it('are none when the file is broken', () => {
    mkdirSync(join(directory, 'state'));
    for (const text of ['{', '[{"name":1}]', 'null', '{"a":1}']) {
      writeFileSync(path, text);
      assert.deepEqual(names(new HostWorkloads(path)), []);
    }
  });

  it('join the mesh permissively, unless their namespace is strict', () => {
    const workloads = new HostWorkloads(path);
    workloads.add(workload());
    assert.equal(workloads.resources('node-a', () => false)[0]?.spec.mode, 'permissive');
    assert.equal(workloads.resources('node-a', () => true)[0]?.spec.mode, null);
  });
});
