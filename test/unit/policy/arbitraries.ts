import fc from 'fast-check';
import { parseSpiffeId } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, JwtIdentity, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyAction, PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';

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
export const methods: readonly string[] = ['GET', 'POST', 'PUT', 'G'];
export const paths: readonly string[] = ['/', '/a', '/a/', '/a/b', '/a/b/c', '/ab', '/b/a', '/a/*', '/a//b', '/a/b"/c', '/ab/a/b'];
const hosts = ['', 'a', 'a:80', 'b.a', 'a.b'];

export const list = <Value>(value: fc.Arbitrary<Value>): fc.Arbitrary<Value[]> => fc.array(value, { minLength: 1, maxLength: 3 });
const value = (...values: string[]): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...values) },
    { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...values), fc.nat(6)).map(([text, cut]) => `${text.slice(0, cut)}*`) },
    { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...values), fc.nat(6)).map(([text, cut]) => `*${text.slice(cut)}`) },
    { weight: 1, arbitrary: fc.constant('*') },
  );
export const text = (...values: string[]): fc.Arbitrary<string[]> => list(value(...values));

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
export const pathValues: fc.Arbitrary<string[]> = list(
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
export const rule: fc.Arbitrary<PolicyRule> = fc.record({
  from: fc.array(fewOf(source), { maxLength: 2 }),
  to: fc.array(fewOf(operation), { maxLength: 3 }),
  when: fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.array(condition, { minLength: 1, maxLength: 2 }) }),
});
export const policies: fc.Arbitrary<PolicyEntry[]> = fc.array(
  fc
    .record({
      name: fc.constantFrom('a/p', 'a/q'),
      action: fc.constantFrom<PolicyAction>('ALLOW', 'ALLOW', 'DENY', 'DENY', 'AUDIT', 'CUSTOM'),
      rules: fc.array(rule, { maxLength: 4 }),
      provider: fc.constantFrom('p', 'p', 'p', 'q'),
      dryRun: fc.constantFrom(false, false, true),
    })
    .map(({ name, action, rules, provider, dryRun }) => ({ name, action, rules, provider: action === 'CUSTOM' ? provider : null, dryRun })),
  { maxLength: 5 },
);
export const peer: fc.Arbitrary<ConnectionAttributes> = fc.record({
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
    .map((made) => Object.assign(made, { principal: `${made.issuer}/${made.subject ?? ''}` })),
);
const headerValues = fc.constantFrom([], [''], ['one'], ['two', 'one'], ['o'], ['one,two']);
function headers(name: string, a: readonly string[], b: readonly string[]): readonly string[] {
  if (name === 'x-a') return a;
  return name === 'x-b' ? b : [];
}

export const request: fc.Arbitrary<RequestAttributes> = fc
  .record({
    method: fc.constantFrom(...methods),
    path: fc.constantFrom(...paths),
    host: fc.constantFrom(...hosts),
    remoteAddress: fc.constantFrom(...addresses),
    jwt,
    a: headerValues,
    b: headerValues,
  })
  .map(({ a, b, ...made }) => Object.assign(made, { header: (name: string) => headers(name, a, b) }));
export const requests: fc.Arbitrary<RequestAttributes[]> = fc.array(request, { minLength: 1, maxLength: 8 });

/** The trust domains of the plain evaluator. */
export const DOMAINS: { readonly trustDomain: string; readonly trustDomainAliases: readonly string[] } = {
  trustDomain: 'td',
  trustDomainAliases: ['old'],
};
