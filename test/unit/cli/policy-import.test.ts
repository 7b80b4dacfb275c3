import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { regexMeaning } from '../../../src/cli/policy/import/regex-values.ts';
import { PolicyFolder, type Ran, weftPolicy } from './policy-kit.ts';

/** Imports a text, and decides questions by the result. */
async function imported(text: string, ...flags: string[]): Promise<Ran & { ask: (...args: string[]) => Promise<string> }> {
  using folder = new PolicyFolder();
  const ran = await weftPolicy('import', folder.write('in.yaml', text), ...flags);
  return {
    ...ran,
    errors: ran.errors.replaceAll(`${folder.path}/`, ''),
    async ask(...args) {
      using answers = new PolicyFolder();
      const path = answers.write('out.yaml', ran.output);
      const { code, output, errors } = await weftPolicy('explain', '-f', path, '--output', 'json', ...args);
      assert.equal(code, 0, errors);
      return (JSON.parse(output) as { decision: string }).decision;
    },
  };
}

const UI = 'spiffe://cluster.local/ns/front/sa/ui';
const TO_WEB = ['--to', 'shop/web', '--labels', 'app=web', '--port', '8080'];

function cilium(spec: string): string {
  return `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {"k8s:app": web}}
${spec}`;
}

const FROM_UI = `    - fromEndpoints:
        - matchLabels: {"k8s:io.kubernetes.pod.namespace": front, io.cilium.k8s.policy.serviceaccount: ui}
`;

function http(...rules: string[]): string {
  return cilium(`  ingress:
${FROM_UI}      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules:
            http:
${rules.map((rule) => `              - ${rule}\n`).join('')}`);
}

test('a CiliumNetworkPolicy with http rules becomes an ALLOW policy with the same decisions', async () => {
  const { code, output, errors, ask } = await imported(
    http(
      '{method: "GET|HEAD", path: "/items(/.*)?(\\\\?.*)?", host: "web\\\\.shop"}',
      '{method: POST, path: "/hooks/.*", headers: ["X-Token: abc"]}',
    ),
  );
  assert.equal(code, 0, errors);
  assert.match(output, /^# made from .*in\.yaml:1\napiVersion: security\.istio\.io\/v1\nkind: AuthorizationPolicy\n/);
  const get = ['--from', UI, ...TO_WEB, '--method', 'GET', '--host', 'web.shop'];
  assert.equal(await ask(...get, '--path', '/items'), 'allow');
  assert.equal(await ask(...get, '--path', '/items/7?x=1'), 'allow');
  assert.equal(await ask(...get, '--path', '/itemsx'), 'deny');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'GET', '--path', '/items', '--host', 'other'), 'deny');
  assert.equal(await ask('--from', UI.replace('ui', 'x'), ...TO_WEB, '--method', 'GET', '--path', '/items', '--host', 'web.shop'), 'deny');
  const hook = ['--from', UI, ...TO_WEB, '--method', 'POST', '--path', '/hooks/a'];
  assert.equal(await ask(...hook, '--header', 'x-token=abc'), 'allow');
  assert.equal(await ask(...hook), 'deny');
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

test('http rules that ask for nothing allow any request, and nothing that is no request', async () => {
  const { ask } = await imported(http('{}'));
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'GET', '--path', '/x'), 'allow');
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

test('a request that cannot be said is left out with its place, and nothing is allowed for it', async () => {
  const { code, errors, ask } = await imported(http('{path: "/a[0-9]+"}', '{path: "/b.*"}'));
  assert.equal(code, 1);
  assert.match(
    errors,
    /^in\.yaml:13:\d+: spec\.ingress\[0\]\.toPorts\[0\]\.rules\.http\[0\]\.path: not imported: the expression "\/a\[0-9\]\+"/m,
  );
  assert.match(errors, /^1 policy made; 1 left out$/m);
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'GET', '--path', '/a1'), 'deny');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'GET', '--path', '/b1'), 'allow');
});

test('peers by labels are not guessed: the rule is left out', async () => {
  const { code, errors, ask } = await imported(cilium('  ingress:\n    - fromEndpoints: [{matchLabels: {app: ui}}]\n'));
  assert.equal(code, 1);
  assert.match(errors, /in\.yaml:7:\d+: spec\.ingress\[0\]\.fromEndpoints\[0\]: not imported: peers are known by their identity/);
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

const NOT_WIDER: readonly (readonly [what: string, ingress: string])[] = [
  ['an unknown field of a rule', '    - {fromEndpoints: [{}], mystery: 1}\n'],
  ['CIDRs', '    - fromCIDR: [0.0.0.0/0]\n'],
  ['entities', '    - fromEntities: [cluster]\n'],
  ['fromRequires', '    - {fromEndpoints: [{}], fromRequires: [{matchLabels: {a: b}}]}\n'],
  ['an empty list of endpoints', '    - fromEndpoints: []\n'],
  ['an empty rule', '    - {}\n'],
  ['selectors with expressions', '    - fromEndpoints: [{matchExpressions: [{key: a, operator: Exists}]}]\n'],
  ['UDP', '    - {toPorts: [{ports: [{port: "8080", protocol: UDP}]}]}\n'],
  ['a port by name', '    - {toPorts: [{ports: [{port: http}]}]}\n'],
  ['an empty port', '    - {toPorts: [{ports: [{port: ""}]}]}\n'],
  ['L7 rules that are not http', '    - {toPorts: [{ports: [{port: "8080"}], rules: {kafka: [{}]}}]}\n'],
  ['TLS interception', '    - {toPorts: [{ports: [{port: "8080"}], terminatingTLS: {}}]}\n'],
  [
    'a header that is rewritten',
    '    - {toPorts: [{ports: [{port: "8080"}], rules: {http: [{headerMatches: [{name: a, value: b, mismatch: REPLACE}]}]}}]}\n',
  ],
  ['a header value with a wildcard', '    - {toPorts: [{ports: [{port: "8080"}], rules: {http: [{headers: ["a: b*"]}]}}]}\n'],
];

for (const [what, ingress] of NOT_WIDER) {
  test(`${what} in an ingress rule never allows anything`, async () => {
    const { ask } = await imported(cilium(`  ingress:\n${ingress}`));
    const peer = ['--from', 'spiffe://cluster.local/ns/shop/sa/x', ...TO_WEB];
    assert.equal(await ask(...peer), 'deny');
    assert.equal(await ask(...peer, '--method', 'GET', '--header', 'a=bc'), 'deny');
  });
}

test('a deny that cannot be said denies everybody on its ports', async () => {
  const { code, errors, ask } = await imported(
    cilium('  ingress: [{fromEntities: [all]}]\n  ingressDeny:\n    - {fromCIDR: [10.0.0.0/8], toPorts: [{ports: [{port: "9090"}]}]}\n'),
  );
  assert.equal(code, 1);
  assert.match(errors, /spec\.ingressDeny\[0\]: not imported: .* it denies everybody/);
  assert.equal(await ask('--from', UI, ...TO_WEB), 'allow');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--port', '9090'), 'deny');
});

test('a deny of a port by name denies every port', async () => {
  const { ask } = await imported(cilium('  ingress: [{fromEntities: [all]}]\n  ingressDeny: [{toPorts: [{ports: [{port: admin}]}]}]\n'));
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

test('a deny of a namespace denies peers without an identity too', async () => {
  const { ask } = await imported(
    cilium(
      '  ingress: [{fromEntities: [all]}]\n  ingressDeny: [{fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": bad}}]}]\n',
    ),
  );
  assert.equal(await ask('--from', UI, ...TO_WEB), 'allow');
  assert.equal(await ask('--from', 'spiffe://cluster.local/ns/bad/sa/x', ...TO_WEB), 'deny');
  assert.equal(await ask('--from', 'none', ...TO_WEB), 'deny');
});

test('egress is reported, not imported', async () => {
  const { code, output, errors } = await imported(cilium('  egress: [{}]\n'));
  assert.deepEqual([code, output], [1, '']);
  assert.match(errors, /spec\.egress: not imported/);
});

const REGEXES: readonly (readonly [expression: string, values: readonly string[], notValues: readonly string[]])[] = [
  ['/a', ['/a'], []],
  ['^/a$', ['/a'], []],
  ['/a.*', ['/a*'], []],
  ['/a/.+', ['/a/*'], ['/a/']],
  ['.*\\.css', ['*.css'], []],
  ['/(a|b)/c', ['/a/c', '/b/c'], []],
  ['/v1/[^/]+/x', ['/v1/{*}/x'], []],
  ['/v1/[^/]+/.*', ['/v1/{*}/{**}'], []],
  ['/a\\-b', ['/a-b'], []],
];

for (const [expression, values, notValues] of REGEXES) {
  test(`the expression ${expression} is said as ${values.join(', ')}`, () => {
    const meaning = regexMeaning(expression, 'path');
    assert.ok(meaning.kind === 'groups');
    assert.deepEqual(meaning.groups, [{ values, notValues }]);
  });
}

for (const expression of [
  '/a*',
  '/a?',
  '/[ab]',
  '/a{2}',
  '/\\d+',
  '(?i)/a',
  '/a.*b',
  '.*a.*',
  '/x\\*',
  '/{a}',
  'a',
  '/a(b|c)+',
  '/(a',
  '/a)',
  '/a^b',
  '',
]) {
  test(`the expression ${JSON.stringify(expression)} is refused`, () => {
    assert.equal(regexMeaning(expression, 'path').kind, 'refused');
  });
}

function valueMatches(value: string, text: string): boolean {
  if (value.includes('{')) {
    return new RegExp(`^${value.replace(/[.]/g, '\\.').replace('{**}', '.*').replaceAll('{*}', '[^/]+')}$`).test(text);
  }
  if (value === '*') return text !== '';
  if (value.startsWith('*')) return text.endsWith(value.slice(1));
  return value.endsWith('*') ? text.startsWith(value.slice(0, -1)) : value === text;
}

test('an anchor inside of an expression is refused: it would match nothing there', () => {
  for (const expression of ['/(^)', '/a(b|^c)', '/(a$)b', '(/a|/b$)/c', '/(a|^b)?'])
    assert.equal(regexMeaning(expression, 'path').kind === 'groups', false, expression);
  for (const expression of ['^/a$', '(^/a$)', '^/a$|^/b$', '/(a|b$)'])
    assert.equal(regexMeaning(expression, 'path').kind, 'groups', expression);
});

test('what an expression is said as never matches a text that the expression does not', () => {
  const part = fc.constantFrom(
    '/',
    'a',
    'b',
    '.',
    '\\.',
    '.*',
    '.+',
    '[^/]+',
    '|',
    '(',
    ')',
    ')?',
    '?',
    '^',
    '$',
    '/a',
    '\\?',
    '[ab]',
    '*',
  );
  const expressions = fc.array(part, { maxLength: 7 }).map((parts) => `/${parts.join('')}`);
  const texts = fc.array(fc.constantFrom('/', 'a', 'b', '.', 'x'), { maxLength: 6 }).map((parts) => `/${parts.join('')}`);
  let said = 0;
  fc.assert(
    fc.property(expressions, fc.array(texts, { minLength: 8, maxLength: 8 }), (expression, samples) => {
      const meaning = regexMeaning(expression, 'path');
      if (meaning.kind !== 'groups') return;
      said += 1;
      const original = new RegExp(`^(?:${expression})$`);
      for (const text of samples) {
        const matched = meaning.groups.some(
          ({ values, notValues }) =>
            values.some((value) => valueMatches(value, text)) && !notValues.some((value) => valueMatches(value, text)),
        );
        if (matched) assert.match(text, original);
      }
    }),
    { numRuns: 5000 },
  );
  assert.ok(said > 200, `only ${said} could be said`);
});

const SERVER = `apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web-http, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, port: 8080, proxyProtocol: HTTP/1}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: ui, namespace: shop}
spec: {identities: [ui.front.serviceaccount.identity.linkerd.cluster.local]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: net, namespace: shop}
spec: {networks: [{cidr: 10.0.0.0/8, except: [10.9.0.0/16]}]}
---
`;

function authorization(name: string, target: string, ...refs: string[]): string {
  return `apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, ${target}}
  requiredAuthenticationRefs: [${refs.map((ref) => `{${ref}}`).join(', ')}]
---
`;
}

function route(name: string, match: string): string {
  return `apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: ${name}, namespace: shop}
spec: {parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}], rules: [{matches: [${match}]}]}
---
`;
}

const UI_REF = 'kind: MeshTLSAuthentication, name: ui';
const NET_REF = 'kind: NetworkAuthentication, name: net';

test('a Linkerd Server without routes allows whom its AuthorizationPolicies authenticate, on its port', async () => {
  const { code, errors, ask } = await imported(SERVER + authorization('a', 'kind: Server, name: web-http', UI_REF, NET_REF));
  assert.equal(code, 0, errors);
  assert.equal(await ask('--from', UI, ...TO_WEB, '--source-ip', '10.0.0.1'), 'allow');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--source-ip', '10.9.0.1'), 'deny');
  assert.equal(await ask('--from', UI.replace('ui', 'x'), ...TO_WEB, '--source-ip', '10.0.0.1'), 'deny');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--source-ip', '10.0.0.1', '--port', '9090'), 'deny');
});

test('a Linkerd Server that nobody is authorised for allows nothing', async () => {
  const { code, ask } = await imported(SERVER);
  assert.equal(code, 0);
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

test('routes of a Server are all that is allowed, and a wide route gives nothing of a narrower one away', async () => {
  const { code, errors, ask } = await imported(
    SERVER +
      route('all', '{path: {type: PathPrefix, value: /}}') +
      route('admin', '{path: {type: PathPrefix, value: /admin}}') +
      authorization('everybody', 'kind: HTTPRoute, name: all') +
      authorization('ui-only', 'kind: HTTPRoute, name: admin', UI_REF),
  );
  assert.equal(code, 0, errors);
  const get = [...TO_WEB, '--method', 'GET', '--path'];
  assert.equal(await ask('--from', 'none', ...get, '/items'), 'allow');
  assert.equal(await ask('--from', 'none', ...get, '/admin'), 'deny');
  assert.equal(await ask('--from', 'none', ...get, '/admin/x'), 'deny');
  assert.equal(await ask('--from', UI, ...get, '/admin/x'), 'allow');
  assert.equal(await ask('--from', 'none', ...get, '/administrator'), 'allow');
  assert.equal(await ask('--from', 'none', ...TO_WEB), 'deny');
});

test('a route by method does not open to others what another route has for the path', async () => {
  const { ask } = await imported(
    SERVER +
      route('any', '{path: {type: Exact, value: /x}}') +
      route('write', '{path: {type: Exact, value: /x}, method: POST}') +
      authorization('everybody', 'kind: HTTPRoute, name: any') +
      authorization('ui-only', 'kind: HTTPRoute, name: write', UI_REF),
  );
  assert.equal(await ask('--from', 'none', ...TO_WEB, '--method', 'GET', '--path', '/x'), 'allow');
  assert.equal(await ask('--from', 'none', ...TO_WEB, '--method', 'POST', '--path', '/x'), 'deny');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'POST', '--path', '/x'), 'allow');
});

test('a route that cannot be said still keeps its requests from wider routes', async () => {
  const { code, ask } = await imported(
    SERVER +
      route('all', '{path: {type: PathPrefix, value: /}}') +
      route('tokens', '{queryParams: [{name: t, value: x}]}') +
      authorization('everybody', 'kind: HTTPRoute, name: all') +
      authorization('ui-only', 'kind: HTTPRoute, name: tokens', UI_REF),
  );
  assert.equal(code, 1);
  assert.equal(await ask('--from', 'none', ...TO_WEB, '--method', 'GET', '--path', '/'), 'deny');
});

test('a gRPC route is a POST to its service', async () => {
  const { code, errors, ask } = await imported(
    `${SERVER}apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: carts, namespace: shop}
spec: {parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}], rules: [{matches: [{method: {service: shop.Carts, method: Get}}]}]}
---
${authorization('ui-only', 'kind: GRPCRoute, name: carts', UI_REF)}`,
  );
  assert.equal(code, 0, errors);
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'POST', '--path', '/shop.Carts/Get'), 'allow');
  assert.equal(await ask('--from', UI, ...TO_WEB, '--method', 'POST', '--path', '/shop.Carts/Put'), 'deny');
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

test('an authorisation whose reference is missing is left out', async () => {
  const { code, errors, ask } = await imported(
    SERVER + authorization('a', 'kind: Server, name: web-http', 'kind: MeshTLSAuthentication, name: gone'),
  );
  assert.equal(code, 1);
  assert.match(errors, /there is no MeshTLSAuthentication shop\/gone in these files/);
  assert.equal(await ask('--from', UI, ...TO_WEB), 'deny');
});

test('other kinds, and those of the other mesh with --from, are reported', async () => {
  const other = await imported('apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n');
  assert.deepEqual([other.code, other.output], [1, '']);
  assert.match(other.errors, /^in\.yaml:1:1: not imported: ConfigMap \(v1\) is not imported$/m);
  assert.equal((await imported(SERVER, '--from', 'cilium')).code, 1);
});

test('what is no YAML is shown with its place', async () => {
  const { code, errors } = await imported('a: [\n');
  assert.equal(code, 1);
  assert.match(errors, /^in\.yaml:\d+:\d+: /m);
});
