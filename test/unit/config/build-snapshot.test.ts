import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { buildSnapshot, WorkloadIds } from '../../../src/config/build-snapshot.ts';
import type { BuiltSnapshot, SnapshotOptions } from '../../../src/config/build-snapshot.ts';
import { DEFAULT_MESH_SETTINGS } from '../../../src/model/resources.ts';
import type { WorkloadEntry } from '../../../src/model/snapshot.ts';
import { meshConfig, namespace, parsed, peerAuthentication, policy, service, workload } from './fixtures.ts';

function build(text: string, options: Partial<SnapshotOptions> = {}): BuiltSnapshot {
  return buildSnapshot(parsed(text), {
    nodeName: 'node-a',
    trustDomain: 'example.org',
    version: 7,
    enrolled: () => true,
    workloadIds: new WorkloadIds(),
    ...options,
  });
}

/** The mode of workload shop/w, and where it came from. */
function modeOf(...texts: string[]): string {
  const { snapshot } = build([...texts].join(''));
  const entry = snapshot.workloads.find(({ name }) => name === 'w') as WorkloadEntry;
  const ports = entry.portModes.map(([port, mode]) => ` ${port}=${mode}`).join('');
  return `${entry.mode}${ports} by ${entry.modeSource}`;
}

const other = (name: string, mode: string, created?: string) => peerAuthentication(name, 'shop', `{mtls: {mode: ${mode}}}`, created);
const named = (name: string, where: string, spec: string) =>
  `---\n${policy(spec).replace('name: p, namespace: shop', `name: ${name}, namespace: ${where}`)}`;
const authentication = (name: string, where: string, selector: string): string =>
  `---\napiVersion: weft.dev/v1\nkind: RequestAuthentication\nmetadata: {name: ${name}, namespace: ${where}}\nspec: {${selector}jwtRules: [{issuer: ${name}, jwksUri: "https://keys.example"}]}\n`;
const app = workload('w', { labels: '{app: web}' });
const inMesh = (spec: string) => peerAuthentication('mesh', 'istio-system', spec);
const inShop = (spec: string, created?: string) => peerAuthentication('all', 'shop', spec, created);
const onWeb = (spec: string) => peerAuthentication('web', 'shop', `{selector: {matchLabels: {app: web}}, ${spec}}`);

describe('the mode of a workload', () => {
  it('is off unless a label says otherwise', () => {
    assert.equal(modeOf(app), 'off by default');
    assert.equal(modeOf(app, namespace('shop')), 'off by default');
    assert.equal(modeOf(app, namespace('shop', 'off')), 'off by Namespace shop');
  });

  it('is that of its namespace, and its own label wins', () => {
    assert.equal(modeOf(app, namespace('shop', 'permissive')), 'permissive by Namespace shop');
    assert.equal(modeOf(app, namespace('shop', 'strict')), 'strict by Namespace shop');
    assert.equal(modeOf(workload('w', { labels: '{weft.dev/mode: off}' }), namespace('shop', 'strict')), 'off by Workload shop/w');
    assert.equal(modeOf(workload('w', { labels: '{weft.dev/mode: strict}' }), namespace('shop', 'off')), 'strict by Workload shop/w');
  });

  it('stays off whatever a PeerAuthentication says', () => {
    assert.equal(
      modeOf(
        app,
        inMesh('{mtls: {mode: STRICT}}'),
        inShop('{mtls: {mode: STRICT}}'),
        onWeb('mtls: {mode: STRICT}, portLevelMtls: {80: {mode: STRICT}}'),
      ),
      'off by default',
    );
  });

  it('is made strict by a PeerAuthentication at any level', () => {
    const shop = namespace('shop', 'permissive');
    assert.equal(modeOf(app, shop, inMesh('{mtls: {mode: STRICT}}')), 'strict by PeerAuthentication istio-system/mesh');
    assert.equal(modeOf(app, shop, inShop('{mtls: {mode: STRICT}}')), 'strict by PeerAuthentication shop/all');
    assert.equal(modeOf(app, shop, onWeb('mtls: {mode: STRICT}')), 'strict by PeerAuthentication shop/web');
    const labelled = workload('w', { labels: '{app: web, weft.dev/mode: permissive}' });
    assert.equal(modeOf(labelled, inMesh('{mtls: {mode: STRICT}}')), 'strict by PeerAuthentication istio-system/mesh');
  });

  it('follows the most specific PeerAuthentication that says something', () => {
    const shop = namespace('shop', 'permissive');
    const mesh = inMesh('{mtls: {mode: STRICT}}');
    assert.equal(modeOf(app, shop, mesh, inShop('{mtls: {mode: PERMISSIVE}}')), 'permissive by PeerAuthentication shop/all');
    assert.equal(
      modeOf(app, shop, mesh, inShop('{mtls: {mode: PERMISSIVE}}'), onWeb('mtls: {mode: STRICT}')),
      'strict by PeerAuthentication shop/web',
    );
    assert.equal(modeOf(app, shop, mesh, inShop('{mtls: {mode: UNSET}}')), 'strict by PeerAuthentication istio-system/mesh');
    assert.equal(modeOf(app, shop, mesh, inShop('{}'), onWeb('mtls: {}')), 'strict by PeerAuthentication istio-system/mesh');
    assert.equal(modeOf(app, shop, inShop('{}')), 'permissive by Namespace shop');
    assert.equal(modeOf(workload('w', { labels: '{app: db}' }), shop, onWeb('mtls: {mode: STRICT}')), 'permissive by Namespace shop');
  });

  it('keeps a strict label unless something as specific loosens it', () => {
    const strict = namespace('shop', 'strict');
    assert.equal(modeOf(app, strict, inMesh('{mtls: {mode: PERMISSIVE}}')), 'strict by Namespace shop');
    assert.equal(modeOf(app, strict, inShop('{mtls: {mode: PERMISSIVE}}')), 'permissive by PeerAuthentication shop/all');
    assert.equal(modeOf(app, strict, onWeb('mtls: {mode: PERMISSIVE}')), 'permissive by PeerAuthentication shop/web');
    const inRoot = workload('w', { namespace: 'istio-system' });
    assert.equal(
      modeOf(inRoot, namespace('istio-system', 'strict'), inMesh('{mtls: {mode: PERMISSIVE}}')),
      'strict by Namespace istio-system',
    );
    const labelled = workload('w', { labels: '{app: web, weft.dev/mode: strict}' });
    assert.equal(modeOf(labelled, inShop('{mtls: {mode: PERMISSIVE}}')), 'strict by Workload shop/w');
    assert.equal(modeOf(labelled, onWeb('mtls: {mode: PERMISSIVE}')), 'permissive by PeerAuthentication shop/web');
  });

  it('differs by port where a PeerAuthentication says so', () => {
    const shop = namespace('shop', 'permissive');
    assert.equal(
      modeOf(
        app,
        shop,
        onWeb(
          'mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}, 8080: {mode: PERMISSIVE}, 80: {mode: STRICT}, 81: {mode: UNSET}}',
        ),
      ),
      'strict 8080=permissive 9090=permissive by PeerAuthentication shop/web',
    );
    assert.equal(modeOf(app, shop, onWeb('portLevelMtls: {80: {mode: STRICT}}')), 'permissive 80=strict by Namespace shop');
  });

  it('follows the oldest of several PeerAuthentications of one level, then the first by name', () => {
    const shop = namespace('shop', 'permissive');
    assert.equal(modeOf(app, shop, other('b', 'STRICT'), other('a', 'PERMISSIVE')), 'permissive by PeerAuthentication shop/a');
    assert.equal(
      modeOf(app, shop, other('b', 'STRICT', '2026-01-01T00:00:00Z'), other('a', 'PERMISSIVE', '2026-01-02T00:00:00Z')),
      'strict by PeerAuthentication shop/b',
    );
    // The same moments in other zones: text order is not time order.
    assert.equal(
      modeOf(app, shop, other('b', 'STRICT', '2026-01-02T00:00:00+09:00'), other('a', 'PERMISSIVE', '2026-01-01T23:00:00Z')),
      'strict by PeerAuthentication shop/b',
    );
    assert.equal(
      modeOf(app, shop, other('b', 'STRICT', '2026-01-01T00:00:00Z'), other('a', 'PERMISSIVE')),
      'strict by PeerAuthentication shop/b',
    );
    // Istio: the oldest counts even when it leaves the mode unset.
    assert.equal(modeOf(app, shop, other('a', 'UNSET'), other('b', 'STRICT')), 'permissive by Namespace shop');
  });

  it('is not touched by a selector in the root namespace, which is warned of', () => {
    const text =
      app +
      namespace('shop', 'permissive') +
      peerAuthentication('x', 'istio-system', '{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}');
    const { snapshot, warnings } = build(text);
    assert.equal(snapshot.workloads[0]?.mode, 'permissive');
    assert.deepEqual(
      warnings.map(({ resource, location }) => [resource, location.line]),
      [['PeerAuthentication istio-system/x', 11]],
    );
  });

  it('reads DISABLE as PERMISSIVE, and warns of it', () => {
    const { snapshot, warnings } = build(app + namespace('shop', 'strict') + inShop('{mtls: {mode: DISABLE}}'));
    assert.equal(snapshot.workloads[0]?.mode, 'permissive');
    assert.match(warnings[0]?.message ?? '', /DISABLE is read as PERMISSIVE/);
  });

  it('takes the root namespace from its options', () => {
    const text = app + namespace('shop', 'permissive') + peerAuthentication('mesh', 'weft-system', '{mtls: {mode: STRICT}}');
    assert.equal(build(text).snapshot.workloads[0]?.mode, 'permissive');
    assert.equal(build(text, { rootNamespace: 'weft-system' }).snapshot.workloads[0]?.mode, 'strict');
  });
});

describe('a workload in the snapshot', () => {
  it('has its identity, its node and whether it is captured', () => {
    const text =
      namespace('shop', 'strict') +
      workload('here', { spec: '{node: node-a, serviceAccount: web, addresses: [10.0.0.1], networkNamespace: /run/netns/w}' }) +
      workload('there', { spec: '{node: node-b, cgroup: /x}' }) +
      workload('bare', { spec: '{node: node-b}' }) +
      workload('out', { labels: '{weft.dev/mode: off}', spec: '{node: node-a, cgroup: /y}' });
    const asked: string[] = [];
    const enrolled = (name: string) => asked.push(name) > 0;
    const { snapshot, warnings } = build(text, { enrolled });
    assert.deepEqual(warnings, []);
    assert.deepEqual([snapshot.version, snapshot.trustDomain, snapshot.nodeName], [7, 'example.org', 'node-a']);
    assert.deepEqual(
      snapshot.workloads.map(({ name, identity, local, enrolled }) => [name, identity, local, enrolled]),
      [
        ['here', 'spiffe://example.org/ns/shop/sa/web', true, true],
        ['there', 'spiffe://example.org/ns/shop/sa/default', false, true],
        ['bare', 'spiffe://example.org/ns/shop/sa/default', false, false],
        ['out', 'spiffe://example.org/ns/shop/sa/default', true, false],
      ],
    );
    assert.deepEqual(asked, ['shop/here']);
    assert.equal(build(text, { enrolled: () => false }).snapshot.workloads[0]?.enrolled, false);
  });

  it('has the policies of its namespace and of the root namespace that select it', () => {
    const text =
      named('web', 'shop', '{selector: {matchLabels: {app: web}}}') +
      named('both', 'shop', '{selector: {matchLabels: {app: web, tier: front}}}') +
      named('all', 'shop', '{action: DENY, rules: [{}]}') +
      named('other', 'bank', '{}') +
      named('mesh', 'istio-system', '{}') +
      named('mesh-web', 'istio-system', '{selector: {matchLabels: {app: web}}}') +
      namespace('shop', 'strict') +
      app +
      workload('front', { labels: '{tier: front, app: web}' }) +
      workload('db', { labels: '{app: db}' });
    const { snapshot } = build(text);
    const names = Object.fromEntries(
      snapshot.workloads.map(({ name, policies }) => [name, policies.map((index) => snapshot.policies[index]?.name)]),
    );
    assert.deepEqual(names, {
      w: ['shop/web', 'shop/all', 'istio-system/mesh', 'istio-system/mesh-web'],
      front: ['shop/web', 'shop/both', 'shop/all', 'istio-system/mesh', 'istio-system/mesh-web'],
      db: ['shop/all', 'istio-system/mesh'],
    });
    assert.deepEqual(snapshot.policies[2], {
      name: 'shop/all',
      action: 'DENY',
      rules: [{ from: [], to: [], when: [] }],
      provider: null,
      dryRun: false,
    });
  });

  it('is warned of when policies select it and its mode is off', () => {
    const { warnings } = build(app + workload('v') + `---\n${policy('{}')}`);
    assert.deepEqual(
      warnings.map(({ resource, message }) => `${resource}: ${message}`),
      ['AuthorizationPolicy shop/p: not enforced for 2 of its workloads, whose mode is off'],
    );
  });

  it('keeps an address for itself; who comes later goes without', () => {
    const text =
      service('s', '{clusterIPs: [10.0.0.2]}') +
      workload('a', { spec: '{node: n, addresses: [10.0.0.1, 10.0.0.2]}' }) +
      workload('b', { spec: '{node: n, addresses: ["::ffff:10.0.0.1", 10.0.0.3]}' });
    const { snapshot, warnings } = build(text);
    assert.deepEqual(
      snapshot.workloads.map(({ addresses }) => addresses),
      [['10.0.0.1', '10.0.0.2'], ['10.0.0.3']],
    );
    assert.deepEqual(snapshot.services[0]?.addresses, []);
    assert.deepEqual(
      warnings.map(({ resource, message }) => `${resource}: ${message}`),
      [
        'Workload shop/b: its address 10.0.0.1 belongs to Workload shop/a already; it goes without',
        'Service shop/s: its address 10.0.0.2 belongs to Workload shop/a already; it goes without',
      ],
    );
  });

  it('has the RequestAuthentications of its namespace and of the root namespace that select it', () => {
    const text =
      authentication('mesh', 'istio-system', '') +
      authentication('web', 'shop', 'selector: {matchLabels: {app: web}}, ') +
      authentication('other', 'bank', '') +
      namespace('shop', 'strict') +
      app +
      workload('db', { labels: '{app: db}' });
    const { snapshot, warnings } = build(text);
    assert.deepEqual(warnings, []);
    assert.deepEqual(
      snapshot.workloads.map(({ name, authentications }) => [name, authentications.map((index) => snapshot.authentications[index]?.name)]),
      [
        ['w', ['istio-system/mesh', 'shop/web']],
        ['db', ['istio-system/mesh']],
      ],
    );
    assert.equal(snapshot.authentications[1]?.rules[0]?.issuer, 'web');
    assert.match(build(text.replace('strict', 'off')).warnings[0]?.message ?? '', /^not enforced for 2 of its workloads/);
  });

  it('can be sent to a worker thread', () => {
    const { snapshot } = build(
      app +
        namespace('shop', 'strict') +
        service('s', '{selector: {app: web}}') +
        onWeb('portLevelMtls: {80: {mode: PERMISSIVE}}') +
        `---\n${policy('{rules: [{}]}')}`,
    );
    assert.deepEqual(structuredClone(snapshot), snapshot);
  });
});

describe('the settings of the snapshot', () => {
  it('are those of the MeshConfig in the root namespace, else defaults that trust nobody', () => {
    assert.deepEqual(build(app).snapshot.settings, DEFAULT_MESH_SETTINGS);
    const { snapshot, warnings } = build(meshConfig('{numTrustedProxies: 1, trustDomainAliases: [old.example]}'));
    assert.deepEqual([snapshot.settings.trustedForwardedHops, snapshot.settings.trustDomainAliases], [1, ['old.example']]);
    assert.deepEqual(warnings, []);
    const elsewhere = build(meshConfig('{numTrustedProxies: 1}', 'mesh', 'shop'));
    assert.deepEqual(elsewhere.snapshot.settings, DEFAULT_MESH_SETTINGS);
    assert.match(elsewhere.warnings[0]?.message ?? '', /counts for nothing outside of the root namespace istio-system/);
    assert.equal(
      build(meshConfig('{numTrustedProxies: 1}', 'mesh', 'weft'), { rootNamespace: 'weft' }).snapshot.settings.trustedForwardedHops,
      1,
    );
  });

  it('come with a warning where a policy asks a provider that they do not have', () => {
    const custom = `---\n${policy('{action: CUSTOM, provider: {name: authz}, rules: [{}]}')}`;
    const { snapshot, warnings } = build(custom);
    assert.equal(snapshot.policies[0]?.provider, 'authz');
    assert.match(warnings[0]?.message ?? '', /"authz", which the MeshConfig does not have: what it matches is denied/);
    assert.deepEqual(
      build(custom + meshConfig('{extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: a, port: 1}}]}')).warnings,
      [],
    );
  });

  it('leave a dry-run policy marked as one', () => {
    const text = policy('{mode: audit, rules: [{}]}').replace('security.istio.io', 'weft.dev');
    assert.equal(build(text).snapshot.policies[0]?.dryRun, true);
  });
});

describe('a Service in the snapshot', () => {
  it('has the workloads of its namespace that have its labels', () => {
    const text =
      service('web', '{clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}') +
      service('front', '{selector: {app: web, tier: front}}') +
      service('none', '{clusterIP: 10.96.0.2}') +
      workload('a', { labels: '{app: web}' }) +
      workload('b', { labels: '{app: web, tier: front}' }) +
      workload('c', { labels: '{app: db}' }) +
      workload('d', { labels: '{app: web}', namespace: 'bank' });
    const { snapshot } = build(text);
    const nameOf = new Map(snapshot.workloads.map(({ id, name }) => [id, name]));
    assert.deepEqual(
      snapshot.services.map(({ name, endpoints }) => [name, endpoints.map((id) => nameOf.get(id))]),
      [
        ['web', ['a', 'b']],
        ['front', ['b']],
        ['none', []],
      ],
    );
    assert.deepEqual(snapshot.services[0]?.ports, [{ port: 80, targetPort: 8080, protocol: 'http' }]);
  });
});

describe('WorkloadIds', () => {
  it('gives each name one number for good, and none twice', () => {
    const ids = new WorkloadIds();
    const first = build(workload('a') + workload('b'), { workloadIds: ids }).snapshot.workloads;
    const second = build(workload('c') + workload('b'), { workloadIds: ids }).snapshot.workloads;
    const third = build(workload('a'), { workloadIds: ids }).snapshot.workloads;
    assert.deepEqual(
      [first, second, third].map((entries) => entries.map(({ name, id }) => `${name}${id}`)),
      [['a1', 'b2'], ['c3', 'b2'], ['a1']],
    );
    assert.notEqual(ids.idOf('x', 'y-z'), ids.idOf('x-y', 'z'));
  });

  it('ends before it would wrap', () => {
    const ids = new WorkloadIds(0xffff_fffe);
    assert.equal(ids.idOf('a', 'b'), 0xffff_ffff);
    assert.throws(() => ids.idOf('a', 'c'), { code: 'WEFT_CONFIG_WORKLOAD_IDS' });
    assert.equal(ids.idOf('a', 'b'), 0xffff_ffff);
  });
});
