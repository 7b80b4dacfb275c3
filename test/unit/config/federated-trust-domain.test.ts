import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { buildSnapshot, type BuiltSnapshot, WorkloadIds } from '../../../src/config/build-snapshot.ts';
import { forgeRoot } from '../certs/forge.ts';
import { one, parsed, refused } from './fixtures.ts';

const BUNDLE = '{"keys":[],"spiffe_sequence":1}';
const WEB = '{type: https_web}';
const SPIFFE = '{type: https_spiffe, endpointSPIFFEID: spiffe://partner.example/bundle-endpoint}';
const URL_TEXT = 'https://spiffe.partner.example:8443/bundle.json?x=1';

let webRoot: string;
before(async () => {
  webRoot = (await forgeRoot()).pem;
});

interface Written {
  readonly name?: string;
  readonly trustDomain?: string;
  readonly url?: string;
  readonly profile?: string;
  readonly bundle?: string | null;
}

function resource({
  name = 'partner',
  trustDomain = 'partner.example',
  url = URL_TEXT,
  profile = WEB,
  bundle = null,
}: Written = {}): string {
  return `apiVersion: weft.dev/v1
kind: FederatedTrustDomain
metadata: {name: ${name}}
spec:
  trustDomain: ${trustDomain}
  bundleEndpointURL: ${JSON.stringify(url)}
  bundleEndpointProfile: ${profile}
${bundle === null ? '' : `  trustDomainBundle: ${JSON.stringify(bundle)}\n`}`;
}

/** The fields that are wrong in a text. */
function wrongFields(text: string): string[] {
  return refused(text).map(({ field }) => field);
}

function build(text: string): BuiltSnapshot {
  const options = { nodeName: 'node', trustDomain: 'cluster.local', version: 1, enrolled: () => true, workloadIds: new WorkloadIds() };
  return buildSnapshot(parsed(text), options);
}

describe('FederatedTrustDomain', () => {
  it('https_web is read, with and without roots of its own', () => {
    assert.deepEqual(one('FederatedTrustDomain', resource()).spec, {
      trustDomain: 'partner.example',
      bundleEndpointUrl: URL_TEXT,
      profile: { type: 'https_web', webRoots: null },
      initialBundle: null,
    });
    const profile = `{type: https_web, webRoots: ${JSON.stringify(webRoot)}}`;
    assert.deepEqual(one('FederatedTrustDomain', resource({ profile })).spec.profile, { type: 'https_web', webRoots: webRoot });
  });

  it("https_spiffe is read as SPIRE's controller has it", () => {
    const text = resource({ profile: SPIFFE, bundle: BUNDLE })
      .replace('weft.dev/v1', 'spire.spiffe.io/v1alpha1')
      .replace('FederatedTrustDomain', 'ClusterFederatedTrustDomain');
    assert.deepEqual(one('FederatedTrustDomain', `${text}  className: spire\n`).spec, {
      trustDomain: 'partner.example',
      bundleEndpointUrl: URL_TEXT,
      profile: { type: 'https_spiffe', endpointId: 'spiffe://partner.example/bundle-endpoint' },
      initialBundle: BUNDLE,
    });
  });

  it('nothing is made from something else: URL, profile and trust domain must all be there', () => {
    for (const field of ['trustDomain', 'bundleEndpointURL', 'bundleEndpointProfile']) {
      const text = resource().replace(new RegExp(`^  ${field}: .*\\n`, 'm'), '');
      assert.deepEqual(
        refused(text).map(({ code, field: at }) => [code, at]),
        [['WEFT_CONFIG_MISSING_FIELD', `spec.${field}`]],
      );
    }
    assert.deepEqual(wrongFields(resource({ profile: '{}' })), ['spec.bundleEndpointProfile.type']);
  });

  it('https_spiffe needs the SPIFFE ID of a workload', () => {
    const at = ['spec.bundleEndpointProfile.endpointSPIFFEID'];
    assert.deepEqual(wrongFields(resource({ profile: '{type: https_spiffe}' })), at);
    for (const id of [
      'spiffe://partner.example',
      'https://partner.example/a',
      'spiffe://Partner.example/a',
      'spiffe://partner.example/a/',
    ]) {
      assert.deepEqual(wrongFields(resource({ profile: `{type: https_spiffe, endpointSPIFFEID: "${id}"}`, bundle: BUNDLE })), at, id);
    }
  });

  it('a self-serving https_spiffe endpoint needs a bundle to start with, another one does not', () => {
    assert.deepEqual(wrongFields(resource({ profile: SPIFFE })), ['spec.trustDomainBundle']);
    parsed(resource({ profile: '{type: https_spiffe, endpointSPIFFEID: spiffe://third.example/bundle-endpoint}' }));
  });

  it('a field of the other profile is refused', () => {
    const at = 'spec.bundleEndpointProfile';
    assert.deepEqual(wrongFields(resource({ profile: '{type: https_web, endpointSPIFFEID: spiffe://partner.example/a}' })), [
      `${at}.endpointSPIFFEID`,
    ]);
    const both = `{type: https_spiffe, endpointSPIFFEID: spiffe://partner.example/a, webRoots: ${JSON.stringify(webRoot)}}`;
    assert.deepEqual(wrongFields(resource({ profile: both, bundle: BUNDLE })), [`${at}.webRoots`]);
  });

  it('a URL must be an https one without user name, written as it is meant', () => {
    for (const url of [
      'http://partner.example/',
      'partner.example',
      'https:/partner.example/',
      'https://user@partner.example/',
      'https://user:pass@partner.example/',
      'https://partner.example/#a',
      'https://partner.example/a b',
      'https://partner.example\\a',
      'https://',
      'file:///etc/passwd',
    ]) {
      assert.deepEqual(wrongFields(resource({ url })), ['spec.bundleEndpointURL'], url);
    }
    for (const url of ['https://127.0.0.1:1/', 'https://[::1]', 'https://a/b?c=d']) parsed(resource({ url }));
  });

  it('a bundle and roots must be what they are for', () => {
    for (const bundle of ['[]', '{"keys":7}', 'text', '{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b","d":"c"}]}']) {
      assert.deepEqual(wrongFields(resource({ bundle })), ['spec.trustDomainBundle'], bundle);
    }
    for (const webRoots of ['text', '-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----']) {
      assert.deepEqual(wrongFields(resource({ profile: `{type: https_web, webRoots: "${webRoots}"}` })), [
        'spec.bundleEndpointProfile.webRoots',
      ]);
    }
  });

  it('a bad trust domain is refused with its line', () => {
    for (const trustDomain of ['Partner.example', '"*"', 'spiffe://partner.example', '""']) {
      assert.deepEqual(
        refused(resource({ trustDomain })).map(({ field, line }) => [field, line]),
        [['spec.trustDomain', 5]],
      );
    }
  });

  it("the mesh's own trust domain, and one that is there twice, count for nothing, with a warning", () => {
    const { federatedTrustDomains, warnings } = build(
      [
        resource(),
        resource({ name: 'own', trustDomain: 'cluster.local' }),
        resource({ name: 'again', url: 'https://elsewhere.example/' }),
        resource({ name: 'third', trustDomain: 'third.example' }),
      ].join('---\n'),
    );
    assert.deepEqual(
      federatedTrustDomains.map(({ trustDomain, bundleEndpointUrl }) => [trustDomain, bundleEndpointUrl]),
      [
        ['partner.example', URL_TEXT],
        ['third.example', URL_TEXT],
      ],
    );
    assert.deepEqual(
      warnings.map(({ resource: name }) => name),
      ['FederatedTrustDomain own', 'FederatedTrustDomain again'],
    );
  });

  it('is not an alias, and an alias is not federated with', () => {
    const alias = `apiVersion: weft.dev/v1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {trustDomainAliases: [old.example]}
`;
    const { snapshot, federatedTrustDomains } = build(`${alias}---\n${resource()}`);
    assert.deepEqual(snapshot.settings.trustDomainAliases, ['old.example']);
    assert.deepEqual(
      federatedTrustDomains.map(({ trustDomain }) => trustDomain),
      ['partner.example'],
    );
  });
});
