/**
 * `npm run demo`: the mesh on this machine, shown with its evidence. `--keep` leaves it up and says how to play with it.
 * Every line that claims something is checked; if one does not hold, the demo says so and ends with 1.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs, styleText } from 'node:util';
import type { AuthorityStatusAnswer } from '../../../src/model/authority-api.ts';
import { errorText } from '../../../src/model/errors.ts';
import { exec } from '../child.ts';
import { agentRunDirectory } from '../lab/agent.ts';
import type { LabPod } from '../lab/index.ts';
import { type AccessLogLine, Mesh } from '../mesh.ts';

const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } } });
if (values.help) {
  console.log('usage: npm run demo [-- --keep]\n\n  --keep   leave the two nodes up and print how to play with them');
  process.exit(0);
}

const POLICY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: read-only, namespace: shop}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]
    to: [{operation: {methods: [GET], paths: [/, /catalog/*]}}]
`;
const MARKER = 'order-4711';
const WEFT = fileURLToPath(new URL('../../../src/cli/weft', import.meta.url));

const started = performance.now();
let failed = 0;

function heading(text: string): void {
  console.log(`\n${styleText('bold', text)}`);
}

function say(text: string): void {
  console.log(`  ${text}`);
}

/** Prints a claim, and whether it holds. */
function claim(holds: boolean, text: string): void {
  if (!holds) failed++;
  console.log(`  ${holds ? styleText('green', 'yes') : styleText('red', 'NO ')} ${text}`);
}

function describe(line: AccessLogLine): string {
  const who = `${line.source.identity ?? `${line.source.address} (no identity)`} -> ${line.destination.identity}`;
  return `${line.method} ${line.path} ${line.status}, ${line.security}, ${line.verdict}${line.policy === null ? '' : ` by ${line.policy}`}\n      ${who}`;
}

async function call(
  mesh: Mesh,
  from: LabPod,
  to: LabPod,
  path: string,
  method = 'GET',
): Promise<{ status: number; body: string; denied: string }> {
  const answer = await mesh.curl(from, mesh.url(to, path), '-X', method);
  return { status: answer.status, body: answer.body, denied: /x-weft-denied-by: (.*)\r/i.exec(answer.headers)?.[1] ?? '' };
}

async function crossNode(mesh: Mesh): Promise<void> {
  heading('1. Two nodes, no mesh yet: the namespace shop is off');
  const wire = await mesh.nodeA.capture(mesh.nodeA.interfaceTo(mesh.nodeB));
  const before = await call(mesh, mesh.client, mesh.far, `/catalog/${MARKER}`);
  const plain = await wire.stop();
  say(`curl in pod client (node-a) calls an HTTP server in pod far (node-b): ${before.status}`);
  claim(plain.contains(MARKER), `between the nodes anybody can read it: tcpdump found "${MARKER}" in ${plain.packets} packets`);

  heading('2. shop becomes strict. Same curl, same server, nothing restarted');
  await mesh.setMode('shop', 'strict');
  const encrypted = await mesh.nodeA.capture(mesh.nodeA.interfaceTo(mesh.nodeB));
  const after = await call(mesh, mesh.client, mesh.far, `/catalog/${MARKER}`);
  const secret = await encrypted.stop();
  const line = await mesh.accessLog(mesh.agentB, (found) => found.path === `/catalog/${MARKER}` && found.security === 'mtls');
  claim(after.status === 200, `node-b's log: ${describe(line)}`);
  claim(
    !secret.contains(MARKER) && !secret.contains('HTTP/1.1') && secret.packets > 0,
    `between the nodes only TLS: "${MARKER}" and "HTTP/1.1" are in none of ${secret.packets} packets`,
  );
  const seen = JSON.parse(after.body) as { remoteAddress: string };
  claim(seen.remoteAddress === mesh.client.addresses.v4, `the server still sees the client's own address, ${seen.remoteAddress}`);

  heading('3. On one node');
  const near = await call(mesh, mesh.client, mesh.near, '/catalog/near');
  const local = await mesh.accessLog(mesh.agentA, (found) => found.path === '/catalog/near');
  claim(near.status === 200 && local.security === 'kernel', `no TLS needed, the kernel attests who calls: ${describe(local)}`);
}

async function allowlist(mesh: Mesh): Promise<void> {
  heading('4. An allowlist: client may GET / and /catalog/* and nothing else (AuthorizationPolicy shop/read-only)');
  await mesh.apply('read-only', POLICY, 'shop/read-only');
  const allowed = await call(mesh, mesh.client, mesh.far, '/catalog/1');
  claim(allowed.status === 200, `GET /catalog/1 -> ${allowed.status}`);
  const refused = await call(mesh, mesh.client, mesh.far, '/catalog/1', 'DELETE');
  claim(refused.status === 403 && refused.denied === 'shop/read-only', `DELETE /catalog/1 -> ${refused.status}: ${refused.body.trim()}`);
  const sneaky = await mesh.curl(mesh.client, mesh.url(mesh.far, '/catalog/../admin'), '--path-as-is');
  claim(sneaky.status === 403, `GET /catalog/../admin -> ${sneaky.status}`);
  mesh.config.remove('read-only');
}

async function strangers(mesh: Mesh): Promise<void> {
  heading('5. A workload that is not enrolled (namespace legacy is off) calls shop');
  await mesh.setMode('shop', 'permissive');
  const accepted = await call(mesh, mesh.stranger, mesh.far, '/');
  claim(accepted.status === 200, `permissive: ${accepted.status}`);
  await mesh.setMode('shop', 'strict');
  const refused = await call(mesh, mesh.stranger, mesh.far, '/');
  claim(refused.status === 403, `strict: ${refused.status}: ${refused.body.trim()}`);
}

async function rollout(mesh: Mesh): Promise<void> {
  heading('6. off -> permissive -> strict while a client keeps calling');
  await mesh.setMode('shop', 'off');
  await using caller = mesh.keepCalling(mesh.client, [mesh.near, mesh.far]);
  const steps: string[] = [];
  for (const mode of ['off', 'permissive', 'strict'] as const) {
    await mesh.setMode('shop', mode);
    const before = caller.total;
    await new Promise((resolve) => setTimeout(resolve, 700));
    steps.push(`${mode}: ${caller.total - before}`);
  }
  await caller.stop();
  const lost = [...caller.statuses].filter(([status]) => status !== 200);
  const verdict = lost.length === 0 ? 'every one answered 200' : `not answered 200: ${JSON.stringify(lost)}`;
  claim(lost.length === 0 && caller.total > 0, `${caller.total} calls to both servers, ${verdict} (in steady state ${steps.join(', ')})`);
}

/** `weft` as an operator of node-a, or as a process of a pod. */
async function weft(mesh: Mesh, args: readonly string[], pod: LabPod | null = null): Promise<string> {
  const command = [WEFT, ...args];
  const result = pod === null ? await exec([...command, '--run-dir', agentRunDirectory(mesh.nodeA)]) : await pod.exec(command);
  if (result.code !== 0) throw new Error(result.stderr);
  return result.stdout;
}

async function identity(mesh: Mesh): Promise<void> {
  heading('7. A workload gets its own identity, from the SPIFFE Workload API');
  const socket = `unix://${agentRunDirectory(mesh.nodeA)}/public/workload-api.sock`;
  const fetched = await weft(mesh, ['svid', 'fetch', '--socket', socket], mesh.client);
  claim(fetched.includes('spiffe://cluster.local/ns/shop/sa/client'), 'in pod client, no token, no configuration: weft svid fetch');
  for (const line of fetched.trimEnd().split('\n')) say(`    ${line}`);
  const stranger = await mesh.stranger.exec([WEFT, 'svid', 'fetch', '--socket', socket]);
  claim(stranger.code !== 0, `pod stranger asks the same socket, and gets: ${stranger.stderr.split('\n', 1)[0]}`);
}

async function rotation(mesh: Mesh): Promise<void> {
  heading('8. A new root for the trust domain, while the client keeps calling');
  const status = async (): Promise<AuthorityStatusAnswer> =>
    JSON.parse(await weft(mesh, ['ca', 'status', '--json'])) as AuthorityStatusAnswer;
  const old = (await status()).slots.find(({ state }) => state === 'active')?.id;
  await using caller = mesh.keepCalling(mesh.client, [mesh.near, mesh.far]);
  await weft(mesh, ['ca', 'rotate']);
  let now = await status();
  while (now.rotation?.phase === 'publishing') {
    await new Promise((resolve) => setTimeout(resolve, 100));
    now = await status();
  }
  await caller.more(4);
  await caller.stop();
  const active = now.slots.find(({ state }) => state === 'active')?.id;
  claim(
    active !== undefined && active !== old,
    `weft ca rotate: both nodes acknowledged the new root, now ${active} signs; ${old} goes when its last SVID has expired`,
  );
  const lost = [...caller.statuses].filter(([code]) => code !== 200);
  claim(lost.length === 0, `${caller.total} calls meanwhile, ${lost.length === 0 ? 'every one answered 200' : JSON.stringify(lost)}`);
}

function keep(mesh: Mesh): void {
  mesh.lab.keep();
  heading('It stays up. To play with it:');
  const client = mesh.client.netnsName;
  say(`npm run lab -- exec ${mesh.lab.id} client -- curl -i ${mesh.url(mesh.far)}`);
  say(`npm run lab -- exec ${mesh.lab.id} stranger -- curl -i ${mesh.url(mesh.far)}`);
  say(`npm run weft -- status --run-dir ${mesh.nodeA.directory}/run`);
  say(`edit the YAML in ${mesh.config.directory} and watch ${mesh.agentB.accessLog}`);
  say(`the client's network namespace is ${client}`);
  say(`npm run lab -- down ${mesh.lab.id}    when you have seen enough`);
}

try {
  console.log('Weft: a service mesh without sidecars. Two nodes as network namespaces, four pods, one agent per node. Starting ...');
  const mesh = await Mesh.start({ mode: 'off' });
  try {
    await crossNode(mesh);
    await allowlist(mesh);
    await strangers(mesh);
    await rollout(mesh);
    await identity(mesh);
    await rotation(mesh);
    if (values.keep && failed === 0) keep(mesh);
  } finally {
    await mesh[Symbol.asyncDispose]();
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  heading(
    failed === 0 ? `All of it held. ${seconds} s${values.keep ? '' : '; nothing is left behind'}.` : `${failed} claims did not hold.`,
  );
} catch (error) {
  failed++;
  console.error(`\nThe demo failed: ${errorText(error)}`);
}
process.exit(failed === 0 ? 0 : 1);
