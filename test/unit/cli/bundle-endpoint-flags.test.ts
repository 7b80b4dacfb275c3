import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type BundleEndpointFlags, bundleEndpointSettings } from '../../../src/cli/bundle-endpoint-flags.ts';
import type { BundleEndpointSettings } from '../../../src/model/bundle-endpoint.ts';
import { CliError } from '../../../src/cli/cli-error.ts';

const settings = (flags: BundleEndpointFlags): BundleEndpointSettings | null =>
  bundleEndpointSettings(flags, 'example.org', (_, text) => `/cwd/${text}`);

function refused(flags: BundleEndpointFlags, why: RegExp): void {
  assert.throws(
    () => settings(flags),
    (error) => error instanceof CliError && error.code === 'WEFT_CLI_USAGE' && why.test(error.message),
  );
}

describe('flags of the bundle endpoint', () => {
  const bundleEndpoint = '[::1]:8443';

  it('without them nothing is published', () => assert.equal(settings({}), null));

  it("https_spiffe with the trust domain's endpoint identity is the default", () => {
    assert.deepEqual(settings({ bundleEndpoint }), {
      host: '::1',
      port: 8443,
      path: '/',
      certificate: { kind: 'svid', identity: 'spiffe://example.org/bundle-endpoint' },
      refreshHintSeconds: null,
    });
  });

  it('https_web takes the files of the operator', () => {
    const flags = {
      bundleEndpoint,
      bundleEndpointPath: '/bundle.json',
      bundleEndpointCert: 'a.pem',
      bundleEndpointKey: 'a.key',
      bundleRefreshHint: '60',
    };
    const { path, certificate, refreshHintSeconds } = settings(flags) as BundleEndpointSettings;
    assert.deepEqual([path, refreshHintSeconds], ['/bundle.json', 60]);
    assert.deepEqual(certificate, { kind: 'files', certificateFile: '/cwd/a.pem', keyFile: '/cwd/a.key' });
  });

  it('what does not go together is refused', () => {
    refused({ bundleRefreshHint: '60' }, /--bundle-refresh-hint says how/);
    refused({ bundleEndpointCert: 'a' }, /--bundle-endpoint-cert says how/);
    refused({ bundleEndpoint, bundleEndpointCert: 'a' }, /--bundle-endpoint-cert is one half/);
    refused({ bundleEndpoint, bundleEndpointKey: 'a' }, /--bundle-endpoint-key is one half/);
    const identity = 'spiffe://example.org/x';
    refused({ bundleEndpoint, bundleEndpointIdentity: identity, bundleEndpointCert: 'a', bundleEndpointKey: 'b' }, /two profiles/);
  });

  it('values that cannot be are refused', () => {
    refused({ bundleEndpoint: '::1:8443' }, /--bundle-endpoint cannot/);
    for (const path of ['', 'a', '/a?b', '/a#b', '/a b']) refused({ bundleEndpoint, bundleEndpointPath: path }, /-path cannot/);
    for (const hint of ['0', '1.5', '-1', '99999999']) refused({ bundleEndpoint, bundleRefreshHint: hint }, /-hint cannot/);
    for (const identity of ['x', 'spiffe://example.org', 'spiffe://other.example/a', 'spiffe://example.org/a/']) {
      refused({ bundleEndpoint, bundleEndpointIdentity: identity }, /-identity cannot/);
    }
  });
});
