import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { buildSnapshot, WorkloadIds } from '../../../src/config/build-snapshot.ts';
import { ConfigDirectory } from '../../../src/config/config-directory.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';
import type { JsonSchema } from '../../../src/config/schema/json-schema.ts';
import { KINDS } from '../../../src/config/schema/kinds.ts';

const DOCS = join(import.meta.dirname, '..', '..', '..', 'docs');
const EXAMPLES = join(DOCS, 'examples');
const PAGE = readFileSync(join(DOCS, 'configuration.md'), 'utf8');

/** Every field name of a schema, with the schema. */
function fieldsOf(schema: JsonSchema): [string, JsonSchema][] {
  const here = Object.entries(schema.properties ?? {});
  const below = [
    ...here.map(([, field]) => field),
    schema.items,
    schema.additionalProperties === false ? undefined : schema.additionalProperties,
  ];
  return [...here, ...below.flatMap((field) => (field === undefined ? [] : fieldsOf(field)))];
}

describe('docs/examples', () => {
  for (const name of readdirSync(EXAMPLES).filter((name) => name.endsWith('.yaml'))) {
    it(`${name} has no problems`, () => {
      const { resources, problems } = parseResources(readFileSync(join(EXAMPLES, name)), name);
      assert.deepEqual(problems, []);
      assert.notEqual(resources.length, 0);
    });
  }

  it('are together one working directory, with every kind', async () => {
    await using directory = await ConfigDirectory.open(EXAMPLES, { onChange: () => undefined });
    assert.deepEqual(directory.problems, []);
    assert.deepEqual(new Set(directory.resources.map(({ kind }) => kind)), new Set(KINDS.map(({ kind, readAs }) => readAs ?? kind)));
    const { snapshot, warnings } = buildSnapshot(directory.resources, {
      nodeName: 'node-b',
      trustDomain: 'cluster.local',
      version: 1,
      enrolled: () => true,
      workloadIds: new WorkloadIds(),
    });
    assert.deepEqual(warnings, []);
    assert.deepEqual(
      snapshot.workloads.map(({ name, mode, modeSource, portModes, enrolled, policies }) => [
        name,
        mode,
        modeSource,
        portModes,
        enrolled,
        policies.length,
      ]),
      [
        ['web-1', 'strict', 'Namespace shop', [], true, 1],
        ['catalog-1', 'strict', 'Namespace shop', [], true, 4],
        ['ledger', 'strict', 'PeerAuthentication bank/ledger', [[9100, 'permissive']], true, 1],
        ['mainframe', 'off', 'Namespace legacy', [], false, 0],
      ],
    );
    assert.deepEqual(
      snapshot.workloads.map(({ authentications }) => authentications.length),
      [0, 1, 0, 0],
    );
    assert.deepEqual(
      snapshot.policies.filter(({ provider, dryRun }) => provider !== null || dryRun).map(({ name }) => name),
      ['shop/reviews-need-a-token', 'shop/ask-about-exports'],
    );
    assert.equal(snapshot.settings.pathNormalisation, 'MERGE_SLASHES');
    assert.deepEqual(
      snapshot.services.map(({ endpoints }) => endpoints.length),
      [1, 1],
    );
  });
});

describe('docs/configuration.md', () => {
  it('has an example of every kind, without problems', () => {
    const blocks = [...PAGE.matchAll(/^```yaml\n([\s\S]*?)^```/gm)].map(([, block = '']) => block);
    const kinds = blocks.flatMap((block) => {
      const { resources, problems } = parseResources(block, 'configuration.md');
      assert.deepEqual(problems, []);
      return resources.map(({ kind }) => kind);
    });
    assert.deepEqual(new Set(kinds), new Set(KINDS.map(({ kind, readAs }) => readAs ?? kind)));
  });

  it('names every field that is read, refused by name, or accepted and not used', () => {
    const missing = KINDS.flatMap(({ kind, schema }) =>
      fieldsOf(schema)
        .filter(([field]) => !new RegExp(`\\b${field}\\b`).test(PAGE))
        .map(([field]) => `${kind} ${field}`),
    );
    assert.deepEqual(missing, []);
    const values = KINDS.flatMap(({ schema }) => fieldsOf(schema).flatMap(([, field]) => Object.keys(field.weftUnsupportedValues ?? {})));
    assert.deepEqual(
      values.filter((value) => !PAGE.includes(value)),
      [],
    );
  });
});
