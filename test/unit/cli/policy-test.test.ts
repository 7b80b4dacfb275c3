import assert from 'node:assert/strict';
import { test } from 'node:test';
import { authorizationPolicy, PolicyFolder, type Ran, weftPolicy } from './policy-kit.ts';

const READ = authorizationPolicy(
  'read',
  '{selector: {matchLabels: {app: catalog}}, rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {methods: [GET]}}], when: [{key: "request.headers[x-a]", values: ["1"]}]}]}',
);

const ALLOWED = `  - name: web reads
    from: spiffe://cluster.local/ns/shop/sa/web
    to: shop/catalog
    labels: {app: catalog}
    port: 8080
    method: GET
    path: /items
    headers: {x-a: ["2", "1"]}
    expect: allow
    policy: shop/read
`;
const DENIED = `  - name: nobody else does
    from: none
    to: shop/catalog
    labels: {app: catalog}
    port: 8080
    method: GET
    expect: deny
`;

async function run(cases: string, ...flags: string[]): Promise<Ran & { path: string }> {
  using folder = new PolicyFolder();
  folder.write('policies/read.yaml', READ);
  const path = folder.write('table.yaml', `policies: [policies/]\ncases:\n${cases}`);
  return { ...(await weftPolicy('test', path, ...flags)), path };
}

test('a table whose cases are as expected is well', async () => {
  const { code, output, errors } = await run(ALLOWED + DENIED);
  assert.deepEqual([code, errors], [0, '']);
  assert.equal(output, 'ok    web reads\nok    nobody else does\n2 cases, all as expected\n');
});

test('a case that is not as expected fails, with its line, and what was decided by whom', async () => {
  const { code, output, path } = await run(ALLOWED.replace('method: GET', 'method: PUT') + DENIED);
  assert.equal(code, 1);
  assert.equal(
    output,
    `FAIL  web reads (${path}:3)
      expected allow by shop/read, got deny by shop/read: no ALLOW rule matched
ok    nobody else does
2 cases, 1 not as expected
`,
  );
});

test('the right decision by another policy is not as expected', async () => {
  const { code, output } = await run(ALLOWED.replace('policy: shop/read', 'policy: shop/other'));
  assert.equal(code, 1);
  assert.match(output, /expected allow by shop\/other, got allow by shop\/read rule 0/);
});

test('labels of a case select the policies', async () => {
  const { code } = await run(DENIED.replace('app: catalog', 'app: cart').replace('expect: deny', 'expect: allow'));
  assert.equal(code, 0);
});

test('--output json has every case with its decision', async () => {
  const { code, output, path } = await run(ALLOWED + DENIED.replace('expect: deny', 'expect: allow'), '--output', 'json');
  assert.equal(code, 1);
  assert.deepEqual(JSON.parse(output), {
    passed: 1,
    failed: 1,
    cases: [
      {
        name: 'web reads',
        file: path,
        line: 3,
        passed: true,
        expect: 'allow',
        expectPolicy: 'shop/read',
        decision: 'allow',
        policy: 'shop/read',
        rule: 0,
        reason: 'matched an ALLOW rule',
        dryRun: [],
      },
      {
        name: 'nobody else does',
        file: path,
        line: 13,
        passed: false,
        expect: 'allow',
        expectPolicy: null,
        decision: 'deny',
        policy: 'shop/read',
        rule: null,
        reason: 'no ALLOW rule matched',
        dryRun: [],
      },
    ],
  });
});

const MISTAKES: readonly (readonly [why: string, cases: string, message: RegExp])[] = [
  [
    'an unknown field',
    ALLOWED.replace('path: /items', 'paths: /items'),
    /:9:5: cases\[0\]\.paths: there is no field "paths" here \(did you mean path\?\)/,
  ],
  ['a missing field', ALLOWED.replace('    expect: allow\n', ''), /cases\[0\]\.expect: is required/],
  ['a bad value', ALLOWED.replace('expect: allow', 'expect: maybe'), /:11:13: cases\[0\]\.expect: "maybe" is not one of allow, deny/],
  ['a bad identity', ALLOWED.replace('spiffe://', 'spiffe:/'), /:4:11: cases\[0\]\.from: from: .*not spiffe/],
  [
    'a path without a method',
    ALLOWED.replace('    method: GET\n', ''),
    /cases\[0\].*path is part of an HTTP request, and there is no method/,
  ],
  ['no cases', '', /:2:7: cases: must be a list/],
  ['a port out of range', ALLOWED.replace('8080', '80800'), /cases\[0\]\.port: .*is not a port number from 1 to 65535/],
];

for (const [why, cases, message] of MISTAKES) {
  test(`a table with ${why} is refused with its place, and no case is run`, async () => {
    const { code, output, errors } = await run(cases);
    assert.deepEqual([code, output], [1, '']);
    assert.match(errors, message);
    assert.match(errors, /^weft: WEFT_CLI_POLICY_FILES: /m);
  });
}

test('policies with problems are not tested', async () => {
  using folder = new PolicyFolder();
  folder.write('p.yaml', authorizationPolicy('x', '{rules: [{to: [{operation: {method: [GET]}}]}]}'));
  const { code, output, errors } = await weftPolicy('test', folder.write('t.yaml.txt', `policies: [p.yaml]\ncases:\n${DENIED}`));
  assert.deepEqual([code, output], [1, '']);
  assert.match(errors, /p\.yaml:4:\d+: spec\.rules\[0\].*method/);
});
