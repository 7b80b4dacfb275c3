import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { exec } from '../../kit/child.ts';
import { WorkloadApiWorld } from '../../kit/workload-api-world.ts';

// The examples of docs/workload-api.md, run by a process of the workload `cart`. What differs from run to run is written as … there.

const WEFT = fileURLToPath(new URL('../../../src/cli/weft', import.meta.url));
const text = readFileSync(new URL('../../../docs/workload-api.md', import.meta.url), 'utf8');
const examples = Array.from(text.matchAll(/^```console\n\$ weft (.*)\n([\s\S]*?)^```$/gm), ([, command = '', printed = '']) => ({
  command,
  printed,
}));

let world: WorkloadApiWorld;
let inside: (command: readonly string[]) => string[];
before(async () => {
  world = await WorkloadApiWorld.start();
  ({ inside } = await world.workload('cart'));
});
after(async () => {
  await world[Symbol.asyncDispose]();
});

test('docs/workload-api.md has examples of fetch and export', () => {
  assert.deepEqual(new Set(examples.map(({ command }) => command.split(' ')[1])), new Set(['fetch', 'export']));
});

for (const { command, printed } of examples) {
  test(`docs/workload-api.md: weft ${command} prints what is written there`, async () => {
    const script = ['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', world.directory, WEFT, ...command.split(' ')];
    const done = await exec(inside(script), { env: { SPIFFE_ENDPOINT_SOCKET: `unix://${world.socket}` } });
    assert.equal(done.code, 0, done.stderr);
    const pattern = printed.split('…').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
    assert.match(done.stdout, new RegExp(`^${pattern.join('[^\\n]+')}$`));
  });
}

for (const part of ['show', 'fetch', 'export']) {
  test(`docs/workload-api.md names every flag of weft svid ${part}`, async () => {
    const { stdout, code } = await exec([WEFT, 'svid', part, '--help']);
    assert.equal(code, 0);
    assert.match(stdout, /^Examples:$/m);
    const start = text.indexOf(`## \`weft svid ${part}`);
    const section = text.slice(start, text.indexOf('\n## ', start + 1));
    for (const [, flag = ''] of stdout.matchAll(/^ {2}(--[a-z]+)/gm)) assert.match(section, new RegExp(`${flag}\\b`), part);
  });
}
