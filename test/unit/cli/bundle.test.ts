import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { before, describe, it } from 'node:test';
import { formatBundle } from '../../../certs/bundle/bundle-format.ts';
import type { FederationStatus } from '../../../certs/bundle/federation-client.ts';
import type { SpiffeBundle } from '../../../certs/bundle/trust-state.ts';
import { bundlesAnswer } from '../../../src/agent/bundles-answer.ts';
import { runCli } from '../../../src/cli/program.ts';
import type { BundlesAnswer } from '../../../src/model/admin-api.ts';
import { type Forged, forgeRoot } from '../certs/forge.ts';
import { jwk } from '../jwt/token-factory.ts';
import { FakeAgent } from './fake-agent.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

let root: Forged;
let answer: BundlesAnswer;
let own: SpiffeBundle;

const STATUS: FederationStatus = {
  trustDomain: 'partner.example',
  url: 'https://spiffe.partner.example/',
  profile: 'https_web',
  state: 'waiting',
  source: null,
  bundle: null,
  refreshedAt: null,
  nextFetch: Date.parse('2030-01-02T03:04:05Z'),
  failures: 2,
  failuresTotal: 2,
  lastFailure: 'WEFT_CERTS_BUNDLE_ENDPOINT: no bundle',
};

before(async () => {
  root = await forgeRoot();
  own = {
    trustDomain: 'cluster.local',
    x509Authorities: [root.der],
    jwtAuthorities: [{ keyId: 'key-1', jwk: jwk('P-256') }],
    sequence: 2n ** 63n,
    refreshHintSeconds: 300,
  };
  const stored: FederationStatus = {
    ...STATUS,
    trustDomain: 'revoked.example',
    source: 'stored',
    bundle: { ...own, trustDomain: 'revoked.example', x509Authorities: [], jwtAuthorities: [] },
    lastFailure: null,
  };
  answer = bundlesAnswer({ trustDomain: 'cluster.local', own, provided: [], federation: [STATUS, stored] });
});

async function weft(...args: string[]): Promise<RecordedTerminal & { code: number }> {
  await using agent = await FakeAgent.start({ 'GET /v1/bundles': () => ({ status: 200, body: answer }) });
  const terminal = new RecordedTerminal();
  const code = await runCli(['bundle', ...args, '--run-dir', agent.runDirectory], terminal);
  return Object.assign(terminal, { code });
}

describe('weft bundle', () => {
  it('list: one line for each trust domain, with what is wrong', async () => {
    const lines = (await weft('list')).output.split('\n');
    assert.match(lines[1] ?? '', /^cluster\.local \(own\) +1 X\.509, 1 JWT +9223372036854775808 +- /);
    assert.match(lines[2] ?? '', /^partner\.example +none +- +https_web +- +WEFT_CERTS_BUNDLE_ENDPOINT: no bundle$/);
    assert.match(lines[3] ?? '', /^revoked\.example +0 X\.509, 0 JWT /);
  });

  it('show --format spiffe: what the other side is to be given, to the last digit', async () => {
    assert.equal((await weft('show', '--format', 'spiffe')).output, `${formatBundle(own)}\n`);
  });

  it('show --format pem: the roots', async () => {
    const { output } = await weft('show', '--format', 'pem');
    assert.deepEqual(new Uint8Array(new X509Certificate(output).raw), root.der);
  });

  it('show: for people', async () => {
    const { output } = await weft('show');
    assert.match(output, /sequence +9223372036854775808\n/);
    assert.match(output, /X\.509 +CN=test root +until .*([0-9A-F]{2}:){31}/);
    assert.match(output, /JWT +key key-1 +EC\n/);
    assert.match(
      (await weft('show', '--trust-domain', 'revoked.example')).output,
      /comes from +stored[\s\S]*every identity of the trust domain is revoked/,
    );
  });

  it('show --json, list --json: what the agent says', async () => {
    assert.deepEqual(JSON.parse((await weft('list', '--json')).output), answer);
    assert.deepEqual(JSON.parse((await weft('show', '--json', '--trust-domain', 'partner.example')).output), answer.bundles[1]);
  });

  it('show: says why there is none', async () => {
    const failed = await weft('show', '--trust-domain', 'partner.example');
    assert.deepEqual([failed.code, /WEFT_CLI_NO_BUNDLE: .*yet: WEFT_CERTS_BUNDLE_ENDPOINT/.test(failed.errors)], [1, true]);
    const unknown = await weft('show', '--trust-domain', 'elsewhere.example');
    assert.deepEqual([unknown.code, /WEFT_CLI_NO_BUNDLE: this host does not verify elsewhere\.example/.test(unknown.errors)], [1, true]);
  });
});
