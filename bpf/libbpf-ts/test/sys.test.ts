import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  AF_INET,
  AF_INET6,
  bind,
  cgroupId,
  connect,
  cookieOfNetworkNamespace,
  currentNetworkNamespaceCookie,
  getpeername,
  getsockname,
  getsockopt,
  getsockoptBytes,
  isBpfFilesystem,
  isProcessAlive,
  LibbpfError,
  listen,
  mountBpfFilesystem,
  namespaceInode,
  networkNamespaceCookie,
  OwnedFd,
  openOwnedFds,
  openSocketDescriptor,
  peerCredentials,
  peerPidfd,
  pidfdOpen,
  SOCK_DGRAM,
  SOCK_STREAM,
  SocketOption,
  setsockopt,
  socket,
  socketCookie,
  traceOwnedFds,
  withNetworkNamespace,
} from '../src/sys.ts';
import { cgroupRoot, throwAwayBpfFilesystem, throwAwayCgroup, throwAwayNetworkNamespace, uniqueName } from './kit.ts';

const { SOL_SOCKET, SO_REUSEADDR, SO_REUSEPORT, SO_KEEPALIVE } = SocketOption;

function listening(server: net.Server, where: string | number | object): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, resolve);
  });
}

test('a descriptor is closed once, and never used after', () => {
  const fd = OwnedFd.open('/dev/null');
  const number = fd.fd;
  const copy = fd.dup();
  assert.notEqual(copy.fd, number);
  fd.close();
  fd.close();
  assert.equal(fd.closed, true);
  assert.throws(() => fd.fd, { code: 'LIBBPF_CLOSED' });
  assert.throws(() => fd.dup(), { code: 'LIBBPF_CLOSED' });
  const given = copy.disown();
  assert.throws(() => copy.fd, { code: 'LIBBPF_CLOSED' });
  using again = new OwnedFd(given);
  assert.equal(again.fd, given);
  assert.throws(() => OwnedFd.open('/nowhere/at/all'), { code: 'LIBBPF_SYSCALL', errnoName: 'ENOENT' });
});

test('a duplicated descriptor is close-on-exec', () => {
  using fd = OwnedFd.open('/dev/null');
  using copy = fd.dup();
  // The last octal digits of flags hold O_CLOEXEC (02000000).
  assert.match(readFileSync(`/proc/self/fdinfo/${copy.fd}`, 'utf8'), /flags:\s+02/);
});

test('the leak trace names what is open and who opened it', () => {
  traceOwnedFds(true);
  try {
    using _closed = OwnedFd.open('/dev/null');
    _closed.close();
    const leaked = OwnedFd.open('/dev/null');
    assert.equal(openOwnedFds().length, 1);
    assert.match(openOwnedFds()[0] ?? '', /\/dev\/null[\s\S]*sys\.test\.ts/);
    leaked.close();
    assert.deepEqual(openOwnedFds(), []);
  } finally {
    traceOwnedFds(false);
  }
});

test('a socket is made, bound and listened on, and Node serves it', async (t) => {
  const fd = socket(AF_INET, SOCK_STREAM);
  setsockopt(fd.fd, SOL_SOCKET, SO_REUSEADDR, 1);
  assert.equal(getsockopt(fd.fd, SOL_SOCKET, SO_REUSEADDR), 1);
  bind(fd.fd, { address: '127.0.0.1', port: 0 });
  listen(fd.fd);
  const { port, address, family } = getsockname(fd.fd);
  assert.deepEqual([address, family], ['127.0.0.1', AF_INET]);
  const server = net.createServer((client) => client.end('hello'));
  t.after(() => server.close());
  await listening(server, { fd: fd.disown() });
  const client = net.connect(port, '127.0.0.1');
  const [data] = await Array.fromAsync(client as AsyncIterable<Buffer>);
  assert.equal(String(data), 'hello');
});

test('an IPv6 connection has both addresses', async (t) => {
  const server = net.createServer();
  t.after(() => server.close());
  await listening(server, { host: '::1', port: 0 });
  const { port } = server.address() as net.AddressInfo;
  using fd = socket(AF_INET6, SOCK_STREAM);
  connect(fd.fd, { address: '::1', port });
  assert.equal(getpeername(fd.fd).port, port);
  assert.equal(getsockname(fd.fd).address, '::1');
  server.on('connection', (client) => client.destroy());
});

test('a failed call says what failed, with the name of the error', () => {
  using fd = socket(AF_INET, SOCK_STREAM);
  assert.throws(() => bind(fd.fd, { address: '192.0.2.1', port: 1 }), { code: 'LIBBPF_SYSCALL', errnoName: 'EADDRNOTAVAIL' });
  assert.throws(() => getpeername(fd.fd), { errnoName: 'ENOTCONN' });
  assert.throws(() => setsockopt(fd.fd, SOL_SOCKET, 9999, 1), { errnoName: 'ENOPROTOOPT' });
  assert.throws(() => socket(999, SOCK_STREAM), { errnoName: 'EAFNOSUPPORT' });
  assert.throws(() => socketCookie(9999), { errnoName: 'EBADF' });
});

test('socket options are read and written as bytes too', () => {
  using fd = socket(AF_INET, SOCK_STREAM);
  setsockopt(fd.fd, SOL_SOCKET, SO_KEEPALIVE, new Uint8Array([1, 0, 0, 0]));
  assert.deepEqual([...getsockoptBytes(fd.fd, SOL_SOCKET, SO_KEEPALIVE, 4)], [1, 0, 0, 0]);
});

test('a socket cookie is the same through every descriptor of the socket, and no other socket has it', () => {
  using one = socket(AF_INET, SOCK_STREAM);
  using other = socket(AF_INET, SOCK_STREAM);
  using copy = one.dup();
  assert.equal(socketCookie(copy.fd), socketCookie(one.fd));
  assert.notEqual(socketCookie(other.fd), socketCookie(one.fd));
});

test('the descriptor inside a socket of Node is found (pins the undocumented _handle.fd)', async (t) => {
  const server = net.createServer();
  await listening(server, { host: '127.0.0.1', port: 0 });
  const { port } = server.address() as net.AddressInfo;
  assert.equal(getsockname(openSocketDescriptor(server)).port, port);
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const client = net.connect(port, '127.0.0.1');
  const peer = await accepted;
  t.after(() => {
    client.destroy();
    peer.destroy();
  });
  assert.equal(getsockname(openSocketDescriptor(client)).port, client.localPort);
  assert.equal(getpeername(openSocketDescriptor(peer)).port, client.localPort);
  const closed = new Promise((resolve) => server.once('close', resolve));
  server.close();
  client.destroy();
  peer.destroy();
  await closed;
  assert.throws(() => openSocketDescriptor(client), { code: 'LIBBPF_NO_DESCRIPTOR' });
  assert.throws(() => openSocketDescriptor(server), { code: 'LIBBPF_NO_DESCRIPTOR' });
});

test('the peer of a unix socket is known by process, user and group', async (t) => {
  const path = join(tmpdir(), `${uniqueName()}.sock`);
  const server = net.createServer();
  t.after(() => server.close());
  await listening(server, path);
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const client = net.connect(path);
  const peer = await accepted;
  const credentials = peerCredentials(openSocketDescriptor(peer));
  assert.deepEqual(credentials, { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
  client.destroy();
});

test('a BPF file system cannot be mounted below a file system without directories of ours, and that is said at once', () => {
  assert.throws(() => mountBpfFilesystem('/sys/kernel/libbpf-ts/none'), { code: 'LIBBPF_SYSCALL' });
});

test('the peer of a unix socket can be held by a pidfd, which says when it has exited', async (t) => {
  const path = join(tmpdir(), `${uniqueName()}.sock`);
  const server = net.createServer();
  t.after(() => server.close());
  await listening(server, path);
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const child = spawn('python3', [
    '-c',
    'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()',
    path,
  ]);
  const peer = await accepted;
  using fd = peerPidfd(openSocketDescriptor(peer));
  assert.ok(fd !== null, 'Linux before 6.5');
  assert.match(readFileSync(`/proc/self/fdinfo/${fd.fd}`, 'utf8'), new RegExp(`Pid:\\s+${child.pid}`));
  assert.equal(isProcessAlive(fd.fd), true);
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('exit', resolve));
  assert.equal(isProcessAlive(fd.fd), false);
  peer.destroy();
});

test('a pidfd refers to a running process, and there is none for a missing one', () => {
  using fd = pidfdOpen(process.pid);
  assert.match(readFileSync(`/proc/self/fdinfo/${fd.fd}`, 'utf8'), new RegExp(`Pid:\\s+${process.pid}`));
  assert.throws(() => pidfdOpen(2 ** 22 + 1), LibbpfError);
});

test('a socket made in another network namespace belongs to it, and the thread comes back', (t) => {
  const namespace = throwAwayNetworkNamespace(t);
  const home = namespaceInode('/proc/thread-self/ns/net');
  const homeCookie = currentNetworkNamespaceCookie();
  const cookie = cookieOfNetworkNamespace(namespace.fd);
  assert.notEqual(cookie, homeCookie);
  const inside = withNetworkNamespace(namespace.fd, () => {
    assert.equal(namespaceInode('/proc/thread-self/ns/net'), namespaceInode(namespace.path));
    return socket(AF_INET, SOCK_DGRAM);
  });
  assert.equal(networkNamespaceCookie(inside.fd), cookie);
  inside.close();
  assert.equal(namespaceInode('/proc/thread-self/ns/net'), home);
  assert.equal(currentNetworkNamespaceCookie(), homeCookie);
});

test('network namespaces nest, and an error on the way brings the thread back too', (t) => {
  const outer = throwAwayNetworkNamespace(t);
  const inner = throwAwayNetworkNamespace(t);
  const home = currentNetworkNamespaceCookie();
  const seen = withNetworkNamespace(outer.fd, () => {
    const deep = withNetworkNamespace(inner.fd, currentNetworkNamespaceCookie);
    return [deep, currentNetworkNamespaceCookie()];
  });
  assert.deepEqual(seen, [cookieOfNetworkNamespace(inner.fd), cookieOfNetworkNamespace(outer.fd)]);
  assert.throws(() =>
    withNetworkNamespace(outer.fd, () => {
      throw new Error('inside');
    }),
  );
  assert.equal(currentNetworkNamespaceCookie(), home);
  assert.throws(() => withNetworkNamespace(9999, () => 1), { errnoName: 'EBADF' });
  assert.equal(currentNetworkNamespaceCookie(), home);
});

test('an asynchronous body is refused', async (t) => {
  const namespace = throwAwayNetworkNamespace(t);
  assert.throws(() => withNetworkNamespace(namespace.fd, async () => 1), { code: 'LIBBPF_ASYNC_IN_NETNS' });
});

test('a pidfd of a process leads into its network namespace', (t) => {
  const namespace = throwAwayNetworkNamespace(t);
  using own = pidfdOpen(process.pid);
  assert.equal(cookieOfNetworkNamespace(own.fd), currentNetworkNamespaceCookie());
  assert.notEqual(cookieOfNetworkNamespace(namespace.fd), currentNetworkNamespaceCookie());
});

test('the process aborts, and says why, when a thread cannot come back to its network namespace', () => {
  const script = `
    import { closeSync, readdirSync, readlinkSync } from 'node:fs';
    import { OwnedFd, withNetworkNamespace } from ${JSON.stringify(new URL('../src/sys.ts', import.meta.url).href)};
    const target = OwnedFd.open('/proc/self/ns/net');
    withNetworkNamespace(target.fd, () => {
      for (const name of readdirSync('/proc/self/fd')) {
        let link = '';
        try { link = readlinkSync('/proc/self/fd/' + name); } catch {}
        if (link.startsWith('net:')) closeSync(Number(name));
      }
    });
    console.log('still here');`;
  // Without a core dump.
  const child = spawnSync('sh', ['-c', 'ulimit -c 0; exec "$@"', 'sh', process.execPath, '--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.equal(child.signal, 'SIGABRT');
  assert.match(child.stderr, /cannot return to the thread's own network namespace \(EBADF\)/);
  assert.equal(child.stdout, '');
});

test('in a worker a listener is made in another namespace, while the main thread stays where it is', async (t) => {
  const namespace = throwAwayNetworkNamespace(t);
  const home = currentNetworkNamespaceCookie();
  const worker = new Worker(
    `
    import { parentPort, workerData } from 'node:worker_threads';
    const sys = await import(workerData.sys);
    const fd = sys.withNetworkNamespace(workerData.namespace, () => {
      const fd = sys.socket(sys.AF_INET, sys.SOCK_STREAM);
      sys.setsockopt(fd.fd, ${SOL_SOCKET}, ${SO_REUSEPORT}, 1);
      sys.bind(fd.fd, { address: '127.0.0.1', port: 4321 });
      sys.listen(fd.fd);
      return fd.disown();
    });
    parentPort.postMessage({ fd, home: sys.currentNetworkNamespaceCookie() });`,
    { eval: true, workerData: { sys: new URL('../src/sys.ts', import.meta.url).href, namespace: namespace.fd } },
  );
  const message = await new Promise<{ fd: number; home: bigint }>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  await worker.terminate();
  // Descriptors are shared by all threads, and outlive the worker.
  using fd = new OwnedFd(message.fd);
  assert.equal(message.home, home);
  assert.equal(currentNetworkNamespaceCookie(), home);
  assert.equal(networkNamespaceCookie(fd.fd), cookieOfNetworkNamespace(namespace.fd));
  assert.equal(getsockname(fd.fd).port, 4321);
});

test('a BPF file system is mounted once', (t) => {
  const directory = throwAwayBpfFilesystem(t);
  assert.equal(isBpfFilesystem(directory), true);
  assert.equal(mountBpfFilesystem(directory), false);
  assert.equal(isBpfFilesystem(tmpdir()), false);
  assert.equal(isBpfFilesystem('/nowhere/at/all'), false);
});

test('a cgroup has its inode number as id, and nothing else has one', (t) => {
  const { path } = throwAwayCgroup(t);
  assert.equal(cgroupId(path), statSync(path, { bigint: true }).ino);
  assert.notEqual(cgroupId(path), cgroupId(cgroupRoot()));
  assert.throws(() => cgroupId('/tmp'), { code: 'LIBBPF_NOT_A_CGROUP' });
  assert.throws(() => cgroupId(`${path}/none`), { code: 'LIBBPF_NOT_A_CGROUP' });
});
