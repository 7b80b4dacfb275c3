import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { CountersAnswer } from '../../src/model/admin-api.ts';
import type { KernelReason } from '../../src/model/kernel-reasons.ts';
import { app, type Child, type LabAgent, type LabPod } from '../kit/lab/index.ts';
import { type AccessLogLine, Mesh } from '../kit/mesh.ts';

const CLIENT_ID = 'spiffe://cluster.local/ns/shop/sa/client';
const ECHO_PORT = 7000;
/** Listens on an MPTCP socket. */
const MPTCP_PORT = 7001;
const BANNER_PORT = 2525;
const MARKER = 'weft-capture-marker-5521';
/** linux/capability.h. */
const CAP_NET_ADMIN = '12';
const NO_CAPABILITY = '-1';
const AGENT_PORTS = [15_001, 15_006, 15_008] as const;
const BULK_BYTES = 50_000_000;
/** How long the slow reader of a bulk transfer reads nothing. */
const BULK_PAUSE_MS = 1_000;

/** The program of clients/connect.c, compiled once for this file. */
let program: string;
let programDirectory: string;

before(() => {
  programDirectory = mkdtempSync(join(tmpdir(), 'weft-capture-'));
  program = join(programDirectory, 'connect');
  const source = fileURLToPath(new URL('./clients/connect.c', import.meta.url));
  execFileSync('clang-19', ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O1', '-o', program, source], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
});
after(() => rmSync(programDirectory, { recursive: true, force: true }));

interface Name {
  readonly address: string;
  readonly port: number;
}

/** What getpeername and getsockname said: a name, or the error's. */
interface Names {
  readonly peer: Name | string;
  readonly local: Name | string;
}

/** One connection of `connect dial`. */
interface Dialled extends Names {
  /** 'ok', or the name of the error. */
  readonly connect: string;
  readonly answer: string;
  readonly end: string;
  readonly after: Names;
  readonly child?: Names;
}

/** A line of `connect serve`. */
interface Served extends Names {
  readonly event: 'listening' | 'accept' | 'end';
  readonly accept: Name;
}

type Family = 'v4' | 'v6';

async function startServer(pod: LabPod, ...args: readonly (string | number)[]): Promise<Child> {
  const server = await pod.spawn([program, 'serve', ...args.map(String)]);
  await server.waitForLine(/listening/);
  return server;
}

/** Runs `connect dial` in a pod. One element for each destination, and one for each AF_UNSPEC between them. */
async function dial(pod: LabPod, ...args: readonly (string | number)[]): Promise<readonly [Dialled, ...Dialled[]]> {
  const result = await pod.exec([program, 'dial', '--send', MARKER, ...args.map(String)]);
  assert.equal(result.code, 0, result.stderr);
  return JSON.parse(result.stdout) as readonly [Dialled, ...Dialled[]];
}

/** What a server printed about the connection of a client. */
async function served(server: Child, event: Served['event'], client: Name): Promise<Served> {
  const deadline = Date.now() + 5_000;
  for (;;) {
    for (const line of server.stdout.split('\n')) {
      if (!line.startsWith('{')) continue;
      const found = JSON.parse(line) as Served;
      const name = event === 'accept' ? found.accept : found.peer;
      if (found.event === event && typeof name !== 'string' && canonical(name.address) === client.address && name.port === client.port)
        return found;
    }
    assert.ok(Date.now() < deadline, `the server never said ${event} of ${client.address} ${client.port}:\n${server.stdout}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function canonical(address: string): string {
  return address.replace(/^::ffff:/, '');
}

async function kernelCounters(agent: LabAgent): Promise<Readonly<Record<KernelReason, number>>> {
  return (await agent.json<CountersAnswer>('/v1/counters')).kernel;
}

/** What the kernel counted while `action` ran, without zeros. */
async function counted<Result>(
  agent: LabAgent,
  action: () => Promise<Result>,
): Promise<{ result: Result; kernel: Partial<Record<KernelReason, number>> }> {
  const earlier = await kernelCounters(agent);
  const result = await action();
  const later = await kernelCounters(agent);
  const moved = Object.entries(later).map(([reason, count]) => [reason, count - earlier[reason as KernelReason]] as const);
  return { result, kernel: Object.fromEntries(moved.filter(([, count]) => count !== 0)) };
}

/** The sum of the proxy's counters of refused connections with this reason. */
async function refusals(agent: LabAgent, reason: string): Promise<number> {
  const { proxy } = await agent.json<CountersAnswer>('/v1/counters');
  return Object.entries(proxy)
    .filter(([name]) => name.startsWith('weft_connections_refused_total') && name.includes(`reason="${reason}"`))
    .reduce((sum, [, count]) => sum + count, 0);
}

function inboundConnection(port: number, wanted: { readonly source: number; readonly address: string }): (line: AccessLogLine) => boolean {
  return (line) =>
    line.kind === 'connection' &&
    line.direction === 'inbound' &&
    line.destination.port === port &&
    line.source.port === wanted.source &&
    line.source.address === wanted.address;
}

describe('a connection from a strict workload', () => {
  let mesh: Mesh;
  /** Every packet that leaves the client's pod, from the first test to the last. */
  let wire: Awaited<ReturnType<Mesh['nodeA']['capture']>>;
  const servers = new Map<LabPod, Child>();
  let mptcpServer: Child;
  let service: { readonly v4: string; readonly v6: string };

  before(async () => {
    mesh = await Mesh.start({ mode: 'strict' });
    for (const pod of [mesh.far, mesh.near, mesh.client, mesh.stranger]) servers.set(pod, await startServer(pod, '::', ECHO_PORT));
    mptcpServer = await startServer(mesh.near, '--mptcp', '::', MPTCP_PORT);
    service = mesh.lab.serviceAddresses();
    mesh.config.apply('own-service', [
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'own', namespace: 'shop' },
        spec: { clusterIPs: [service.v4, service.v6], selector: { app: 'client' }, ports: [{ port: 80, targetPort: ECHO_PORT }] },
      } as never,
    ]);
    await mesh.agentA.waitForState('has the service', ({ services }) => services === 1);
    wire = await mesh.nodeA.capture(mesh.nodeA.interfaceOf(mesh.client));
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  /** One captured connection from client to `to`: the kernel's count, the server's access log and all names are as they should be. */
  async function expectCaptured(
    to: LabPod,
    family: Family,
    options: readonly (string | number)[],
    mapped = false,
    port = ECHO_PORT,
  ): Promise<Dialled> {
    const { result, kernel } = await counted(mesh.agentA, () => dial(mesh.client, ...options, to.addresses[family], port));
    const [dialled] = result;
    const shown = (address: string): string => (mapped ? `::ffff:${address}` : address);
    assert.equal(dialled.connect, 'ok');
    assert.deepEqual([dialled.answer, dialled.end], [MARKER, 'eof']);
    assert.equal(kernel.captured_outbound, 1, JSON.stringify(kernel));
    assert.deepEqual(dialled.peer, { address: shown(to.addresses[family]), port });
    const local = dialled.local as Name;
    assert.equal(local.address, shown(mesh.client.addresses[family]));
    assert.deepEqual(dialled.after.local, local, 'the local name is still honest when the connection is over');
    const remote = to === mesh.far;
    const source = { source: local.port, address: mesh.client.addresses[family] };
    const line = await mesh.accessLog(remote ? mesh.agentB : mesh.agentA, inboundConnection(port, source));
    assert.equal(line.security, remote ? 'mtls' : 'kernel');
    assert.equal(line.source.identity, CLIENT_ID);
    assert.equal(line.verdict, 'allow');
    return dialled;
  }

  /** connect() itself fails: nothing left the process, and the kernel says why. */
  async function expectRefused(reason: KernelReason, error: string, ...args: readonly (string | number)[]): Promise<void> {
    const { result, kernel } = await counted(mesh.agentA, () => dial(mesh.client, ...args));
    assert.deepEqual(result, [{ connect: error }]);
    assert.deepEqual(kernel, { [reason]: 1 });
  }

  const everywhere = (): [LabPod, Family][] => [
    [mesh.far, 'v4'],
    [mesh.far, 'v6'],
    [mesh.near, 'v4'],
    [mesh.near, 'v6'],
  ];

  it('is captured in the plain way', async () => {
    for (const [to, family] of everywhere()) await expectCaptured(to, family, []);
  });

  it('is captured when connect() does not wait', async () => {
    for (const [to, family] of everywhere()) await expectCaptured(to, family, ['--nonblock']);
  });

  it('is captured when it is bound first: to the pod, to a port, to any address, to loopback', async () => {
    const { v4, v6 } = mesh.client.addresses;
    await expectCaptured(mesh.far, 'v4', ['--bind', v4, 0]);
    await expectCaptured(mesh.near, 'v6', ['--bind', v6, 0]);
    await expectCaptured(mesh.far, 'v6', ['--bind', '::', 0]);
    await expectCaptured(mesh.near, 'v4', ['--bind', '127.0.0.1', 0]);
    await expectCaptured(mesh.near, 'v4', ['--mapped', '--bind', v4, 0], true);
    const dialled = await expectCaptured(mesh.far, 'v4', ['--bind', '0.0.0.0', 23_456]);
    assert.equal((dialled.local as Name).port, 23_456);
  });

  for (const how of ['sendto', 'connect']) {
    it(`is captured with TCP Fast Open (${how})`, async () => {
      for (const [to, family] of everywhere()) await expectCaptured(to, family, ['--fastopen', how]);
    });
  }

  it('is captured with MPTCP, and the names of the MPTCP socket are honest', async () => {
    for (const [to, family] of everywhere()) await expectCaptured(to, family, ['--mptcp']);
    await expectCaptured(mesh.near, 'v4', ['--mptcp', '--bind', '0.0.0.0', 23_457]);
  });

  it('shows its client to a server that listens with MPTCP', async () => {
    for (const options of [[], ['--mptcp']]) {
      const { local } = await expectCaptured(mesh.near, 'v4', options, false, MPTCP_PORT);
      const { accept, peer } = await served(mptcpServer, 'accept', local as Name);
      assert.deepEqual(peer, accept);
    }
  });

  for (const how of ['inline', 'async', 'sqpoll']) {
    it(`is captured when io_uring connects (${how}), or io_uring is refused`, async () => {
      const [probe] = await dial(mesh.client, '--uring', how, mesh.near.addresses.v4, ECHO_PORT);
      if (probe.connect.startsWith('io_uring_setup')) {
        assert.match(probe.connect, /^io_uring_setup (ENOSYS|EPERM)$/);
        return;
      }
      await expectCaptured(mesh.far, 'v4', ['--uring', how]);
      await expectCaptured(mesh.near, 'v6', ['--uring', how]);
    });
  }

  it('is captured as IPv4-mapped IPv6', async () => {
    await expectCaptured(mesh.far, 'v4', ['--mapped'], true);
    await expectCaptured(mesh.near, 'v4', ['--mapped'], true);
  });

  for (const mark of ['1', '0x539', '0xffffffff']) {
    it(`is captured whatever its mark is (${mark})`, async () => {
      await expectCaptured(mesh.far, 'v4', ['--mark', mark]);
      await expectCaptured(mesh.near, 'v6', ['--mark', mark]);
    });
  }

  it('is captured from a process with CAP_NET_ADMIN', async () => {
    await expectCaptured(mesh.far, 'v4', ['--only-capability', CAP_NET_ADMIN, '--mark', '0x539']);
    await expectCaptured(mesh.near, 'v6', ['--only-capability', CAP_NET_ADMIN, '--transparent']);
  });

  it('goes nowhere from an address that is not the pod’s, nor with TCP_REPAIR', async () => {
    const address = ['--timeout', 400, '--only-capability', CAP_NET_ADMIN, '--transparent', '--bind', mesh.stranger.addresses.v4, 0];
    const foreign = await counted(mesh.agentA, () => dial(mesh.client, ...address, mesh.far.addresses.v4, ECHO_PORT));
    assert.deepEqual(foreign.result, [{ connect: 'EINPROGRESS' }]);
    assert.deepEqual(foreign.kernel, { captured_outbound: 1 });
    const repaired = await counted(mesh.agentA, () =>
      dial(mesh.client, '--only-capability', CAP_NET_ADMIN, '--repair', mesh.far.addresses.v4, ECHO_PORT),
    );
    assert.equal(repaired.result[0].answer, '');
    assert.notEqual(repaired.result[0].end, 'eof');
    assert.equal(repaired.kernel.captured_outbound, 1);
  });

  it('is captured when it is bound to a device and the binding can be lifted', async () => {
    await expectCaptured(mesh.far, 'v4', ['--device', 'eth0']);
    await expectCaptured(mesh.near, 'v6', ['--device', 'eth0']);
    await expectCaptured(mesh.far, 'v4', ['--device', 'lo']);
  });

  it('is refused when it is bound to a device and the process may not lift that (no CAP_NET_RAW)', async () => {
    for (const [to, family] of everywhere()) {
      await expectRefused(
        'refused_device',
        'EPERM',
        '--only-capability',
        NO_CAPABILITY,
        '--device',
        'eth0',
        to.addresses[family],
        ECHO_PORT,
      );
    }
  });

  it('is refused when it is bound to a device and dials loopback, which Linux would send out of the device', async () => {
    for (const address of ['127.0.0.1', '::1', '0.0.0.0'])
      await expectRefused('refused_device', 'EPERM', '--device', 'eth0', address, ECHO_PORT);
  });

  it('is refused when its packets are source-routed, wherever it goes', async () => {
    const { far, stranger } = mesh;
    for (const address of ['127.0.0.1', far.addresses.v4]) {
      await expectRefused('refused_source_route', 'EPERM', '--source-route', stranger.addresses.v4, address, ECHO_PORT);
    }
    for (const address of ['::1', far.addresses.v6]) {
      await expectRefused('refused_source_route', 'EPERM', '--source-route', stranger.addresses.v6, address, ECHO_PORT);
    }
  });

  it('is captured when a child talks on the inherited socket, which has the same names', async () => {
    const dialled = await expectCaptured(mesh.far, 'v4', ['--fork']);
    assert.deepEqual(dialled.child, { peer: dialled.peer, local: dialled.local });
  });

  for (const family of ['v4', 'v6'] as const) {
    it(`can be dissolved and made anew with the same socket, with the right names each time (${family})`, async () => {
      const { client, far, near } = mesh;
      const [loopback, any] = family === 'v4' ? ['127.0.0.1', '0.0.0.0'] : ['::1', '::'];
      const then = [loopback, near.addresses[family], loopback, far.addresses[family]].flatMap((address) => ['--then', address, ECHO_PORT]);
      const { result, kernel } = await counted(mesh.agentA, () => dial(client, ...then, far.addresses[family], ECHO_PORT));
      const dialled = result.filter(({ connect }) => connect !== undefined);
      const own = client.addresses[family];
      const expected = [
        [far.addresses[family], own],
        [loopback, loopback],
        [near.addresses[family], own],
        [loopback, loopback],
        [far.addresses[family], own],
      ] as const;
      assert.deepEqual(
        dialled.map(({ peer, local, answer, end }) => [peer, (local as Name).address, answer, end]),
        expected.map(([address, local]) => [{ address, port: ECHO_PORT }, local, MARKER, 'eof']),
      );
      for (const dissolved of result.filter(({ connect }) => connect === undefined)) {
        assert.equal(dissolved.peer, 'ENOTCONN');
        assert.equal((dissolved.local as Name).address, any, 'no name of a former connection');
      }
      assert.equal(kernel.captured_outbound, 3);
      assert.equal(kernel.passed_loopback, 2);
      for (const { peer, local } of dialled) {
        const { address, port } = peer as Name;
        if (address === loopback) continue;
        const agent = address === far.addresses[family] ? mesh.agentB : mesh.agentA;
        const line = await mesh.accessLog(agent, inboundConnection(ECHO_PORT, { source: (local as Name).port, address: own }));
        assert.deepEqual([port, line.source.identity], [ECHO_PORT, CLIENT_ID]);
      }
    });

    it(`to its own address is judged as any other (${family})`, async () => {
      await expectCaptured(mesh.client, family, []);
    });

    it(`to its own Service comes back to it (${family})`, async () => {
      const { result, kernel } = await counted(mesh.agentA, () => dial(mesh.client, service[family], 80));
      const [dialled] = result;
      assert.deepEqual([dialled.connect, dialled.answer, dialled.end], ['ok', MARKER, 'eof']);
      assert.equal(kernel.captured_outbound, 1);
      assert.deepEqual(dialled.peer, { address: service[family], port: 80 });
      const local = dialled.local as Name;
      assert.equal(local.address, mesh.client.addresses[family]);
      const line = await mesh.accessLog(mesh.agentA, inboundConnection(ECHO_PORT, { source: local.port, address: local.address }));
      assert.deepEqual([line.security, line.source.identity, line.destination.identity], ['kernel', CLIENT_ID, CLIENT_ID]);
    });

    it(`to the unspecified address stays in the pod (${family})`, async () => {
      const [any, loopback] = family === 'v4' ? ['0.0.0.0', '127.0.0.1'] : ['::', '::1'];
      const { result, kernel } = await counted(mesh.agentA, () => dial(mesh.client, any, ECHO_PORT));
      assert.deepEqual([result[0].connect, result[0].answer], ['ok', MARKER]);
      assert.deepEqual(result[0].peer, { address: loopback, port: ECHO_PORT });
      assert.deepEqual(kernel, { passed_loopback: 1 });
    });
  }

  it('with an address of another family than its socket’s is refused by Linux', async () => {
    const { v4, v6 } = mesh.far.addresses;
    assert.deepEqual(await dial(mesh.client, '--family', '6', v4, ECHO_PORT), [{ connect: 'EINVAL' }]);
    assert.deepEqual(await dial(mesh.client, '--family', '4', v6, ECHO_PORT), [{ connect: 'EAFNOSUPPORT' }]);
  });

  it('to the agent’s own ports in its pod is refused at connect()', async () => {
    const { v4, v6 } = mesh.client.addresses;
    for (const port of AGENT_PORTS) {
      for (const address of ['127.0.0.1', '127.9.9.9', '::1', '0.0.0.0', '::', v4, v6]) {
        await expectRefused('refused_agent_port', 'EPERM', address, port);
      }
      await expectRefused('refused_agent_port', 'EPERM', '--mapped', '127.0.0.1', port);
      await expectRefused('refused_agent_port', 'EPERM', '--mapped', v4, port);
      await expectRefused('refused_agent_port', 'EPERM', '--mptcp', '127.0.0.1', port);
    }
  });

  it('to the agent’s ports in another pod gets nothing, and is counted', async () => {
    for (const [to, family] of everywhere()) {
      const agent = to === mesh.far ? mesh.agentB : mesh.agentA;
      for (const port of AGENT_PORTS) {
        const earlier = await refusals(agent, 'forbidden-port');
        const [dialled] = await dial(mesh.client, to.addresses[family], port);
        assert.equal(dialled.answer ?? '', '', `${to.name} ${port}`);
        assert.notEqual(dialled.end, 'eof');
        assert.equal(await refusals(agent, 'forbidden-port'), earlier + 1, `${to.name} ${port}`);
      }
    }
  });

  it('cannot be had by a process that takes a port of the agent', async () => {
    for (const port of AGENT_PORTS) {
      for (const args of [['127.0.0.1'], ['::'], ['--mptcp', '0.0.0.0'], [mesh.near.addresses.v4]]) {
        const bind = (): ReturnType<LabPod['exec']> => mesh.near.exec([program, 'bind', '--reuseport', ...args, String(port)]);
        const { result, kernel } = await counted(mesh.agentA, bind);
        assert.equal(result.stdout, '{"bind":"EPERM"}\n');
        assert.deepEqual(kernel, { refused_agent_port: 1 });
      }
    }
    const other = await mesh.near.exec([program, 'bind', '--reuseport', '::', '15009']);
    assert.equal(other.stdout, '{"bind":"ok"}\n');
  });

  it('from a stranger to the agent’s ports gets nothing, and is counted', async () => {
    for (const [port, reason] of [
      [15_001, 'forbidden-port'],
      [15_006, 'forbidden-port'],
    ] as const) {
      for (const family of ['v4', 'v6'] as const) {
        const earlier = await refusals(mesh.agentA, reason);
        const [dialled] = await dial(mesh.stranger, mesh.near.addresses[family], port);
        assert.equal(dialled.answer ?? '', '');
        assert.notEqual(dialled.end, 'eof');
        assert.equal(await refusals(mesh.agentA, reason), earlier + 1);
      }
    }
    // The tunnel's port is there for strangers to knock at; without TLS nothing comes back.
    const [knock] = await dial(mesh.stranger, mesh.near.addresses.v4, 15_008);
    assert.equal(knock.answer ?? '', '');
  });

  for (const family of ['v4', 'v6'] as const) {
    it(`has honest names at the server: accept, getpeername and getsockname, also after the client is gone (${family})`, async () => {
      for (const to of [mesh.far, mesh.near]) {
        const server = servers.get(to) as Child;
        const { local } = await expectCaptured(to, family, []);
        const client = local as Name;
        const shown = (address: string): string => (family === 'v4' ? `::ffff:${address}` : address);
        const names = {
          peer: { address: shown(client.address), port: client.port },
          local: { address: shown(to.addresses[family]), port: ECHO_PORT },
        };
        const { accept, peer, local: own } = await served(server, 'accept', client);
        assert.deepEqual(accept, names.peer);
        assert.deepEqual({ peer, local: own }, names);
        const ended = await served(server, 'end', client);
        assert.deepEqual({ peer: ended.peer, local: ended.local }, names);
      }
    });

    it(`has honest names at a server of one family only (${family})`, async () => {
      const number = family === 'v4' ? '4' : '6';
      const port = family === 'v4' ? 7004 : 7006;
      await using server = await startServer(mesh.near, '--family', number, family === 'v4' ? '0.0.0.0' : '::', port);
      const { local } = await expectCaptured(mesh.near, family, [], false, port);
      const seen = await served(server, 'accept', local as Name);
      assert.deepEqual([seen.accept, seen.peer], [local, local]);
      assert.deepEqual(seen.local, { address: mesh.near.addresses[family], port });
    });

    it(`has honest names at the client after the server has closed (${family})`, async () => {
      for (const to of [mesh.far, mesh.near]) {
        await using server = await to.spawn(app('banner-server', BANNER_PORT));
        await server.waitForLine(/listening/);
        const [dialled] = await dial(mesh.client, '--send', 'bye\r\n', '--keep-open', to.addresses[family], BANNER_PORT);
        assert.deepEqual([dialled.answer, dialled.end], ['220 welcome\r\n221 bye\r\n', 'eof']);
        const names = { peer: { address: to.addresses[family], port: BANNER_PORT }, local: dialled.local };
        assert.equal((dialled.local as Name).address, mesh.client.addresses[family]);
        assert.deepEqual({ peer: dialled.peer, local: dialled.local }, names);
        assert.deepEqual(dialled.after, names);
      }
    });
  }

  it('leaves nothing in the kernel’s maps', async () => {
    const deadline = Date.now() + 5_000;
    for (;;) {
      const { kernelEntries } = await mesh.agentA.json<CountersAnswer>('/v1/counters');
      if (kernelEntries.originalDestinations + kernelEntries.presentedPeers === 0) return;
      assert.ok(Date.now() < deadline, JSON.stringify(kernelEntries));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  it('was never seen in plaintext outside its pod, in any of these ways', async () => {
    const { packets } = await readWire();
    assert.ok(packets > 100, 'the recording saw the tunnels');
    assert.equal((await readWire()).contains(MARKER), false);
    // The recording would have shown it: a destination outside the mesh is dialled as it was.
    const [dialled] = await dial(mesh.client, mesh.stranger.addresses.v4, ECHO_PORT);
    assert.equal(dialled.answer, MARKER);
    assert.equal((await wire.stop()).contains(MARKER), true);
  });

  async function readWire(): Promise<{ packets: number; contains(text: string): boolean }> {
    // tcpdump writes each packet as it comes; the last one may still be under way.
    await new Promise((resolve) => setTimeout(resolve, 200));
    const bytes = readFileSync(wire.path);
    let packets = 0;
    for (let at = 24; at + 16 <= bytes.length; at += 16 + bytes.readUInt32LE(at + 8)) packets++;
    return { packets, contains: (text) => bytes.includes(text) };
  }
});

/** Two connections that are held open, through the tunnel and on the node, and a stranger's. */
class Held {
  readonly child: Child;
  readonly names: Names;

  private constructor(child: Child, names: Names) {
    this.child = child;
    this.names = names;
  }

  static async open(from: LabPod, address: string): Promise<Held> {
    const child = await from.spawn([program, 'hold', address, String(ECHO_PORT)], { stdin: 'pipe' });
    const [line] = await child.waitForLine(/^\{"peer".*/);
    return new Held(child, JSON.parse(line) as Names);
  }

  /** Sends a line, gets it back, and sees the same names as at the beginning. */
  async expectWorking(text: string): Promise<void> {
    this.child.input?.write(`${text}\n`);
    const [line] = await this.child.waitForLine(new RegExp(`^.*${text}.*`));
    const { answer, ...names } = JSON.parse(line) as Names & { answer: string };
    assert.equal(answer, `${text}\n`);
    assert.deepEqual(names, this.names);
  }
}

describe('applications that were there before the mesh', () => {
  let mesh: Mesh;
  const held: Held[] = [];
  const holders: { readonly pod: () => LabPod; readonly port: number; readonly address: () => string; server?: Child }[] = [
    // On the pod's address alone: the agent could still listen on loopback, but connections to it would be taken for ones to the agent.
    { pod: () => mesh.near, port: 15_001, address: () => mesh.near.addresses.v4 },
    { pod: () => mesh.far, port: 15_006, address: () => '0.0.0.0' },
    { pod: () => mesh.client, port: 15_008, address: () => '::' },
  ];

  before(async () => {
    mesh = await Mesh.start({ mode: 'off' });
    for (const pod of [mesh.near, mesh.far, mesh.client]) await startServer(pod, '::', ECHO_PORT);
    for (const holder of holders) holder.server = await startServer(holder.pod(), holder.address(), holder.port);
    for (const address of [mesh.far.addresses.v4, mesh.far.addresses.v6, mesh.near.addresses.v4])
      held.push(await Held.open(mesh.client, address));
    held.push(await Held.open(mesh.stranger, mesh.near.addresses.v6));
    await mesh.setMode('shop', 'permissive');
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  it('keep the connections that they had', async () => {
    for (const [index, connection] of held.entries()) await connection.expectWorking(`permissive-${index}`);
    assert.equal((await kernelCounters(mesh.agentA)).captured_outbound, 0);
  });

  it('keep the agent’s usual ports, and the conflicts are reported', async () => {
    const states = await Promise.all(
      [mesh.agentA, mesh.agentB].map((agent) => agent.waitForState('is enrolled', ({ enrolments }) => enrolments.length > 0)),
    );
    const enrolments = states.flatMap((state) => state.enrolments);
    for (const { pod, port } of holders) {
      const enrolment = enrolments.find(({ workload }) => workload === `shop/${pod().name}`);
      assert.equal(enrolment?.state, 'enrolled');
      assert.deepEqual(enrolment.conflicts, [port]);
      const { outbound, inbound, tunnel } = enrolment.ports as { outbound: number; inbound: number; tunnel: number };
      assert.equal([outbound, inbound, tunnel].includes(port), false);
      const agent = pod() === mesh.far ? mesh.agentB : mesh.agentA;
      const [line] = await agent.process.waitForLine(new RegExp(`^.*"shop/${pod().name}".*"ports":\\[${port}\\].*`));
      assert.match(line, /an application holds/);
    }
  });

  it('get the connections to those ports, with their names, from near, from far and from strangers', async () => {
    const { client, near, far, stranger } = mesh;
    for (const { pod, port, server } of holders) {
      // The client's tunnel port is taken: only who needs no tunnel reaches it, as its conflict says.
      for (const from of pod() === client ? [near, stranger] : [client, stranger]) {
        const [dialled] = await dial(from, pod().addresses.v4, port);
        assert.deepEqual([dialled.connect, dialled.answer, dialled.end], ['ok', MARKER, 'eof'], `${from.name} to ${pod().name} ${port}`);
        const { accept } = await served(server as Child, 'accept', dialled.local as Name);
        assert.equal(canonical(accept.address), from.addresses.v4);
      }
    }
    const { local } = (await dial(client, far.addresses.v4, 15_006))[0];
    const line = await mesh.accessLog(
      mesh.agentB,
      inboundConnection(15_006, { source: (local as Name).port, address: client.addresses.v4 }),
    );
    assert.deepEqual([line.security, line.source.identity], ['mtls', CLIENT_ID]);
  });

  it('reach those ports on loopback within their pod', async () => {
    for (const address of ['127.0.0.1', '::1']) assert.equal((await dial(mesh.client, address, 15_008))[0].answer, MARKER);
    assert.equal((await dial(mesh.far, '127.0.0.1', 15_006))[0].answer, MARKER);
  });

  it('do not open the ports that the agent moved to', async () => {
    const { enrolments } = await mesh.agentA.waitForState('is enrolled', () => true);
    const outbound = enrolments.find(({ workload }) => workload === 'shop/near')?.ports?.outbound as number;
    assert.notEqual(outbound, 15_001);
    for (const address of ['127.0.0.1', '::1', mesh.near.addresses.v4]) {
      const { result, kernel } = await counted(mesh.agentA, () => dial(mesh.near, address, outbound));
      assert.deepEqual([result[0].connect, kernel], ['EPERM', { refused_agent_port: 1 }]);
    }
  });

  it('keep the connections that they had in strict, where new ones of strangers are refused', async () => {
    await mesh.setMode('shop', 'strict');
    for (const [index, connection] of held.entries()) await connection.expectWorking(`strict-${index}`);
    const [dialled] = await dial(mesh.stranger, mesh.near.addresses.v6, ECHO_PORT);
    assert.equal(dialled.answer ?? '', '');
  });

  it('keep the connections that they had when the mesh goes away again', async () => {
    await mesh.setMode('shop', 'off');
    for (const [index, connection] of held.entries()) await connection.expectWorking(`off-${index}`);
  });
});

describe('protocols that are not HTTP', () => {
  let mesh: Mesh;
  before(async () => {
    mesh = await Mesh.start({ mode: 'permissive' });
    // Small buffers in the kernel, whatever the machine's limits are: what else the sender gets off is held in user space.
    const limit = 'for name in tcp_rmem tcp_wmem; do echo 4096 131072 1048576 >/proc/sys/net/ipv4/$name; done';
    for (const pod of mesh.lab.pods) assert.equal((await pod.exec(['sh', '-c', limit])).code, 0);
    for (const pod of [mesh.near, mesh.far, mesh.stranger]) {
      await startServer(pod, '::', ECHO_PORT);
      const banner = await pod.spawn(app('banner-server', BANNER_PORT));
      await banner.waitForLine(/listening/);
    }
  });
  after(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  const paths: readonly { readonly name: string; readonly from: () => LabPod; readonly to: () => LabPod }[] = [
    { name: 'on one node', from: () => mesh.client, to: () => mesh.near },
    { name: 'through the tunnel', from: () => mesh.client, to: () => mesh.far },
    { name: 'from a stranger in plaintext', from: () => mesh.stranger, to: () => mesh.near },
    { name: 'to a stranger', from: () => mesh.client, to: () => mesh.stranger },
  ];

  for (const { name, from, to } of paths) {
    it(`let the server speak first (${name})`, async () => {
      for (const family of ['v4', 'v6'] as const) {
        const [dialled] = await dial(from(), '--read-first', '--send', 'moin\r\nbye\r\n', to().addresses[family], BANNER_PORT);
        assert.deepEqual([dialled.answer, dialled.end], ['220 welcome\r\n250 you said moin\r\n221 bye\r\n', 'eof']);
      }
    });

    it(`may say little: text without a line’s end, the beginning of a method, nothing (${name})`, async () => {
      for (const text of ['PING 1', 'GET', '']) {
        const [dialled] = await dial(from(), '--send', text, to().addresses.v4, ECHO_PORT);
        assert.deepEqual([dialled.answer, dialled.end], [text, 'eof'], JSON.stringify(text));
      }
    });

    it(`get an answer to text without a line’s end while the client waits (${name})`, async () => {
      const connection = await from().spawn([program, 'ping', to().addresses.v4, String(ECHO_PORT)]);
      const begin = performance.now();
      await connection.waitForLine(/"answer":"PING"/, 3_000);
      assert.ok(performance.now() - begin < 2_000, 'long before a protocol must have shown');
    });

    it(`carry bytes both ways, exactly, while a reader that stops holds the sender back (${name})`, async () => {
      const agents = [mesh.nodeA, mesh.nodeB];
      const resident = (): number => Math.max(...agents.map((node) => node.agentResidentBytes()));
      const transfer = await from().spawn([
        program,
        'transfer',
        to().addresses.v4,
        String(ECHO_PORT),
        String(BULK_BYTES),
        String(BULK_PAUSE_MS),
      ]);
      await new Promise((resolve) => setTimeout(resolve, BULK_PAUSE_MS / 4));
      const before = resident();
      await transfer.waitForLine(/^\{"reading".*/);
      const during = resident();
      const [line] = await transfer.waitForLine(/^\{"sent".*/, 20_000);
      const { stalledAt, ...moved } = JSON.parse(line) as { sent: number; received: number; exact: boolean; stalledAt: number };
      assert.deepEqual(moved, { sent: BULK_BYTES, received: BULK_BYTES, exact: true });
      assert.ok(stalledAt < BULK_BYTES / 2, `the sender got ${stalledAt} bytes off while nobody read`);
      assert.ok(during - before < 12_000_000, `the agent grew by ${during - before} bytes while nobody read`);
    });
  }
});
