import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_SVID_TTL_SECONDS } from '../../../certs/authority/certificate-authority.ts';
import { LOG_LEVELS as AGENT_LOG_LEVELS } from '../../../src/log/log.ts';
import { CliError } from '../../../src/cli/cli-error.ts';
import { type AgentFlags, agentOptions, LOG_LEVELS, LONGEST_SVID_TTL_SECONDS, type Machine } from '../../../src/cli/commands/agent.ts';

const machine: Machine = { hostname: 'Node-A.example', cores: 8, cgroupMount: '/sys/fs/cgroup/unified', workingDirectory: '/work' };
const defaults: AgentFlags = {
  config: 'mesh',
  trustDomain: 'cluster.local',
  stateDir: '/var/lib/weft',
  runDir: '/run/weft',
  bpfDir: '/sys/fs/bpf/weft',
  svidTtl: '86400',
  accessLog: '-',
  logLevel: 'info',
  drainTimeout: '10',
  deniedByHeader: true,
  rootNamespace: 'istio-system',
};

test('the defaults of weft agent come from the machine', () => {
  assert.deepEqual(agentOptions(defaults, machine), {
    configDirectory: '/work/mesh',
    nodeName: 'node-a.example',
    trustDomain: 'cluster.local',
    stateDirectory: '/var/lib/weft',
    runDirectory: '/run/weft',
    workloadApiSocket: '/run/weft/public/workload-api.sock',
    bpfDirectory: '/sys/fs/bpf/weft',
    cgroupRoot: '/sys/fs/cgroup/unified',
    certificateAuthority: { kind: 'directory', directory: '/var/lib/weft/ca', passphraseFile: null },
    issuance: null,
    bundleEndpoint: null,
    svidTtlSeconds: 86_400,
    workers: 4,
    metrics: null,
    accessLog: { kind: 'stdout' },
    logLevel: 'info',
    drainTimeoutMs: 10_000,
    deniedByHeader: true,
    rootNamespace: 'istio-system',
    maxConnections: null,
  });
});

test('every flag of weft agent arrives', () => {
  const options = agentOptions(
    {
      ...defaults,
      nodeName: 'n1',
      cgroupRoot: 'cg',
      caCert: 'ca.pem',
      caKey: '/k/ca.key',
      svidTtl: '60',
      workers: '2',
      metrics: '[::1]:9090',
      accessLog: 'access.log',
      drainTimeout: '2.5',
      deniedByHeader: false,
      maxConnections: '4096',
    },
    machine,
  );
  assert.equal(options.nodeName, 'n1');
  assert.equal(options.cgroupRoot, '/work/cg');
  assert.deepEqual(options.certificateAuthority, {
    kind: 'given',
    certificateFile: '/work/ca.pem',
    keyFile: '/k/ca.key',
    passphraseFile: null,
  });
  assert.equal(options.svidTtlSeconds, 60);
  assert.equal(options.workers, 2);
  assert.deepEqual(options.metrics, { host: '::1', port: 9090 });
  assert.deepEqual(options.accessLog, { kind: 'file', path: '/work/access.log' });
  assert.equal(options.drainTimeoutMs, 2500);
  assert.equal(options.deniedByHeader, false);
  assert.equal(options.maxConnections, 4096);
});

test('the certificate authority may have a directory of its own', () => {
  const { certificateAuthority } = agentOptions({ ...defaults, caDir: '/ca', caPassphraseFile: 'secret' }, machine);
  assert.deepEqual(certificateAuthority, { kind: 'directory', directory: '/ca', passphraseFile: '/work/secret' });
});

test('the authority may be on another host, or serve other hosts', () => {
  const remote = agentOptions({ ...defaults, caServer: '[fd00::1]:15012', caTokenFile: 'token' }, machine);
  assert.deepEqual(remote.certificateAuthority, { kind: 'remote', server: { host: 'fd00::1', port: 15_012 }, tokenFile: '/work/token' });
  const serving = agentOptions({ ...defaults, caListen: '[::]:15012', caName: ['ca.example', 'ca'] }, machine);
  assert.deepEqual(serving.issuance, { listen: { host: '::', port: 15_012 }, names: ['ca.example', 'ca'] });
});

test('the access log can be turned off', () =>
  assert.deepEqual(agentOptions({ ...defaults, accessLog: 'off' }, machine).accessLog, { kind: 'off' }));

const WRONG: readonly (readonly [flags: Partial<AgentFlags>, message: RegExp, nextStep: RegExp])[] = [
  [{ metrics: '9090' }, /--metrics cannot be "9090"/, /HOST:PORT/],
  [{ metrics: '::1:9090' }, /--metrics/, /brackets/],
  [{ metrics: '127.0.0.1:0' }, /--metrics/, /HOST:PORT/],
  [{ metrics: '127.0.0.1:65536' }, /--metrics/, /HOST:PORT/],
  [{ workers: '0' }, /--workers cannot be "0"/, /from 1 to 64/],
  [{ workers: '2.5' }, /--workers/, /whole number/],
  [{ workers: '-1' }, /--workers/, /whole number/],
  [{ svidTtl: '7776001' }, /--svid-ttl/, /from 1 to 7776000/],
  [{ svidTtl: '1h' }, /--svid-ttl cannot be "1h"/, /whole number/],
  [{ drainTimeout: 'soon' }, /--drain-timeout/, /number of seconds/],
  [{ drainTimeout: '3601' }, /--drain-timeout/, /to 3600/],
  [{ maxConnections: '1' }, /--max-connections/, /from 1024/],
  [{ trustDomain: 'Example.com' }, /--trust-domain cannot be "Example.com"/, /lower-case/],
  [{ trustDomain: '' }, /--trust-domain/, /lower-case/],
  [{ nodeName: 'a b' }, /--node-name/, /lower-case/],
  [{ rootNamespace: 'a.b' }, /--root-namespace/, /name a namespace/],
  [{ logLevel: 'verbose' }, /--log-level cannot be "verbose"/, /debug, info/],
  [{ caCert: 'ca.pem' }, /--ca-cert is one half/, /together/],
  [{ caKey: 'ca.key' }, /--ca-key is one half/, /together/],
  [{ caDir: 'ca', caCert: 'a', caKey: 'b' }, /two authorities/, /--ca-dir, or --ca-cert/],
  [{ caServer: 'a:1', caDir: 'ca' }, /--ca-dir and --ca-server name two/, /one of the two/],
  [{ caServer: 'a:1', caListen: '[::]:1' }, /--ca-listen serves an authority of this host/, /leave/],
  [{ caServer: 'a' }, /--ca-server cannot be "a"/, /HOST:PORT/],
  [{ caTokenFile: 'token' }, /--ca-token-file is for/, /--ca-server/],
  [{ caName: ['a'] }, /--ca-name is for/, /--ca-listen/],
  [{ caListen: '[::]:1', caName: ['A b'] }, /--ca-name cannot be "A b"/, /lower-case/],
  [{ runDir: '' }, /--run-dir cannot be empty/, /name a path/],
  [{ accessLog: '' }, /--access-log cannot be empty/, /name a path/],
];

for (const [flags, message, nextStep] of WRONG) {
  test(`weft agent refuses ${JSON.stringify(flags)} and says what to do`, () => {
    assert.throws(
      () => agentOptions({ ...defaults, ...flags }, machine),
      (error: unknown) => {
        assert.ok(error instanceof CliError);
        assert.equal(error.code, 'WEFT_CLI_USAGE');
        assert.equal(error.exitCode, 2);
        assert.match(error.message, message);
        assert.match(error.nextStep ?? '', nextStep);
        return true;
      },
    );
  });
}

test('a host name that is no node name asks for --node-name', () => {
  assert.throws(() => agentOptions(defaults, { ...machine, hostname: 'my_host' }), { code: 'WEFT_CLI_USAGE', nextStep: /--node-name/ });
});

test('without cgroup v2 the agent says how to mount it, unless a flag says where it is', () => {
  const bare = { ...machine, cgroupMount: null };
  assert.throws(() => agentOptions(defaults, bare), { code: 'WEFT_CLI_NO_CGROUP', nextStep: /mount -t cgroup2/ });
  assert.equal(agentOptions({ ...defaults, cgroupRoot: '/cg' }, bare).cgroupRoot, '/cg');
});

test('the command line knows the limits of the rooms that it may not import', () => {
  assert.deepEqual(LOG_LEVELS, AGENT_LOG_LEVELS);
  assert.equal(LONGEST_SVID_TTL_SECONDS, MAX_SVID_TTL_SECONDS);
});

test('the Workload API is below the run directory, at the path that is named, or off', () => {
  const socket = (flags: Partial<typeof defaults> & { workloadApi?: string }): string | null =>
    agentOptions({ ...defaults, ...flags }, machine).workloadApiSocket;
  assert.equal(socket({ runDir: '/run/two' }), '/run/two/public/workload-api.sock');
  assert.equal(socket({ workloadApi: 'api.sock' }), '/work/api.sock');
  assert.equal(socket({ workloadApi: 'off' }), null);
});
