import assert from 'node:assert/strict';
import { BlockList, isIPv6 } from 'node:net';
import { it } from 'node:test';
import fc from 'fast-check';
import { compileWorkloadPolicy } from '../../../proxy/policy/workload-policy.ts';
import { parseSpiffeId } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, ConnectionPolicy, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';

/** Policy as the reference words it, read off one sentence at a time, with no thought of speed. */
function valueMatches(value: string, text: string): boolean {
  if (text === '') return false;
  if (value === '*') return true;
  if (value.startsWith('*')) return text.endsWith(value.slice(1));
  if (value.endsWith('*')) return text.startsWith(value.slice(0, -1));
  return value === text;
}

function holds(values: readonly string[] | undefined, notValues: readonly string[] | undefined, test: (value: string) => boolean): boolean {
  return (values === undefined || values.some(test)) && (notValues === undefined || !notValues.some(test));
}

function inBlock(block: string, address: string): boolean {
  const [base = '', length] = block.split('/');
  const family = isIPv6(base) ? 'ipv6' : 'ipv4';
  // A BlockList takes an IPv4 address for its mapped form; Envoy and ztunnel keep the families apart.
  if (isIPv6(address) !== isIPv6(base)) return false;
  const list = new BlockList();
  list.addSubnet(base, Number(length ?? (family === 'ipv6' ? 128 : 32)), family);
  return list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}

function sourceHolds(source: PolicySource, peer: ConnectionAttributes): boolean {
  const identity = peer.sourceIdentity;
  const principal = identity === null ? '' : identity.text.replace(/^spiffe:\/\//, '');
  const namespace = identity?.namespace ?? '';
  const account = identity?.serviceAccount ?? '';
  return (
    holds(source.principals, source.notPrincipals, (value) => valueMatches(value, principal)) &&
    holds(source.namespaces, source.notNamespaces, (value) => valueMatches(value, namespace)) &&
    holds(source.serviceAccounts, source.notServiceAccounts, (value) => namespace !== '' && value === `${namespace}/${account}`) &&
    holds(source.ipBlocks, source.notIpBlocks, (value) => inBlock(value, peer.sourceAddress))
  );
}

const HTTP_FIELDS = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths'] as const;

function operationHolds(operation: PolicyOperation, port: number, request: RequestAttributes | null): boolean {
  const ports = operation.ports?.map(String);
  const notPorts = operation.notPorts?.map(String);
  if (!holds(ports, notPorts, (value) => value === String(port))) return false;
  return (
    request === null ||
    (holds(operation.hosts, operation.notHosts, (value) => valueMatches(value.toLowerCase(), request.host)) &&
      holds(operation.methods, operation.notMethods, (value) => valueMatches(value, request.method)) &&
      holds(operation.paths, operation.notPaths, (value) => valueMatches(value, request.path)))
  );
}

/** `request` null: not HTTP. */
function ruleHolds(rule: PolicyRule, action: string, peer: ConnectionAttributes, request: RequestAttributes | null): boolean {
  if (request === null && action === 'ALLOW' && rule.to.some((operation) => HTTP_FIELDS.some((field) => operation[field] !== undefined)))
    return false;
  return (
    (rule.from.length === 0 || rule.from.some((source) => sourceHolds(source, peer))) &&
    (rule.to.length === 0 || rule.to.some((operation) => operationHolds(operation, peer.destinationPort, request)))
  );
}

function naive(policies: readonly PolicyEntry[], peer: ConnectionAttributes, request: RequestAttributes | null): 'allow' | 'deny' {
  const matches = (action: string): boolean =>
    policies.some((policy) => policy.action === action && policy.rules.some((rule) => ruleHolds(rule, action, peer, request)));
  if (matches('DENY')) return 'deny';
  if (!policies.some(({ action }) => action === 'ALLOW')) return 'allow';
  return matches('ALLOW') ? 'allow' : 'deny';
}

/** A small world, so that values and attributes meet often. */
const identities = [
  'spiffe://td/ns/a/sa/x',
  'spiffe://td/ns/a/sa/y',
  'spiffe://td/ns/ab/sa/x',
  'spiffe://other/ns/a/sa/x',
  'spiffe://td/gateway',
];
const addresses = ['10.0.0.1', '10.0.1.1', '192.168.0.1', 'fd00::1', 'fd00:0:0:1::1'];
const methods = ['GET', 'POST', 'PUT', 'G'];
const paths = ['/', '/a', '/a/', '/a/b', '/a/b/c', '/ab', '/b/a', '/a/*'];
const hosts = ['', 'a', 'a:80', 'b.a', 'a.b'];

const list = <Value>(value: fc.Arbitrary<Value>): fc.Arbitrary<Value[]> => fc.array(value, { minLength: 1, maxLength: 3 });
const text = (...values: string[]): fc.Arbitrary<string[]> =>
  list(
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...values) },
      { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...values), fc.nat(6)).map(([value, cut]) => `${value.slice(0, cut)}*`) },
      { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...values), fc.nat(6)).map(([value, cut]) => `*${value.slice(cut)}`) },
      { weight: 1, arbitrary: fc.constant('*') },
    ),
  );

const principalValues = identities.map((identity) => identity.slice('spiffe://'.length));
const blocks = list(
  fc.oneof(
    fc.tuple(fc.constantFrom('10.0.0.0', '10.0.1.0', '192.168.0.1'), fc.nat(32)).map(([base, length]) => `${base}/${length}`),
    fc.tuple(fc.constantFrom('fd00::', 'fd00:0:0:1::1'), fc.nat(128)).map(([base, length]) => `${base}/${length}`),
    fc.constantFrom(...addresses),
  ),
);
const accounts = list(fc.constantFrom('a/x', 'a/y', 'ab/x', 'b/x'));
const somePorts = list(fc.constantFrom(80, 81));

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
});
const operation = some<PolicyOperation>({
  hosts: text('a', 'A:80', 'b.A'),
  notHosts: text('a', 'A:80', 'b.A'),
  ports: somePorts,
  notPorts: somePorts,
  methods: text(...methods),
  notMethods: text(...methods),
  paths: text(...paths),
  notPaths: text(...paths),
});
/** Fields are few in most: with eight of them hardly anything would match. */
const fewOf = <Type extends object>(arbitrary: fc.Arbitrary<Type>): fc.Arbitrary<Type> =>
  fc.tuple(arbitrary, fc.nat(), fc.integer({ min: 1, max: 8 })).map(([made, from, count]) => {
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
});
const policies: fc.Arbitrary<PolicyEntry[]> = fc.array(
  fc.record({
    name: fc.constantFrom('a/p', 'a/q'),
    action: fc.constantFrom('ALLOW' as const, 'DENY' as const),
    rules: fc.array(rule, { maxLength: 4 }),
  }),
  { maxLength: 4 },
);
const peer: fc.Arbitrary<ConnectionAttributes> = fc.record({
  sourceIdentity: fc.constantFrom(...identities.map(parseSpiffeId), null),
  sourceAddress: fc.constantFrom(...addresses),
  destinationAddress: fc.constant('10.9.9.9'),
  destinationPort: fc.constantFrom(80, 81, 82),
});
const requests: fc.Arbitrary<RequestAttributes[]> = fc.array(
  fc.record({ method: fc.constantFrom(...methods), path: fc.constantFrom(...paths), host: fc.constantFrom(...hosts) }),
  { minLength: 1, maxLength: 8 },
);

it('decides as the plain evaluator does, for connections and for each request, and its scope holds', () => {
  fc.assert(
    fc.property(policies, fc.array(peer, { minLength: 1, maxLength: 3 }), requests, (written, peers, asked) => {
      const compiled = compileWorkloadPolicy(written);
      assert.deepEqual(compiled.errors, []);
      for (const from of peers) checkPeer(written, from, compiled.bind(from), asked);
    }),
    { numRuns: 2000 },
  );
});

function checkPeer(
  written: readonly PolicyEntry[],
  from: ConnectionAttributes,
  bound: ConnectionPolicy,
  asked: readonly RequestAttributes[],
): void {
  assert.equal(bound.tcp.verdict, naive(written, from, null));
  if (bound.scope !== 'request') assert.equal(bound.tcp.verdict, bound.scope);
  for (const request of asked) {
    const decision = bound.request(request);
    assert.equal(decision.verdict, naive(written, from, request));
    if (bound.scope !== 'request') assert.equal(decision.verdict, bound.scope);
    if (decision.rule === null) continue;
    // The rule that is named is one that says so.
    const named = written.filter(
      ({ name, action }) => name === decision.policy && action === (decision.verdict === 'deny' ? 'DENY' : 'ALLOW'),
    );
    assert.ok(
      named.some(({ action, rules }) => {
        const candidate = rules[decision.rule as number];
        return candidate !== undefined && ruleHolds(candidate, action, from, request);
      }),
    );
  }
}

it('denies nothing on an allowed connection that is not HTTP: what TCP may, every request may', () => {
  fc.assert(
    fc.property(policies, peer, (written, from) => {
      const bound = compileWorkloadPolicy(written).bind(from);
      if (bound.tcp.verdict === 'allow') assert.equal(bound.scope, 'allow');
    }),
    { numRuns: 1000 },
  );
});

it('names the first rule in order among many, whether their paths are exact, prefixes or suffixes', () => {
  const few: fc.Arbitrary<PolicyOperation> = fc.oneof(
    some<PolicyOperation>({ paths: text(...paths), methods: list(fc.constantFrom(...methods)) } as never),
    fc.record({ paths: list(fc.constantFrom(...paths, '/a/b*', '/a*', '/*', '/b*')) }),
  );
  const one = fc.record({ from: fc.constantFrom([], [{ namespaces: ['a'] }]), to: fc.tuple(few) });
  fc.assert(
    fc.property(fc.array(one, { minLength: 5, maxLength: 30 }), fc.tuple(peer, peer), requests, (rules, peers, asked) => {
      const compiled = compileWorkloadPolicy([{ name: 'a/p', action: 'DENY', rules }]);
      for (const from of peers) {
        const bound = compiled.bind(from);
        for (const request of asked) {
          const first = rules.findIndex((candidate) => ruleHolds(candidate, 'DENY', from, request));
          assert.equal(bound.request(request).rule, first === -1 ? null : first);
        }
      }
    }),
    { numRuns: 1000 },
  );
});
