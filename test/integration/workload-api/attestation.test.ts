import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { peerProcess } from '../../../bpf/peer-credentials.ts';
import { cgroupId } from '../../../bpf/place-descriptors.ts';
import type { LocalPlace } from '../../../src/agent/local-places.ts';
import { WorkloadAttestor } from '../../../src/agent/workload-attestor.ts';
import { cgroup2Mount, removeCgroupTree } from '../../kit/lab/cgroup.ts';

// Real processes in real cgroups on the other end of a unix socket.

/** Connects and waits; or connects, hands the connection to a child, and exits once it is told to. */
const CONNECT = `import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
if sys.argv[2] == 'fork' and os.fork() == 0:
    s.recv(1); print('closed', flush=True); os._exit(0)
sys.stdin.read(1)`;

class Listener implements AsyncDisposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'weft-attestation-'));
  readonly path: string = join(this.#directory, 'socket');
  readonly #server = createServer();
  readonly #cgroups: string[] = [];
  readonly #children: ChildProcess[] = [];
  readonly #sockets: Socket[] = [];

  async accept(command: readonly string[]): Promise<{ readonly socket: Socket; readonly child: ChildProcess }> {
    chmodSync(this.#directory, 0o755);
    if (!this.#server.listening) await new Promise<void>((resolve) => this.#server.listen({ path: this.path, writableAll: true }, resolve));
    const accepted = once(this.#server, 'connection', { signal: AbortSignal.timeout(20_000) });
    const [file = '', ...args] = command;
    const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#children.push(child);
    const [socket] = (await accepted) as [Socket];
    this.#sockets.push(socket);
    socket.on('error', () => {});
    return { socket, child };
  }

  connector(how: 'wait' | 'fork', cgroup?: string, ...prefix: readonly string[]): string[] {
    const command = [...prefix, 'python3', '-c', CONNECT, this.path, how];
    return cgroup === undefined ? command : ['sh', '-c', `echo 0 > ${cgroup}/cgroup.procs; exec "$@"`, 'sh', ...command];
  }

  cgroup(name: string): string {
    const path = join(cgroup2Mount(), `weft-attestation-${process.pid}-${name}`);
    mkdirSync(path, { recursive: true });
    this.#cgroups.push(join(cgroup2Mount(), `weft-attestation-${process.pid}-${name.split('/')[0]}`));
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const path of new Set(this.#cgroups)) removeCgroupTree(path);
    rmSync(this.#directory, { recursive: true });
  }
}

function attestor(cgroups: ReadonlyMap<bigint, LocalPlace>): WorkloadAttestor {
  return new WorkloadAttestor({ places: () => ({ networkNamespaces: new Map(), cgroups }), cgroupMount: cgroup2Mount() });
}

function place(name: string): LocalPlace {
  return { workload: `shop/${name}`, identity: `spiffe://a.test/ns/shop/sa/${name}` };
}

test('the deepest enrolled cgroup above a process is its workload; whether it is enrolled is asked each time', async () => {
  await using listener = new Listener();
  const [outer, inner, below] = [listener.cgroup('outer'), listener.cgroup('outer/inner'), listener.cgroup('outer/inner/below')];
  const enrolled = new Map([[cgroupId(outer), place('outer')]]);
  const { socket } = await listener.accept(listener.connector('wait', below));
  using caller = attestor(enrolled).attest(socket);
  assert.equal(caller.identity(), place('outer').identity);
  enrolled.set(cgroupId(inner), place('inner'));
  assert.equal(caller.identity(), place('inner').identity);
  assert.equal(caller.account, 'workload shop/inner');
  enrolled.clear();
  assert.equal(caller.identity(), null);
});

test('all that are part of no workload share one account, whatever users they are', async () => {
  await using listener = new Listener();
  const accounts = new Set<string>();
  for (const user of ['1001', '1002']) {
    const { socket, child } = await listener.accept([
      'python3',
      '-c',
      `import os, socket; os.seteuid(${user})\n${CONNECT}`,
      listener.path,
      'wait',
    ]);
    using caller = attestor(new Map()).attest(socket);
    assert.equal(caller.process.uid, Number(user));
    accounts.add(caller.account);
    child.kill('SIGKILL');
    socket.destroy();
  }
  assert.equal(accounts.size, 1);
});

test('whom a connection counts against is no choice of the process that connects', async () => {
  await using listener = new Listener();
  const [outer, own] = [listener.cgroup('counted'), listener.cgroup('counted/own')];
  const { dev, ino } = statSync('/proc/self/ns/net', { bigint: true });
  const cases = [
    [own, new Map(), new Map([[cgroupId(outer), place('counted')]]), 'workload shop/counted'],
    // Enrolled by its network namespace, which it has left.
    [own, new Map([[`${dev}:${ino}`, place('pod')]]), new Map(), 'no workload'],
  ] as const;
  for (const [cgroup, networkNamespaces, cgroups, account] of cases) {
    const attests = new WorkloadAttestor({ places: () => ({ networkNamespaces, cgroups }), cgroupMount: cgroup2Mount() });
    const { socket } = await listener.accept(listener.connector('wait', cgroup, 'unshare', '--net'));
    assert.equal(attests.accountOf(socket), account);
    using caller = attests.attest(socket);
    assert.equal(caller.account, account, 'once it is attested');
    socket.destroy();
  }
});

test('a pod counts by its network namespace, and who has exited counts against nobody', async () => {
  await using listener = new Listener();
  const { dev, ino } = statSync('/proc/self/ns/net', { bigint: true });
  const places = { networkNamespaces: new Map([[`${dev}:${ino}`, place('pod')]]), cgroups: new Map() };
  const attests = new WorkloadAttestor({ places: () => places, cgroupMount: cgroup2Mount() });
  const { socket, child } = await listener.accept(listener.connector('fork'));
  assert.equal(attests.accountOf(socket), 'workload shop/pod');
  child.stdin?.write('.');
  await once(child, 'exit');
  assert.throws(() => attests.accountOf(socket), { code: 'ENOENT' });
  socket.destroy();
});

test('a process in a pid namespace of its own is seen as the host sees it', async () => {
  await using listener = new Listener();
  const cgroup = listener.cgroup('pidns');
  const { socket } = await listener.accept(listener.connector('wait', cgroup, 'unshare', '--pid', '--fork', '--kill-child'));
  using caller = attestor(new Map([[cgroupId(cgroup), place('inside')]])).attest(socket);
  assert.equal(caller.identity(), place('inside').identity);
});

test('a process that exits has no identity from that moment on, also where a child holds its connection', async () => {
  await using listener = new Listener();
  const cgroup = listener.cgroup('exits');
  const { socket, child } = await listener.accept(listener.connector('fork', cgroup));
  using caller = attestor(new Map([[cgroupId(cgroup), place('exits')]])).attest(socket);
  assert.equal(caller.identity(), place('exits').identity);
  const exited = once(caller.exited, 'abort');
  child.stdin?.write('.');
  await exited;
  assert.equal(caller.identity(), null);
  socket.destroy();
  const [line] = (await once(child.stdout as NonNullable<typeof child.stdout>, 'data')) as [Buffer];
  assert.equal(line.toString(), 'closed\n');
});

/** In a network namespace of its own, which its socket does not hold: connects, goes back to where it was, and says so. */
const MOVE = `import ctypes, os, socket, sys
NEWNET = 0x40000000
libc = ctypes.CDLL(None)
before = os.open('/proc/self/ns/net', os.O_RDONLY)
s = socket.socket(socket.AF_UNIX)
assert libc.unshare(NEWNET) == 0
s.connect(sys.argv[1])
sys.stdin.read(1)
assert libc.setns(before, NEWNET) == 0
print('moved', flush=True)
sys.stdin.read(1)`;

test('a process that left the network namespace it connected from is not taken for the workload of the next one', async () => {
  await using listener = new Listener();
  const { socket, child } = await listener.accept(['python3', '-c', MOVE, listener.path]);
  const networkNamespaces = new Map<string, LocalPlace>();
  const places = { networkNamespaces, cgroups: new Map() };
  using caller = new WorkloadAttestor({ places: () => places, cgroupMount: cgroup2Mount() }).attest(socket);
  const moved = once(child.stdout as NonNullable<typeof child.stdout>, 'data');
  child.stdin?.write('.');
  await moved;
  // The kernel ends a network namespace in the background, and gives its inode to one that is made afterwards.
  await using others = new AsyncDisposableStack();
  for (let made = 0; made < 10; made++) {
    const other = spawn('unshare', ['--net', 'sh', '-c', 'echo; read _'], { stdio: ['pipe', 'pipe', 'inherit'] });
    others.defer(async () => {
      other.stdin.end();
      await once(other, 'exit');
    });
    await once(other.stdout, 'data');
    const { dev, ino } = statSync(`/proc/${other.pid}/ns/net`, { bigint: true });
    networkNamespaces.set(`${dev}:${ino}`, place(`pod-${made}`));
    await setTimeout(100);
    assert.equal(caller.identity(), null);
  }
});

for (const usePeerPidfd of [true, false]) {
  test(`who connected is known by process, and its exit is noticed (SO_PEERPIDFD: ${usePeerPidfd})`, async () => {
    await using listener = new Listener();
    const { socket, child } = await listener.accept(listener.connector('wait'));
    const peer = peerProcess(socket, { usePeerPidfd });
    assert.deepEqual([peer.pid, peer.uid, peer.gid, peer.isAlive()], [child.pid, process.getuid?.(), process.getgid?.(), true]);
    child.kill('SIGKILL');
    await once(peer.exited, 'abort');
    assert.equal(peer.isAlive(), false);
    peer.close();
  });

  test(`a process that has exited already is not attested (SO_PEERPIDFD: ${usePeerPidfd})`, async () => {
    await using listener = new Listener();
    // A child of it keeps the connection.
    const { socket, child } = await listener.accept(listener.connector('fork'));
    child.stdin?.write('.');
    await once(child, 'exit');
    assert.throws(() => peerProcess(socket, { usePeerPidfd }), { code: 'WEFT_BPF_PEER' });
    socket.destroy();
  });
}
