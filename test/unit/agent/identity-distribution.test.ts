import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import { IdentityDistribution } from '../../../src/agent/identity-distribution.ts';
import type { RequestBody } from '../../../src/agent/worker-pool.ts';
import type { IdentityUpdate } from '../../../src/model/worker-messages.ts';

const EMPTY: IdentityUpdate = { svids: [], bundles: [] };

class World implements Disposable {
  version = 1;
  readonly acknowledged: number[] = [];
  readonly requests: { readonly worker: number; readonly version: number; readonly answer: () => void; readonly fail: () => void }[] = [];
  readonly distribution: IdentityDistribution;
  #changed = (): void => {};

  constructor(size = 2) {
    const currentVersion = (): number => this.version;
    this.distribution = new IdentityDistribution({
      source: {
        get version() {
          return currentVersion();
        },
        snapshot: () => EMPTY,
        onChange: (listener) => {
          this.#changed = listener;
          return () => (this.#changed = () => {});
        },
      },
      workers: {
        size,
        request: (worker: number, body: RequestBody) => {
          assert.equal(body.type, 'identities');
          return new Promise((resolve, reject) => {
            const fail = (): void => reject(new Error('no answer'));
            this.requests.push({ worker, version: this.version, answer: () => resolve(null), fail });
          });
        },
      },
      onAcknowledged: (version) => this.acknowledged.push(version),
    });
  }

  change(): void {
    this.version++;
    this.#changed();
  }

  async settle(how: 'answer' | 'fail', which: (worker: number) => boolean = () => true): Promise<void> {
    for (const request of this.requests.filter(({ worker }) => which(worker))) {
      request[how]();
      this.requests.splice(this.requests.indexOf(request), 1);
    }
    for (let i = 0; i < 5; i++) await Promise.resolve();
  }

  [Symbol.dispose](): void {
    this.distribution[Symbol.dispose]();
  }
}

describe('a change of identities', () => {
  it('is acknowledged when every worker has answered, not before', async () => {
    using world = new World();
    world.distribution.started(0);
    world.distribution.started(1);
    await world.settle('answer', (worker) => worker === 0);
    assert.deepEqual(world.acknowledged, []);
    await world.settle('answer');
    assert.deepEqual(world.acknowledged, [1]);
  });

  it('reaches a worker though it has not answered the one before, which an earlier answer does not acknowledge', async () => {
    using world = new World(1);
    world.distribution.started(0);
    world.change();
    assert.deepEqual(
      world.requests.map(({ version }) => version),
      [1, 2],
    );
    world.requests[0]?.answer();
    await Promise.resolve();
    await Promise.resolve();
    assert.deepEqual(world.acknowledged, [1]);
    await world.settle('answer');
    assert.deepEqual(world.acknowledged, [1, 2]);
  });

  it('is sent once, however often sending is asked for', () => {
    using world = new World(1);
    world.distribution.started(0);
    world.distribution.sendAll();
    world.distribution.sendAll();
    assert.equal(world.requests.length, 1);
  });

  it('is not acknowledged for a worker that died, until its replacement has it', async () => {
    using world = new World();
    world.distribution.started(0);
    world.distribution.started(1);
    await world.settle('answer');
    world.change();
    await world.settle('answer', (worker) => worker === 0);
    await world.settle('fail');
    assert.deepEqual(world.acknowledged, [1]);
    world.change();
    world.distribution.sendAll();
    await world.settle('answer', (worker) => worker === 0);
    await world.settle('fail');
    assert.deepEqual(world.acknowledged, [1]);
    world.distribution.started(1);
    await world.settle('answer');
    assert.deepEqual(world.acknowledged, [1, 3]);
  });

  it('goes at once; those that follow it closely go together, and sooner when somebody waits', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      using world = new World(1);
      world.change();
      assert.equal(world.requests.length, 1);
      for (let i = 0; i < 10; i++) world.change();
      assert.equal(world.requests.length, 1);
      mock.timers.tick(100);
      assert.deepEqual(
        world.requests.map(({ version }) => version),
        [2, 12],
      );
      world.change();
      assert.equal(world.requests.length, 2);
      world.distribution.sendAll();
      assert.equal(world.requests.length, 3);
      mock.timers.tick(100);
      mock.timers.tick(100);
      assert.equal(world.requests.length, 3);
    } finally {
      mock.timers.reset();
    }
  });

  it('is sent again to a worker that did not answer in time', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      using world = new World(1);
      world.distribution.started(0);
      await world.settle('fail');
      assert.equal(world.requests.length, 0);
      mock.timers.tick(1000);
      assert.equal(world.requests.length, 1);
      await world.settle('answer');
      assert.deepEqual(world.acknowledged, [1]);
    } finally {
      mock.timers.reset();
    }
  });
});
