import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { type Feature, features, hasHelper, Helper, ProgramType } from '../src/index.ts';

test('every feature is probed with its name, what was found and what it is for', () => {
  const list = features();
  assert.equal(new Set(list.map((feature) => feature.name)).size, list.length);
  for (const feature of list) assert.ok(feature.detail !== '' && feature.requiredFor !== '', feature.name);
  const byName = (name: string): Feature | undefined => list.find((feature) => feature.name === name);
  assert.match(byName('libbpf')?.detail ?? '', /^version 1\.\d/);
  assert.equal(byName('CAP_BPF')?.ok, true);
  assert.match(byName('cgroup v2')?.detail ?? '', /^\//);
  for (const type of ['cgroup_sock_addr', 'sock_ops', 'sk_lookup', 'sk_msg']) assert.equal(byName(`program type ${type}`)?.ok, true, type);
  for (const type of ['sk_storage', 'sockmap', 'sockhash', 'ringbuf']) assert.equal(byName(`map type ${type}`)?.ok, true, type);
  assert.equal(byName('helper bpf_get_netns_cookie in sock_ops')?.ok, true);
});

test('a helper is found where programs may call it, and not elsewhere', () => {
  assert.equal(hasHelper(ProgramType.SK_LOOKUP, Helper.SK_ASSIGN), true);
  assert.equal(hasHelper(ProgramType.SOCK_OPS, Helper.SK_ASSIGN), false, 'not for this program type');
  assert.equal(hasHelper(ProgramType.SOCK_OPS, 9999), false, 'no such helper');
});

test('without privileges the probes say so, and not that the kernel lacks the feature', () => {
  // Loaded before: whoever checks out below /root has files that nobody else can read.
  const script = `
    const { features } = await import(${JSON.stringify(new URL('../src/index.ts', import.meta.url).href)});
    process.setgroups([]); process.setgid(65534); process.setuid(65534);
    console.log(JSON.stringify(features()));`;
  const child = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.equal(child.status, 0, child.stderr);
  const list = JSON.parse(child.stdout) as Feature[];
  assert.equal(list.find((feature) => feature.name === 'CAP_BPF')?.detail, 'not held');
  const probed = list.filter((feature) => /^(program|map|helper)/.test(feature.name));
  for (const feature of probed) {
    assert.equal(feature.ok, false);
    assert.match(feature.detail, /CAP_BPF|EPERM/, feature.name);
  }
});
