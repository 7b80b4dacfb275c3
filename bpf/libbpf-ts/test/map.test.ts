import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import {
  at,
  BpfMap,
  bytes,
  LibbpfError,
  MAP_FLAG_NO_PREALLOC,
  MapType,
  possibleCpuCount,
  struct,
  u8,
  u16,
  u32,
  u64,
  UpdateFlag,
} from '../src/index.ts';
import { AF_INET, bind, listen, SOCK_STREAM, socket, socketCookie } from '../src/sys.ts';
import { openKit, throwAwayBpfFilesystem } from './kit.ts';

const pair = struct(16, { cookie: at(0, u64), address: at(8, u32), port: at(12, u16), tag: at(14, u8) });
const numbers = { key: u32, value: u64 };

function hash(maxEntries = 8): BpfMap<number, bigint> {
  return BpfMap.create({ type: MapType.HASH, name: 'numbers', keySize: 4, valueSize: 8, maxEntries }, numbers);
}

function byKey(a: [number, bigint], b: [number, bigint]): number {
  return a[0] - b[0];
}

test('a hash map keeps what is written, and says what it is', () => {
  using map = hash();
  assert.equal(map.lookup(1), undefined);
  map.update(1, 2n ** 63n);
  map.update(2, 5n);
  assert.equal(map.lookup(1), 2n ** 63n);
  assert.equal(map.sum(2), 5n);
  assert.equal(map.has(3), false);
  assert.equal(map.delete(1), true);
  assert.equal(map.delete(1), false);
  assert.equal(map.lookup(1), undefined);
  const { name, type, keySize, valueSize, maxEntries, id } = map.info();
  assert.deepEqual([name, type, keySize, valueSize, maxEntries], ['numbers', MapType.HASH, 4, 8, 8]);
  assert.ok(id > 0);
});

test('update flags insert only, or replace only', () => {
  using map = hash();
  assert.throws(() => map.update(1, 1n, UpdateFlag.EXIST), { code: 'LIBBPF_MAP_OPERATION', errnoName: 'ENOENT' });
  map.update(1, 1n, UpdateFlag.NOEXIST);
  assert.throws(() => map.update(1, 2n, UpdateFlag.NOEXIST), { errnoName: 'EEXIST' });
  assert.equal(map.lookup(1), 1n);
});

test('a full map refuses the next entry', () => {
  using map = hash(2);
  map.update(1, 1n);
  map.update(2, 2n);
  assert.throws(() => map.update(3, 3n), {
    code: 'LIBBPF_MAP_OPERATION',
    errnoName: 'E2BIG',
    message: /update on the hash map numbers failed/,
  });
});

test('a map does what a Map of JavaScript does', () => {
  using map = hash(64);
  const operation = fc.oneof(
    fc.record({ kind: fc.constant('update' as const), key: fc.nat(30), value: fc.bigInt(0n, 2n ** 64n - 1n) }),
    fc.record({ kind: fc.constant('delete' as const), key: fc.nat(30), value: fc.constant(0n) }),
  );
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
      map.clear();
      const model = new Map<number, bigint>();
      for (const { kind, key, value } of operations) {
        if (kind === 'update') {
          map.update(key, value);
          model.set(key, value);
        } else {
          assert.equal(map.delete(key), model.delete(key));
        }
      }
      assert.deepEqual([...map.entries()].toSorted(byKey), [...model].toSorted(byKey));
    }),
    { numRuns: 30 },
  );
});

test('entries may be deleted while they are walked', () => {
  using map = hash(100);
  for (let key = 0; key < 100; key++) map.update(key, BigInt(key));
  let seen = 0;
  for (const [key] of map.entries()) {
    map.delete(key);
    seen++;
  }
  assert.equal(seen, 100);
  assert.deepEqual([...map.keys()], []);
});

test('a walk ends although the map changes all the time', () => {
  using map = hash(16);
  for (let key = 0; key < 16; key++) map.update(key, 0n);
  let steps = 0;
  let fresh = 16;
  for (const _key of map.keys()) {
    // The key that comes next is gone by then, and the kernel starts again from the first.
    map.clear();
    for (let count = 0; count < 16; count++) map.update(fresh++, 0n);
    if (++steps > 1000) break;
  }
  assert.ok(steps <= 16, `${steps} steps`);
});

test('clear empties a hash and zeroes an array', () => {
  using table = hash();
  table.update(1, 1n);
  table.clear();
  assert.deepEqual([...table.entries()], []);
  using list = BpfMap.create({ type: MapType.ARRAY, keySize: 4, valueSize: 8, maxEntries: 3 }, numbers);
  list.update(2, 9n);
  list.clear();
  assert.deepEqual(
    [...list.entries()],
    [
      [0, 0n],
      [1, 0n],
      [2, 0n],
    ],
  );
  using spread = BpfMap.create({ type: MapType.PERCPU_ARRAY, keySize: 4, valueSize: 8, maxEntries: 2 }, numbers);
  spread.update(0, 3n);
  spread.clear();
  assert.equal(spread.sum(0), 0n);
});

test('a per-CPU map has a value for each CPU, and their sum', () => {
  const codecs = { key: u32, value: u32 };
  using map = BpfMap.create({ type: MapType.PERCPU_HASH, keySize: 4, valueSize: 4, maxEntries: 4 }, codecs);
  assert.equal(map.valueSize, 8 * possibleCpuCount(), 'each value is rounded up to 8 bytes');
  map.update(1, 7);
  assert.deepEqual(
    map.lookupPerCpu(1),
    Array.from({ length: possibleCpuCount() }, () => 7),
  );
  assert.equal(map.sum(1), 7n * BigInt(possibleCpuCount()));
  assert.equal(map.lookupPerCpu(2), undefined);
  assert.equal(map.sum(2), undefined);
  assert.deepEqual(
    [...map.entriesPerCpu()].map(([key, values]) => [key, values.length]),
    [[1, possibleCpuCount()]],
  );
  assert.throws(() => map.lookup(1), { code: 'LIBBPF_MAP_OPERATION', message: /per-CPU/ });
  assert.throws(() => [...map.entries()], { code: 'LIBBPF_MAP_OPERATION' });
  using plain = hash();
  assert.throws(() => plain.lookupPerCpu(1), { code: 'LIBBPF_MAP_OPERATION' });
});

test('codecs whose sizes are not those of the map are refused', () => {
  using map = hash();
  assert.throws(() => BpfMap.fromFd(map.fd, { key: u64, value: u64 }), {
    code: 'LIBBPF_CODEC',
    message: 'the hash map numbers has keys of 4 bytes and values of 8, the codecs have 8 and 8',
  });
  assert.throws(() => BpfMap.fromFd(map.fd, { key: u32, value: pair }), { code: 'LIBBPF_CODEC' });
  assert.throws(() => BpfMap.fromFd(0), { code: 'LIBBPF_SYSCALL' });
});

test('without codecs keys and values are bytes', () => {
  using map = hash();
  map.update(0x01020304, 5n);
  const raw = BpfMap.fromFd(map.fd);
  assert.deepEqual(
    [...raw.entries()].map(([key, value]) => [[...key], [...value]]),
    [
      [
        [4, 3, 2, 1],
        [5, 0, 0, 0, 0, 0, 0, 0],
      ],
    ],
  );
  const mixed = BpfMap.fromFd(map.fd, { key: u32, value: bytes(8) });
  assert.equal(mixed.lookup(0x01020304)?.[0], 5);
});

test('the raw path reads, writes and removes through buffers made once', () => {
  using map = hash();
  const key = map.allocateKey();
  const value = map.allocateValue();
  key.view.setUint32(0, 77, true);
  assert.equal(map.lookupRaw(key, value), false);
  value.view.setBigUint64(0, 123n, true);
  map.updateRaw(key, value);
  value.bytes.fill(0);
  assert.equal(map.lookupRaw(key, value), true);
  assert.equal(value.view.getBigUint64(0, true), 123n);
  assert.equal(map.deleteRaw(key), true);
  assert.equal(map.deleteRaw(key), false);
  assert.throws(() => map.lookupRaw(key, key), { code: 'LIBBPF_MAP_OPERATION', message: /too small/ });
});

test('a worker uses a map by the descriptor of the main thread', async () => {
  using map = hash();
  map.update(1, 41n);
  const worker = new Worker(
    `import { parentPort, workerData } from 'node:worker_threads';
     const { BpfMap, u32, u64 } = await import(workerData.index);
     const map = BpfMap.fromFd(workerData.fd, { key: u32, value: u64 });
     const key = map.allocateKey(), value = map.allocateValue();
     key.view.setUint32(0, 1, true);
     map.lookupRaw(key, value);
     map.update(2, value.view.getBigUint64(0, true) + 1n);
     map.close();
     parentPort.postMessage('done');`,
    { eval: true, workerData: { index: new URL('../src/index.ts', import.meta.url).href, fd: map.fd } },
  );
  await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  await worker.terminate();
  assert.equal(map.lookup(2), 42n);
});

test('a pinned map is the same map, and outlives its descriptor', (t) => {
  const path = join(throwAwayBpfFilesystem(t), 'deep', 'er', 'numbers');
  {
    using map = hash();
    map.update(1, 1n);
    map.pin(path);
    assert.throws(() => map.pin(path), { code: 'LIBBPF_PIN', errnoName: 'EEXIST' });
    map.pin(path, { replace: true });
  }
  using pinned = BpfMap.openPinned(path, numbers);
  assert.equal(pinned.lookup(1), 1n);
  assert.throws(() => BpfMap.openPinned(`${path}-none`), { code: 'LIBBPF_PIN', errnoName: 'ENOENT' });
  assert.throws(() => pinned.pin('/tmp/not-a-bpf-file-system'), { code: 'LIBBPF_PIN' });
});

test('socket storage is written and read through the descriptor of the socket', () => {
  using loaded = openKit().load();
  const marks = loaded.map('marks', { key: u32, value: u32 });
  using one = socket(AF_INET, SOCK_STREAM);
  using other = socket(AF_INET, SOCK_STREAM);
  marks.update(one.fd, 7);
  assert.equal(marks.lookup(one.fd), 7);
  assert.equal(marks.lookup(other.fd), undefined);
  assert.equal(marks.delete(one.fd), true);
  assert.throws(() => marks.update(9999, 7), { errnoName: 'EBADF' });
});

test('a sockmap takes a socket by its descriptor and gives its cookie', () => {
  using loaded = openKit().load();
  const listeners = loaded.map('listeners', { key: u32, value: u64 });
  using listener = socket(AF_INET, SOCK_STREAM);
  bind(listener.fd, { address: '127.0.0.1', port: 0 });
  listen(listener.fd);
  listeners.update(0, BigInt(listener.fd));
  assert.equal(listeners.lookup(0), socketCookie(listener.fd));
  assert.equal(listeners.lookup(1), undefined);
  assert.equal(listeners.delete(0), true);
  assert.equal(listeners.delete(0), false);
});

test('a map that cannot be made says why', () => {
  const bad = { type: MapType.HASH, name: 'bad', keySize: 0, valueSize: 8, maxEntries: 1 };
  assert.throws(() => BpfMap.create(bad), { code: 'LIBBPF_MAP_OPERATION', errnoName: 'EINVAL', message: /"bad"/ });
  using trie = BpfMap.create({ type: MapType.LPM_TRIE, keySize: 8, valueSize: 8, maxEntries: 4, flags: MAP_FLAG_NO_PREALLOC });
  assert.equal(trie.info().flags, MAP_FLAG_NO_PREALLOC);
});

test('a closed map is not used', () => {
  const map = hash();
  const key = map.allocateKey();
  const value = map.allocateValue();
  map.close();
  map.close();
  for (const use of [() => map.fd, () => map.lookup(1), () => map.update(1, 1n), () => map.lookupRaw(key, value), () => [...map.keys()]]) {
    assert.throws(use, (error) => error instanceof LibbpfError && error.code === 'LIBBPF_CLOSED');
  }
});
