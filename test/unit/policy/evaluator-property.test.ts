import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { compileWorkloadPolicy } from '../../../proxy/policy/workload-policy.ts';
import { parseSpiffeId } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, JwtIdentity, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyAction, PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';
import { naiveCustom, naiveShadow, naiveVerdict, ruleHolds } from './naive.ts';

/** A small world, so that values and attributes meet often. */
const identities = [
  'spiffe://td/ns/a/sa/x',
  'spiffe://td/ns/a/sa/y',
  'spiffe://old/ns/a/sa/x',
  'spiffe://td/ns/ab/sa/x',
  'spiffe://other/ns/a/sa/x',
  'spiffe://td/gateway',
];
const addresses = ['10.0.0.1', '10.0.1.1', '192.168.0.1', 'fd00::1', 'fd00:0:0:1::1'];
const methods = ['GET', 'POST', 'PUT', 'G'];
const paths = ['/', '/a', '/a/', '/a/b', '/a/b/c', '/ab', '/b/a', '/a/*', '/a//b', '/a/b"/c', '/ab/a/b'];
const hosts = ['', 'a', 'a:80', 'b.a', 'a.b'];

const list = <Value>(value: fc.Arbitrary<Value>): fc.Arbitrary<Value[]> => fc.array(value, { minLength: 1, maxLength: 3 });
const value = (...values: string[]): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...values) },
    { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...values), fc.nat(6)).map(([text, cut]) => `${text.slice(0, cut)}*`) },
    { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...values), fc.nat(6)).map(([text, cut]) => `*${text.slice(cut)}`) },
    { weight: 1, arbitrary: fc.constant('*') },
  );
const text = (...values: string[]): fc.Arbitrary<string[]> => list(value(...values));

const principalValues = [...identities.map((identity) => identity.slice('spiffe://'.length)), 'cluster.local/ns/a/sa/x', '*d/ns/a/sa/y'];
const blocks = list(
  fc.oneof(
    fc.tuple(fc.constantFrom('10.0.0.0', '10.0.1.0', '192.168.0.1'), fc.nat(32)).map(([base, length]) => `${base}/${length}`),
    fc.tuple(fc.constantFrom('fd00::', 'fd00:0:0:1::1'), fc.nat(128)).map(([base, length]) => `${base}/${length}`),
    fc.constantFrom(...addresses),
  ),
);
const accounts = list(fc.constantFrom('a/x', 'a/y', 'ab/x', 'b/x'));
const somePorts = list(fc.constantFrom(80, 81));
const requestPrincipals = text('iss/sub', 'iss/', 'iss', 'https://iss/x/sub', 'sub');
const templates = fc
  .tuple(
    fc.array(fc.constantFrom('{*}', 'a', 'b', 'ab'), { maxLength: 3 }),
    fc.boolean(),
    fc.array(fc.constantFrom('a', 'b', ''), { maxLength: 2 }),
  )
  .map(([before, rest, after]) => `/${[...before, ...(rest ? ['{**}'] : []), ...after].join('/')}`);
const pathValues = list(
  fc.oneof({ weight: 3, arbitrary: value(...paths.filter((path) => !path.includes('{'))) }, { weight: 1, arbitrary: templates }),
);

/** Objects with one field at least, as validation has them. */
function some<Type extends object>(model: { [Key in keyof Type]-?: fc.Arbitrary<NonNullable<Type[Key]>> }): fc.Arbitrary<Type> {
  return fc.record(model as never, { requiredKeys: [] }).filter((made) => Object.keys(made as object).length > 0) as fc.Arbitrary<Type>;
}

const source = some<PolicySource>({
  principals: text(...principalValues),
  notPrincipals: text(...principalValues),
  namespaces: text('a', 'ab', 'b'),
  notNamespaces: text('a', 'ab', 'b'),
  serviceAccounts: accounts,
  notServiceAccounts: accounts,
  ipBlocks: blocks,
  notIpBlocks: blocks,
  requestPrincipals,
  notRequestPrincipals: requestPrincipals,
  remoteIpBlocks: blocks,
  notRemoteIpBlocks: blocks,
});
const operation = some<PolicyOperation>({
  hosts: text('a', 'A:80', 'b.A'),
  notHosts: text('a', 'A:80', 'b.A'),
  ports: somePorts,
  notPorts: somePorts,
  methods: text(...methods),
  notMethods: text(...methods),
  paths: pathValues,
  notPaths: pathValues,
});
const keys: readonly (readonly [string, fc.Arbitrary<string[]>])[] = [
  ['request.headers[X-A]', text('one', 'two', 'o')],
  ['request.headers[x-b]', text('one', 'two')],
  ['source.ip', blocks],
  ['remote.ip', blocks],
  ['destination.ip', list(fc.constantFrom('10.9.9.9', '10.9.0.0/16', 'fd00::/8'))],
  ['destination.port', list(fc.constantFrom('80', '81'))],
  ['source.namespace', text('a', 'ab')],
  ['source.serviceAccount', accounts],
  ['source.trustDomain', text('td', 'old', 'other')],
  ['source.principal', text(...principalValues)],
  ['connection.sni', text('a.b', 'b')],
  ['request.auth.principal', requestPrincipals],
  ['request.auth.audiences', text('one', 'two')],
  ['request.auth.presenter', text('one', 'two')],
  ['request.auth.claims[group]', text('one', 'two')],
  ['request.auth.claims[deep][er]', text('one', 'two')],
];
const condition: fc.Arbitrary<PolicyCondition> = fc
  .constantFrom(...keys)
  .chain(([key, values]) =>
    fc.oneof(
      fc.record({ key: fc.constant(key), values }),
      fc.record({ key: fc.constant(key), notValues: values }),
      fc.record({ key: fc.constant(key), values, notValues: values }),
    ),
  );
/** Fields are few in most: with eight of them hardly anything would match. */
const fewOf = <Type extends object>(arbitrary: fc.Arbitrary<Type>): fc.Arbitrary<Type> =>
  fc.tuple(arbitrary, fc.nat(), fc.oneof(fc.constantFrom(1, 2), fc.integer({ min: 1, max: 8 }))).map(([made, from, count]) => {
    const entries = Object.entries(made);
    const kept = Array.from(
      { length: Math.min(count, entries.length) },
      (_, i) => entries[(from + i) % entries.length] as [string, unknown],
    );
    return Object.fromEntries(kept) as Type;
  });
const rule: fc.Arbitrary<PolicyRule> = fc.record({
  from: fc.array(fewOf(source), { maxLength: 2 }),
  to: fc.array(fewOf(operation), { maxLength: 3 }),
  when: fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.array(condition, { minLength: 1, maxLength: 2 }) }),
});
const policies: fc.Arbitrary<PolicyEntry[]> = fc.array(
  fc
    .record({
      name: fc.constantFrom('a/p', 'a/q'),
      action: fc.constantFrom<PolicyAction>('ALLOW', 'ALLOW', 'DENY', 'DENY', 'AUDIT', 'CUSTOM'),
      rules: fc.array(rule, { maxLength: 4 }),
      provider: fc.constantFrom('p', 'p', 'p', 'q'),
      dryRun: fc.constantFrom(false, false, true),
    })
    .map((made) => (made.action === 'CUSTOM' ? made : { ...made, provider: null })),
  { maxLength: 5 },
);
const peer: fc.Arbitrary<ConnectionAttributes> = fc.record({
  sourceIdentity: fc.constantFrom(...identities.map(parseSpiffeId), null),
  sourceAddress: fc.constantFrom(...addresses),
  destinationAddress: fc.constantFrom('10.9.9.9', 'fd00::9'),
  destinationPort: fc.constantFrom(80, 81, 82),
  serverName: fc.constantFrom(null, null, 'a.b'),
});
const jwt: fc.Arbitrary<JwtIdentity | null> = fc.oneof(
  fc.constant(null),
  fc
    .record({
      issuer: fc.constantFrom('iss', 'https://iss/x'),
      subject: fc.constantFrom(null, '', 'sub'),
      audiences: fc.constantFrom([], ['one'], ['two', 'one']),
      presenter: fc.constantFrom(null, 'one'),
      claims: fc.constantFrom({}, { group: 'one' }, { group: ['two', 3, 'one'] }, { group: 1, deep: { er: 'two' } }, { deep: 'one' }),
    })
    .map((made) => ({ ...made, principal: `${made.issuer}/${made.subject ?? ''}` })),
);
const headerValues = fc.constantFrom([], [''], ['one'], ['two', 'one'], ['o'], ['one,two']);
const request: fc.Arbitrary<RequestAttributes> = fc
  .record({
    method: fc.constantFrom(...methods),
    path: fc.constantFrom(...paths),
    host: fc.constantFrom(...hosts),
    remoteAddress: fc.constantFrom(...addresses),
    jwt,
    a: headerValues,
    b: headerValues,
  })
  .map(({ a, b, ...made }) => ({ ...made, header: (name) => (name === 'x-a' ? a : name === 'x-b' ? b : []) }));
const requests = fc.array(request, { minLength: 1, maxLength: 8 });

const DOMAINS = { trustDomain: 'td', trustDomainAliases: ['old'] };

for (const tables of [true, false]) {
  it(`decides as the plain evaluator does, ${tables ? 'by decision tables' : 'by the index'}, for connections and each request, and its scope holds`, () => {
    fc.assert(
      fc.property(policies, fc.array(peer, { minLength: 1, maxLength: 3 }), requests, (written, peers, asked) => {
        const compiled = compileWorkloadPolicy(written, { ...DOMAINS, tables });
        assert.deepEqual(
          compiled.errors.filter(({ code }) => code !== 'WEFT_POLICY_PROVIDER'),
          [],
        );
        for (const from of peers) {
          const bound = compiled.bind(from);
          assert.equal(bound.tcp.verdict, naiveVerdict(written, from, null));
          assert.deepEqual(
            bound.tcpShadow.map(({ effect, policy }) => `${effect} ${policy}`),
            naiveShadow(written, from, null),
          );
          if (bound.scope !== 'request') assert.equal(bound.tcp.verdict, bound.scope);
          for (const one of asked) checkRequest(written, from, one, compiled.bind(from));
        }
      }),
      { numRuns: 600 },
    );
  });
}

function checkRequest(
  written: readonly PolicyEntry[],
  from: ConnectionAttributes,
  asked: RequestAttributes,
  bound: ReturnType<ReturnType<typeof compileWorkloadPolicy>['bind']>,
): void {
  const decision = bound.request(asked);
  assert.equal(decision.verdict, naiveVerdict(written, from, asked));
  const custom = bound.custom(asked);
  assert.equal(custom === null ? null : custom.dryRun ? 'dry run' : custom.provider, naiveCustom(written, from, asked));
  const shadow = bound.shadow(asked).map(({ effect, policy }) => `${effect} ${policy}`);
  assert.deepEqual(shadow, naiveShadow(written, from, asked));
  if (shadow.length > 0) assert.equal(bound.hasShadow, true);
  if (custom !== null) assert.equal(bound.hasCustom, true);
  if (bound.scope !== 'request') {
    assert.equal(decision.verdict, bound.scope);
    if (bound.scope === 'allow') assert.ok(custom === null || custom.dryRun);
  }
  if (decision.rule === null) return;
  // The rule that is named is one that says so.
  const named = written.filter(
    ({ name, action, dryRun }) =>
      !dryRun && name === decision.policy && (decision.verdict === 'deny' ? action === 'DENY' || action === 'CUSTOM' : action === 'ALLOW'),
  );
  assert.ok(
    named.some(({ action, rules }) => {
      const candidate = rules[decision.rule as number];
      return candidate !== undefined && ruleHolds(candidate, action, from, asked);
    }),
  );
}

it('allows no connection that is not HTTP of which a request may be denied, unless by where the request came from', () => {
  const withoutRemote = policies.filter((written) => !JSON.stringify(written).match(/remote/i));
  fc.assert(
    fc.property(withoutRemote, peer, (written, from) => {
      const bound = compileWorkloadPolicy(written, DOMAINS).bind({ ...from, serverName: null });
      if (bound.tcp.verdict === 'allow') assert.equal(bound.scope, 'allow');
    }),
    { numRuns: 300 },
  );
});

it('names the first rule in order among many, whether their paths are exact, prefixes, suffixes or templates', () => {
  const few: fc.Arbitrary<PolicyOperation> = fc.oneof(
    fc.record({ paths: pathValues, methods: list(fc.constantFrom(...methods)) }),
    fc.record({ paths: list(fc.constantFrom(...paths, '/a/b*', '/a*', '/*', '/b*')) }),
    fc.record({ paths: pathValues, notPaths: pathValues }),
    fc.record({ paths: pathValues, hosts: text('a', 'b.a') }),
  );
  const one = fc.record({ from: fc.constantFrom([], [{ namespaces: ['a'] }]), to: fc.tuple(few), when: fc.constant([]) });
  fc.assert(
    fc.property(fc.array(one, { minLength: 5, maxLength: 60 }), fc.tuple(peer, peer), requests, (rules, peers, asked) => {
      const policy: PolicyEntry = { name: 'a/p', action: 'DENY', rules, provider: null, dryRun: false };
      for (const tables of [true, false]) {
        const compiled = compileWorkloadPolicy([policy], { ...DOMAINS, tables });
        for (const from of peers) {
          const bound = compiled.bind(from);
          for (const request of asked) {
            const first = rules.findIndex((candidate) => ruleHolds(candidate, 'DENY', from, request));
            assert.equal(bound.request(request).rule, first === -1 ? null : first);
          }
        }
      }
    }),
    { numRuns: 150 },
  );
});

it('knows two connections apart that any rule tells apart, whatever was asked before', () => {
  fc.assert(
    fc.property(policies, fc.array(peer, { minLength: 2, maxLength: 6 }), request, (written, peers, asked) => {
      const kept = compileWorkloadPolicy(written, DOMAINS);
      for (const from of peers) {
        const fresh = compileWorkloadPolicy(written, DOMAINS).bind(from);
        assert.deepEqual(kept.bind(from).tcp, fresh.tcp);
        assert.deepEqual(kept.bind(from).request(asked), fresh.request(asked));
        assert.deepEqual(kept.bind(from).shadow(asked), fresh.shadow(asked));
      }
    }),
    { numRuns: 200 },
  );
});
