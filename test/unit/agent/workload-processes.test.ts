import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { processLife } from '../../../certs/spire/workload-processes.ts';
import type { LocalPlaces } from '../../../src/agent/local-places.ts';
import { HostProcesses } from '../../../src/agent/workload-processes.ts';

const CART = 'spiffe://mesh.test/ns/shop/sa/cart';

function own(): LocalPlaces {
  const { dev, ino } = statSync('/proc/self/ns/net', { bigint: true });
  return { networkNamespaces: new Map([[`${dev}:${ino}`, { workload: 'shop/cart', identity: CART }]]), cgroups: new Map() };
}

test('a process of the place is found, the one with the lowest id; a place without one has none', () => {
  const processes = new HostProcesses({ places: own, cgroupMount: '/sys/fs/cgroup' });
  const pid = processes.pidOf(CART);
  assert.ok(pid !== null && pid <= process.pid);
  assert.equal(processes.pidOf('spiffe://mesh.test/ns/shop/sa/web'), null);
});

test('processes are looked at once a second, not with every question', () => {
  let time = 0;
  let looks = 0;
  const places = (): LocalPlaces => (looks++, own());
  const processes = new HostProcesses({ places, cgroupMount: '/sys/fs/cgroup', now: () => time });
  processes.pidOf(CART);
  time = 999;
  processes.pidOf(CART);
  assert.equal(looks, 1);
  time = 1000;
  processes.pidOf(CART);
  assert.equal(looks, 2);
});

test('the life of a process ends with it, before its parent has asked for the exit code', async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const life = processLife(child.pid ?? 0);
  assert.match(life ?? '', /^\d+$/);
  assert.equal(processLife(child.pid ?? 0), life);
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await exited;
  assert.equal(processLife(child.pid ?? 0), null);
});
