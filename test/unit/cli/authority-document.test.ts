import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CA_COMMANDS } from '../../../src/cli/commands/ca.ts';
import { runCli } from '../../../src/cli/program.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const document = readFileSync(fileURLToPath(new URL('../../../docs/authority.md', import.meta.url)), 'utf8');
/** Each `weft …` of the code blocks, without comments. */
const commands = Array.from(document.matchAll(/^```sh\n([\s\S]*?)^```/gm), ([, block = '']) => block)
  .flatMap((block) => block.split('\n'))
  .flatMap((line) => line.replace(/#.*$/, '').split(/&&?/))
  .map((command) => command.trim().split(/\s+/))
  .filter(([program]) => program === 'weft');

async function help(...command: readonly string[]): Promise<string> {
  const terminal = new RecordedTerminal();
  assert.equal(await runCli([...command, '--help'], terminal), 0);
  return terminal.output;
}

for (const [, name = '', ...words] of commands) {
  test(`docs/authority.md: weft ${[name, ...words].join(' ')}`, async () => {
    const command = name === 'ca' ? ['ca', words[0] as string] : [name];
    if (name === 'ca') assert.ok(CA_COMMANDS.includes(words[0] as string));
    const text = await help(...command);
    for (const flag of words.filter((word) => word.startsWith('--'))) assert.match(text, new RegExp(`${flag}[ ,]`), flag);
  });
}

test('docs/authority.md shows every command of weft ca', () => {
  for (const name of CA_COMMANDS) assert.match(document, new RegExp(`weft ca\\s${name}\\b`), name);
});

test('the help of every command of weft ca has an example', async () => {
  for (const name of CA_COMMANDS) assert.match(await help('ca', name), new RegExp(`Examples?:\\n  weft ca ${name}`), name);
});
