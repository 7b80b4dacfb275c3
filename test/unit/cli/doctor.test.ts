import assert from 'node:assert/strict';
import { test } from 'node:test';
import { doctorText } from '../../../src/cli/commands/doctor.ts';
import { doctorChecks, type MachineFacts } from '../../../src/cli/doctor-checks.ts';
import { runCli } from '../../../src/cli/program.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const FEATURES = [
  'libbpf',
  'kernel BTF',
  'cgroup v2',
  'BPF file system',
  'CAP_BPF',
  'CAP_PERFMON',
  'CAP_NET_ADMIN',
  'CAP_SYS_ADMIN',
  'program type cgroup_sock_addr',
  'program type sock_ops',
  'program type sk_lookup',
  'map type sk_storage',
  'map type ringbuf',
  'helper bpf_get_netns_cookie in cgroup_sock_addr',
  'helper bpf_get_netns_cookie in sock_ops',
  'helper bpf_sk_storage_get in cgroup_sock_addr',
  'helper bpf_sk_assign in sk_lookup',
];
const good: MachineFacts = {
  kernelRelease: '6.1.0-28-amd64',
  nodeVersion: 'v26.10.0',
  features: FEATURES.map((name) => ({ name, ok: true, detail: 'there' })),
  objectsMissing: [],
  ipv4: true,
  ipv6: true,
  bpfJit: 1,
  openFilesLimit: 1_048_576,
  clang: '/usr/bin/clang-19',
};

function lacking(feature: string): MachineFacts {
  return { ...good, features: good.features.map((each) => (each.name === feature ? { ...each, ok: false, detail: 'not there' } : each)) };
}

test('a good machine is ok in every line', () => {
  const checks = doctorChecks(good);
  assert.deepEqual(
    checks.filter(({ state }) => state !== 'ok'),
    [],
  );
  assert.match(doctorText(checks), /^ok {2}kernel +6\.1\.0-28-amd64\n/);
  assert.match(doctorText(checks), /\nThis host can run the agent\.\n$/);
});

const BAD: readonly (readonly [what: string, facts: MachineFacts, name: string, state: 'missing' | 'off', nextStep: RegExp])[] = [
  ['an old kernel', { ...good, kernelRelease: '5.15.0-91-generic' }, 'kernel', 'missing', /5\.17/],
  ['an older major', { ...good, kernelRelease: '4.19.0' }, 'kernel', 'missing', /5\.17/],
  ['the wrong Node', { ...good, nodeVersion: 'v22.1.0' }, 'Node', 'missing', /src\/cli\/weft/],
  ['a Node that is too new', { ...good, nodeVersion: 'v27.0.0' }, 'Node', 'missing', /src\/cli\/weft/],
  ['no libbpf', lacking('libbpf'), 'libbpf', 'missing', /libbpf1/],
  ['no BTF', lacking('kernel BTF'), 'kernel BTF', 'missing', /CONFIG_DEBUG_INFO_BTF/],
  ['no cgroup v2', lacking('cgroup v2'), 'cgroup v2', 'missing', /mount -t cgroup2/],
  ['no bpffs', lacking('BPF file system'), 'BPF file system', 'off', /mounts one/],
  ['no root', lacking('CAP_SYS_ADMIN'), 'CAP_SYS_ADMIN', 'missing', /as root/],
  ['no sk_lookup', lacking('program type sk_lookup'), 'program type sk_lookup', 'missing', /kernel/],
  ['a feature nobody probed', { ...good, features: good.features.slice(1) }, 'libbpf', 'missing', /libbpf1/],
  ['no objects', { ...good, objectsMissing: ['inbound.bpf.o'] }, 'kernel objects', 'missing', /build:bpf/],
  ['no IPv6', { ...good, ipv6: false }, 'IPv6', 'off', /disable_ipv6/],
  ['no clang', { ...good, clang: null }, 'BPF compiler', 'off', /only needed to change/],
  ['few descriptors', { ...good, openFilesLimit: 1024 }, 'open files', 'off', /LimitNOFILE/],
  ['no JIT', { ...good, bpfJit: 0 }, 'BPF compiler of the kernel', 'off', /bpf_jit_enable/],
];

for (const [what, facts, name, state, nextStep] of BAD) {
  test(`${what} is ${state}, and what to do is said`, () => {
    const wrong = doctorChecks(facts).filter((check) => check.state !== 'ok');
    assert.deepEqual(
      wrong.map((check) => [check.name, check.state]),
      [[name, state]],
    );
    assert.match(wrong[0]?.nextStep ?? '', nextStep);
    assert.match(doctorText(wrong), state === 'missing' ? /cannot run the agent: 1 missing/ : /can run the agent/);
  });
}

test('every feature that the doctor asks for is probed by libbpf-ts', async () => {
  const terminal = new RecordedTerminal();
  await runCli(['doctor', '--json'], terminal);
  const { checks } = JSON.parse(terminal.output) as { checks: { name: string; detail: string }[] };
  assert.ok(checks.length > 20);
  assert.deepEqual(
    checks.filter(({ detail }) => detail === 'was not probed'),
    [],
  );
});
