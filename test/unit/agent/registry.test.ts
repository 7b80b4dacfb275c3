import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, mock } from 'node:test';
import { KERNEL_MODE } from '../../../bpf/contract.ts';
import { RegistryWorld, strictPort, workload } from './registry-world.ts';

describe('what fails once', () => {
  it('a reconciliation that failed does not keep the next from being applied', async () => {
    await using world = new RegistryWorld();
    const { registry } = world;
    world.onPublish = () => {
      throw new Error('workers are away');
    };
    await assert.rejects(registry.setResources([]), /workers are away/);
    world.onPublish = () => {};
    const { path } = world.cgroup('after-failure');
    await registry.setResources([workload({ name: 'a', cgroup: path })]);
    assert.equal(world.state('a'), 'enrolled');
    assert.equal(registry.settled, true);
  });

  it('one workload that the kernel refuses to change does not stop the others, and is tried again', async () => {
    await using world = new RegistryWorld();
    const a = world.cgroup('change-a');
    const b = world.cgroup('change-b');
    await world.registry.setResources([workload({ name: 'a', cgroup: a.path, mode: 'permissive' })]);
    world.hooks.onSetWorkload = ({ mode, id }) => {
      if (mode === KERNEL_MODE.strict && id === world.entry('a')?.id) throw new Error('out of memory');
    };
    const both = [workload({ name: 'a', cgroup: a.path }), workload({ name: 'b', cgroup: b.path })];
    await world.registry.setResources(both);
    assert.equal(world.state('b'), 'enrolled');
    assert.match(world.logged.join(), /out of memory/);
    world.hooks.onSetWorkload = () => {};
    await world.registry.setResources(both);
    assert.equal(world.hooks.workloads.get(world.entry('a')?.id as number)?.mode, KERNEL_MODE.strict);
  });

  it('a workload that the kernel does not let go is still enrolled, and is let go later', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('kept');
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    world.hooks.onReleaseCgroup = () => {
      throw new Error('not now');
    };
    await world.registry.setResources([]);
    assert.equal(world.state('a'), 'enrolled');
    world.hooks.onReleaseCgroup = () => {};
    await world.registry.setResources([]);
    assert.equal(world.hooks.cgroups.has(id), false);
  });

  it('no listener is given to a worker that is not there', async () => {
    await using world = new RegistryWorld();
    const { path } = world.cgroup('no-worker');
    world.workers.running = false;
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    assert.equal(world.state('a'), 'failed');
    assert.deepEqual(world.listened, []);
  });
});

describe('a strict workload that cannot be enrolled yet', () => {
  const noSvid = (): never => {
    throw new Error('no SVID');
  };

  /** How the kernel has the workload: the port that connections go to (0: they are refused), or that it has not. */
  function kernelPort(world: RegistryWorld, id: bigint): number | 'open' {
    const workloadId = world.hooks.cgroups.get(id);
    const known = workloadId === undefined ? undefined : world.hooks.workloads.get(workloadId);
    if (known === undefined) return 'open';
    assert.equal(known.mode, KERNEL_MODE.strict);
    assert.deepEqual([known.inbound_port, known.tunnel_port], [0, 0]);
    return known.outbound_port;
  }

  it('is closed from the start, stays closed while it fails, and is enrolled when it can be', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('closed');
    const resources = [workload({ name: 'a', cgroup: path })];
    const meanwhile: (number | 'open')[] = [];
    world.onIdentity = () => {
      meanwhile.push(kernelPort(world, id));
      noSvid();
    };
    await world.registry.setResources(resources);
    await world.registry.setResources(resources);
    assert.deepEqual(meanwhile, [0, 0]);
    assert.equal(world.state('a'), 'failed');
    assert.equal(kernelPort(world, id), 0);
    world.onIdentity = () => {};
    world.workers.running = false;
    await world.registry.setResources(resources);
    assert.equal(kernelPort(world, id), 0);
    world.workers.running = true;
    await world.registry.setResources(resources);
    assert.equal(world.state('a'), 'enrolled');
    assert.equal(kernelPort(world, id), 15_001);
  });

  for (const [what, next] of [
    ['permissive', (path: string) => [workload({ name: 'a', cgroup: path, mode: 'permissive' })]],
    ['off', (path: string) => [workload({ name: 'a', cgroup: path, mode: 'off' })]],
    ['removed', () => []],
  ] as const) {
    it(`is opened again when it is ${what}`, async () => {
      await using world = new RegistryWorld();
      const { path, id } = world.cgroup('opened');
      world.onIdentity = noSvid;
      await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
      assert.equal(kernelPort(world, id), 0);
      await world.registry.setResources(next(path));
      assert.equal(kernelPort(world, id), 'open');
      assert.equal(world.hooks.workloads.size, 0);
    });
  }

  it('permissive: passes as before', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('passes');
    world.onIdentity = noSvid;
    await world.registry.setResources([workload({ name: 'a', cgroup: path, mode: 'permissive' })]);
    assert.equal(world.state('a'), 'failed');
    assert.equal(kernelPort(world, id), 'open');
  });

  it('stays closed under another name, and the old one is forgotten', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('closed-renamed');
    world.onIdentity = noSvid;
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    const before = world.hooks.cgroups.get(id) as number;
    let opened = 0;
    world.hooks.onReleaseCgroup = () => opened++;
    await world.registry.setResources([workload({ name: 'b', cgroup: path })]);
    assert.equal(kernelPort(world, id), 0);
    assert.equal(opened, 0);
    assert.deepEqual(world.hooks.forgotten, [before]);
  });

  it('does not close the place of another workload', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('not-closed');
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    world.onIdentity = noSvid;
    await world.registry.setResources([workload({ name: 'a', cgroup: path }), workload({ name: 'b', cgroup: path })]);
    assert.equal(world.state('b'), 'failed');
    assert.equal(kernelPort(world, id), 15_001);
  });

  it('is closed as soon as the kernel lets it, and when the kernel refuses its capture', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('late');
    const resources = [workload({ name: 'a', cgroup: path })];
    world.hooks.onSetWorkload = () => {
      throw new Error('out of memory');
    };
    await world.registry.setResources(resources);
    assert.equal(kernelPort(world, id), 'open');
    world.hooks.onSetWorkload = ({ outbound_port }) => {
      if (outbound_port !== 0) throw new Error('out of memory');
    };
    await world.registry.setResources(resources);
    assert.equal(world.state('a'), 'failed');
    assert.equal(kernelPort(world, id), 0);
  });
});

describe('what a former agent had captured', () => {
  it('stays captured while its workload cannot be enrolled, and is taken over when it can', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('former');
    world.hooks.left = [{ kind: 'cgroup', key: id, workloadId: 7 }];
    world.onIdentity = () => {
      throw new Error('no SVID');
    };
    const resources = [workload({ name: 'a', cgroup: path })];
    await world.registry.setResources(resources);
    assert.equal(world.state('a'), 'failed');
    assert.deepEqual(world.hooks.released, []);
    assert.equal(world.registry.settled, true);
    world.onIdentity = () => {};
    await world.registry.setResources(resources);
    assert.equal(world.state('a'), 'enrolled');
    assert.deepEqual(world.hooks.released, []);
    assert.deepEqual(world.hooks.forgotten, [7]);
    assert.equal(world.hooks.cgroups.get(id), world.entry('a')?.id);
  });

  it('is released when nothing wants it', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('unwanted');
    world.hooks.left = [{ kind: 'cgroup', key: id, workloadId: 7 }];
    await world.registry.setResources([workload({ name: 'a', cgroup: path, mode: 'off' })]);
    assert.deepEqual(world.hooks.released, [{ kind: 'cgroup', key: id, workloadId: 7 }]);
  });

  it('stays captured as long as a part of the configuration cannot be read: that part may want it', async () => {
    await using world = new RegistryWorld();
    world.hooks.left = [{ kind: 'cgroup', key: 12_345n, workloadId: 7 }];
    await world.registry.setResources([], false);
    assert.deepEqual(world.hooks.released, []);
    assert.match(world.logged.join(), /stays captured/);
    await world.registry.setResources([], true);
    assert.equal(world.hooks.released.length, 1);
  });
});

describe('a workload that changes', () => {
  it('shows its new identity on its listeners after a change of its service account', async () => {
    await using world = new RegistryWorld();
    const { path } = world.cgroup('account');
    await world.registry.setResources([workload({ name: 'a', cgroup: path, serviceAccount: 'old' })]);
    await world.registry.setResources([workload({ name: 'a', cgroup: path, serviceAccount: 'new' })]);
    assert.deepEqual(world.listened, ['spiffe://cluster.local/ns/shop/sa/old', 'spiffe://cluster.local/ns/shop/sa/new']);
    assert.equal(world.state('a'), 'enrolled');
  });

  it('is captured without a gap when it gets another name', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('renamed');
    let released = 0;
    world.hooks.onReleaseCgroup = () => released++;
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    const before = world.entry('a')?.id as number;
    const started = Date.now();
    await world.registry.setResources([workload({ name: 'b', cgroup: path })]);
    assert.equal(world.state('b'), 'enrolled');
    assert.equal(world.state('a'), undefined);
    assert.equal(released, 0);
    assert.equal(world.hooks.cgroups.get(id), world.entry('b')?.id);
    assert.deepEqual(world.hooks.forgotten, [before]);
    assert.ok(Date.now() - started < 2_000, 'without the grace period of a workload that leaves');
    // And back, under the number it had.
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    assert.equal(world.hooks.cgroups.get(id), before);
    assert.ok(world.hooks.workloads.has(before));
  });

  it('has its place to itself: a second workload there is refused', async () => {
    await using world = new RegistryWorld();
    const { path, id } = world.cgroup('shared');
    await world.registry.setResources([workload({ name: 'a', cgroup: path })]);
    await world.registry.setResources([workload({ name: 'a', cgroup: path }), workload({ name: 'b', cgroup: path })]);
    assert.equal(world.state('b'), 'failed');
    assert.match(world.registry.enrolments().find(({ workload: name }) => name === 'shop/b')?.error ?? '', /shop\/a already/);
    assert.equal(world.hooks.cgroups.get(id), world.entry('a')?.id);
  });

  it('is never the host itself', async () => {
    await using world = new RegistryWorld();
    const wish = workload({ name: 'a', cgroup: '' });
    await world.registry.setResources([{ ...wish, spec: { ...wish.spec, cgroup: null, networkNamespace: '/proc/self/ns/net' } }]);
    assert.equal(world.state('a'), 'failed');
    assert.match(world.registry.enrolments()[0]?.error ?? '', /host's own/);
    assert.deepEqual(world.listened, []);
  });

  it('is closed as a whole without the agent when one of its ports is strict', async () => {
    await using world = new RegistryWorld();
    const { path } = world.cgroup('port');
    const permissive = workload({ name: 'a', cgroup: path, mode: 'permissive' });
    await world.registry.setResources([permissive]);
    const id = world.entry('a')?.id as number;
    assert.equal(world.hooks.workloads.get(id)?.mode, KERNEL_MODE.permissive);
    await world.registry.setResources([permissive, strictPort('a', 9090)]);
    assert.equal(world.hooks.workloads.get(id)?.mode, KERNEL_MODE.strict);
  });
});

describe('places', () => {
  it('a workload whose place is not there is looked for without burdening the workers', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      await using world = new RegistryWorld();
      const missing = join(world.cgroup('parent').path, 'missing');
      await world.registry.setResources([workload({ name: 'a', cgroup: missing })]);
      assert.equal(world.state('a'), 'waiting');
      const published = world.published.length;
      for (let poll = 0; poll < 3; poll++) {
        mock.timers.tick(2_000);
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal(world.published.length, published);
    } finally {
      mock.timers.reset();
    }
  });

  it('a workload whose place comes is enrolled', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      await using world = new RegistryWorld();
      const parent = world.cgroup('family').path;
      const child = join(parent, 'child');
      await world.registry.setResources([workload({ name: 'a', cgroup: child })]);
      mkdirSync(child);
      mock.timers.tick(2_000);
      await world.registry.reconcile();
      assert.equal(world.state('a'), 'enrolled');
      rmdirSync(child);
    } finally {
      mock.timers.reset();
    }
  });
});

describe('weft run', () => {
  it('may use a name again as soon as its workload was removed', async () => {
    await using world = new RegistryWorld();
    const first = world.cgroup('run-1');
    const second = world.cgroup('run-2');
    const request = { namespace: 'shop', serviceAccount: 'job', name: 'job' };
    await world.registry.addHostWorkload({ ...request, cgroup: first.path });
    await world.registry.removeHostWorkload('shop', 'job');
    const answer = await world.registry.addHostWorkload({ ...request, cgroup: second.path });
    assert.equal(answer.identity, 'spiffe://cluster.local/ns/shop/sa/job');
    assert.equal(world.hooks.cgroups.has(second.id), true);
  });

  it('may not use the name of a workload of the configuration', async () => {
    await using world = new RegistryWorld();
    const { path } = world.cgroup('run-3');
    await world.registry.setResources([workload({ name: 'job', cgroup: '/nowhere', mode: 'off' })]);
    await assert.rejects(
      world.registry.addHostWorkload({ namespace: 'shop', serviceAccount: 'job', name: 'job', cgroup: path }),
      /WEFT_AGENT_WORKLOAD_EXISTS|already/,
    );
  });
});
