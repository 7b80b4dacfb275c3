import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { AdminServer, type AdminSource } from '../../../src/agent/admin-server.ts';
import { createLog } from '../../../src/log/log.ts';
import { AdminClient } from '../../../src/cli/admin-client.ts';
import { runCli } from '../../../src/cli/program.ts';
import { loadPolicies } from '../../../src/cli/policy/policy-files.ts';
import { DEFAULT_MESH_NAMES, meshOf } from '../../../src/cli/policy/mesh-of-files.ts';
import { FakeAgent } from './fake-agent.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const directory = mkdtempSync(join(tmpdir(), 'weft-policy-'));
after(() => rmSync(directory, { recursive: true }));
let files = 0;

function file(text: string): string {
  const path = join(directory, `${++files}.yaml`);
  writeFileSync(path, text);
  return path;
}

async function weft(...args: string[]): Promise<{ code: number; output: string; errors: string }> {
  const terminal = new RecordedTerminal();
  const code = await runCli(args, terminal);
  return { code, output: terminal.output, errors: terminal.errors };
}

const WEB = 'spiffe://cluster.local/ns/shop/sa/web';
const BASE = ['--to', 'shop/catalog', '--labels', 'app=catalog', '--port', '8080', '--output', 'json'];

async function decision(path: string, from: string, ...args: string[]): Promise<Record<string, unknown>> {
  const { code, output, errors } = await weft('policy', 'explain', '-f', path, '--from', from, ...BASE, ...args);
  assert.equal(code, 0, errors);
  return JSON.parse(output) as Record<string, unknown>;
}

function policy(name: string, spec: string, annotation = ''): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: shop${annotation === '' ? '' : `, annotations: {${annotation}}`}}
spec: ${spec}
---
`;
}

const READ = policy(
  'read',
  '{selector: {matchLabels: {app: catalog}}, rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {methods: [GET], paths: [/items*]}}]}]}',
);

test('the JSON of weft policy explain has these fields and no others', async () => {
  assert.deepEqual(await decision(file(READ), WEB, '--method', 'GET', '--path', '/items/7?x=1'), {
    decision: 'allow',
    policy: 'shop/read',
    rule: 0,
    reason: 'matched an ALLOW rule',
    dryRun: [],
  });
});

test('text output says of every rule whether it matched, and why not', async () => {
  const { code, output } = await weft('policy', 'explain', '-f', file(READ), '--from', WEB, ...BASE, '--output', 'text', '--method', 'PUT');
  assert.equal(code, 0);
  assert.match(
    output,
    /^DENY {2}PUT \/ \(host catalog\.shop\) from spiffe:.* to shop\/catalog port 8080\nbecause {2}no ALLOW rule matched\n/,
  );
  assert.match(output, /^no match shop\/read rule 0 \(ALLOW\): to\[0\]: the method is "PUT", none of "GET"$/m);
});

test('what no ALLOW rule matches is denied, naming the policy that asked for more', async () => {
  assert.deepEqual(await decision(file(READ), WEB, '--method', 'DELETE', '--path', '/items/7'), {
    decision: 'deny',
    policy: 'shop/read',
    rule: null,
    reason: 'no ALLOW rule matched',
    dryRun: [],
  });
});

test('the path is decided about as the proxy normalises it', async () => {
  const path = file(READ);
  assert.equal((await decision(path, WEB, '--method', 'GET', '--path', '/items/../admin'))['decision'], 'deny');
  assert.equal((await decision(path, WEB, '--method', 'GET', '--path', '/x/%2e%2e/items'))['decision'], 'allow');
  const merged = file(`${READ}apiVersion: weft.dev/v1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {pathNormalization: {normalization: MERGE_SLASHES}}
`);
  assert.equal((await decision(path, WEB, '--method', 'GET', '--path', '//items'))['decision'], 'deny');
  assert.equal((await decision(merged, WEB, '--method', 'GET', '--path', '//items'))['decision'], 'allow');
});

test('without --method it is a connection that is not HTTP: ALLOW rules with HTTP fields are void, DENY rules go without them', async () => {
  assert.equal((await decision(file(READ), WEB))['decision'], 'deny');
  const deny = file(policy('no-admin', '{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}'));
  assert.deepEqual(await decision(deny, WEB), {
    decision: 'deny',
    policy: 'shop/no-admin',
    rule: 0,
    reason: 'matched a DENY rule, without its HTTP fields',
    dryRun: [],
  });
});

test('a plaintext peer of a strict workload is refused by the mode, which is named', async () => {
  const strict = file(`${READ}apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
`);
  const denied = await decision(strict, 'none', '--method', 'GET', '--path', '/items');
  assert.equal(denied['decision'], 'deny');
  assert.equal(denied['policy'], 'PeerAuthentication shop/default');
  assert.match(String(denied['reason']), /strict mode requires mTLS/);
  assert.equal((await decision(strict, WEB, '--method', 'GET', '--path', '/items'))['decision'], 'allow');
});

test('a port can be strict, or permissive, by itself', async () => {
  const strict = file(`apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports, namespace: shop}
spec: {selector: {matchLabels: {app: catalog}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}
`);
  assert.equal((await decision(strict, 'none', '--method', 'GET'))['decision'], 'allow');
  assert.equal((await decision(strict, 'none', '--method', 'GET', '--port', '9090'))['decision'], 'deny');
});

test('a workload whose namespace is off has no policy enforced, and that is said', async () => {
  const off = file(
    `${READ}apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/mode: off}}
`.replace('mode: off', 'mode: "off"'),
  );
  const { output } = await weft('policy', 'explain', '-f', off, '--from', 'none', ...BASE, '--output', 'text');
  assert.match(output, /^ALLOW /);
  assert.match(output, /^note +its mode is off \(Namespace shop\)/m);
});

test('dry-run policies decide nothing and are listed', async () => {
  const path = file(READ + policy('soon', '{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}', '"istio.io/dry-run": "true"'));
  const answer = await decision(path, WEB, '--method', 'GET', '--path', '/items');
  assert.equal(answer['decision'], 'allow');
  assert.deepEqual(answer['dryRun'], [{ policy: 'shop/soon', rule: 0, effect: 'deny', reason: 'matched a DENY rule' }]);
  assert.equal((answer['dryRun'] as unknown[]).length, 1);
});

const TOKENS = `apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {jwtRules: [{issuer: "https://login", audiences: [catalog], jwksUri: "https://login.example/keys"}]}
---
`;
const ASK_TOKEN = policy(
  'users',
  '{rules: [{from: [{source: {requestPrincipals: ["https://login/*"]}}], when: [{key: "request.auth.claims[group]", values: [staff]}]}]}',
);
const GOOD = ['--method', 'GET', '--claim', 'iss=https://login', '--claim', 'sub=anna', '--claim', 'aud=catalog', '--claim', 'group=staff'];

test('claims of a token count where a RequestAuthentication takes the token', async () => {
  const path = file(TOKENS + ASK_TOKEN);
  assert.equal((await decision(path, WEB, ...GOOD))['decision'], 'allow');
  assert.equal((await decision(path, WEB, '--method', 'GET'))['reason'], 'no ALLOW rule matched');
  const payload = join(directory, 'claims.json');
  writeFileSync(payload, JSON.stringify({ iss: 'https://login', sub: 'anna', aud: ['catalog'], group: ['staff', 'x'] }));
  assert.equal((await decision(path, WEB, '--method', 'GET', '--jwt-claims', payload))['decision'], 'allow');
});

test('a token that no RequestAuthentication takes is refused, and one that nobody looks at counts for nothing', async () => {
  const path = file(TOKENS + ASK_TOKEN);
  const foreign = await decision(path, WEB, '--method', 'GET', '--claim', 'iss=https://other', '--claim', 'sub=anna');
  assert.deepEqual([foreign['decision'], foreign['reason']], ['deny', 'the issuer of the token is not accepted here']);
  const audience = await decision(path, WEB, '--method', 'GET', '--claim', 'iss=https://login', '--claim', 'sub=anna', '--claim', 'aud=x');
  assert.deepEqual([audience['decision'], audience['policy']], ['deny', 'shop/tokens']);
  const unseen = await decision(file(ASK_TOKEN), WEB, ...GOOD);
  assert.deepEqual([unseen['decision'], unseen['reason']], ['deny', 'no ALLOW rule matched']);
});

test('headers are compared one by one, and X-Forwarded-For is believed as far as the mesh says', async () => {
  const path = file(
    `${policy('v', '{rules: [{from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}], when: [{key: "request.headers[X-Version]", values: ["2"]}]}]}')}apiVersion: weft.dev/v1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {numTrustedProxies: 1}
`,
  );
  const headers = ['--method', 'GET', '--header', 'x-version=1', '--header', 'X-Version=2', '--source-ip', '10.0.0.1'];
  assert.equal((await decision(path, WEB, ...headers, '--header', 'x-forwarded-for=10.9.9.9, 192.0.2.7'))['decision'], 'allow');
  assert.equal((await decision(path, WEB, ...headers, '--header', 'x-forwarded-for=192.0.2.7, 10.9.9.9'))['decision'], 'deny');
});

test('an address that is not known counts against the peer, in ALLOW and in DENY', async () => {
  const allow = file(policy('net', '{rules: [{from: [{source: {notIpBlocks: [10.0.0.0/8]}}]}]}'));
  assert.equal((await decision(allow, WEB))['decision'], 'deny');
  const deny = file(policy('net', '{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}'));
  assert.equal((await decision(deny, WEB))['decision'], 'deny');
  assert.equal((await decision(deny, WEB, '--source-ip', '192.0.2.1'))['decision'], 'allow');
});

test('what a CUSTOM policy asks is said, since only its provider knows', async () => {
  const path = file(`${policy('ask', '{action: CUSTOM, provider: {name: authz}, rules: [{}]}')}apiVersion: weft.dev/v1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {extensionProviders: [{name: authz, envoyExtAuthzHttp: {service: 10.0.0.9, port: 80}}]}
`);
  const answer = await decision(path, WEB, '--method', 'GET');
  assert.equal(answer['decision'], 'allow');
  assert.match(String(answer['reason']), /if the provider "authz" of shop\/ask rule 0 allows it$/);
  assert.equal((await decision(path, WEB))['decision'], 'deny');
});

test('a rule that cannot be read fails closed, with its place on standard error', async () => {
  const path = file(policy('typo', '{action: DENY, rules: [{to: [{operation: {method: [GET]}}]}]}'));
  const { code, output, errors } = await weft('policy', 'explain', '-f', path, '--from', WEB, ...BASE, '--method', 'GET');
  assert.equal(code, 0);
  assert.equal((JSON.parse(output) as { decision: string }).decision, 'deny');
  assert.match(errors, /:4:\d+: spec\.rules\[0\]\.to\[0\]\.operation\.method: there is no field "method"/);
});

test('by files that are refused nothing is decided', async () => {
  const path = file('apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: PERMIT}\n');
  const { code, output, errors } = await weft('policy', 'explain', '-f', path, '--from', 'none', ...BASE);
  assert.deepEqual([code, output], [1, '']);
  assert.match(errors, /:4:16: spec\.action: "PERMIT" is not one of/);
  assert.match(errors, /^weft: WEFT_CLI_POLICY_FILES: the files have 1 problem\nnext: .*weft policy lint/m);
});

test('without -f the agent of this host is asked for what it has in force', async () => {
  const question = { namespace: 'shop', name: 'catalog', labels: { app: 'catalog' } };
  const snapshot = meshOf(loadPolicies([file(READ)]).resources, DEFAULT_MESH_NAMES, question);
  await using agent = await FakeAgent.start({ 'GET /v1/snapshot': () => ({ status: 200, body: snapshot }) });
  const ask = ['policy', 'explain', '--run-dir', agent.runDirectory, '--from', WEB, '--port', '80', '--output', 'json'];
  const { code, output } = await weft(...ask, '--to', 'shop/catalog', '--method', 'GET', '--path', '/items');
  assert.deepEqual([code, (JSON.parse(output) as { policy: string }).policy], [0, 'shop/read']);
  const unknown = await weft(...ask, '--to', 'shop/other');
  assert.equal(unknown.code, 1);
  assert.match(unknown.errors, /^weft: WEFT_CLI_NO_WORKLOAD: there is no workload shop\/other\nnext: /);
});

test("the agent's admin endpoint hands out the mesh with its policies", async () => {
  const question = { namespace: 'shop', name: 'catalog', labels: { app: 'catalog' } };
  const snapshot = meshOf(loadPolicies([file(READ)]).resources, DEFAULT_MESH_NAMES, question);
  const runDirectory = join(directory, 'run');
  await using _ = await AdminServer.listen({ snapshot: () => snapshot } as AdminSource, {
    runDirectory,
    metrics: null,
    log: createLog('silent'),
  });
  assert.deepEqual(await new AdminClient(runDirectory).get('/v1/snapshot'), JSON.parse(JSON.stringify(snapshot)));
});

const MISTAKES: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [['--from', 'web'], /--from: .*the scheme is not spiffe/],
  [['--to', 'catalog'], /--to cannot be "catalog"/],
  [['--port', '0'], /--port cannot be "0"/],
  [['--path', '/x'], /--path is part of an HTTP request, and there is no --method/],
  [['--method', 'GET', '--path', 'x'], /--path cannot be "x": target form/],
  [['--method', 'GET', '--path', '/%00'], /escaped NUL.*400/],
  [['--method', 'GET', '--header', 'nothing'], /--header cannot have "nothing"/],
  [['--method', 'GET', '--header', 'a b=c'], /--header cannot have the name/],
  [['--method', 'GET', '--sni', 'x'], /--sni is of TLS/],
  [['--source-ip', '10.0.0.0/8'], /--source-ip cannot be/],
  [['--labels', 'app'], /--labels cannot have "app"/],
  [['--output', 'yaml'], /--output/],
  [['--trust-domain', 'A'], /--trust-domain cannot be "A"/],
];

for (const [args, message] of MISTAKES) {
  test(`weft policy explain … ${args.join(' ')} is wrong usage, with exit code 2`, async () => {
    const path = file(READ);
    const { code, output, errors } = await weft(
      'policy',
      'explain',
      '-f',
      path,
      '--from',
      WEB,
      '--to',
      'shop/catalog',
      '--port',
      '80',
      ...args,
    );
    assert.deepEqual([code, output], [2, '']);
    assert.match(errors, /^weft: WEFT_CLI_USAGE: .*\nnext: .*\n$/);
    assert.match(errors, message);
  });
}
