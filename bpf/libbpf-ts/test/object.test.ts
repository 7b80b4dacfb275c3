import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  BpfMap,
  BpfObject,
  LibbpfError,
  MapType,
  openOwnedFds,
  PinnedProgram,
  ProgramType,
  traceOwnedFds,
  u32,
  u64,
} from '../src/index.ts';
import { libbpf } from '../src/ffi.ts';
import { fixture, openKit, throwAwayBpfFilesystem } from './kit.ts';

function caught(body: () => unknown): LibbpfError {
  try {
    body();
  } catch (error) {
    assert.ok(error instanceof LibbpfError, String(error));
    return error;
  }
  return assert.fail('nothing was thrown');
}

test('an object file tells its programs and maps before anything is loaded', () => {
  using object = openKit();
  assert.deepEqual(
    object.programs.map(({ name, section, typeName, attachType }) => [name, section, typeName, attachType]),
    [
      ['on_connect', 'cgroup/connect4', 'cgroup_sock_addr', 10],
      ['also_on_connect', 'cgroup/connect4', 'cgroup_sock_addr', 10],
      ['steer', 'sk_lookup', 'sk_lookup', 36],
      ['on_message', 'sk_msg', 'sk_msg', 7],
      ['on_socket', 'sockops', 'sock_ops', 3],
    ],
  );
  const pairs = object.maps.find((map) => map.name === 'pairs');
  assert.deepEqual(pairs, { name: 'pairs', type: MapType.HASH, typeName: 'hash', keySize: 4, valueSize: 16, maxEntries: 64, flags: 0 });
});

test('an object loads from its path and from its bytes, and leaves no descriptor behind', () => {
  const before = readdirSync('/proc/self/fd').length;
  traceOwnedFds(true);
  for (const source of [fixture('kit'), readFileSync(fixture('kit'))]) {
    using object = BpfObject.open(source);
    using loaded = object.load();
    assert.equal(loaded.program('on_connect').info().type, ProgramType.CGROUP_SOCK_ADDR);
    assert.equal(loaded.program('on_connect').info().name, 'on_connect');
    assert.match(loaded.program('on_connect').info().tag, /^[0-9a-f]{16}$/);
    assert.equal(loaded.map('counters').info().type, MapType.PERCPU_ARRAY);
  }
  assert.deepEqual(openOwnedFds(), []);
  traceOwnedFds(false);
  assert.equal(readdirSync('/proc/self/fd').length, before);
});

test('a refused program and a map that cannot be made leave no descriptor behind', () => {
  const before = readdirSync('/proc/self/fd').length;
  caught(() => BpfObject.open(fixture('rejected')).load());
  caught(() => openKit({ mapMaxEntries: { pairs: 0xffffffff } }).load());
  caught(() => openKit({ rodata: { nothing: 1 } }));
  assert.equal(readdirSync('/proc/self/fd').length, before);
});

test('an object loads once, and its programs and maps end with it', () => {
  const object = openKit();
  const loaded = object.load();
  assert.equal(caught(() => object.load()).code, 'LIBBPF_CLOSED');
  const map = loaded.map('counters', { key: u32, value: u64 });
  using longer = map.duplicate();
  const program = loaded.program('on_connect');
  loaded.close();
  loaded.close();
  assert.equal(caught(() => program.fd).code, 'LIBBPF_CLOSED');
  assert.equal(caught(() => map.fd).code, 'LIBBPF_CLOSED');
  assert.equal(caught(() => map.sum(0)).code, 'LIBBPF_CLOSED');
  assert.equal(longer.sum(0), 0n);
});

test('a refused program is an error with the whole verifier log, and its last lines in the message', () => {
  const error = caught(() => BpfObject.open(fixture('rejected')).load());
  assert.deepEqual([error.code, error.errnoName], ['LIBBPF_VERIFIER', 'EACCES']);
  assert.match(error.message, /the kernel refused the program careless of rejected: EACCES/);
  assert.match(error.message, /R0 invalid mem access 'map_value_or_null'$/);
  assert.match(error.verifierLog ?? '', /call bpf_map_lookup_elem#1[\s\S]*processed \d+ insns/);
  assert.ok(error.message.split('\n').length <= 7);
});

test('a program can be left out, and the rest loads', () => {
  using object = BpfObject.open(fixture('rejected'), { skipPrograms: ['careless'] });
  using loaded = object.load();
  assert.deepEqual(loaded.programNames, ['fine']);
  assert.equal(loaded.hasProgram('careless'), false);
  const error = caught(() => loaded.program('careless'));
  assert.deepEqual([error.code, error.message], ['LIBBPF_NOT_FOUND', 'rejected has no loaded program "careless"; it has fine']);
});

test('a map that cannot be made is an error with the words of libbpf', () => {
  const error = caught(() => openKit({ mapMaxEntries: { pairs: 0xffffffff } }).load());
  assert.equal(error.code, 'LIBBPF_LOAD');
  assert.match(error.message, /cannot load kit: \w+\n[\s\S]*map 'pairs': failed to create/);
});

test('what an option names must be in the object', () => {
  for (const options of [
    { rodata: { nothing: 1 } },
    { skipPrograms: ['nothing'] },
    { mapMaxEntries: { nothing: 1 } },
    { reuseMaps: { nothing: 1 } },
  ]) {
    const error = caught(() => openKit(options));
    assert.equal(error.code, 'LIBBPF_NOT_FOUND');
    assert.match(error.message, /"nothing"; it has .*\w/);
  }
});

test('what is not a BPF object file is refused', () => {
  const image = readFileSync(fixture('kit'));
  assert.equal(caught(() => BpfObject.open(new Uint8Array(0))).code, 'LIBBPF_OBJECT_FORMAT');
  assert.equal(caught(() => BpfObject.open(readFileSync(process.execPath).subarray(0, 4096))).code, 'LIBBPF_OBJECT_FORMAT');
  assert.equal(caught(() => BpfObject.open('/nowhere/x.o')).code, 'LIBBPF_OPEN');
  // Another machine's code in the same format: e_machine is x86-64.
  image.writeUInt16LE(62, 18);
  const error = caught(() => BpfObject.open(image));
  assert.deepEqual([error.code, error.errnoName], ['LIBBPF_OPEN', 'LIBBPF_ERRNO__FORMAT']);
  assert.match(error.message, /not a valid eBPF object file/);
});

test('libbpf prints nothing of its own', (t) => {
  const write = t.mock.method(process.stderr, 'write');
  caught(() => BpfObject.open(fixture('rejected')).load());
  assert.equal(write.mock.callCount(), 0);
  // Between calls no function of ours is registered, which libbpf could call from another thread.
  assert.equal(libbpf().libbpf_set_print(null), 0n);
});

test('capacities can be changed before load', () => {
  using object = openKit({ mapMaxEntries: { pairs: 7 } });
  assert.equal(object.maps.find((map) => map.name === 'pairs')?.maxEntries, 7);
  using loaded = object.load();
  assert.equal(loaded.map('pairs').info().maxEntries, 7);
});

test('a map is shared by two objects that reuse it', () => {
  using first = openKit().load();
  using map = first.map('counters', { key: u32, value: u64 });
  using second = openKit({ reuseMaps: { counters: map } }).load();
  map.update(1, 42n);
  assert.deepEqual(second.map('counters', { key: u32, value: u64 }).info().id, map.info().id);
});

test('a map that differs from the definition is not reused, and the error names what differs', () => {
  using other = BpfMap.create({ type: MapType.ARRAY, name: 'other', keySize: 4, valueSize: 24, maxEntries: 9 });
  const error = caught(() => openKit({ reuseMaps: { pairs: other.fd } }));
  assert.equal(error.code, 'LIBBPF_MAP_INCOMPATIBLE');
  assert.equal(
    error.message,
    'the map to reuse as pairs has type array instead of hash, valueSize 24 instead of 16, maxEntries 9 instead of 64',
  );
});

test('a whole object is pinned, and the next load adopts its maps with what is in them', (t) => {
  const directory = throwAwayBpfFilesystem(t);
  const maps = join(directory, 'maps');
  {
    using loaded = openKit({ reusePinnedMaps: maps }).load();
    loaded.pin(directory);
    loaded.map('counters', { key: u32, value: u64 }).update(2, 5n);
    loaded.pin(directory);
  }
  assert.deepEqual(readdirSync(maps).toSorted(), ['counters', 'events', 'listeners', 'marks', 'pairs', 'sockets']);
  assert.ok(existsSync(join(directory, 'programs', 'steer')));
  using program = PinnedProgram.openPinned(join(directory, 'programs', 'steer'));
  assert.equal(program.info().type, ProgramType.SK_LOOKUP);

  using again = openKit({ reusePinnedMaps: maps }).load();
  assert.ok((again.map('counters', { key: u32, value: u64 }).sum(2) ?? 0n) >= 5n);

  const error = caught(() => openKit({ reusePinnedMaps: maps, mapMaxEntries: { pairs: 8 } }));
  assert.deepEqual([error.code, error.message], ['LIBBPF_MAP_INCOMPATIBLE', 'the map to reuse as pairs has maxEntries 64 instead of 8']);
});

test('pinning again puts the new map in the place of another one', (t) => {
  const directory = throwAwayBpfFilesystem(t);
  using first = openKit().load();
  first.pinMaps(directory, ['pairs']);
  using second = openKit().load();
  second.pinMaps(directory, ['pairs']);
  using pinned = BpfMap.openPinned(join(directory, 'pairs'));
  assert.equal(pinned.info().id, second.map('pairs').info().id);
  // The kernel puts debug files of its own there; their names have a dot.
  assert.deepEqual(
    readdirSync(directory).filter((name) => !name.includes('.')),
    ['pairs'],
  );
});

test('objects are opened in the main thread only', async () => {
  const worker = new Worker(
    `import { parentPort, workerData } from 'node:worker_threads';
     const { BpfObject } = await import(workerData.index);
     try { BpfObject.open(workerData.path); } catch (error) { parentPort.postMessage(error.code); }`,
    { eval: true, workerData: { index: new URL('../src/index.ts', import.meta.url).href, path: fixture('kit') } },
  );
  const code = await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  await worker.terminate();
  assert.equal(code, 'LIBBPF_MAIN_THREAD_ONLY');
});
