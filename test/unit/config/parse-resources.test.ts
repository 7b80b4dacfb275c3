import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseResources } from '../../../src/config/parse-resources.ts';
import { one, parsed, peerAuthentication, places, policy, refused, service, workload } from './fixtures.ts';

const mode = (labels: string) => one('Namespace', `apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: ${labels}}\n`).mode;
const protocol = (port: string) => one('Service', service('web', `{ports: [{port: 1, ${port}}]}`)).spec.ports[0]?.protocol;

describe('a file', () => {
  it('holds any number of documents, Lists and comments', () => {
    const resources = parsed(`# shop
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
# nothing here
---
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: bank}
- apiVersion: v1
  kind: Namespace
  metadata: {name: mail}
...
---
`);
    assert.deepEqual(
      resources.map(({ metadata, location }) => [metadata.name, location]),
      [
        ['shop', { file: 'test.yaml', line: 3 }],
        ['bank', { file: 'test.yaml', line: 13 }],
        ['mail', { file: 'test.yaml', line: 16 }],
      ],
    );
  });

  it('may be what kubectl get -o yaml prints of a policy', () => {
    const { spec } = one(
      'AuthorizationPolicy',
      `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","spec":{"rules":[{}]}}
  creationTimestamp: "2026-01-31T12:00:00Z"
  generation: 1
  name: allow-nothing
  namespace: foo
  resourceVersion: "12"
  uid: 6a4f0d6e-8d1f-4d6c-9a5e-2f6f0a2d9f00
spec:
  {}
status:
  conditions: [{type: Reconciled, status: "True"}]
`,
    );
    assert.deepEqual(spec, { action: 'ALLOW', selector: null, rules: [], provider: null, dryRun: false });
  });

  it('may be what kubectl get -o yaml prints', () => {
    const { metadata } = one(
      'Namespace',
      `apiVersion: v1
kind: Namespace
metadata:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  creationTimestamp: "2026-01-31T12:00:00Z"
  labels: {kubernetes.io/metadata.name: shop}
  managedFields: [{manager: kubectl, fieldsV1: {"f:metadata": {}}}]
  name: shop
  resourceVersion: "12"
  uid: 6a4f0d6e-8d1f-4d6c-9a5e-2f6f0a2d9f00
spec: {finalizers: [kubernetes]}
status: {phase: Active}
`,
    );
    assert.deepEqual(metadata, {
      name: 'shop',
      namespace: '',
      labels: { 'kubernetes.io/metadata.name': 'shop' },
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': '{}' },
      creationTimestamp: '2026-01-31T12:00:00Z',
    });
  });

  it('is read with the good documents beside the bad one', () => {
    const { resources, problems } = parseResources(`${policy('{}')}---\nkind: Wrkload\napiVersion: weft.dev/v1\n`, 'test.yaml');
    assert.equal(resources.length, 1);
    assert.deepEqual(places(problems), ['6:7 UNKNOWN_KIND kind']);
  });

  it('names the field, the line and the column of every problem at once', () => {
    const problems = refused(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: Bad_Name
  namespace: shop
spec:
  action: ALOW
  rules:
  - from:
    - source:
        principals:
        - a
        - 3
    to:
    - operation:
        path: ["/x"]
  - from: []
`);
    assert.deepEqual(places(problems), [
      '4:9 INVALID_VALUE metadata.name',
      '7:11 INVALID_VALUE spec.action',
      '13:11 INVALID_VALUE spec.rules[0].from[0].source.principals[1]',
      '16:9 UNKNOWN_FIELD spec.rules[0].to[0].operation.path',
      '17:5 INVALID_VALUE spec.rules[1].from',
    ]);
    assert.equal(problems[2]?.nextStep, 'put it in quotes: "3"');
    assert.equal(problems[3]?.nextStep, 'did you mean paths?');
  });

  it('names the item of a List', () => {
    const text =
      'apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Namespace\n  metadata: {labels: {x: 1}}\n';
    const { resources, problems } = parseResources(text, 'test.yaml');
    assert.equal(resources.length, 1);
    assert.deepEqual(places(problems), ['9:3 MISSING_FIELD items[1].metadata.name', '9:26 INVALID_VALUE items[1].metadata.labels.x']);
  });

  it('has each resource once', () => {
    const { resources, problems } = parseResources(`${policy('{}')}---\n${policy('{action: DENY, rules: [{}]}')}`, 'test.yaml');
    assert.equal(resources.length, 1);
    assert.deepEqual(places(problems), ['8:18 DUPLICATE_RESOURCE metadata.name']);
    assert.match(problems[0]?.message ?? '', /AuthorizationPolicy shop\/p is already on line 1 /);
  });

  for (const [what, text, expected] of [
    ['an unknown kind', 'apiVersion: v1\nkind: Podd\n', '2:7 UNKNOWN_KIND kind'],
    ['a kind under a foreign apiVersion', 'apiVersion: apps/v1\nkind: Workload\n', '1:13 UNKNOWN_KIND apiVersion'],
    ['a kind that is not supported yet', 'apiVersion: networking.istio.io/v1\nkind: VirtualService\n', '2:7 UNSUPPORTED kind'],
    ['no kind', 'apiVersion: v1\nmetadata: {name: x}\n', '1:1 MISSING_FIELD kind'],
    ['an unknown field at the top', 'apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\nspecs: {}\n', '4:1 UNKNOWN_FIELD specs'],
    [
      'an unknown field of metadata',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: x, label: {}}\n',
      '3:21 UNKNOWN_FIELD metadata.label',
    ],
    [
      'a Namespace inside a namespace',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: x, namespace: y}\n',
      '3:21 UNKNOWN_FIELD metadata.namespace',
    ],
    ['a document that is a list', '- a\n', '1:1 INVALID_VALUE'],
    [
      'a List inside a List',
      'apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]\n',
      '3:32 UNKNOWN_KIND items[0].kind',
    ],
    ['an unknown field of a List', 'apiVersion: v1\nkind: List\nitem: []\nitems: []\n', '3:1 UNKNOWN_FIELD item'],
    [
      'a time that is none',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: x, creationTimestamp: "2026-13-01T00:00:00Z"}\n',
      '3:40 INVALID_VALUE metadata.creationTimestamp',
    ],
    [
      'a bad label',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {"-a": b}}\n',
      '3:36 INVALID_VALUE metadata.labels["-a"]',
    ],
  ] as const) {
    it(`is refused for ${what}`, () => {
      assert.deepEqual(places(refused(text)), [expected]);
    });
  }
});

describe('Namespace', () => {
  it('takes its mode from weft.dev/mode, else from the label of Istio', () => {
    assert.equal(mode('{}'), null);
    assert.equal(mode('{weft.dev/mode: off}'), 'off');
    assert.equal(mode('{weft.dev/mode: permissive}'), 'permissive');
    assert.equal(mode('{weft.dev/mode: strict, istio.io/dataplane-mode: none}'), 'strict');
    assert.equal(mode('{istio.io/dataplane-mode: ambient}'), 'permissive');
    assert.equal(mode('{istio.io/dataplane-mode: none}'), 'off');
  });

  it('is refused with a mode that does not exist', () => {
    const text = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {weft.dev/mode: Strict}}\n';
    assert.deepEqual(places(refused(text)), ['3:48 INVALID_VALUE metadata.labels["weft.dev/mode"]']);
  });
});

describe('Workload', () => {
  it('is completed with its defaults, and its addresses are canonical', () => {
    const { spec, metadata } = one(
      'Workload',
      'apiVersion: weft.dev/v1\nkind: Workload\nmetadata: {name: web-1}\nspec: {node: node-a, addresses: [10.0.0.1, "2001:DB8:0:0::1", "::ffff:10.0.0.2"]}\n',
    );
    assert.equal(metadata.namespace, 'default');
    assert.deepEqual(spec, {
      node: 'node-a',
      serviceAccount: 'default',
      addresses: ['10.0.0.1', '2001:db8::1', '10.0.0.2'],
      networkNamespace: null,
      cgroup: null,
      systemdUnit: null,
      mode: null,
    });
  });

  it('says where it runs and overrides the mode of its namespace', () => {
    const text = workload('w', {
      labels: '{weft.dev/mode: strict, app: web}',
      spec: '{node: n, serviceAccount: web.v2, networkNamespace: /run/netns/w, cgroup: /sys/fs/cgroup/weft/w}',
    });
    const { spec } = one('Workload', text);
    assert.deepEqual(
      [spec.mode, spec.serviceAccount, spec.networkNamespace, spec.cgroup],
      ['strict', 'web.v2', '/run/netns/w', '/sys/fs/cgroup/weft/w'],
    );
    assert.equal(one('Workload', workload('w', { spec: '{node: n, systemdUnit: "nginx@1.service"}' })).spec.systemdUnit, 'nginx@1.service');
  });

  for (const [what, spec, field] of [
    ['no node', '{addresses: [10.0.0.1]}', 'MISSING_FIELD spec.node'],
    ['an octal address', '{node: n, addresses: [010.0.0.1]}', 'INVALID_VALUE spec.addresses[0]'],
    ['an address with a zone', '{node: n, addresses: ["fe80::1%eth0"]}', 'INVALID_VALUE spec.addresses[0]'],
    ['an address with a prefix', '{node: n, addresses: ["10.0.0.1/32"]}', 'INVALID_VALUE spec.addresses[0]'],
    ['a wildcard address', '{node: n, addresses: ["0.0.0.0"]}', 'INVALID_VALUE spec.addresses[0]'],
    ['a multicast address', '{node: n, addresses: ["ff02::1"]}', 'INVALID_VALUE spec.addresses[0]'],
    ['one address twice', '{node: n, addresses: ["::ffff:10.0.0.1", 10.0.0.1]}', 'INVALID_VALUE spec.addresses[1]'],
    ['a relative network namespace', '{node: n, networkNamespace: netns/w}', 'INVALID_VALUE spec.networkNamespace'],
    ['a path that leaves its place', '{node: n, cgroup: /sys/fs/cgroup/../../etc}', 'INVALID_VALUE spec.cgroup'],
    ['a cgroup and a unit', '{node: n, cgroup: /a, systemdUnit: a.service}', 'INVALID_VALUE spec.systemdUnit'],
    ['a unit that is no process group', '{node: n, systemdUnit: a.timer}', 'INVALID_VALUE spec.systemdUnit'],
    ['an unknown field', '{node: n, pod: w}', 'UNKNOWN_FIELD spec.pod'],
    ['an empty field', '{node: n, cgroup: }', 'INVALID_VALUE spec.cgroup'],
  ] as const) {
    it(`is refused with ${what}`, () => {
      assert.deepEqual(
        places(refused(workload('w', { spec }))).map((place) => place.replace(/^\S+ /, '')),
        [field],
      );
    });
  }
});

describe('Service', () => {
  it('is read as Kubernetes writes it', () => {
    const { spec } = one(
      'Service',
      service(
        'web',
        `{type: ClusterIP, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "FD00::1"], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack,
          sessionAffinity: None, internalTrafficPolicy: Cluster, selector: {app: web},
          ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP, nodePort: 30080}, {name: db, port: 5432, appProtocol: postgresql}]}`,
      ),
    );
    assert.deepEqual(spec, {
      addresses: ['10.96.0.1', 'fd00::1'],
      selector: { app: 'web' },
      ports: [
        { name: 'http', port: 80, targetPort: 8080, protocol: 'http' },
        { name: 'db', port: 5432, targetPort: 5432, protocol: 'auto' },
      ],
    });
  });

  it('has no address when it is headless', () => {
    assert.deepEqual(one('Service', service('web', '{clusterIP: None}')).spec.addresses, []);
    assert.deepEqual(one('Service', service('web', '{clusterIP: None, clusterIPs: [None]}')).spec.addresses, []);
  });

  it('declares protocols by appProtocol, else by the prefix of the port name', () => {
    const cases: [string, string][] = [
      ['appProtocol: http', 'http'],
      ['appProtocol: HTTP2', 'http2'],
      ['appProtocol: kubernetes.io/h2c', 'http2'],
      ['appProtocol: grpc', 'grpc'],
      ['appProtocol: https', 'tls'],
      ['appProtocol: tls', 'tls'],
      ['appProtocol: tcp', 'tcp'],
      ['appProtocol: example.com/other', 'auto'],
      ['name: http', 'http'],
      ['name: http-web', 'http'],
      ['name: http2-web', 'http2'],
      ['name: grpc-api', 'grpc'],
      ['name: grpc-web-api', 'auto'],
      ['name: tls-web', 'tls'],
      ['name: https-web', 'tls'],
      ['name: tcp-x', 'tcp'],
      ['name: httpx', 'auto'],
      ['name: constructor', 'auto'],
      ['name: http-web, appProtocol: tcp', 'tcp'],
    ];
    for (const [port, expected] of cases) assert.equal(protocol(port), expected, port);
  });

  for (const [what, spec, field] of [
    ['a named target port', '{ports: [{port: 80, targetPort: web}]}', 'INVALID_VALUE spec.ports[0].targetPort'],
    ['a port out of range', '{ports: [{port: 65536}]}', 'INVALID_VALUE spec.ports[0].port'],
    ['UDP', '{ports: [{port: 53, protocol: UDP}]}', 'UNSUPPORTED spec.ports[0].protocol'],
    ['several ports without names', '{ports: [{port: 1, name: a}, {port: 2}]}', 'MISSING_FIELD spec.ports[1].name'],
    ['one port name twice', '{ports: [{port: 1, name: a}, {port: 2, name: a}]}', 'INVALID_VALUE spec.ports[1].name'],
    ['one port twice', '{ports: [{port: 1, name: a}, {port: 1, name: b}]}', 'INVALID_VALUE spec.ports[1].port'],
    ['ExternalName', '{type: ExternalName}', 'UNSUPPORTED spec.type'],
    ['external addresses', '{externalIPs: [1.2.3.4]}', 'UNSUPPORTED spec.externalIPs'],
    ['client affinity', '{sessionAffinity: ClientIP}', 'UNSUPPORTED spec.sessionAffinity'],
    ['traffic kept to the node', '{internalTrafficPolicy: Local}', 'UNSUPPORTED spec.internalTrafficPolicy'],
    ['addresses that disagree', '{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]}', 'INVALID_VALUE spec.clusterIP'],
    ['two addresses of one family', '{clusterIPs: [10.0.0.1, 10.0.0.2]}', 'INVALID_VALUE spec.clusterIPs[1]'],
    ['None beside an address', '{clusterIPs: [10.0.0.1, None]}', 'INVALID_VALUE spec.clusterIPs[1]'],
    ['an unknown field', '{clusterIp: 10.0.0.1}', 'UNKNOWN_FIELD spec.clusterIp'],
  ] as const) {
    it(`is refused with ${what}`, () => {
      assert.deepEqual(
        places(refused(service('web', spec))).map((place) => place.replace(/^\S+ /, '')),
        [field],
      );
    });
  }
});

describe('PeerAuthentication', () => {
  it('is read under the groups of Istio and Weft', () => {
    for (const version of ['security.istio.io/v1', 'security.istio.io/v1beta1', 'weft.dev/v1']) {
      const text = `apiVersion: ${version}\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}, "9": {}}}\n`;
      const { spec } = one('PeerAuthentication', text);
      assert.deepEqual(spec.selector, { app: 'web' });
      assert.equal(spec.mode, 'STRICT');
      assert.deepEqual(
        [...spec.portLevel].toSorted(([a], [b]) => a - b),
        [
          [9, 'UNSET'],
          [8080, 'PERMISSIVE'],
        ],
      );
    }
  });

  it('selects the namespace when it has no selector or an empty one', () => {
    for (const spec of ['{}', '{selector: {}}', '{selector: {matchLabels: {}}, mtls: {}}']) {
      assert.deepEqual(one('PeerAuthentication', peerAuthentication('p', 'shop', spec)).spec, {
        selector: null,
        mode: 'UNSET',
        portLevel: new Map(),
      });
    }
  });

  for (const [what, spec, field] of [
    ['an unknown mode', '{mtls: {mode: strict}}', 'INVALID_VALUE spec.mtls.mode'],
    ['port modes without a selector', '{portLevelMtls: {80: {mode: STRICT}}}', 'INVALID_VALUE spec.portLevelMtls'],
    [
      'port modes with an empty selector',
      '{selector: {matchLabels: {}}, portLevelMtls: {80: {mode: STRICT}}}',
      'INVALID_VALUE spec.portLevelMtls',
    ],
    ['port 0', '{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}', 'INVALID_VALUE spec.portLevelMtls["0"]'],
    [
      'port 65536',
      '{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {mode: STRICT}}}',
      'INVALID_VALUE spec.portLevelMtls["65536"]',
    ],
    ['no port at all', '{selector: {matchLabels: {a: b}}, portLevelMtls: {}}', 'INVALID_VALUE spec.portLevelMtls'],
    ['expressions', '{selector: {matchExpressions: []}}', 'UNSUPPORTED spec.selector.matchExpressions'],
  ] as const) {
    it(`is refused with ${what}`, () => {
      assert.deepEqual(
        places(refused(peerAuthentication('p', 'shop', spec))).map((place) => place.replace(/^\S+ /, '')),
        [field],
      );
    });
  }
});
