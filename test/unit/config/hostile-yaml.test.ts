import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MAX_DOCUMENT_LENGTH, MAX_FILE_BYTES, MAX_PROBLEMS_PER_FILE } from '../../../src/config/limits.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';
import { cpuMilliseconds, one, parsed, places, policy, refused, ruleProblems } from './fixtures.ts';

const NAMESPACE = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n';

/** Runs what must be cheap, and fails when it took seconds of CPU: far above what it takes, and independent of what else the machine does. */
function cheaply(work: () => void): void {
  const took = cpuMilliseconds(work);
  assert.ok(took < 5000, `took ${Math.round(took)} ms of CPU`);
}

describe('YAML that is refused', () => {
  for (const [what, text, expected] of [
    ['a duplicate key', `${NAMESPACE}kind: Namespace\n`, '4:1 DUPLICATE_KEY kind'],
    [
      'a duplicate key in flow style',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: a, name: b}\n',
      '3:21 DUPLICATE_KEY metadata.name',
    ],
    [
      'a duplicate key under another spelling',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: a, "na\\x6de": b}\n',
      '3:21 DUPLICATE_KEY metadata.name',
    ],
    [
      'a duplicate rule field',
      policy('{rules: [{from: [{source: {namespaces: [a]}}], from: [{source: {namespaces: [b]}}]}]}'),
      '4:54 DUPLICATE_KEY spec.rules[0].from',
    ],
    ['a cycle', 'apiVersion: v1\nkind: List\nitems: &a [*a]\n', '3:12 ALIAS items[0]'],
    ['a cycle through a mapping', '&a\napiVersion: v1\nkind: Namespace\nmetadata: *a\n', '4:11 ALIAS metadata'],
    ['an alias without an anchor', 'apiVersion: v1\nkind: Namespace\nmetadata: *nothing\n', '3:11 ALIAS metadata'],
    ['a merge key', 'apiVersion: v1\nkind: Namespace\nmetadata:\n  <<: {name: a}\n  name: b\n', '4:3 UNKNOWN_FIELD metadata["<<"]'],
    ['a tag', 'apiVersion: v1\nkind: Namespace\nmetadata: {name: !js a}\n', '3:18 YAML'],
    ['a binary tag', 'apiVersion: v1\nkind: Namespace\nmetadata: {name: !!binary YQ==}\n', '3:18 YAML'],
    ['YAML 1.1', `%YAML 1.1\n---\n${NAMESPACE}`, '2:1 YAML'],
    ['a directive with nothing behind it', '%YAML 1.2\n', '2:1 YAML'],
    ['an unclosed bracket', 'apiVersion: v1\nkind: Namespace\nmetadata: {name: a\n', '4:1 YAML'],
    ['a tab as indentation', 'apiVersion: v1\nkind: Namespace\nmetadata:\n\tname: a\n', '4:1 YAML'],
    ['a NUL', `${NAMESPACE}# \0\n`, '4:3 ENCODING'],
    ['a control character', `${NAMESPACE}# \u001b[31m\n`, '4:3 ENCODING'],
    ['a lone carriage return', 'apiVersion: v1\nkind: Namespace\nmetadata: {name: a} # x\rkind: Other\n', '3:24 ENCODING'],
    ['half a surrogate pair', `${NAMESPACE}# \ud800\n`, '1:1 ENCODING'],
    [
      '__proto__',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: a, __proto__: {labels: {x: y}}}\n',
      '3:21 UNKNOWN_FIELD metadata.__proto__',
    ],
    [
      'an octal port of YAML 1.1',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0100}]}\n',
      '4:23 INVALID_VALUE spec.ports[0].port',
    ],
    [
      'an octal port of YAML 1.2',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0o100}]}\n',
      '4:23 INVALID_VALUE spec.ports[0].port',
    ],
    [
      'a hexadecimal port',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0x50}]}\n',
      '4:23 INVALID_VALUE spec.ports[0].port',
    ],
    [
      'a port with an exponent',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 8e3}]}\n',
      '4:23 INVALID_VALUE spec.ports[0].port',
    ],
    ['a key that is a mapping', '{a: b}: c\n', '1:1 YAML'],
    ['an undefined second document', `${NAMESPACE}---\n- a\n- b: [\n`, '7:1 YAML'],
  ] as const) {
    it(`has ${what}`, () => {
      const { problems } = parseResources(text, 'test.yaml');
      assert.equal(places(problems)[0], expected);
    });
  }

  it('has an alias that expands without end, and costs nothing', () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
    for (let level = 1; level < 40; level += 1)
      lines.push(`a${level}: &a${level} [${Array.from({ length: 10 }, () => `*a${level - 1}`).join(', ')}]`);
    cheaply(() => assert.deepEqual([...new Set(refused(lines.join('\n')).map(({ code }) => code))], ['WEFT_CONFIG_ALIAS']));
  });

  it('is nested too deeply, in brackets, by indentation or through aliases', () => {
    cheaply(() => {
      assert.equal(refused('['.repeat(500_000))[0]?.code, 'WEFT_CONFIG_TOO_LARGE');
      assert.equal(refused('- '.repeat(500_000))[0]?.code, 'WEFT_CONFIG_TOO_LARGE');
      assert.equal(refused('{a: '.repeat(500_000))[0]?.code, 'WEFT_CONFIG_TOO_LARGE');
      assert.equal(
        refused(Array.from({ length: 500 }, (_, index) => `${' '.repeat(index)}a:`).join('\n'))[0]?.code,
        'WEFT_CONFIG_TOO_LARGE',
      );
      const ladder = ['a0: &a0 [x]', ...Array.from({ length: 100 }, (_, index) => `a${index + 1}: &a${index + 1} [*a${index}]`)];
      assert.equal(refused(ladder.join('\n'))[0]?.code, 'WEFT_CONFIG_TOO_LARGE');
    });
  });

  it('has more tokens than a document may have', () => {
    cheaply(() =>
      assert.deepEqual(
        refused(`[${'1,'.repeat(1_000_000)}]`).map(({ code }) => code),
        ['WEFT_CONFIG_TOO_LARGE'],
      ),
    );
  });

  it('is too large to be looked at', () => {
    cheaply(() => {
      const file = refused(Buffer.alloc(MAX_FILE_BYTES + 1, 'a').toString());
      assert.deepEqual(places(file), ['0:0 TOO_LARGE']);
      const document = refused(`a: b\n---\na: ${'b'.repeat(MAX_DOCUMENT_LENGTH)}\n`);
      assert.deepEqual(places(document), ['2:1 TOO_LARGE']);
    });
  });

  it('has a hundred thousand keys, one of them twice', () => {
    const keys = Array.from({ length: 100_000 }, (_, index) => `k${index}: 1\n`).join('');
    cheaply(() => assert.deepEqual(places(refused(`${keys}k7: 1\n`)), ['100001:1 DUPLICATE_KEY k7']));
  });

  it('is wrong in so many places that only the first are listed', () => {
    const problems = refused(Array.from({ length: 5000 }, () => 'a: b\n').join(''));
    assert.equal(problems.length, MAX_PROBLEMS_PER_FILE + 1);
    assert.match(problems.at(-1)?.message ?? '', /^4899 more problems/);
    const entries = Array.from({ length: 90_000 }, () => '1').join(',');
    cheaply(() => assert.equal(ruleProblems(policy(`{rules: [{to: [{operation: {methods: [${entries}]}}]}]}`)).problems.length, 1));
    const rules = Array.from({ length: 513 }, () => '1').join(',');
    assert.deepEqual(places(refused(policy(`{rules: [${rules}]}`))).slice(0, 1), ['4:8 INVALID_VALUE spec.rules']);
  });

  it('is not UTF-8', () => {
    assert.deepEqual(places(parseResources(Uint8Array.of(0x61, 0x0a, 0x0a, 0xc3, 0x28, 0x0a), 'x.yaml').problems), ['3:1 ENCODING']);
    const utf16 = Buffer.from(`\ufeff${NAMESPACE}`, 'utf16le');
    assert.deepEqual(places(parseResources(utf16, 'x.yaml').problems), ['1:1 ENCODING']);
  });

  it('never puts the text of a file unescaped into a message', () => {
    const [problem] = refused(`apiVersion: v1\nkind: "x\\e[31m\\n${'y'.repeat(500)}"\n`);
    // oxlint-disable-next-line no-control-regex
    assert.doesNotMatch(problem?.message ?? '', /[\u0000-\u001f]/);
    assert.ok((problem?.message.length ?? 0) < 200);
  });
});

describe('YAML that is read', () => {
  it('may start with a byte order mark and end its lines as Windows does', () => {
    const text = `\ufeff${NAMESPACE}`.replaceAll('\n', '\r\n');
    const { resources, problems } = parseResources(Buffer.from(text), 'x.yaml');
    assert.deepEqual(problems, []);
    assert.equal(resources[0]?.metadata.name, 'a');
  });

  it('may use aliases', () => {
    const { spec } = one(
      'AuthorizationPolicy',
      policy('{rules: [{from: [{source: &shop {namespaces: [shop]}}]}, {from: [{source: *shop}]}]}'),
    );
    assert.deepEqual(spec.rules[1], { from: [{ namespaces: ['shop'] }], to: [], when: [] });
  });

  it('points at the anchored text for a problem behind an alias', () => {
    const { problems } = ruleProblems(policy('\n  rules:\n  - from: [{source: &a {namespace: [x]}}]\n  - from: [{source: *a}]'));
    assert.deepEqual(places(problems), [
      '6:25 UNKNOWN_FIELD spec.rules[0].from[0].source.namespace',
      '6:25 UNKNOWN_FIELD spec.rules[1].from[0].source.namespace',
    ]);
  });

  it('may be empty', () => {
    assert.deepEqual(parsed(''), []);
    assert.deepEqual(parsed('# only words\n---\n---\n...\n'), []);
  });

  it('takes the words of YAML 1.1 for what they are: text', () => {
    const { metadata } = one('Namespace', 'apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {a: yes, b: off, c: n}}\n');
    assert.deepEqual(metadata.labels, { a: 'yes', b: 'off', c: 'n' });
  });
});
