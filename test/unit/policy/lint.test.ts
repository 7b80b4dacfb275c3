import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type LintFinding, type LintOptions, lintPolicies } from '../../../proxy/policy/lint.ts';
import type { DeclaredProtocol, PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';
import { DOMAINS, peer, policies, request } from './arbitraries.ts';
import { allow, audit, custom, deny, dryRun, rule } from './fixtures.ts';
import { ruleHolds } from './naive.ts';

const options: LintOptions = { trustDomain: 'cluster.local', trustDomainAliases: [], providers: ['opa'] };

function lint(written: readonly PolicyEntry[], more: Partial<LintOptions> = {}): LintFinding[] {
  return lintPolicies(written, { ...options, ...more });
}

/** `code rule field` of each finding, without the part that all codes share. */
function short(written: readonly PolicyEntry[], more: Partial<LintOptions> = {}): string[] {
  return lint(written, more).map(({ code, rule: index, field }) => `${code.slice('WEFT_POLICY_LINT_'.length)} ${index} ${field}`.trim());
}

describe('with a federated trust domain, an ALLOW rule that compares no trust domain', () => {
  const federated = { federatedTrustDomains: ['partner.example'] };
  const when = (key: string, values: string[]): PolicyCondition[] => [{ key, values }];

  it('is named, at the field that foreign workloads match as well', () => {
    assert.deepEqual(short([allow('a/p', rule([{ requestPrincipals: ['*'] }, { namespaces: ['shop'] }]))], federated), [
      'FOREIGN 0 from[1].source.namespaces',
    ]);
    assert.deepEqual(short([allow('a/p', rule([{ serviceAccounts: ['shop/web'] }]))], federated), [
      'FOREIGN 0 from[0].source.serviceAccounts',
    ]);
    assert.deepEqual(short([allow('a/p', rule([], [], when('source.namespace', ['shop'])))], federated), ['FOREIGN 0 when[0].values']);
  });

  it('is fine without federation, and where the trust domain is an alias: that is the mesh itself', () => {
    const written = [allow('a/p', rule([{ namespaces: ['shop'] }]))];
    assert.deepEqual(short(written), []);
    assert.deepEqual(short(written, { ...federated, trustDomainAliases: ['partner.example'] }), []);
  });

  it('is fine where something else names the trust domain, and in a DENY policy', () => {
    const source = { namespaces: ['shop'] };
    assert.deepEqual(short([allow('a/p', rule([{ ...source, principals: ['cluster.local/ns/shop/sa/web'] }]))], federated), []);
    assert.deepEqual(short([allow('a/p', rule([{ ...source, notPrincipals: ['partner.example/*'] }]))], federated), []);
    assert.deepEqual(short([allow('a/p', rule([source], [], when('source.trustDomain', ['cluster.local'])))], federated), []);
    assert.deepEqual(short([deny('a/p', rule([source]))], federated), []);
  });

  it('is named for those trust domains alone that it leaves in', () => {
    const written = [allow('a/p', rule([{ namespaces: ['shop'], notPrincipals: ['partner.example/*'] }]))];
    const [finding] = lint(written, { federatedTrustDomains: ['partner.example', 'other.example'] });
    assert.match(finding?.message ?? '', /workloads of other\.example, which/);
  });
});

describe('lint finds what can never match', () => {
  const sources: readonly (readonly [PolicySource, string])[] = [
    [{ namespaces: ['a'], notNamespaces: ['a'] }, 'notNamespaces'],
    [{ namespaces: ['ab', 'ac'], notNamespaces: ['a*'] }, 'notNamespaces'],
    [{ principals: ['*'], notPrincipals: ['*'] }, 'notPrincipals'],
    [{ principals: ['cluster.local/ns/a/sa/b'], notPrincipals: ['cluster.local/ns/a/*'] }, 'notPrincipals'],
    [{ serviceAccounts: ['a/b'], notServiceAccounts: ['a/b', 'a/c'] }, 'notServiceAccounts'],
    [{ ipBlocks: ['10.1.0.0/16'], notIpBlocks: ['10.0.0.0/8'] }, 'notIpBlocks'],
    [{ remoteIpBlocks: ['10.1.2.3'], notRemoteIpBlocks: ['10.0.0.0/8'] }, 'notRemoteIpBlocks'],
    [{ requestPrincipals: ['i/s'], notRequestPrincipals: ['*'] }, 'notRequestPrincipals'],
    [{ principals: ['cluster.local/ns/a/sa/b'], namespaces: ['c', 'd*'] }, 'namespaces'],
    [{ serviceAccounts: ['a/b'], namespaces: ['c'] }, 'namespaces'],
  ];
  for (const [source, at] of sources) {
    it(`in a source: ${JSON.stringify(source)}`, () => {
      assert.deepEqual(short([allow('a/p', rule([{ namespaces: ['x'] }, source]))]), [`UNSATISFIABLE 0 from[1].source.${at}`]);
    });
  }

  const operations: readonly (readonly [PolicyOperation, string])[] = [
    [{ methods: ['GET'], notMethods: ['G*'] }, 'notMethods'],
    [{ hosts: ['A.shop'], notHosts: ['*.SHOP'] }, 'notHosts'],
    [{ paths: ['/a/b', '/a/c/*'], notPaths: ['/a/*'] }, 'notPaths'],
    [{ paths: ['/a/x/b'], notPaths: ['/a/{*}/b'] }, 'notPaths'],
    [{ paths: ['/a/{*}/b'], notPaths: ['/a/*'] }, 'notPaths'],
    [{ ports: [80], notPorts: [80, 81] }, 'notPorts'],
  ];
  for (const [operation, at] of operations) {
    it(`in an operation: ${JSON.stringify(operation)}`, () => {
      assert.deepEqual(short([allow('a/p', rule([], [operation]))]), [`UNSATISFIABLE 0 to[0].operation.${at}`]);
    });
  }

  const conditions: readonly (readonly [PolicyCondition[], string])[] = [
    [[{ key: 'request.headers[a]', values: ['*'], notValues: ['*'] }], 'when[0].notValues'],
    [[{ key: 'source.ip', values: ['10.0.0.1'], notValues: ['10.0.0.0/24'] }], 'when[0].notValues'],
    [
      [
        { key: 'source.namespace', values: ['a'] },
        { key: 'source.namespace', values: ['b', 'c*'] },
      ],
      'when[1]',
    ],
    [
      [
        { key: 'request.headers[a]', values: ['x'] },
        { key: 'request.headers[a]', notValues: ['x*'] },
      ],
      'when[1]',
    ],
  ];
  for (const [when, at] of conditions) {
    it(`in conditions: ${JSON.stringify(when)}`, () => {
      assert.deepEqual(short([allow('a/p', rule([], [], when))]), [`UNSATISFIABLE 0 ${at}`]);
    });
  }

  it('in a policy that denies, audits or asks without rules, but not in an ALLOW of nothing', () => {
    const written = [allow('a/nothing'), deny('a/d'), audit('a/w'), custom('a/c', 'opa')];
    assert.deepEqual(
      lint(written).map(({ policy, code }) => [policy, code]),
      ['a/d', 'a/w', 'a/c'].map((name) => [name, 'WEFT_POLICY_LINT_NEVER']),
    );
  });

  it('and says nothing of what may match', () => {
    const fine: readonly PolicyRule[] = [
      rule([{ namespaces: ['a', 'b'], notNamespaces: ['a'] }]),
      rule([{ principals: ['cluster.local/ns/c/sa/*'], namespaces: ['c'] }]),
      rule([{ ipBlocks: ['10.0.0.0/8'], notIpBlocks: ['10.1.0.0/16'] }]),
      rule([], [{ paths: ['/a/*'], notPaths: ['/a/b'] }]),
      rule(
        [],
        [],
        [
          { key: 'request.headers[a]', values: ['x'] },
          { key: 'request.headers[a]', values: ['y'] },
        ],
      ),
    ];
    for (const one of fine) assert.deepEqual(short([allow('a/p', one)]), []);
  });

  it('but not where an alias of the trust domain matches', () => {
    const source = { principals: ['cluster.local/ns/a/sa/b'], notPrincipals: ['cluster.local/ns/a/*'] };
    assert.deepEqual(short([allow('a/p', rule([source]))], { trustDomainAliases: ['old'] }), []);
  });
});

describe('lint finds rules that an earlier one makes needless', () => {
  it('in one policy, by number', () => {
    const written = [
      allow(
        'a/p',
        rule([{ namespaces: ['a'] }], [{ methods: ['GET'] }]),
        rule([{ namespaces: ['a', 'b*'] }]),
        rule([{ namespaces: ['bc'] }], [{ paths: ['/x'] }]),
      ),
    ];
    const [finding, ...others] = lint(written).filter(({ code }) => code === 'WEFT_POLICY_LINT_SHADOWED');
    assert.deepEqual(others, []);
    assert.equal(finding?.rule, 2);
    assert.equal(finding?.message, 'rule 1 already matches whatever this rule matches');
  });

  it('and not those that are wider in any field, nor those of another policy', () => {
    const pairs: readonly (readonly [PolicyRule, PolicyRule])[] = [
      [rule([{ namespaces: ['a'] }]), rule([{ namespaces: ['a', 'b'] }])],
      [rule([{ namespaces: ['a'], notPrincipals: ['*/x'] }]), rule([{ namespaces: ['a'] }])],
      [rule([], [{ paths: ['/a*'] }]), rule([], [{ paths: ['/*'] }])],
      [rule([], [{ methods: ['GET'] }]), rule()],
      [rule([], [], [{ key: 'request.headers[a]', notValues: ['x'] }]), rule([], [], [{ key: 'request.headers[a]', values: ['*'] }])],
      [rule([], [{ ports: [80] }, { methods: ['GET'] }]), rule([], [{ ports: [80] }])],
    ];
    for (const [first, second] of pairs)
      assert.deepEqual(
        short([allow('a/p', first, second)]).filter((one) => one.startsWith('SHADOWED')),
        [],
      );
    assert.deepEqual(short([allow('a/p', rule()), allow('a/q', rule())]), []);
  });

  it('never says so where a request or a connection proves it wrong', () => {
    fc.assert(
      fc.property(
        policies,
        fc.array(peer, { minLength: 3, maxLength: 10 }),
        fc.array(request, { minLength: 5, maxLength: 20 }),
        (written, peers, asked) => {
          for (const one of written) {
            for (const { rule: index, message, code, field } of lintPolicies([one], DOMAINS)) {
              const [, earlier = ''] = /^rule (\d+) already/.exec(message) ?? [];
              const candidate = one.rules[index ?? -1];
              if (candidate === undefined) continue;
              for (const from of peers) {
                for (const each of [null, ...asked]) {
                  const holds = ruleHolds(candidate, one.action, from, each);
                  if (code === 'WEFT_POLICY_LINT_SHADOWED' && holds)
                    assert.ok(ruleHolds(one.rules[Number(earlier)] as PolicyRule, one.action, from, each));
                  // Where fields are left out for TCP, a contradiction among them goes with them.
                  if (code === 'WEFT_POLICY_LINT_UNSATISFIABLE' && field.startsWith('when') && each !== null) assert.equal(holds, false);
                }
              }
            }
          }
        },
      ),
      { numRuns: 120 },
    );
  });
});

describe('lint finds what means something else where there is no HTTP', () => {
  const declaredProtocols: ReadonlyMap<number, DeclaredProtocol> = new Map([
    [80, 'http'],
    [3306, 'tcp'],
  ]);

  it('a DENY rule that widens', () => {
    assert.deepEqual(short([deny('a/d', rule([], [{ methods: ['PUT'] }]))]), ['WIDER_ON_TCP 0']);
    assert.match(lint([deny('a/d', rule([], [{ methods: ['PUT'] }]))])[0]?.message ?? '', /without methods: it denies all of them/);
    assert.match(
      lint([deny('a/d', rule([{ namespaces: ['x'] }], [{ methods: ['PUT'] }]))])[0]?.message ?? '',
      /those that its other fields match/,
    );
    assert.deepEqual(short([deny('a/d', rule([], [{ ports: [80], methods: ['PUT'] }]))], { declaredProtocols }), []);
    assert.deepEqual(short([deny('a/d', rule([{ namespaces: ['x'] }]))]), []);
  });

  it('fields that only HTTP has, on a port that carries none', () => {
    const mixed = rule([], [{ ports: [80, 3306], paths: ['/a'] }]);
    assert.deepEqual(short([allow('a/p', mixed)], { declaredProtocols }), ['HTTP_ON_TCP_PORT 0 to[0].operation.ports']);
    assert.match(lint([allow('a/p', mixed)], { declaredProtocols })[0]?.message ?? '', /port 3306 carries no HTTP.*allows nothing there/);
  });

  it('an ALLOW rule that one operation makes void for the other', () => {
    assert.deepEqual(short([allow('a/p', rule([], [{ ports: [3306] }, { methods: ['GET'] }]))]), ['VOID_ON_TCP 0']);
  });
});

describe('lint finds what cannot be evaluated or asked', () => {
  it('rules that do not compile, with what that does', () => {
    const [finding] = lint([deny('a/d', rule(), rule([{ ipBlocks: ['x'] }]))]);
    assert.equal(finding?.code, 'WEFT_POLICY_LINT_INVALID');
    assert.equal(finding?.rule, 1);
    assert.match(finding?.message ?? '', /ipBlocks has a value that is not an address block.*it denies everything/);
  });

  it('CUSTOM without a known provider, also in a dry run, or with two on one workload', () => {
    assert.deepEqual(short([custom('a/c', 'nobody', rule())]), ['PROVIDER null provider']);
    assert.deepEqual(short([dryRun(custom('a/c', 'nobody', rule()))]), ['PROVIDER null provider']);
    const two = [custom('a/c', 'opa', rule()), custom('a/d', 'other', rule())];
    assert.deepEqual(short(two, { providers: ['opa', 'other'] }), []);
    assert.equal(short(two, { providers: ['opa', 'other'], oneWorkload: true }).length, 2);
  });
});
