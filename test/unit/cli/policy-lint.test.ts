import assert from 'node:assert/strict';
import { test } from 'node:test';
import { authorizationPolicy, PolicyFolder, weftPolicy } from './policy-kit.ts';

async function lint(text: string, ...flags: string[]): Promise<{ code: number; lines: string[]; path: string }> {
  using folder = new PolicyFolder();
  const path = folder.write('p.yaml', text);
  const { code, output, errors } = await weftPolicy('lint', path, ...flags);
  assert.equal(errors, '');
  return {
    code,
    lines: output
      .trimEnd()
      .split('\n')
      .map((line) => line.replace(path, 'p.yaml')),
    path,
  };
}

const FINE = authorizationPolicy('fine', '{rules: [{to: [{operation: {methods: [GET]}}]}]}');

test('files without problems are counted, and the exit code is 0', async () => {
  const { code, lines } = await lint(FINE);
  assert.deepEqual([code, lines], [0, ['1 file, 1 policy: 0 errors, 0 warnings']]);
});

test('what the configuration refuses is an error, with file, line, column and field', async () => {
  const { code, lines } = await lint(`${FINE}apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: bad, namespace: shop}
spec:
  rules:
    - to:
        - operation:
            method: [GET]
`);
  assert.equal(code, 1);
  assert.equal(
    lines[0],
    'p.yaml:13:13: spec.rules[0].to[0].operation.method: there is no field "method" here; until then the rule allows nothing (did you mean methods?)',
  );
  assert.equal(lines.at(-1), '1 file, 2 policies: 1 error, 0 warnings');
});

test('a rule that can never match is an error at the field that contradicts', async () => {
  const { code, lines } = await lint(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: shop}
spec:
  action: DENY
  rules:
    - from:
        - source:
            namespaces: [web]
            notNamespaces: ["*"]
`);
  assert.equal(code, 1);
  assert.match(
    lines[0] ?? '',
    /^p\.yaml:10:13: spec\.rules\[0\]\.from\[0\]\.source\.notNamespaces: notNamespaces excludes every one of namespaces/,
  );
});

test('a rule that another one makes needless is a warning at the rule, and fails only with --strict', async () => {
  const text = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: twice, namespace: shop}
spec:
  rules:
    - to: [{operation: {paths: [/a*]}}]
    - to: [{operation: {paths: [/ab]}}]
`;
  const { code, lines } = await lint(text);
  assert.equal(code, 0);
  assert.match(lines[0] ?? '', /^p\.yaml:7:7: spec\.rules\[1\]: warning: rule 0 already matches whatever this rule matches$/);
  assert.equal((await lint(text, '--strict')).code, 1);
});

test('with a federated trust domain, an ALLOW rule that takes its workloads for those of the mesh is a warning', async () => {
  const federated = `apiVersion: weft.dev/v1
kind: FederatedTrustDomain
metadata: {name: partner}
spec:
  trustDomain: partner.example
  bundleEndpointURL: https://partner.example/
  bundleEndpointProfile: {type: https_web}
---
`;
  const policy = authorizationPolicy('web', '{rules: [{from: [{source: {namespaces: [web]}}]}]}');
  const { code, lines } = await lint(federated + policy);
  assert.equal(code, 0);
  assert.match(
    lines[0] ?? '',
    /source\.namespaces: warning: this also matches workloads of partner\.example, which the mesh federates with/,
  );
  assert.equal((await lint(policy)).lines.length, 1);
});

const DENY_PATH = authorizationPolicy('no-admin', '{action: DENY, rules: [{to: [{operation: {paths: [/admin], ports: ["8080"]}}]}]}');
const service = (name: string): string => `apiVersion: v1
kind: Service
metadata: {name: ${name}, namespace: shop}
spec: {selector: {app: a}, ports: [{name: ${name}, port: 80, targetPort: 8080}]}
---
`;

test('a DENY rule that widens on TCP is warned of, unless Services declare that its ports carry HTTP', async () => {
  const open = await lint(DENY_PATH);
  assert.equal(open.code, 0);
  assert.match(open.lines[0] ?? '', /warning: .*not HTTP/);
  assert.deepEqual((await lint(DENY_PATH + service('http'))).lines, ['1 file, 1 policy: 0 errors, 0 warnings']);
});

test('HTTP fields on a port that a Service declares as TCP are warned of', async () => {
  const { lines } = await lint(DENY_PATH + service('tcp'));
  assert.match(lines.join('\n'), /operation\.ports: warning: port 8080 carries no HTTP/);
});

const CUSTOM = authorizationPolicy('ask', '{action: CUSTOM, provider: {name: authz}, rules: [{}]}');
const meshConfig = (provider: string): string => `apiVersion: weft.dev/v1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {extensionProviders: [{name: ${provider}, envoyExtAuthzHttp: {service: 10.0.0.1, port: 80}}]}
`;

test('an unknown provider is an error beside the MeshConfig, and a warning without one', async () => {
  const wrong = await lint(CUSTOM + meshConfig('other'));
  assert.equal(wrong.code, 1);
  assert.match(wrong.lines[0] ?? '', /^p\.yaml:4:\d+: spec\.provider: .*provider is not known: "authz"/);
  assert.equal(wrong.lines.length, 2);
  assert.equal((await lint(CUSTOM)).code, 0);
  assert.deepEqual((await lint(CUSTOM + meshConfig('authz'))).lines, ['1 file, 1 policy: 0 errors, 0 warnings']);
});

test('a rule that was refused is reported once: what stands in its place is not linted', async () => {
  const { lines } = await lint(
    authorizationPolicy('d', '{action: DENY, rules: [{to: [{operation: {method: [GET]}}]}, {to: [{operation: {ports: ["1"]}}]}]}'),
  );
  assert.equal(lines.length, 2);
});

test('one name in two files is reported', async () => {
  using folder = new PolicyFolder();
  folder.write('a.yaml', FINE);
  folder.write('b.yaml', FINE);
  const { code, output } = await weftPolicy('lint', folder.path);
  assert.equal(code, 1);
  assert.match(output, /b\.yaml:1:1: metadata\.name: AuthorizationPolicy shop\/fine is already at .*a\.yaml:1/);
});

test('policies of a List keep their own places', async () => {
  const { lines } = await lint(`apiVersion: v1
kind: List
items:
  - apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: never, namespace: shop}
    spec:
      rules:
        - to: [{operation: {methods: [GET], notMethods: [GET]}}]
`);
  assert.match(lines[0] ?? '', /^p\.yaml:9:\d+: spec\.rules\[0\]\.to\[0\]\.operation\.notMethods: /);
});

test('--output json has counts and findings', async () => {
  using folder = new PolicyFolder();
  const path = folder.write('p.yaml', authorizationPolicy('never', '{rules: [{to: [{operation: {methods: [GET], notMethods: [GET]}}]}]}'));
  const { code, output } = await weftPolicy('lint', '--output', 'json', path);
  const { errors, warnings, findings } = JSON.parse(output) as { errors: number; warnings: number; findings: Record<string, unknown>[] };
  assert.deepEqual([code, errors, warnings, findings.length], [1, 1, 0, 1]);
  assert.deepEqual(
    { ...findings[0], message: '', column: 0 },
    {
      severity: 'error',
      code: 'WEFT_POLICY_LINT_UNSATISFIABLE',
      file: path,
      line: 4,
      column: 0,
      field: 'spec.rules[0].to[0].operation.notMethods',
      message: '',
      nextStep: null,
      policy: 'shop/never',
      rule: 0,
    },
  );
});

test('a file that is not there is a failure with its name, not an empty result', async () => {
  const { code, output, errors } = await weftPolicy('lint', '/nonexistent/p.yaml');
  assert.deepEqual([code, output], [1, '']);
  assert.match(errors, /^weft: WEFT_CLI_FILE: \/nonexistent\/p\.yaml cannot be read: .*\nnext: /);
  using folder = new PolicyFolder();
  assert.match((await weftPolicy('lint', folder.path)).errors, /there is no \*\.yaml or \*\.yml in it/);
});
