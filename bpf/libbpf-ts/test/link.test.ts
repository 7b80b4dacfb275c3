import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { AttachType, type BpfMap, Link, type LoadedObject, u32, u64 } from '../src/index.ts';
import {
  AF_INET,
  bind,
  cgroupId,
  connect,
  getsockname,
  LibbpfError,
  listen,
  namespaceInode,
  SOCK_STREAM,
  socket,
  withNetworkNamespace,
} from '../src/sys.ts';
import { eventually, openKit, throwAwayBpfFilesystem, throwAwayCgroup, throwAwayNetworkNamespace } from './kit.ts';

const CONNECTS = 0;
const MARKED = 1;
const ALSO = 2;
const STEERED = 3;

/** Loads the test programs for one port, refusing connections to it, with this process inside a cgroup of its own. */
function refusing(t: TestContext): {
  loaded: LoadedObject;
  cgroup: { path: string; fd: number };
  counters: BpfMap<number, bigint>;
  port: number;
} {
  const cgroup = throwAwayCgroup(t);
  const listener = socket(AF_INET, SOCK_STREAM);
  bind(listener.fd, { address: '127.0.0.1', port: 0 });
  listen(listener.fd);
  const { port } = getsockname(listener.fd);
  const loaded = openKit({ rodata: { watched_port: port, refuse: 1 } }).load();
  t.after(() => {
    loaded.close();
    listener.close();
  });
  cgroup.enter();
  return { loaded, cgroup, counters: loaded.map('counters', { key: u32, value: u64 }), port };
}

/** What becomes of a connection: null, or the name of the error. */
function attempt(port: number, prepare?: (fd: number) => void): string | null {
  using fd = socket(AF_INET, SOCK_STREAM);
  prepare?.(fd.fd);
  try {
    connect(fd.fd, { address: '127.0.0.1', port });
    return null;
  } catch (error) {
    return error instanceof LibbpfError ? error.errnoName : String(error);
  }
}

test('a program on a cgroup refuses connections until its link is closed', (t) => {
  const { loaded, cgroup, counters, port } = refusing(t);
  assert.equal(attempt(port), null);
  const link = loaded.program('on_connect').attachCgroup(cgroup.fd);
  assert.equal(attempt(port), 'EPERM');
  assert.equal(counters.sum(CONNECTS), 1n);
  link.close();
  assert.equal(attempt(port), null);
  assert.throws(() => link.fd, { code: 'LIBBPF_CLOSED' });
});

test('a socket that user space marked in socket storage passes, and no other', (t) => {
  const { loaded, cgroup, counters, port } = refusing(t);
  const marks = loaded.map('marks', { key: u32, value: u32 });
  using _link = loaded.program('on_connect').attachCgroup(cgroup.fd);
  assert.equal(
    attempt(port, (fd) => marks.update(fd, 7)),
    null,
  );
  assert.equal(
    attempt(port, (fd) => marks.update(fd, 8)),
    'EPERM',
  );
  assert.equal(counters.sum(MARKED), 1n);
});

test('links of two programs on one hook coexist', (t) => {
  const { loaded, cgroup, counters, port } = refusing(t);
  using _first = loaded.program('also_on_connect').attachCgroup(cgroup.fd);
  using _second = loaded.program('on_connect').attachCgroup(cgroup.fd);
  assert.equal(attempt(port), 'EPERM');
  assert.deepEqual([counters.sum(CONNECTS), counters.sum(ALSO)], [1n, 1n]);
});

test('a link tells its program and its cgroup', (t) => {
  const { loaded, cgroup } = refusing(t);
  using link = loaded.program('on_connect').attachCgroup(cgroup.fd);
  const info = link.info();
  assert.deepEqual(
    [info.kind, info.programId, info.attachType, info.attachTypeName, info.cgroupId, info.netnsInode],
    [
      'cgroup',
      loaded.program('on_connect').info().id,
      AttachType.CGROUP_INET4_CONNECT,
      'cgroup_inet4_connect',
      cgroupId(cgroup.path),
      null,
    ],
  );
});

test('a pinned link outlives the object, is found again, gets another program, and ends when unpinned', (t) => {
  const { loaded, cgroup, counters, port } = refusing(t);
  const path = join(throwAwayBpfFilesystem(t), 'links', 'connect4');
  using longer = counters.duplicate();
  {
    using link = loaded.program('on_connect').attachCgroup(cgroup.fd);
    link.pin(path);
    assert.equal(link.pinPath, path);
  }
  loaded.close();
  assert.equal(attempt(port), 'EPERM');

  using link = Link.openPinned(path);
  using next = openKit({ rodata: { watched_port: port }, reuseMaps: { counters: longer } }).load();
  link.update(next.program('also_on_connect'));
  assert.equal(link.info().programId, next.program('also_on_connect').info().id);
  assert.equal(attempt(port), null);
  assert.equal(longer.sum(ALSO), 1n);

  link.unpin();
  assert.equal(existsSync(path), false);
  link.unpin();
  link.close();
  assert.equal(attempt(port), null);
  assert.equal(longer.sum(ALSO), 1n);
  assert.throws(() => Link.openPinned(path), { code: 'LIBBPF_PIN', errnoName: 'ENOENT' });
});

test('an update can insist on the program that is there now', (t) => {
  const { loaded, cgroup } = refusing(t);
  const [first, second] = [loaded.program('on_connect'), loaded.program('also_on_connect')];
  using link = first.attachCgroup(cgroup.fd);
  assert.throws(() => link.update(second, second), { code: 'LIBBPF_ATTACH', errnoName: 'EPERM' });
  assert.equal(link.info().programId, first.info().id);
  link.update(second, first);
  assert.equal(link.info().programId, second.info().id);
});

test('detach ends the attachment although a pin remains', (t) => {
  const { loaded, cgroup, port } = refusing(t);
  const path = join(throwAwayBpfFilesystem(t), 'link');
  using link = loaded.program('on_connect').attachCgroup(cgroup.fd);
  link.pin(path);
  link.detach();
  assert.equal(attempt(port), null);
  assert.equal(link.info().cgroupId, 0n);
  link.unpin();
});

test('a program is not attached where it does not belong', (t) => {
  const { loaded, cgroup } = refusing(t);
  assert.throws(() => loaded.program('steer').attachCgroup(cgroup.fd), { code: 'LIBBPF_ATTACH', message: /sk_lookup/ });
  assert.throws(() => loaded.program('on_connect').attachCgroup(9999), { errnoName: 'EBADF' });
});

test('sk_lookup in a network namespace gives connections to any port to our listener', async (t) => {
  const namespace = throwAwayNetworkNamespace(t);
  const loaded = openKit({ rodata: { watched_port: 8080 } }).load();
  t.after(() => loaded.close());
  const fd = withNetworkNamespace(namespace.fd, () => {
    const listener = socket(AF_INET, SOCK_STREAM);
    bind(listener.fd, { address: '127.0.0.1', port: 15006 });
    listen(listener.fd);
    return listener;
  });
  loaded.map('listeners', { key: u32, value: u64 }).update(0, BigInt(fd.fd));
  using link = loaded.program('steer').attachNetns(namespace.fd);
  assert.deepEqual([link.info().kind, BigInt(link.info().netnsInode ?? 0)], ['netns', namespaceInode(namespace.path)]);

  const seen: (number | undefined)[] = [];
  const server = net.createServer((client) => {
    seen.push(client.localPort);
    client.destroy();
  });
  await new Promise<void>((resolve) => server.listen({ fd: fd.disown() }, resolve));
  t.after(() => server.close());
  using client = withNetworkNamespace(namespace.fd, () => {
    const out = socket(AF_INET, SOCK_STREAM);
    connect(out.fd, { address: '127.0.0.1', port: 8080 });
    return out;
  });
  await eventually(() => seen.length === 1);
  assert.deepEqual(seen, [8080]);
  assert.equal(loaded.map('counters', { key: u32, value: u64 }).sum(STEERED), 1n);
  client.close();
});

test('an sk_msg program is attached to a sockhash, directly and (Linux 6.10) by a link', () => {
  using loaded = openKit().load();
  const program = loaded.program('on_message');
  const target = loaded.map('sockets');
  {
    using attachment = program.attachDirect(target.fd);
    attachment.detach();
    attachment.detach();
    assert.throws(() => program.attachDirect(9999), { errnoName: 'EBADF' });
    const before = readdirSync('/proc/self/fd').length;
    assert.throws(() => loaded.program('steer').attachDirect(target.fd), { code: 'LIBBPF_ATTACH' });
    assert.equal(readdirSync('/proc/self/fd').length, before);
  }
  using link = program.attach(target.fd);
  assert.deepEqual([link.info().kind, link.info().mapId], ['sockmap', target.info().id]);
});
