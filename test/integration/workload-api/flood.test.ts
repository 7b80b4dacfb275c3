import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseEndpointAddress } from '../../../certs/workload-api/endpoint-address.ts';
import { WorkloadApiClient } from '../../../certs/workload-api/workload-api-client.ts';
import { GRPC_STATUS } from '../../../src/grpc/grpc-error.ts';
import { Child, exec } from '../../kit/child.ts';
import { WorkloadApiWorld } from '../../kit/workload-api-world.ts';

// One workload connects in a loop, on a real socket. What it may have is in CONNECTIONS_PER_WORKLOAD.

const WEFT = fileURLToPath(new URL('../../../src/cli/weft', import.meta.url));
const BURST = 256;
const PER_SECOND = 20;

/** Refusals that there must be of so many connections, however slow this machine is. */
function refusalsOf(connections: number, startedAt: number): number {
  return connections - BURST - Math.ceil((PER_SECOND * (performance.now() - startedAt)) / 1000) - 1;
}

/** Connects and closes from four processes, says when all are done, and lives on, so that every one of them can be attested. */
const LOOP = `import os, socket, sys
each = int(sys.argv[2]) // 4
read, write = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        for _ in range(each):
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.close()
        os.write(write, b'.'); sys.stdin.read(1); os._exit(0)
for _ in range(4): os.read(read, 1)
print('connected', flush=True)
sys.stdin.read(1)`;

test('a workload that connects in a loop, from however many processes, is refused; another one is served', async () => {
  await using world = await WorkloadApiWorld.start();
  const [cart, bad] = [await world.workload('cart'), await world.workload('bad')];
  const startedAt = performance.now();
  await using flood = await Child.start(bad.inside(['python3', '-c', LOOP, world.socket, '2000']), { stdin: 'pipe' });
  await flood.waitForLine(/^connected$/);
  // Connections are taken in their order: when this one is served, all of the others are through.
  const fetched = await exec(cart.inside([WEFT, 'svid', 'fetch']), { env: { SPIFFE_ENDPOINT_SOCKET: `unix://${world.socket}` } });
  assert.equal(fetched.code, 0, fetched.stderr);
  assert.match(fetched.stdout, /\/sa\/cart$/m);
  const { rate_limited: rateLimited, not_attested: notAttested } = world.api.refused;
  assert.ok(rateLimited >= refusalsOf(2000, startedAt), `${rateLimited} were refused`);
  assert.equal(notAttested, 0);
  const lines = world.logged.filter((line) => line.includes('"reason":"rate_limited"'));
  assert.match(lines[0] ?? '', /"account":"workload shop\/bad"/);
  assert.ok(lines.length <= 1 + (performance.now() - startedAt) / 10_000, `${lines.length} lines in the log`);
});

/** Fills the socket, writes how many connections that took, and keeps them. */
const FILL = `import os, socket, sys
kept = []
while True:
    s = socket.socket(socket.AF_UNIX); s.setblocking(False)
    try: s.connect(sys.argv[1])
    except BlockingIOError: break
    kept.append(s)
with open(sys.argv[2] + '.new', 'w') as file: file.write(str(len(kept)))
os.rename(sys.argv[2] + '.new', sys.argv[2])
sys.stdin.read(1)`;

/** Blocks this thread, so that nothing is accepted meanwhile. */
function waitForFile(path: string): string {
  const deadline = performance.now() + 20_000;
  while (!existsSync(path)) {
    assert.ok(performance.now() < deadline, `there is no ${path}`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
  return readFileSync(path, 'utf8');
}

test('who finds the socket full of waiting connections gets through, and between two of them the event loop goes on', async () => {
  await using world = await WorkloadApiWorld.start();
  const bad = await world.workload('bad');
  const written = join(world.directory, 'filled');
  const startedAt = performance.now();
  await using _filler = await Child.start(bad.inside(['python3', '-c', FILL, world.socket, written]), { stdin: 'pipe' });
  const filled = Number(waitForFile(written));
  const handled = (): number => world.api.connections + Object.values(world.api.refused).reduce((sum, count) => sum + count);
  await using client = new WorkloadApiClient({ endpoint: parseEndpointAddress(`unix://${world.socket}`) });
  // This process is part of no workload: it is told so, and not that nobody is there. All others are ahead of it.
  const answered = new AbortController();
  const answer = assert.rejects(client.currentX509Svids(), { status: GRPC_STATUS.PERMISSION_DENIED }).finally(() => answered.abort());
  let before = handled();
  let most = 0;
  while (!answered.signal.aborted) {
    await new Promise((resolve) => setImmediate(resolve));
    most = Math.max(most, handled() - before);
    before = handled();
  }
  await answer;
  assert.equal(most, 1, 'connections of one turn');
  assert.ok(world.api.refused.rate_limited >= refusalsOf(filled, startedAt), JSON.stringify(world.api.refused));
});
