import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ALWAYS_MATCHES, NEVER_MATCHES } from '../../../src/config/kinds/authorization-policy.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';
import { one, places, policy, refused, ruleProblems } from './fixtures.ts';

const source = (fields: string) => `{rules: [{from: [{source: {${fields}}}]}]}`;
const operation = (fields: string) => `{rules: [{to: [{operation: {${fields}}}]}]}`;
const when = (condition: string) => `{rules: [{when: [${condition}]}]}`;
const custom = (rule: string) => `{action: CUSTOM, provider: {name: x}, rules: [${rule}]}`;
const specOf = (spec: string) => one('AuthorizationPolicy', policy(spec)).spec;
const conditionsOf = (conditions: string) => specOf(when(conditions)).rules[0]?.when;
const withoutPlace = (place: string) => place.replace(/^\S+ /, '');

function annotated(value: string, version = 'security.istio.io/v1', spec = '{}'): string {
  return `apiVersion: ${version}\nkind: AuthorizationPolicy\nmetadata: {name: p, annotations: {istio.io/dry-run: ${JSON.stringify(value)}}}\nspec: ${spec}\n`;
}

const underWeft = (spec: string) => policy(spec).replace('security.istio.io/v1', 'weft.dev/v1');

describe('AuthorizationPolicy', () => {
  it('tells no rules, an empty list of rules and an empty rule apart', () => {
    assert.deepEqual(specOf('{}'), { action: 'ALLOW', selector: null, rules: [], provider: null, dryRun: false });
    assert.deepEqual(specOf('{rules: []}').rules, []);
    assert.deepEqual(specOf('{rules: [{}]}').rules, [ALWAYS_MATCHES]);
    assert.deepEqual(specOf('{action: DENY, rules: [{}]}').rules, [{ from: [], to: [], when: [] }]);
    assert.deepEqual(
      one('AuthorizationPolicy', 'apiVersion: weft.dev/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n').spec.rules,
      [],
    );
  });

  it('keeps every field of sources and operations', () => {
    const { rules, selector } = specOf(`{selector: {matchLabels: {app: web}}, rules: [{
      from: [
        {source: {principals: ["cluster.local/ns/a/sa/b", "*"], notPrincipals: ["*/sa/x"], namespaces: [a], notNamespaces: ["b*"], ipBlocks: [10.0.0.5/8, 1.2.3.4, "FD00::1"], notIpBlocks: ["::ffff:10.0.0.0/120"]}},
        {source: {requestPrincipals: ["https://issuer.example/*"], notRequestPrincipals: ["*"], remoteIpBlocks: [10.0.0.5/8], notRemoteIpBlocks: ["FD00::/8"]}},
        {source: {serviceAccounts: [web, bank/web.v2], notServiceAccounts: [bank/admin]}}],
      to: [
        {operation: {hosts: ["*.example.com"], notHosts: [x], methods: [GET], notMethods: ["P*"], paths: ["/a/*"], notPaths: ["*.php"]}},
        {operation: {ports: ["8080", 9090], notPorts: ["1"]}}]}]}`);
    assert.deepEqual(selector, { app: 'web' });
    assert.deepEqual(rules, [
      {
        from: [
          {
            principals: ['cluster.local/ns/a/sa/b', '*'],
            notPrincipals: ['*/sa/x'],
            namespaces: ['a'],
            notNamespaces: ['b*'],
            ipBlocks: ['10.0.0.0/8', '1.2.3.4/32', 'fd00::1/128'],
            notIpBlocks: ['10.0.0.0/24'],
          },
          {
            requestPrincipals: ['https://issuer.example/*'],
            notRequestPrincipals: ['*'],
            remoteIpBlocks: ['10.0.0.0/8'],
            notRemoteIpBlocks: ['fd00::/8'],
          },
          { serviceAccounts: ['shop/web', 'bank/web.v2'], notServiceAccounts: ['bank/admin'] },
        ],
        to: [
          { hosts: ['*.example.com'], notHosts: ['x'], methods: ['GET'], notMethods: ['P*'], paths: ['/a/*'], notPaths: ['*.php'] },
          { ports: [8080, 9090], notPorts: [1] },
        ],
        when: [],
      },
    ]);
  });

  it('has the actions of Istio, and a provider with CUSTOM', () => {
    assert.equal(specOf('{action: AUDIT, rules: [{}]}').action, 'AUDIT');
    assert.equal(specOf('{action: AUDIT}').rules.length, 0);
    const { action, provider } = specOf(custom('{to: [{operation: {paths: [/admin/*]}}]}'));
    assert.deepEqual([action, provider], ['CUSTOM', 'x']);
  });

  it('has path templates', () => {
    const paths = [
      '/{*}',
      '/{**}',
      '/users/{*}/photos',
      '/a/{*}/b/{*}',
      '/a/{*}/b/{**}',
      '/store/{**}/cart',
      '/a/{**}/',
      "/a-._~%20!$&'()+,;:@=/{*}",
    ];
    assert.deepEqual(specOf(operation(`paths: ${JSON.stringify(paths)}, notPaths: ["/x/{**}"]`)).rules[0]?.to, [
      { paths, notPaths: ['/x/{**}'] },
    ]);
  });

  for (const template of [
    '/a/{*}b',
    '/a/b{**}',
    '/a/{**}/{*}',
    '/a/{**}/{**}',
    '/a/{*}/*',
    '/*/{*}',
    '/a/{name}',
    '/a/{***}',
    '/a/{}/b',
    '/a/{*',
    'a/{*}',
    '/a//{*}',
    '/a b/{*}',
    '/ä/{*}',
    '/a?b/{*}',
  ]) {
    it(`refuses the path ${template}`, () => {
      const { problems } = ruleProblems(policy(operation(`paths: [${JSON.stringify(template)}]`)));
      assert.deepEqual(places(problems).map(withoutPlace), ['INVALID_VALUE spec.rules[0].to[0].operation.paths[0]']);
    });
  }
});

describe('a condition', () => {
  it('may have any key of Istio', () => {
    assert.deepEqual(
      conditionsOf(`
        {key: "request.headers[X-Version]", values: [v1], notValues: ["v2*"]}, {key: "request.headers[:authority]", values: [a.example]},
        {key: source.ip, values: [10.0.0.5/8]}, {key: remote.ip, notValues: ["FD00::1"]}, {key: destination.ip, values: [1.2.3.4]},
        {key: source.namespace, values: [a]}, {key: source.serviceAccount, values: [web, bank/x]}, {key: source.trustDomain, values: [example.org]},
        {key: source.principal, values: ["*/sa/web"]},
        {key: request.auth.principal, values: ["i/s"]}, {key: request.auth.audiences, values: [a]}, {key: request.auth.presenter, values: [p]},
        {key: "request.auth.claims[https://example.org/roles][admin]", values: [x]}, {key: "request.auth.claims[iss]", values: ["*.example.org"]},
        {key: destination.port, values: ["8080", 9090]}, {key: connection.sni, values: ["*.example.org"]}`),
      [
        { key: 'request.headers[x-version]', values: ['v1'], notValues: ['v2*'] },
        { key: 'request.headers[:authority]', values: ['a.example'] },
        { key: 'source.ip', values: ['10.0.0.0/8'] },
        { key: 'remote.ip', notValues: ['fd00::1/128'] },
        { key: 'destination.ip', values: ['1.2.3.4/32'] },
        { key: 'source.namespace', values: ['a'] },
        { key: 'source.serviceAccount', values: ['shop/web', 'bank/x'] },
        { key: 'source.trustDomain', values: ['example.org'] },
        { key: 'source.principal', values: ['*/sa/web'] },
        { key: 'request.auth.principal', values: ['i/s'] },
        { key: 'request.auth.audiences', values: ['a'] },
        { key: 'request.auth.presenter', values: ['p'] },
        { key: 'request.auth.claims[https://example.org/roles][admin]', values: ['x'] },
        { key: 'request.auth.claims[iss]', values: ['*.example.org'] },
        { key: 'destination.port', values: ['8080', '9090'] },
        { key: 'connection.sni', values: ['*.example.org'] },
      ],
    );
  });

  for (const [condition, field] of [
    ['{key: source.user, values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: Source.IP, values: [10.0.0.1]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "", values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: constructor, values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{values: [a]}', 'MISSING_FIELD spec.rules[0].when[0].key'],
    ['{key: source.ip}', 'MISSING_FIELD spec.rules[0].when[0]'],
    ['{key: source.namespace, values: []}', 'INVALID_VALUE spec.rules[0].when[0].values'],
    ['{key: source.namespace, value: [a]}', 'UNKNOWN_FIELD spec.rules[0].when[0].value'],
    ['{key: request.headers, values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "request.headers[]", values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "request.headers[a][b]", values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "request.headers[a b]", values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "request.headers[a]", values: [""]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
    ['{key: "request.headers[:path]", values: [a]}', 'UNSUPPORTED spec.rules[0].when[0].key'],
    ['{key: request.auth.claims, values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "request.auth.claims[a", values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "request.auth.claims[a]b", values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].key'],
    [`{key: "request.auth.claims${'[a]'.repeat(17)}", values: [a]}`, 'INVALID_VALUE spec.rules[0].when[0].key'],
    ['{key: "experimental.envoy.filters.a[b]", values: [a]}', 'UNSUPPORTED spec.rules[0].when[0].key'],
    ['{key: source.ip, values: [a]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
    ['{key: remote.ip, notValues: [10.0.0.0/33]}', 'INVALID_VALUE spec.rules[0].when[0].notValues[0]'],
    ['{key: destination.port, values: ["0"]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
    ['{key: source.principal, values: ["spiffe://a/ns/b/sa/c"]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
    ['{key: source.serviceAccount, values: ["*"]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
    ['{key: source.namespace, values: ["a*b"]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
    ['{key: source.ip, values: [true]}', 'INVALID_VALUE spec.rules[0].when[0].values[0]'],
  ] as const) {
    it(`is refused as ${condition.slice(0, 80)}`, () => {
      assert.deepEqual(places(ruleProblems(policy(when(condition))).problems).map(withoutPlace), [field]);
    });
  }
});

describe('a policy that is refused as a whole', () => {
  for (const [what, spec, field] of [
    ['an unknown action', '{action: ALOW, rules: [{}]}', 'INVALID_VALUE spec.action'],
    ['an unknown field', '{rule: [{}]}', 'UNKNOWN_FIELD spec.rule'],
    ['DENY without rules', '{action: DENY}', 'MISSING_FIELD spec.rules'],
    ['DENY with an empty list of rules', '{action: DENY, rules: []}', 'MISSING_FIELD spec.rules'],
    ['CUSTOM without rules', '{action: CUSTOM, provider: {name: x}}', 'MISSING_FIELD spec.rules'],
    ['CUSTOM without a provider', '{action: CUSTOM, rules: [{}]}', 'MISSING_FIELD spec.provider'],
    ['a provider without CUSTOM', '{action: DENY, provider: {name: x}, rules: [{}]}', 'INVALID_VALUE spec.provider'],
    ['a provider without a name', '{action: CUSTOM, provider: {}, rules: [{}]}', 'MISSING_FIELD spec.provider.name'],
    ['targetRefs', '{targetRefs: [{kind: Service, group: "", name: web}]}', 'UNSUPPORTED spec.targetRefs'],
    ['targetRef', '{targetRef: {}}', 'UNSUPPORTED spec.targetRef'],
    ['a mode under the group of Istio', '{mode: audit, rules: [{}]}', 'UNKNOWN_FIELD spec.mode'],
    ['rules that are no list', '{rules: {}}', 'INVALID_VALUE spec.rules'],
    ['more rules than Istio takes', `{rules: [${Array.from({ length: 513 }, () => '{}').join(',')}]}`, 'INVALID_VALUE spec.rules'],
  ] as const) {
    it(`has ${what}`, () => {
      assert.deepEqual(places(refused(policy(spec))).map(withoutPlace), [field]);
    });
  }
});

describe('a rule that cannot be read', () => {
  const S = 'spec.rules[0].from[0].source';
  const O = 'spec.rules[0].to[0].operation';
  for (const [what, spec, field] of [
    ['trust domains', source('trustDomains: [x]'), `UNSUPPORTED ${S}.trustDomains`],
    ['a misspelt field', operation('method: [GET]'), `UNKNOWN_FIELD ${O}.method`],
    ['an unknown field of a rule', '{rules: [{form: []}]}', 'UNKNOWN_FIELD spec.rules[0].form'],
    [
      'an unknown field beside source',
      '{rules: [{from: [{source: {namespaces: [a]}, namespaces: [b]}]}]}',
      'UNKNOWN_FIELD spec.rules[0].from[0].namespaces',
    ],
    ['an empty from', '{rules: [{from: []}]}', 'INVALID_VALUE spec.rules[0].from'],
    ['a from without a value', '{rules: [{from: }]}', 'INVALID_VALUE spec.rules[0].from'],
    ['a rule without a value', '{rules: [null]}', 'INVALID_VALUE spec.rules[0]'],
    ['an empty source', source(''), `INVALID_VALUE ${S}`],
    ['an entry without a source', '{rules: [{from: [{}]}]}', 'MISSING_FIELD spec.rules[0].from[0].source'],
    ['an empty to', '{rules: [{to: []}]}', 'INVALID_VALUE spec.rules[0].to'],
    ['an empty when', '{rules: [{when: []}]}', 'INVALID_VALUE spec.rules[0].when'],
    ['an empty operation', operation(''), `INVALID_VALUE ${O}`],
    ['an empty list', operation('methods: []'), `INVALID_VALUE ${O}.methods`],
    ['an empty string', operation('methods: [""]'), `INVALID_VALUE ${O}.methods[0]`],
    ['a * in the middle', operation('paths: ["/a/*/b"]'), `INVALID_VALUE ${O}.paths[0]`],
    ['a * at both ends', operation('hosts: ["*a*"]'), `INVALID_VALUE ${O}.hosts[0]`],
    ['a principal with its scheme', source('principals: ["spiffe://a/ns/b/sa/c"]'), `INVALID_VALUE ${S}.principals[0]`],
    ['service accounts beside namespaces', source('serviceAccounts: [a], namespaces: [b]'), `INVALID_VALUE ${S}.namespaces`],
    ['service accounts beside notPrincipals', source('notServiceAccounts: [a], notPrincipals: [b]'), `INVALID_VALUE ${S}.notPrincipals`],
    ['a service account wildcard', source('serviceAccounts: ["a/*"]'), `INVALID_VALUE ${S}.serviceAccounts[0]`],
    ['a service account of three parts', source('serviceAccounts: [a/b/c]'), `INVALID_VALUE ${S}.serviceAccounts[0]`],
    ['port 0', operation('ports: ["0"]'), `INVALID_VALUE ${O}.ports[0]`],
    ['port 65536', operation('ports: ["65536"]'), `INVALID_VALUE ${O}.ports[0]`],
    ['a port with leading zeros', operation('ports: ["0080"]'), `INVALID_VALUE ${O}.ports[0]`],
    ['a port range', operation('ports: ["80-90"]'), `INVALID_VALUE ${O}.ports[0]`],
    ['a negative port', operation('ports: [-1]'), `INVALID_VALUE ${O}.ports[0]`],
    ['an octal address', source('ipBlocks: [010.0.0.1]'), `INVALID_VALUE ${S}.ipBlocks[0]`],
    ['a prefix that is too long', source('remoteIpBlocks: ["10.0.0.0/33"]'), `INVALID_VALUE ${S}.remoteIpBlocks[0]`],
    ['a prefix with a leading zero', source('notIpBlocks: ["10.0.0.0/08"]'), `INVALID_VALUE ${S}.notIpBlocks[0]`],
    ['a name for an address', source('ipBlocks: [example.com]'), `INVALID_VALUE ${S}.ipBlocks[0]`],
  ] as const) {
    it(`because of ${what} allows nothing in an ALLOW policy and denies everything in a DENY policy`, () => {
      const allow = ruleProblems(policy(spec));
      assert.deepEqual(places(allow.problems).map(withoutPlace), [field]);
      assert.deepEqual(allow.rules, [NEVER_MATCHES]);
      assert.equal(allow.problems[0]?.consequence, 'the rule allows nothing');
      const deny = ruleProblems(policy(spec.replace('{', '{action: DENY, ')));
      assert.deepEqual(places(deny.problems).map(withoutPlace), [field]);
      assert.deepEqual(deny.rules, [ALWAYS_MATCHES]);
      assert.equal(deny.problems[0]?.consequence, 'the rule denies everything');
    });
  }

  it('leaves the rules around it as they are, with their numbers', () => {
    const get = '{to: [{operation: {methods: [GET]}}]}';
    const { rules } = ruleProblems(
      policy(`{rules: [${get}, {to: [{operation: {method: [PUT]}}]}, {from: [{source: {ipBlocks: [x]}}]}, ${get}]}`),
    );
    const good = { from: [], to: [{ methods: ['GET'] }], when: [] };
    assert.deepEqual(rules, [good, NEVER_MATCHES, NEVER_MATCHES, good]);
  });

  it('matches nothing in an AUDIT policy, and asks the provider about everything in a CUSTOM policy', () => {
    assert.deepEqual(ruleProblems(policy('{action: AUDIT, rules: [{form: x}]}')).rules, [NEVER_MATCHES]);
    assert.deepEqual(ruleProblems(policy(custom('{form: x}'))).rules, [ALWAYS_MATCHES]);
  });

  it('is one that asks in a CUSTOM policy for what is known later', () => {
    for (const rule of [
      ...['principals', 'notPrincipals', 'requestPrincipals', 'notRequestPrincipals', 'namespaces', 'notNamespaces', 'serviceAccounts'].map(
        (field) => `{from: [{source: {${field}: [a]}}]}`,
      ),
      ...[
        'request.auth.claims[iss]',
        'request.auth.principal',
        'source.principal',
        'source.namespace',
        'source.serviceAccount',
        'source.trustDomain',
      ].map((key) => `{when: [{key: "${key}", values: [a]}]}`),
    ]) {
      const { problems, rules } = ruleProblems(policy(custom(rule)));
      assert.deepEqual([problems.length, rules], [1, [ALWAYS_MATCHES]], rule);
    }
    const allowed =
      '{from: [{source: {ipBlocks: [10.0.0.0/8], notRemoteIpBlocks: [10.0.0.0/8]}}], when: [{key: "request.headers[a]", values: [b]}]}';
    assert.equal(specOf(custom(allowed)).rules.length, 1);
  });

  it('never becomes less of a DENY, whatever is written in it', () => {
    const condition = fc.record(
      {
        key: fc.constantFrom('source.ip', 'request.headers[a]', 'request.headers[', 'x'),
        values: fc.json(),
        notValues: fc.constant(['a']),
      },
      { requiredKeys: ['key'] },
    );
    const field = fc.oneof(
      fc.constantFrom(['a'], ['*'], ['/{*}'], ['/{*'], [], ['10.0.0.1'], [''], 1, null),
      fc.jsonValue({ maxDepth: 2 }),
    );
    const part = (inner: string, ...fields: string[]) =>
      fc.array(fc.dictionary(fc.constant(inner), fc.dictionary(fc.constantFrom(...fields, 'x'), field, { maxKeys: 3 }), { maxKeys: 1 }), {
        maxLength: 2,
      });
    const rule = fc.oneof(
      fc.jsonValue({ maxDepth: 3 }),
      fc.record(
        {
          from: part('source', 'principals', 'notIpBlocks'),
          to: part('operation', 'paths', 'ports'),
          when: fc.array(condition, { maxLength: 2 }),
        },
        { requiredKeys: [] },
      ),
    );
    const property = fc.property(fc.array(rule, { minLength: 1, maxLength: 4 }), (rules) => {
      const { resources, problems } = parseResources(policy(JSON.stringify({ action: 'DENY', rules })), 'test.yaml');
      const [resource] = resources;
      if (resource?.kind !== 'AuthorizationPolicy') return assert.ok(problems.some(({ consequence }) => consequence === undefined));
      assert.equal(resource.spec.rules.length, rules.length);
      for (const [index, inForce] of resource.spec.rules.entries()) {
        const isRefused = problems.some((problem) => problem.field.startsWith(`spec.rules[${index}]`));
        const written = rules[index] as Record<string, unknown>;
        if (isRefused) assert.equal(inForce, ALWAYS_MATCHES);
        else
          for (const list of ['from', 'to', 'when'] as const)
            assert.equal(inForce[list].length, (written[list] as unknown[] | undefined)?.length ?? 0);
      }
    });
    fc.assert(property, { numRuns: 300 });
  });

  it('does not save a policy that is refused for something else', () => {
    const { resources, problems } = parseResources(policy('{action: DENY, selectors: {}, rules: [{form: x}]}'), 'test.yaml');
    assert.deepEqual(resources, []);
    assert.deepEqual(
      problems.map(({ field, consequence }) => [field, consequence]),
      [
        ['spec.selectors', undefined],
        ['spec.rules[0].form', undefined],
      ],
    );
  });

  it('is found in the item of a List, among more problems than are listed', () => {
    const rules = Array.from({ length: 300 }, () => '{form: x}').join(',');
    const { resources, problems } = parseResources(
      `apiVersion: v1\nkind: List\nitems:\n- {apiVersion: weft.dev/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {action: DENY, rules: [${rules}]}}\n`,
      'test.yaml',
    );
    assert.equal(resources.length, 1);
    assert.equal(problems.length, 101);
    assert.ok(problems.every(({ consequence }) => consequence !== undefined));
    assert.equal(problems[0]?.field, 'items[0].spec.rules[0].form');
  });
});

describe('dry run', () => {
  it('is what the annotation says, in the spellings that Istio reads', () => {
    for (const value of ['true', 'True', 'TRUE', 't', 'T', '1'])
      assert.equal(one('AuthorizationPolicy', annotated(value)).spec.dryRun, true);
    for (const value of ['false', 'False', 'FALSE', 'f', 'F', '0'])
      assert.equal(one('AuthorizationPolicy', annotated(value)).spec.dryRun, false);
  });

  it('is mode: audit under weft.dev', () => {
    assert.equal(one('AuthorizationPolicy', underWeft('{mode: audit}')).spec.dryRun, true);
    assert.equal(one('AuthorizationPolicy', underWeft('{mode: enforce}')).spec.dryRun, false);
    assert.equal(one('AuthorizationPolicy', annotated('true', 'weft.dev/v1', '{mode: audit}')).spec.dryRun, true);
  });

  it('is reported and off where it cannot be read, or is said in two ways', () => {
    for (const text of [annotated('yes'), annotated(''), annotated(' true'), annotated('true', 'weft.dev/v1', '{mode: enforce}')]) {
      const { resources, problems } = parseResources(text, 'test.yaml');
      assert.deepEqual(places(problems), ['3:53 INVALID_VALUE metadata.annotations["istio.io/dry-run"]']);
      assert.equal(problems[0]?.consequence, 'the policy is enforced');
      assert.ok(resources[0]?.kind === 'AuthorizationPolicy' && !resources[0].spec.dryRun);
    }
  });
});
