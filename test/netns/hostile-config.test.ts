import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CountersAnswer } from '../../src/model/admin-api.ts';
import type { LabAgent } from '../kit/lab/index.ts';
import { ALLOW_PUBLIC, Caller, Mesh } from '../kit/mesh.ts';

const MIB = 2 ** 20;

/** An AuthorizationPolicy with a rule in place of `RULE`. */
function policy(name: string, spec: string): string {
  return `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ${name}, namespace: shop}\nspec:\n${spec}\n`;
}

const DENY_ALL = policy('deny-all', '  action: DENY\n  rules: [{}]');

async function refusals(agent: LabAgent, code: string): Promise<number> {
  return (await agent.json<CountersAnswer>('/v1/counters')).configurationProblems[code] ?? 0;
}

describe('configuration that nobody should write', () => {
  let mesh: Mesh;
  let caller: Caller;
  let residentBefore = 0;

  before(async () => {
    mesh = await Mesh.start({ mode: 'strict', config: { policy: ALLOW_PUBLIC } });
    caller = new Caller(async (index) => {
      await sleep(100);
      return (await mesh.curl(mesh.client, mesh.url(index % 2 === 0 ? mesh.far : mesh.near, '/public/caller'))).status;
    });
    await caller.more(2);
    residentBefore = mesh.nodeB.agentResidentBytes();
  });
  after(async () => {
    await caller?.stop();
    await mesh?.[Symbol.asyncDispose]();
  });

  /** Puts a file of the directory in place at once, whatever is in it. */
  function put(name: string, content: string | Uint8Array): void {
    const temporary = join(mesh.lab.directory, `.${name}.new`);
    writeFileSync(temporary, content);
    renameSync(temporary, mesh.config.path(name));
  }

  async function waitForProblem(pattern: RegExp): Promise<void> {
    await Promise.all(
      [mesh.agentA, mesh.agentB].map((agent) =>
        agent.waitForState(`a problem ${pattern}`, ({ problems }) => problems.some((line) => pattern.test(line))),
      ),
    );
  }

  async function waitForOrder(): Promise<void> {
    await Promise.all([mesh.agentA, mesh.agentB].map((agent) => agent.waitForState('no problem', ({ problems }) => problems.length === 0)));
  }

  /** What was in force before is in force now. */
  async function assertInForce(): Promise<void> {
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far, '/public/x'))).status, 200);
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far, '/private'))).status, 403);
    assert.equal((await mesh.curl(mesh.stranger, mesh.url(mesh.far, '/public/x'))).status, 403);
  }

  const nested = `${'['.repeat(500)}${']'.repeat(500)}`;
  const bomb = `a: &a [x, x, x, x, x, x, x, x, x, x]\n${[...'bcdefgh']
    .map((name, index) => `${name}: &${name} [${Array.from({ length: 10 }, () => `*${'abcdefgh'[index]}`).join(', ')}]`)
    .join('\n')}\n`;
  const cases: readonly (readonly [string, string | (() => Uint8Array), string, RegExp])[] = [
    ['100 MB', () => Buffer.alloc(100_000_000, '# nothing\n'), 'WEFT_CONFIG_TOO_LARGE', /broken\.yaml: the file has 100000000 bytes/],
    [
      'one document of 30 MiB',
      () => Buffer.from(policy('large', `  rules:\n${'  - to: [{operation: {paths: [/public/x]}}]\n'.repeat(700_000)}`)),
      'WEFT_CONFIG_TOO_LARGE',
      /broken\.yaml:1:1: the document is larger/,
    ],
    [
      'a cycle',
      `${policy('cycle', '  rules: &rules\n  - to: [{operation: {methods: [GET]}}]\n  - *rules')}`,
      'WEFT_CONFIG_ALIAS',
      /broken\.yaml:7:5: .*contains itself/,
    ],
    ['aliases that explode', bomb, 'WEFT_CONFIG_ALIAS', /broken\.yaml:\d+:\d+: .*aliases stand for more/],
    [
      'a key twice',
      policy('twice', '  action: DENY\n  rules: [{}]\n  action: ALLOW'),
      'WEFT_CONFIG_DUPLICATE_KEY',
      /broken\.yaml:7:3: spec\.action: the key "action" is already on line 5/,
    ],
    ['bytes that are no text', () => Buffer.from('# \n\xff\xfe\0\x80', 'latin1'), 'WEFT_CONFIG_ENCODING', /broken\.yaml:2:1: /],
    ['a NUL', `${policy('nul', '  rules: []')}# \0\n`, 'WEFT_CONFIG_ENCODING', /broken\.yaml:6:3: the character U\+0000/],
    ['500 levels', `a: ${nested}\n`, 'WEFT_CONFIG_TOO_LARGE', /broken\.yaml:1:\d+: nested deeper/],
    ['a bracket that is never closed', policy('open', '  rules: [{'), 'WEFT_CONFIG_YAML', /broken\.yaml:\d+:\d+: /],
    ['a field that does not exist', policy('field', '  rulez: []'), 'WEFT_CONFIG_UNKNOWN_FIELD', /broken\.yaml:5:3: spec\.rulez: /],
    [
      'a policy that denies all beside a broken one',
      `${DENY_ALL}---\n${policy('broken', '  action: REFUSE')}`,
      'WEFT_CONFIG_INVALID_VALUE',
      /broken\.yaml:12:11: spec\.action: /,
    ],
    ['no bytes', '', 'WEFT_CONFIG_EMPTY_FILE', /broken\.yaml: the file is empty/],
  ];
  for (const [what, content, code, line] of cases) {
    it(`a file with ${what}: told with its place, counted, and nothing of it in force`, async () => {
      const before = await refusals(mesh.agentB, code);
      put('broken', typeof content === 'string' ? content : content());
      await waitForProblem(line);
      assert.ok((await refusals(mesh.agentB, code)) > before);
      const logged = await mesh.agentB.process.waitForLine(new RegExp(`"${code}".*configuration refused`));
      assert.match(logged.input, /broken\.yaml/);
      await assertInForce();
      mesh.config.remove('broken');
      await waitForOrder();
    });
  }

  it('a file that was good keeps its last good state, and takes the next good one', async () => {
    put('policy', ALLOW_PUBLIC.replace('/public/*', '/*').replace('ALLOW', 'ALOW'));
    await waitForProblem(/policy\.yaml:5:11: spec\.action: /);
    await assertInForce();
    put('policy', ALLOW_PUBLIC.replace('/public/*', '/*'));
    await waitForOrder();
    assert.equal((await mesh.curl(mesh.client, mesh.url(mesh.far, '/private'))).status, 200);
    put('policy', ALLOW_PUBLIC);
    const deadline = Date.now() + 5_000;
    while ((await mesh.curl(mesh.client, mesh.url(mesh.far, '/private'))).status !== 403) assert.ok(Date.now() < deadline);
  });

  it('a good file beside a broken one is put in force', async () => {
    put('broken', policy('broken', '  action: REFUSE'));
    await waitForProblem(/broken\.yaml:5:11/);
    await mesh.apply('good', policy('no-head', '  action: DENY\n  rules: [{to: [{operation: {methods: [HEAD]}}]}]'), 'shop/no-head');
    const refused = await mesh.curl(mesh.client, mesh.url(mesh.far, '/public/x'), '--head');
    assert.equal(refused.status, 403);
    assert.match(refused.headers, /x-weft-denied-by: shop\/no-head/i);
    mesh.config.remove('broken');
    mesh.config.remove('good');
    await waitForOrder();
  });

  it('meanwhile no caller noticed, and memory stayed where it was', async () => {
    await caller.stop();
    assert.deepEqual([...caller.statuses.keys()], [200], JSON.stringify([...caller.statuses]));
    const grown = (mesh.nodeB.agentResidentBytes() - residentBefore) / MIB;
    assert.ok(grown < 250, `${grown} MiB more`);
  });
});
