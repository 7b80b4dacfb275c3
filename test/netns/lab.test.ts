import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments } from 'yaml';
import { parseResources } from '../../src/config/parse-resources.ts';
import { Child, type ExecResult, Lab, LabError, type LabNode, type LabPod, app, exec } from '../kit/lab/index.ts';

const NODE = [process.execPath, '--disable-warning=ExperimentalWarning'];
const owner = fileURLToPath(new URL('./lab-owner.ts', import.meta.url));
const cli = fileURLToPath(new URL('../kit/lab-cli.ts', import.meta.url));

/** Everything on this machine that carries a lab's id. */
async function leftovers(id: string): Promise<string[]> {
  const mounts = readFileSync('/proc/self/mounts', 'utf8');
  const cgroup2 = /^\S+ (\S+) cgroup2 /m.exec(mounts)?.[1] ?? '/sys/fs/cgroup';
  const directories = ['/run/netns', '/run/weft-lab', '/tmp', '/sys/fs/bpf', cgroup2].filter((path) => existsSync(path));
  const links = (await exec(['ip', '-o', 'link'])).stdout.split('\n');
  const slots = readdirSync('/run/weft-lab').filter((name) => name.startsWith('slot-') && read(`/run/weft-lab/${name}`) === id);
  return [
    ...directories.flatMap((path) => readdirSync(path).filter((name) => name.includes(id))),
    ...links.filter((line) => line.includes(id)),
    ...slots,
  ];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function isRunning(pid: number): boolean {
  return /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`));
}

/** A cgroup as /proc/<pid>/cgroup names it. */
function cgroupName(path: string): string {
  return path.slice(path.indexOf('/weft-lab-'));
}

function labCommand(...args: string[]): Promise<ExecResult> {
  return exec([...NODE, cli, ...args]);
}

function refused(code: string): (error: unknown) => boolean {
  return (error) => error instanceof LabError && error.code === code;
}

function shopNamespace(mode: string): unknown {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop', labels: { 'weft.dev/mode': mode } } };
}

async function get(from: LabPod | LabNode, address: string, path = '/'): Promise<Record<string, unknown>> {
  const host = address.includes(':') ? `[${address}]` : address;
  const result = await from.exec(['curl', '-sS', '--max-time', '5', `http://${host}:8080${path}`]);
  assert.equal(result.code, 0, `${address}: ${result.stderr}`);
  return JSON.parse(result.stdout) as Record<string, unknown>;
}

test('pods reach each other and their nodes, over IPv4 and IPv6, and see each other’s own addresses', async () => {
  await using lab = await Lab.create();
  const a = await lab.node('node-a');
  const b = await lab.node('node-b');
  const c = await lab.node('node-c');
  const client = await a.pod('client', { namespace: 'shop' });
  const servers = await Promise.all([a.pod('near'), b.pod('far'), c.pod('further'), b.pod('client')]);
  await Promise.all(
    servers.map(async (pod) => {
      const server = await pod.spawn(app('http-server', 8080));
      await server.waitForLine(/listening/);
    }),
  );
  for (const server of servers) {
    for (const family of ['v4', 'v6'] as const) {
      for (const from of [client, a, b]) {
        const seen = await get(from, server.addresses[family]);
        assert.equal(seen['remoteAddress'], from.addresses[family], `${from.netnsName} to ${server.netnsName}`);
      }
      assert.equal((await get(server, '127.0.0.1'))['remoteAddress'], '127.0.0.1');
    }
  }
});

test('two nodes and four pods stand in less than 1.5 seconds', async () => {
  const started = performance.now();
  await using lab = await Lab.create();
  const a = await lab.node('node-a');
  const b = await lab.node('node-b');
  await Promise.all([a.pod('one'), a.pod('two'), b.pod('three'), b.pod('four')]);
  assert.ok(performance.now() - started < 1500);
});

test('a capture between nodes shows what went over the wire, and only that', async () => {
  await using lab = await Lab.create();
  const a = await lab.node('node-a');
  const b = await lab.node('node-b');
  const [client, near, far] = await Promise.all([a.pod('client'), a.pod('near'), b.pod('far')]);
  for (const pod of [near, far]) await (await pod.spawn(app('http-server', 8080))).waitForLine(/listening/);
  const capture = await a.capture(a.interfaceTo(b), 'tcp port 8080');
  await get(client, far.addresses.v4, '/over-the-wire');
  await get(client, near.addresses.v4, '/inside-the-node');
  const recorded = await capture.stop();
  assert.ok(recorded.packets > 5);
  assert.ok(recorded.contains('GET /over-the-wire'));
  assert.ok(!recorded.contains('/inside-the-node'));
});

test('processes run in the cgroup of their pod, or of their node’s agent, whose CPU and memory are accounted apart', async () => {
  await using lab = await Lab.create();
  const node = await lab.node('node-a');
  const pod = await node.pod('web');
  assert.match((await pod.exec(['cat', '/proc/self/cgroup'])).stdout, new RegExp(`^0::${cgroupName(pod.cgroupPath)}$`, 'm'));
  assert.equal(node.agentCpuMicroseconds(), 0);
  assert.equal(node.agentResidentBytes(), 0);
  const agent = await node.spawn(
    [...NODE, '-e', 'while (process.cpuUsage().user < 100_000); console.log("done"); setInterval(() => {}, 1e6)'],
    {
      cgroup: 'agent',
    },
  );
  await agent.waitForLine(/done/);
  assert.match(readFileSync(`/proc/${agent.pid}/cgroup`, 'utf8'), new RegExp(`^0::${cgroupName(node.agentCgroupPath)}$`, 'm'));
  const cpu = node.agentCpuMicroseconds();
  assert.ok(cpu > 80_000 && cpu < 2_000_000, `${cpu} us`);
  assert.ok(node.agentResidentBytes() > 20 * 1024 * 1024);
});

test('disposing of a lab ends every process in it, also those that left their parent, and leaves nothing', async () => {
  let id: string;
  let pids: number[];
  {
    await using lab = await Lab.create();
    id = lab.id;
    const node = await lab.node('node-a');
    const pod = await node.pod('web');
    const server = await pod.spawn(app('http-server', 8080));
    await server.waitForLine(/listening/);
    const daemon = await pod.exec(['sh', '-c', 'setsid sleep 1000 >/dev/null 2>&1 & echo $!']);
    pids = [server.pid, Number(daemon.stdout)];
    assert.deepEqual(pids.map(isRunning), [true, true]);
    assert.notDeepEqual(await leftovers(id), []);
  }
  assert.deepEqual(pids.map(isRunning), [false, false]);
  assert.deepEqual(await leftovers(id), []);
});

test('labs at the same time have ids, slots and addresses of their own', async () => {
  const labs = await Promise.all([Lab.create(), Lab.create(), Lab.create()]);
  await using stack = new AsyncDisposableStack();
  for (const lab of labs) stack.use(lab);
  const pods = await Promise.all(labs.map(async (lab) => (await lab.node('node-a')).pod('web')));
  assert.equal(new Set(pods.flatMap((pod) => [pod.addresses.v4, pod.addresses.v6])).size, 6);
  assert.equal(new Set(labs.map((lab) => lab.id)).size, 3);
});

test('a lab whose owner was killed is swept by the next one, with its processes', async () => {
  await using process = await Child.start([...NODE, owner]);
  const [, id, pid] = await process.waitForLine(/^lab (\S+) (\d+)/);
  assert.ok(id !== undefined && isRunning(Number(pid)));
  {
    await using bystander = await Lab.create();
    assert.notEqual(bystander.id, id);
    assert.ok(isRunning(Number(pid)), 'a lab with a living owner was swept');
  }
  process.kill('SIGKILL');
  await process.exited;
  assert.ok(isRunning(Number(pid)));
  await using next = await Lab.create();
  assert.notEqual(next.id, id);
  assert.ok(!isRunning(Number(pid)));
  assert.deepEqual(await leftovers(id), []);
});

for (const [how, end] of [
  ['is told to end', (process: Child) => process.kill('SIGTERM')],
  ['exits by an uncaught error', (process: Child) => process.kill('SIGUSR2')],
] as const) {
  test(`a process that ${how} takes its lab with it`, async () => {
    await using process = await Child.start([...NODE, owner]);
    const [, id, pid] = await process.waitForLine(/^lab (\S+) (\d+)/);
    assert.ok(id !== undefined);
    end(process);
    const status = await process.exited;
    assert.notEqual(status.code, 0);
    assert.ok(!isRunning(Number(pid)));
    assert.deepEqual(await leftovers(id), []);
  });
}

test('the command line makes a lab that stays, lists it, runs commands in it, and removes it', async () => {
  const up = await labCommand('up', '--nodes', '2', '--pods', '1', '--name', 'cli-test');
  assert.equal(up.code, 0, up.stderr);
  const id = /lab (wl\w+) is up/.exec(up.stdout)?.[1];
  assert.ok(id !== undefined, up.stdout);
  try {
    await using bystander = await Lab.create();
    assert.notEqual(bystander.id, id);
    const list = await labCommand('list');
    assert.match(list.stdout, new RegExp(`^${id}\\s+cli-test`, 'm'));
    const address = await labCommand('exec', id, 'pod-b-1', '--', 'ip', '-br', 'addr', 'show', 'eth0');
    assert.match(address.stdout, /10\.\d+\.2\.2\/32/);
    assert.equal((await labCommand('exec', id, 'node-a', '--', 'sh', '-c', 'exit 7')).code, 7);
    const unknown = await labCommand('exec', id, 'nobody', '--', 'true');
    assert.equal(unknown.code, 1);
    assert.match(unknown.stderr, /WEFT_LAB_UNKNOWN/);
  } finally {
    assert.equal((await labCommand('down', id)).code, 0);
  }
  assert.deepEqual(await leftovers(id), []);
  assert.match((await labCommand('down', id)).stderr, /WEFT_LAB_UNKNOWN/);
  assert.match((await labCommand('--help')).stdout, /up.*list.*exec.*down.*sweep/s);
});

test('writeConfig describes the pods as Kubernetes-shaped resources, and a namespace’s mode can be changed', async () => {
  await using lab = await Lab.create();
  const node = await lab.node('node-a');
  const pod = await node.pod('web', { namespace: 'shop', serviceAccount: 'web-sa', labels: { app: 'web' } });
  await node.pod('stranger', { namespace: 'other', inConfig: false });
  const config = lab.writeConfig({ modes: { shop: 'permissive' } });
  const documents = (name: string): unknown[] =>
    parseAllDocuments(readFileSync(config.path(name), 'utf8')).map((document) => document.toJS() as unknown);
  assert.deepEqual(documents('workloads'), [
    {
      apiVersion: 'weft.dev/v1',
      kind: 'Workload',
      metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' } },
      spec: {
        node: 'node-a',
        serviceAccount: 'web-sa',
        addresses: [pod.addresses.v4, pod.addresses.v6],
        networkNamespace: pod.netnsPath,
        cgroup: pod.cgroupPath,
      },
    },
  ]);
  assert.deepEqual(documents('namespace-shop'), [shopNamespace('permissive')]);
  config.namespaceMode('shop', 'strict');
  assert.deepEqual(documents('namespace-shop'), [shopNamespace('strict')]);
  const files = readdirSync(config.directory).toSorted();
  assert.deepEqual(files, ['namespace-shop.yaml', 'workloads.yaml']);
  for (const file of files) assert.deepEqual(parseResources(readFileSync(`${config.directory}/${file}`), file).problems, []);
});

test('what cannot be made is refused with a reason, and a second pod of the same name is such a thing', async () => {
  await using lab = await Lab.create();
  const node = await lab.node('node-a');
  await node.pod('web');
  await assert.rejects(node.pod('web'), refused('WEFT_LAB_NAME'));
  await assert.rejects(node.pod('../web'), refused('WEFT_LAB_NAME'));
  await assert.rejects(lab.node('Node A'), refused('WEFT_LAB_NAME'));
  await assert.rejects(lab.node('node-a'), refused('WEFT_LAB_NAME'));
  await assert.rejects(node.capture('no-such-device'), refused('WEFT_LAB_EXITED'));
});

test('a command that takes too long is killed, and its output so far is kept', async () => {
  await using lab = await Lab.create();
  const pod = await (await lab.node('node-a')).pod('web');
  const result = await pod.exec(['sh', '-c', 'echo early; exec sleep 60'], { timeoutMs: 300 });
  assert.deepEqual([result.stdout, result.signal, result.timedOut], ['early\n', 'SIGKILL', true]);
});
