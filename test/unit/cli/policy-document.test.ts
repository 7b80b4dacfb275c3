import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { runCli } from '../../../src/cli/program.ts';
import { PolicyFolder, weftPolicy } from './policy-kit.ts';

const document = readFileSync(new URL('../../../docs/policy.md', import.meta.url), 'utf8');
const folder = new PolicyFolder();
const home = process.cwd();

/** Its files are the YAML blocks that begin with their name. */
const files = Array.from(document.matchAll(/^```yaml\n# (\S+)\n([\s\S]*?)^```$/gm), ([, name = '', text = '']) => ({ name, text }));

/** Its commands, each with what it prints. */
const runs = Array.from(document.matchAll(/^```console\n([\s\S]*?)^```$/gm)).flatMap(([, block = '']) =>
  block
    .split(/^\$ weft /m)
    .slice(1)
    .map((text) => {
      const [, command = ''] = /^((?:[^\n]*\\\n)*[^\n]*)\n/.exec(text) ?? [];
      return { command: command.replace(/\\\n\s*/g, ''), printed: text.slice(command.length + 1) };
    }),
);

before(() => {
  for (const { name, text } of files) folder.write(name, text);
  process.chdir(folder.path);
});

after(() => {
  process.chdir(home);
  folder[Symbol.dispose]();
});

test('docs/policy.md has an example of every part of weft policy', () => {
  assert.deepEqual(new Set(runs.map(({ command }) => command.split(' ')[1])), new Set(['explain', 'test', 'lint', 'import']));
});

for (const { command, printed } of runs) {
  test(`docs/policy.md: weft ${command.slice(0, 120)} prints what is written there`, async () => {
    let shown = '';
    const write = (text: string): void => {
      shown += text;
    };
    await runCli(command.split(/\s+/), { out: write, err: write });
    assert.equal(shown, printed);
  });
}

test('docs/policy.md names every flag of weft policy', async () => {
  for (const part of ['lint', 'explain', 'test', 'import']) {
    const { code, output } = await weftPolicy(part, '--help');
    assert.equal(code, 0);
    assert.match(output, new RegExp(`^Usage: weft policy ${part} `));
    assert.match(output, new RegExp(`Examples:\\n {2}weft policy ${part}`));
    const flags = Array.from(output.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm), ([, flag = '']) => flag).filter((flag) => flag !== '--help');
    assert.ok(flags.length > 0);
    const start = document.indexOf(`## \`weft policy ${part}`);
    const section = document.slice(start, document.indexOf('\n## ', start + 1) + 1 || undefined);
    for (const flag of flags) assert.match(section, new RegExp(flag), `${part} ${flag}`);
  }
});
