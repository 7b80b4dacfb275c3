import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type DecisionTable, ENTRY_CONDITIONAL } from '../../../proxy/policy/decision-table.ts';
import { compileDecisionTable, type TableEntry } from '../../../proxy/policy/decision-table-compiler.ts';
import { OperationMatcher } from '../../../proxy/policy/operation-matcher.ts';
import type { PolicyOperation } from '../../../src/model/resources.ts';
import { list, methods, pathValues, text } from './arbitraries.ts';
import { allow, compile, connection, request, rule } from './fixtures.ts';
import { pathMatches, valueMatches } from './naive.ts';

function entry(operation: PolicyOperation | null, conditional = false): TableEntry {
  return { patterns: operation === null ? null : new OperationMatcher(operation, false).patterns, conditional };
}

function table(
  operations: readonly (PolicyOperation | null)[],
  options: Partial<Parameters<typeof compileDecisionTable>[1]> = {},
): DecisionTable {
  return compileDecisionTable(
    operations.map((operation) => entry(operation)),
    { generation: 7, ...options },
  );
}

function found(of: DecisionTable, method: string, path: string, host = 'h'): number[] {
  const { resultOffsets, results } = of.data;
  const result = of.run(method, path, host);
  return [...results.subarray(resultOffsets[result], resultOffsets[result + 1])].map((one) => (one & ~ENTRY_CONDITIONAL) >>> 0);
}

function holds(values: readonly string[] | undefined, not: readonly string[] | undefined, actual: string): boolean {
  return (
    (values === undefined || values.some((value) => valueMatches(value, actual))) && !not?.some((value) => valueMatches(value, actual))
  );
}

function naive(operation: PolicyOperation, method: string, path: string, host: string): boolean {
  return (
    holds(operation.methods, operation.notMethods, method) &&
    holds(operation.hosts, operation.notHosts, host) &&
    (operation.paths === undefined || operation.paths.some((value) => pathMatches(value, path, false))) &&
    !operation.notPaths?.some((value) => pathMatches(value, path, true))
  );
}

/** Words over three letters: most values are beginnings or ends of others, and of the paths that are asked. */
const word = fc.string({ unit: fc.constantFrom('a', 'b', '/'), minLength: 1, maxLength: 6 });
const asked = fc.array(fc.tuple(fc.constantFrom(...methods), word, fc.constantFrom('', 'a', 'b.a', 'ab')), { minLength: 1, maxLength: 20 });
const values = list(
  fc.oneof(
    word,
    word.map((one) => `${one}*`),
    word.map((one) => `*${one}`),
    fc.constant('*'),
  ),
);
const operations = fc.array(
  fc.oneof(
    fc.record({ paths: values }),
    fc.record({ paths: pathValues, methods: text(...methods) }),
    fc.record({ paths: values, notPaths: values }),
    fc.record({ paths: values, hosts: text('a', 'b.a') }),
    fc.record({ notPaths: pathValues, notHosts: text('a', 'b.a'), notMethods: text(...methods) }),
  ),
  { minLength: 1, maxLength: 25 },
);

describe('a decision table', () => {
  it('finds the first entry that a request matches, read forward or backward', () => {
    fc.assert(
      fc.property(operations, asked, (written, requests) => {
        for (const pathReversed of [false, true]) {
          const compiled = table(written, { pathReversed });
          for (const [method, path, host] of requests) {
            const first = written.findIndex((operation) => naive(operation, method, path, host));
            assert.deepEqual(found(compiled, method, path, host), first === -1 ? [] : [first], `${method} ${path} ${host}`);
          }
        }
      }),
      { numRuns: 120 },
    );
  });

  it('lists entries with conditions in order, up to the first that has none', () => {
    const compiled = compileDecisionTable(
      [entry({ paths: ['/a*'] }, true), entry({ paths: ['/b'] }), entry(null, true), entry({ methods: ['GET'] }), entry(null)],
      { generation: 0 },
    );
    assert.deepEqual(found(compiled, 'GET', '/abc'), [0, 2, 3]);
    assert.deepEqual(found(compiled, 'PUT', '/abc'), [0, 2, 4]);
    assert.deepEqual(found(compiled, 'PUT', '/b'), [1]);
    const [first] = compiled.data.results.subarray(compiled.data.resultOffsets[compiled.run('GET', '/abc', '')]);
    assert.equal(first, ENTRY_CONDITIONAL);
  });

  it('cannot be told that a part ends by anything in it', () => {
    const compiled = table([{ methods: ['GET'], paths: ['/a'], hosts: ['h'] }]);
    assert.deepEqual(found(compiled, 'GET', '/a', 'h'), [0]);
    for (const separator of [' ', '\0', '\n', '\u0001', '\u0005', '\u0100']) {
      assert.deepEqual(found(compiled, `GET${separator}/a`, '/a', 'h'), []);
      assert.deepEqual(found(compiled, 'GET', `/a${separator}h`, 'h'), []);
      assert.deepEqual(found(compiled, 'GET', `/a${separator}`, 'h'), []);
      assert.deepEqual(found(compiled, 'GET', '/a', `h${separator}`), []);
    }
  });

  it('is plain arrays within their bounds: every state leads to a state, every result to entries', () => {
    fc.assert(
      fc.property(operations, (written) => {
        const { data } = table(written);
        const rows = data.next.length / data.classes;
        const states = data.sinks + data.leaves + rows;
        assert.ok(Number.isInteger(rows) && data.start < states);
        assert.equal(data.classMap.length, 256);
        assert.ok(data.classMap.every((column) => column >= 1 && column < data.classes));
        assert.ok(data.next.every((state) => state < states));
        for (let leaf = 0; leaf < data.leaves; leaf++) {
          const [offset = -1, length = -1, hit = -1, miss = -1] = data.leafHeads.subarray(leaf * 4, leaf * 4 + 4);
          assert.ok(offset + length <= data.leafBytes.length && hit < states && miss < states);
        }
        assert.equal(data.resultOffsets.length, data.sinks + 1);
        assert.equal(data.resultOffsets.at(-1), data.results.length);
        assert.ok(data.results.every((one) => one < written.length));
        assert.equal(data.generation, 7);
      }),
      { numRuns: 100 },
    );
  });

  it('of 10,000 rules of one kind of path is small', () => {
    const kinds: readonly ((i: number) => string)[] = [
      (i) => `/api/v1/tenants/tenant-${i}/orders`,
      (i) => `/api/v1/tenants/tenant-${i}/*`,
      (i) => `/api/{*}/tenants/tenant-${i}/{**}/items`,
    ];
    for (const kind of kinds) {
      const compiled = table(Array.from({ length: 10_000 }, (_, i) => ({ methods: ['GET'], paths: [kind(i)] })));
      assert.ok(compiled.bytes < 2_000_000, String(compiled.bytes));
    }
  });

  it('that would be too large is refused with a clear error, and the index decides the same', () => {
    const limits: readonly Partial<Parameters<typeof compileDecisionTable>[1]>[] = [{ maxStates: 10 }, { maxWork: 100 }];
    for (const limit of limits) {
      assert.throws(() => table([{ paths: ['/a', '/b/c/d', '*x'] }, { paths: ['*/y/z', '/b/{*}/e'] }], limit), {
        code: 'WEFT_POLICY_TABLE',
      });
    }
    // Prefixes and notPaths that are suffixes combine: each with each.
    const many = Array.from({ length: 400 }, (_, i) => rule([], [{ paths: [`/p${i}/*`], notPaths: [`*/s${i}/t`] }], []));
    const bound = compile([allow('a/p', ...many)]).bind(connection());
    assert.equal(bound.request(request({ path: '/p77/s78/t' })).rule, 77);
    assert.equal(bound.request(request({ path: '/p77/s77/t' })).verdict, 'deny');
  });

  it('is not made of values that are no bytes: the index decides', () => {
    assert.throws(() => table([{ paths: ['/\u0416'] }]), { code: 'WEFT_POLICY_TABLE' });
    const bound = compile([allow('a/p', rule([], [{ paths: ['/\u0416*', '/\u0003'] }]))]).bind(connection());
    assert.equal(bound.request(request({ path: '/\u0416x' })).verdict, 'allow');
    assert.equal(bound.request(request({ path: '/\u0003' })).verdict, 'allow');
    assert.equal(bound.request(request({ path: '/x' })).verdict, 'deny');
  });
});

describe('policies of very many rules', () => {
  const kinds: readonly (readonly [string, (i: number) => string, (i: number) => string])[] = [
    ['exact', (i) => `/a/${i}/b`, (i) => `/a/${i}/b`],
    ['prefix', (i) => `/a/${i}/*`, (i) => `/a/${i}/x/y`],
    ['suffix', (i) => `*/${i}/b`, (i) => `/q/${i}/b`],
    ['template', (i) => `/a/{*}/${i}/b`, (i) => `/a/q/${i}/b`],
  ];
  it('name the right rule of 4,000, whatever their paths are', () => {
    const rules = Array.from({ length: 4000 }, (_, i) => rule([], [{ paths: [kinds[i % 4]?.[1](i) as string] }]));
    const bound = compile([allow('a/p', ...rules)]).bind(connection());
    for (let i = 0; i < 4000; i += 37) assert.equal(bound.request(request({ path: kinds[i % 4]?.[2](i) as string })).rule, i);
    assert.equal(bound.request(request({ path: '/a/4001/b' })).verdict, 'deny');
  });

  it('find the rules of a peer among those of others', () => {
    const rules = Array.from({ length: 2000 }, (_, i) =>
      rule([{ principals: [`cluster.local/ns/shop/sa/${i === 1234 ? 'web' : i}`] }], [{ paths: [`/a/${i}`] }]),
    );
    const bound = compile([allow('a/p', ...rules)]).bind(connection());
    assert.equal(bound.request(request({ path: '/a/1234' })).rule, 1234);
    assert.equal(bound.request(request({ path: '/a/1235' })).verdict, 'deny');
  });

  it('keep one policy for all connections of a kind, and another for another', () => {
    const policy = compile([
      allow('a/p', rule([{ ipBlocks: ['10.0.0.0/8'], notIpBlocks: ['10.1.0.0/16'] }], [{ ports: [8080], methods: ['GET'] }])),
    ]);
    const one = policy.bind(connection({ sourceAddress: '10.2.0.1' }));
    assert.equal(policy.bind(connection({ sourceAddress: '10.200.7.7' })), one);
    assert.notEqual(policy.bind(connection({ sourceAddress: '10.1.0.1' })), one);
    assert.notEqual(policy.bind(connection({ sourceAddress: '11.0.0.1' })), one);
    assert.notEqual(policy.bind(connection({ sourceAddress: '10.2.0.1', destinationPort: 80 })), one);
    assert.notEqual(policy.bind(connection({ sourceAddress: '10.2.0.1', sourceIdentity: null })), one);
  });

  it('keep a bounded number of kinds', () => {
    const policy = compile([allow('a/p', rule([{ namespaces: ['shop'] }], [{ methods: ['GET'] }]))]);
    const first = policy.bind(connection());
    const identity = connection().sourceIdentity;
    if (identity === null) throw new Error('the fixture has an identity');
    for (let i = 0; i < 5000; i++) policy.bind(connection({ sourceIdentity: { ...identity, text: `${identity.text}${i}` } }));
    assert.notEqual(policy.bind(connection()), first);
    assert.equal(policy.bind(connection()).request(request()).verdict, 'allow');
  });
});
