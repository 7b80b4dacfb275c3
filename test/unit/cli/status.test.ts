import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runCli } from '../../../src/cli/program.ts';
import { connectionsText, countersText, summaryText, svidsText } from '../../../src/cli/status-text.ts';
import type { CountersAnswer, ReadyAnswer, StateAnswer } from '../../../src/model/admin-api.ts';
import { KERNEL_REASONS, type KernelReason } from '../../../src/model/kernel-reasons.ts';
import { FakeAgent } from './fake-agent.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const now = Date.parse('2030-01-02T03:04:05Z');
const kernel = Object.fromEntries(KERNEL_REASONS.map((reason) => [reason, 0])) as Record<KernelReason, number>;
const ready: ReadyAnswer = { ready: true, waitingFor: [] };
const state: StateAnswer = {
  version: '0.1.0',
  node: 'node-a',
  trustDomain: 'cluster.local',
  pid: 42,
  startedAt: '2030-01-01T00:00:00Z',
  workers: 2,
  snapshotVersion: 17,
  namespaces: [
    { name: 'shop', mode: 'strict', workloads: 3 },
    { name: 'legacy', mode: 'off', workloads: 1 },
  ],
  workloads: { local: 2, remote: 2 },
  services: 1,
  policies: ['shop/allow-get'],
  enrolments: [
    {
      workload: 'shop/web',
      identity: 'spiffe://cluster.local/ns/shop/sa/web',
      id: 1,
      state: 'enrolled',
      mode: 'strict',
      modeSource: 'Namespace shop',
      place: 'network-namespace /run/netns/web',
      ports: { outbound: 15_001, inbound: 15_006, tunnel: 0 },
      conflicts: [15_008],
      error: null,
    },
    {
      workload: 'shop/cart',
      identity: 'spiffe://cluster.local/ns/shop/sa/cart',
      id: 2,
      state: 'failed',
      mode: 'permissive',
      modeSource: 'Workload shop/cart',
      place: 'cgroup /sys/fs/cgroup/cart',
      ports: null,
      conflicts: [],
      error: 'no\u001b[2J SVID',
    },
  ],
  problems: ['/etc/weft/a.yaml:3:5: spec.rules: unknown field'],
};
const counters: CountersAnswer = {
  kernel: { ...kernel, captured_outbound: 12, refused_no_listener: 3 },
  kernelEntries: { originalDestinations: 4, presentedPeers: 5 },
  proxy: {
    'weft_requests_total{side="inbound",response_class="2xx",verdict="allow"}': 100,
    'weft_requests_total{side="inbound",response_class="4xx",verdict="deny"}': 7,
    'weft_connections_refused_total{side="inbound",path="plaintext",reason="strict-mode"}': 2,
    'weft_connections_refused_total{side="outbound",path="plaintext",reason="strict-mode"}': 9,
    'weft_http_refusals_total{side="inbound",reason="other"}': 1,
  },
  configurationProblems: {},
  openFileDescriptors: 77,
  rssBytes: 150 * 2 ** 20,
};

test('weft status is one screen about the node', () => {
  assert.equal(
    summaryText({ ready, state, counters }, now),
    `node   node-a, trust domain cluster.local
agent  weft 0.1.0, pid 42, up 1d 3h, 2 workers
ready  yes
mesh   2 workloads here, 2 elsewhere; 1 service, 1 policy; configuration 17

NAMESPACE  MODE    WORKLOADS
shop       strict  3
legacy     off     1

WORKLOAD   STATE     MODE                             IDENTITY                                PLACE
shop/web   enrolled  strict (Namespace shop)          spiffe://cluster.local/ns/shop/sa/web   netns /run/netns/web
shop/cart  failed    permissive (Workload shop/cart)  spiffe://cluster.local/ns/shop/sa/cart  cgroup /sys/fs/cgroup/cart
  shop/web: its application holds port 15008, which the agent wanted
  shop/cart: no\\x1b[2J SVID

Refused (kernel: since its maps were made; proxy: since the agent's start)
  kernel  refused_no_listener       3
  proxy   connection: strict-mode   11
  proxy   request: policy           7
  proxy   malformed request: other  1

Problems with the configuration; the last good state is in force
  /etc/weft/a.yaml:3:5: spec.rules: unknown field
`,
  );
});

test('a node with nothing on it says so', () => {
  const text = summaryText(
    {
      ready: { ready: false, waitingFor: ['configuration', 'enrolments'] },
      state: { ...state, namespaces: [], enrolments: [], problems: [] },
      counters: { ...counters, kernel, proxy: {} },
    },
    now,
  );
  assert.match(text, /^ready {2}no, waiting for configuration, enrolments$/m);
  assert.match(text, /\n\nNo workload of this node is to be enrolled\.\n\nNothing was refused\.\n$/);
});

test('ten thousand workloads do not flood the terminal', () => {
  const [first] = state.enrolments;
  assert.ok(first);
  const text = summaryText(
    { ready, state: { ...state, enrolments: Array.from({ length: 10_000 }, () => ({ ...first, conflicts: [] })) }, counters },
    now,
  );
  assert.ok(text.split('\n').length < 250);
  assert.match(text, /… and 9800 more: see --json/);
});

test('weft status connections names both ends', () => {
  const connection = {
    worker: 0,
    direction: 'inbound' as const,
    state: 'open',
    protocol: 'http1',
    security: 'mtls',
    source: '10.1.0.2:40000',
    sourceIdentity: 'spiffe://cluster.local/ns/shop/sa/web',
    destination: '10.2.0.2:8080',
    destinationIdentity: null,
    openedAt: '2030-01-02T03:03:00Z',
    bytesReceived: 1536,
    bytesSent: 12,
  };
  assert.equal(
    connectionsText({ connections: [connection] }, now),
    `DIRECTION  STATE  PROTOCOL  SECURITY  SOURCE                          DESTINATION    AGE    IN/OUT
inbound    open   http1     mtls      10.1.0.2:40000 /ns/shop/sa/web  10.2.0.2:8080  1m 5s  1.5 KiB/12 B
`,
  );
  assert.equal(connectionsText({ connections: [] }, now), 'No connection is open.\n');
});

test('weft status svids shows what is about to expire', () => {
  assert.equal(
    svidsText(
      {
        svids: [
          {
            identity: 'spiffe://a/ns/b/sa/c',
            state: 'held',
            notAfter: '2030-01-03T03:04:05Z',
            renewsAt: '2030-01-02T15:04:05Z',
            error: null,
          },
          {
            identity: 'spiffe://a/ns/b/sa/d',
            state: 'backoff',
            notAfter: '2030-01-02T03:03:05Z',
            renewsAt: null,
            error: 'authority is away',
          },
        ],
        bundles: [{ trustDomain: 'a', sequence: 2, roots: 1 }],
      },
      now,
    ),
    `IDENTITY              STATE    VALID FOR       RENEWED IN  LAST FAILURE
spiffe://a/ns/b/sa/c  held     1d              12h         -
spiffe://a/ns/b/sa/d  backoff  expired 1m ago  -           authority is away

TRUST DOMAIN  ROOTS   BUNDLE
a             1 root  sequence 2
`,
  );
});

test('weft status counters lists what is not zero', () => {
  const text = countersText(counters);
  assert.match(text, /^memory +150\.0 MiB$/m);
  assert.match(text, /^ {2}refused_no_listener +3$/m);
  assert.doesNotMatch(text, /refused_device/);
  assert.match(text, /^ {2}weft_requests_total\{side="inbound",response_class="4xx",verdict="deny"\} +7$/m);
});

test('weft status asks the agent, and --json is what it said', async () => {
  await using agent = await FakeAgent.start({
    'GET /ready': () => ({ status: 503, body: { ready: false, waitingFor: ['draining'] } }),
    'GET /v1/state': () => ({ status: 200, body: state }),
    'GET /v1/counters': () => ({ status: 200, body: counters }),
  });
  const [text, json] = [new RecordedTerminal(), new RecordedTerminal()];
  assert.equal(await runCli(['status', '--run-dir', agent.runDirectory], text), 0);
  assert.match(text.output, /^ready {2}no, waiting for draining$/m);
  assert.equal(await runCli(['status', '--json', '--run-dir', agent.runDirectory], json), 0);
  assert.deepEqual(JSON.parse(json.output), { ready: { ready: false, waitingFor: ['draining'] }, state, counters });
});

test('without an agent weft status says whether its hooks are still in force', async () => {
  await using agent = await FakeAgent.start({});
  await agent.stop();
  const bpf = join(agent.runDirectory, 'bpf');
  const status = async (): Promise<string> => {
    const terminal = new RecordedTerminal();
    assert.equal(await runCli(['status', '--run-dir', agent.runDirectory, '--bpf-dir', bpf], terminal), 1);
    assert.equal(terminal.output, '');
    return terminal.errors;
  };
  assert.match(await status(), /^weft: WEFT_CLI_NO_AGENT: no agent answers on .*; no hooks are pinned in .*\nnext: start one/);
  mkdirSync(join(bpf, 'v1', 'links'), { recursive: true });
  writeFileSync(join(bpf, 'v1', 'links', 'weft_connect4'), '');
  assert.match(await status(), /hooks are still pinned in .*strict workloads are refused.*\nnext: .*weft uninstall/);
});
