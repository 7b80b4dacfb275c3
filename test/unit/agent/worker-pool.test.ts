import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLog } from '../../../src/log/log.ts';
import { WorkerPool, type WorkerPoolOptions } from '../../../src/agent/worker-pool.ts';
import type { WorkerStart } from '../../../src/model/worker-messages.ts';

interface PoolWorld {
  readonly pool: WorkerPool;
  readonly logged: string[];
  /** Workers that said that they are ready, in order. */
  readonly ready: number[];
}

async function startPool(wish: Partial<WorkerPoolOptions> = {}): Promise<PoolWorld> {
  const logged: string[] = [];
  const ready: number[] = [];
  const pool = new WorkerPool({
    count: 2,
    start: () => ({}) as WorkerStart,
    onReady: (index) => ready.push(index),
    onNeedIdentity: () => {},
    onNeedJwks: () => {},
    log: createLog('info', { write: (line: string) => void logged.push(line) }),
    entry: new URL('./pool-worker.ts', import.meta.url),
    ...wish,
  });
  try {
    await pool.start();
  } catch (error) {
    await pool[Symbol.asyncDispose]();
    throw error;
  }
  return { pool, logged, ready };
}

async function until(what: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, 'it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe('the pool of proxy workers', () => {
  it('asks one, or all', async () => {
    const { pool } = await startPool();
    await using _ = pool;
    assert.equal(await pool.request(1, { type: 'traffic' }), 'answer');
    assert.deepEqual(await pool.requestAll({ type: 'traffic' }), ['answer', 'answer']);
    await assert.rejects(pool.request(2, { type: 'traffic' }), /no worker 2/);
  });

  it('logs the workers that failed at what all were asked: nobody else would tell', async () => {
    const { pool, logged } = await startPool();
    await using _ = pool;
    assert.deepEqual(await pool.requestAll({ type: 'connections' }), []);
    assert.equal(logged.filter((line) => line.includes('out of order')).length, 2);
  });

  it('replaces a worker that dies; who waits for it is told, and the others go on', async () => {
    const { pool, logged, ready } = await startPool();
    await using _ = pool;
    await assert.rejects(pool.request(0, { type: 'drain', deadlineMs: 0 }), /worker 0 ended/);
    assert.equal(pool.isRunning(0), false);
    assert.equal(pool.isRunning(1), true);
    assert.equal(await pool.request(1, { type: 'traffic' }), 'answer');
    await until(() => ready.length === 3);
    assert.equal(ready[2], 0);
    assert.equal(await pool.request(0, { type: 'traffic' }), 'answer');
    assert.match(logged.join(), /asked to die/);
  });

  it('tries again when a worker cannot be replaced at once', async () => {
    let starts = 0;
    const { pool, ready } = await startPool({
      count: 1,
      start: () => {
        starts++;
        if (starts === 2) throw new Error('out of memory');
        return {} as WorkerStart;
      },
    });
    await using _ = pool;
    await assert.rejects(pool.request(0, { type: 'drain', deadlineMs: 0 }));
    await until(() => ready.length === 2);
    assert.equal(starts, 3);
  });

  it('fails to start with what a worker fails with', async () => {
    await assert.rejects(startPool({ entry: new URL('./no-such-worker.ts', import.meta.url) }));
    const silent = new URL('data:text/javascript,process.exit(3)');
    await assert.rejects(startPool({ entry: silent, count: 1 }), /worker 0 ended \(code 3\)/);
  });
});
