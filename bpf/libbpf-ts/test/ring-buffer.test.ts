import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { type BpfMap, BpfMap as Maps, MapType, RingBuffer } from '../src/index.ts';
import { AF_INET, connect, currentNetworkNamespaceCookie, SOCK_STREAM, socket } from '../src/sys.ts';
import { eventually, fixture, openKit, throwAwayCgroup } from './kit.ts';

const PORT = 9;
const RECORD_SIZE = 16;

/** A ring buffer that gets a record for each call of `emit`. */
function emitter(t: TestContext, entries = 4096): { events: BpfMap; emit(count: number): void } {
  const cgroup = throwAwayCgroup(t);
  const loaded = openKit({ rodata: { watched_port: PORT, refuse: 1 }, mapMaxEntries: { events: entries } }).load();
  const link = loaded.program('on_connect').attachCgroup(cgroup.fd);
  t.after(() => {
    link.close();
    loaded.close();
  });
  cgroup.enter();
  let serial = 0;
  return {
    events: loaded.map('events'),
    emit(count) {
      using fd = socket(AF_INET, SOCK_STREAM);
      for (let i = 0; i < count; i++) {
        const next = serial++;
        assert.throws(() => connect(fd.fd, { address: `127.0.${(next >> 8) & 255}.${next & 255}`, port: PORT }), { errnoName: 'EPERM' });
      }
    },
  };
}

function serialOf(record: Uint8Array): number {
  return ((record[10] ?? 0) << 8) | (record[11] ?? 0);
}

test('records arrive by the event loop, whole and in order, however often the ring wraps', async (t) => {
  const { events, emit } = emitter(t);
  const records: Uint8Array[] = [];
  await using _ring = new RingBuffer(events, (record) => {
    records.push(record.slice());
  });
  // 24 bytes a record: 4096 bytes hold 170 of them, so that 1,000 wrap several times.
  for (let round = 0; round < 10; round++) {
    emit(100);
    await eventually(() => records.length === (round + 1) * 100);
  }
  assert.ok(records.every((record) => record.length === RECORD_SIZE));
  assert.deepEqual(
    records.map(serialOf),
    Array.from({ length: 1000 }, (_, i) => i),
  );
  const first = new DataView(records[0]?.buffer ?? new ArrayBuffer(0));
  assert.equal(first.getBigUint64(0, true), currentNetworkNamespaceCookie());
  assert.equal(first.getUint32(12, true), PORT);
});

test('one turn of the event loop handles no more records than allowed, and the rest comes in the next turns', async (t) => {
  const { events, emit } = emitter(t);
  let turn = 0;
  const perTurn = new Map<number, number>();
  await using _ring = new RingBuffer(events, () => perTurn.set(turn, (perTurn.get(turn) ?? 0) + 1), { maximumRecordsPerWake: 10 });
  emit(95);
  for (turn = 1; turn <= 40; turn++) await new Promise((resolve) => setImmediate(resolve));
  const counts = [...perTurn.values()];
  assert.equal(
    counts.reduce((a, b) => a + b, 0),
    95,
  );
  assert.ok(counts.length >= 10 && counts.every((count) => count <= 10), String(counts));
});

test('a full ring loses new records and keeps the old ones', async (t) => {
  const { events, emit } = emitter(t);
  emit(300);
  const serials: number[] = [];
  await using _ring = new RingBuffer(events, (record) => serials.push(serialOf(record)));
  await eventually(() => serials.length === 170);
  emit(1);
  await eventually(() => serials.length === 171);
  assert.deepEqual(
    serials.slice(0, 170),
    Array.from({ length: 170 }, (_, i) => i),
  );
  assert.equal(serials[170], 300 & 0xffff);
});

test('a consumer that throws loses nothing, and the error is an uncaught exception', async (t) => {
  const { events, emit } = emitter(t);
  const uncaught: unknown[] = [];
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => uncaught.push(error));
  t.after(() => {
    process.removeAllListeners('uncaughtException');
    for (const listener of listeners) process.on('uncaughtException', listener);
  });
  let seen = 0;
  await using _ring = new RingBuffer(events, () => {
    seen++;
    if (seen === 2) throw new Error('second');
  });
  emit(5);
  await eventually(() => seen === 5 && uncaught.length === 1);
  assert.match(String(uncaught[0]), /second/);
});

test('promises made by the consumer are settled straight after it', async (t) => {
  const { events, emit } = emitter(t);
  const order: string[] = [];
  await using _ring = new RingBuffer(events, () => {
    order.push('record');
    void Promise.resolve().then(() => order.push('microtask'));
    setImmediate(() => order.push('immediate'));
  });
  emit(1);
  await eventually(() => order.length === 3);
  assert.deepEqual(order, ['record', 'microtask', 'immediate']);
});

test('a promise that the consumer settles wakes who waits for it, although nothing else happens', async (t) => {
  const { events, emit } = emitter(t);
  const arrived = Promise.withResolvers<void>();
  const ring = new RingBuffer(events, () => {
    arrived.resolve();
  });
  emit(1);
  const start = performance.now();
  await arrived.promise;
  await ring.close();
  assert.ok(performance.now() - start < 10_000, `${performance.now() - start} ms`);
});

test('closing from inside the consumer ends it there, frees everything, and empties views that were kept', async (t) => {
  const { events, emit } = emitter(t);
  const before = readdirSync('/proc/self/fd').length;
  let kept: Uint8Array | undefined;
  let calls = 0;
  const ring: RingBuffer = new RingBuffer(events, (record) => {
    calls++;
    kept = record;
    void ring.close();
  });
  emit(3);
  await eventually(() => calls === 1);
  await ring.close();
  emit(1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(calls, 1);
  assert.equal(kept?.length, 0);
  assert.equal(ring.consume(), 0);
  ring.unref();
  assert.equal(readdirSync('/proc/self/fd').length, before);
});

test('a second reader goes on where the first one stopped', async (t) => {
  const { events, emit } = emitter(t);
  const serials: number[] = [];
  const first = new RingBuffer(events, (record) => serials.push(serialOf(record)));
  emit(3);
  await eventually(() => serials.length === 3);
  await first.close();
  emit(2);
  await using _second = new RingBuffer(events, (record) => serials.push(serialOf(record)));
  await eventually(() => serials.length === 5);
  assert.deepEqual(serials, [0, 1, 2, 3, 4]);
});

test('what is no ring buffer is refused, and so is a limit that is none', () => {
  using map = Maps.create({ type: MapType.HASH, name: 'table', keySize: 4, valueSize: 4, maxEntries: 1 });
  assert.throws(() => new RingBuffer(map, () => {}), { code: 'LIBBPF_RING_BUFFER', message: /table is a hash map/ });
  using ring = Maps.create({ type: MapType.RINGBUF, name: 'ring', keySize: 0, valueSize: 0, maxEntries: 4096 });
  assert.throws(() => new RingBuffer(ring, () => {}, { maximumRecordsPerWake: 0 }), { code: 'LIBBPF_RING_BUFFER' });
});

test('ring buffers are read in the main thread only', async () => {
  using ring = Maps.create({ type: MapType.RINGBUF, name: 'ring', keySize: 0, valueSize: 0, maxEntries: 4096 });
  const worker = new Worker(
    `import { parentPort, workerData } from 'node:worker_threads';
     const { RingBuffer } = await import(workerData.index);
     try { new RingBuffer({ fd: workerData.fd }, () => {}); } catch (error) { parentPort.postMessage(error.code); }`,
    { eval: true, workerData: { index: new URL('../src/index.ts', import.meta.url).href, fd: ring.fd } },
  );
  const code = await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  await worker.terminate();
  assert.equal(code, 'LIBBPF_MAIN_THREAD_ONLY');
});

test('a process ends cleanly with a ring buffer open: by itself if unreferenced, and by exit', () => {
  for (const ending of ['ring.unref();', 'setTimeout(() => process.exit(0), 5);']) {
    const script = `
      import { BpfObject, RingBuffer } from ${JSON.stringify(new URL('../src/index.ts', import.meta.url).href)};
      const loaded = BpfObject.open(${JSON.stringify(fixture('kit'))}).load();
      const ring = new RingBuffer(loaded.map('events'), () => {});
      ${ending}`;
    const child = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 5000,
    });
    assert.deepEqual([child.status, child.signal, child.stderr], [0, null, ''], ending);
  }
});
