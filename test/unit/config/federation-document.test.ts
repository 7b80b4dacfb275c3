import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parseResources } from '../../../src/config/parse-resources.ts';
import { runCli } from '../../../src/cli/program.ts';
import { Command } from 'commander';
import { addBundleEndpointOptions } from '../../../src/cli/bundle-endpoint-flags.ts';
import { RecordedTerminal } from '../cli/recorded-terminal.ts';

const PAGE = readFileSync(new URL('../../../docs/federation.md', import.meta.url), 'utf8');

function blocks(language: string): string[] {
  return Array.from(PAGE.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm')), ([, block = '']) => block);
}

test('the resources of docs/federation.md are in order, one for each profile', () => {
  const profiles = blocks('yaml').map((block) => {
    const { resources, problems } = parseResources(block, 'federation.md');
    assert.deepEqual(problems, []);
    const [resource] = resources;
    return resource?.kind === 'FederatedTrustDomain' ? resource.spec.profile.type : resource?.kind;
  });
  assert.deepEqual(profiles, ['https_web', 'https_spiffe']);
});

test('the commands of docs/federation.md exist, with their flags', async () => {
  const commands = blocks('sh').flatMap((block) => block.trim().split('\n'));
  assert.equal(commands.length, 3);
  for (const command of commands) {
    const args = (command.split(' > ')[0] as string).split(' ').slice(1);
    const terminal = new RecordedTerminal();
    // Understood, and answered by no agent.
    assert.equal(await runCli([...args, '--run-dir', '/nonexistent'], terminal), 1, command);
    assert.match(terminal.errors, /WEFT_CLI_NO_AGENT/, command);
  }
});

test('docs/federation.md names every flag of the bundle endpoint', () => {
  const flags = addBundleEndpointOptions(new Command()).options.map(({ long }) => long as string);
  assert.ok(flags.length >= 6);
  assert.deepEqual(
    flags.filter((flag) => !PAGE.includes(`\`${flag}`)),
    [],
  );
});
