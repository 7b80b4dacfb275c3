import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseResources } from '../../../src/config/parse-resources.ts';
import { readDuration } from '../../../src/config/read-duration.ts';
import { DEFAULT_MESH_SETTINGS } from '../../../src/model/resources.ts';
import { meshConfig, one, places, refused } from './fixtures.ts';

const specOf = (spec: string) => one('MeshConfig', meshConfig(spec)).spec;
const provider = (fields: string) => `{extensionProviders: [{name: p, ${fields}}]}`;
const http = (fields: string) => provider(`envoyExtAuthzHttp: {service: authz.shop, port: 80, ${fields}}`);
const P = 'spec.extensionProviders[0]';

describe('MeshConfig', () => {
  it('is the defaults where it says nothing', () => {
    assert.deepEqual(specOf('{}'), DEFAULT_MESH_SETTINGS);
    assert.deepEqual(specOf('{pathNormalization: {}, trustDomainAliases: [], extensionProviders: []}'), DEFAULT_MESH_SETTINGS);
  });

  it('has the settings of Istio under the names of Istio', () => {
    assert.deepEqual(
      specOf(`{
        trustDomainAliases: [old.example, old.example, td2], numTrustedProxies: 2, pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES},
        extensionProviders: [
          {name: http, envoyExtAuthzHttp: {service: shop/authz.shop.svc.cluster.local, port: 8000, timeout: 0.25s, pathPrefix: /check, failOpen: true, clearRouteCache: true,
            includeHeadersInCheck: [x-old], includeRequestHeadersInCheck: [X-User, cookie], headersToUpstreamOnAllow: [X-Auth], headersToDownstreamOnDeny: [set-cookie]}},
          {name: grpc, envoyExtAuthzGrpc: {service: "FD00::1", port: 9000}}]}`),
      {
        trustDomainAliases: ['old.example', 'td2'],
        pathNormalisation: 'DECODE_AND_MERGE_SLASHES',
        trustedForwardedHops: 2,
        extensionProviders: [
          {
            name: 'http',
            protocol: 'http',
            service: 'authz.shop.svc.cluster.local',
            port: 8000,
            timeoutMs: 250,
            failOpen: true,
            pathPrefix: '/check',
            includeRequestHeaders: ['x-user', 'cookie', 'x-old'],
            headersToUpstream: ['x-auth'],
            headersToDownstream: ['set-cookie'],
          },
          {
            name: 'grpc',
            protocol: 'grpc',
            service: 'fd00::1',
            port: 9000,
            timeoutMs: 5000,
            failOpen: false,
            pathPrefix: '',
            includeRequestHeaders: [],
            headersToUpstream: [],
            headersToDownstream: [],
          },
        ],
      },
    );
  });

  it('normalises as Istio does by default', () => {
    for (const [written, expected] of [
      ['DEFAULT', 'BASE'],
      ['BASE', 'BASE'],
      ['MERGE_SLASHES', 'MERGE_SLASHES'],
    ]) {
      assert.equal(specOf(`{pathNormalization: {normalization: ${written}}}`).pathNormalisation, expected);
    }
  });

  for (const [what, spec, field] of [
    ['paths that are not normalised', '{pathNormalization: {normalization: NONE}}', 'UNSUPPORTED spec.pathNormalization.normalization'],
    [
      'a normalisation that does not exist',
      '{pathNormalization: {normalization: base}}',
      'INVALID_VALUE spec.pathNormalization.normalization',
    ],
    ['our own spelling', '{pathNormalisation: BASE}', 'UNKNOWN_FIELD spec.pathNormalisation'],
    ['every trust domain as an alias', '{trustDomainAliases: ["*"]}', 'INVALID_VALUE spec.trustDomainAliases[0]'],
    ['an alias that is an identity', '{trustDomainAliases: ["spiffe://a"]}', 'INVALID_VALUE spec.trustDomainAliases[0]'],
    ['a negative number of proxies', '{numTrustedProxies: -1}', 'INVALID_VALUE spec.numTrustedProxies'],
    ['half a proxy', '{numTrustedProxies: 0.5}', 'INVALID_VALUE spec.numTrustedProxies'],
    ['a provider that is not asked', '{extensionProviders: [{name: p}]}', `INVALID_VALUE ${P}`],
    [
      'a provider that is asked in two ways',
      provider('envoyExtAuthzHttp: {service: a, port: 1}, envoyExtAuthzGrpc: {service: a, port: 1}'),
      `INVALID_VALUE ${P}`,
    ],
    ['a provider for something else', provider('zipkin: {}'), `UNKNOWN_FIELD ${P}.zipkin`],
    ['a provider without a port', provider('envoyExtAuthzGrpc: {service: a}'), `MISSING_FIELD ${P}.envoyExtAuthzGrpc.port`],
    ['a port out of range', provider('envoyExtAuthzGrpc: {service: a, port: 65536}'), `INVALID_VALUE ${P}.envoyExtAuthzGrpc.port`],
    [
      'a service that is a URL',
      provider('envoyExtAuthzGrpc: {service: "http://a", port: 1}'),
      `INVALID_VALUE ${P}.envoyExtAuthzGrpc.service`,
    ],
    ['a service with its port', provider('envoyExtAuthzGrpc: {service: "a:80", port: 1}'), `INVALID_VALUE ${P}.envoyExtAuthzGrpc.service`],
    ['an octal address', provider('envoyExtAuthzGrpc: {service: "010.0.0.1", port: 1}'), `INVALID_VALUE ${P}.envoyExtAuthzGrpc.service`],
    [
      'an address in hexadecimal',
      provider('envoyExtAuthzGrpc: {service: "0x7f000001", port: 1}'),
      `INVALID_VALUE ${P}.envoyExtAuthzGrpc.service`,
    ],
    [
      'an HTTP setting of a gRPC provider',
      provider('envoyExtAuthzGrpc: {service: a, port: 1, pathPrefix: /x}'),
      `UNKNOWN_FIELD ${P}.envoyExtAuthzGrpc.pathPrefix`,
    ],
    ['a time without a unit', http('timeout: "5"'), `INVALID_VALUE ${P}.envoyExtAuthzHttp.timeout`],
    ['no time at all', http('timeout: 0s'), `INVALID_VALUE ${P}.envoyExtAuthzHttp.timeout`],
    ['an hour', http('timeout: 1h'), `INVALID_VALUE ${P}.envoyExtAuthzHttp.timeout`],
    ['a prefix that ends the path', http('pathPrefix: "/check?"'), `INVALID_VALUE ${P}.envoyExtAuthzHttp.pathPrefix`],
    ['a prefix that ends the line', http('pathPrefix: "/check\\r\\n"'), `INVALID_VALUE ${P}.envoyExtAuthzHttp.pathPrefix`],
    [
      'a header that is none',
      http('headersToUpstreamOnAllow: ["a b"]'),
      `INVALID_VALUE ${P}.envoyExtAuthzHttp.headersToUpstreamOnAllow[0]`,
    ],
    [
      'headers by their prefix',
      http('includeRequestHeadersInCheck: ["x-*"]'),
      `INVALID_VALUE ${P}.envoyExtAuthzHttp.includeRequestHeadersInCheck[0]`,
    ],
    ['another status', http('statusOnError: "503"'), `UNSUPPORTED ${P}.envoyExtAuthzHttp.statusOnError`],
    ['the body', http('includeRequestBodyInCheck: {}'), `UNSUPPORTED ${P}.envoyExtAuthzHttp.includeRequestBodyInCheck`],
  ] as const) {
    it(`is refused with ${what}`, () => {
      assert.deepEqual(
        places(refused(meshConfig(spec))).map((place) => place.replace(/^\S+ /, '')),
        [field],
      );
    });
  }

  it('is refused with two providers of one name', () => {
    const one = '{name: p, envoyExtAuthzGrpc: {service: a, port: 1}}';
    assert.match(
      places(refused(meshConfig(`{extensionProviders: [${one}, ${one}]}`)))[0] ?? '',
      /INVALID_VALUE spec.extensionProviders\[1\].name/,
    );
  });

  it('is one for the whole mesh, whatever it is called and wherever it is', () => {
    const { resources, problems } = parseResources(meshConfig('{}') + meshConfig('{}', 'other', 'shop'), 'test.yaml');
    assert.equal(resources.length, 1);
    assert.deepEqual(places(problems), ['9:18 DUPLICATE_RESOURCE metadata.name']);
  });
});

describe('readDuration', () => {
  it('reads what Kubernetes and Istio write, in milliseconds', () => {
    for (const [text, expected] of [
      ['500ms', 500],
      ['5s', 5000],
      ['0.25s', 250],
      ['0.0001s', 1],
      ['1.5m', 90_000],
      ['1h', 3_600_000],
      ['0s', 0],
    ] as const) {
      assert.equal(readDuration(text), expected, text);
    }
    for (const text of ['', '5', 's', '-1s', '1 s', '1s ', '.5s', '1e3s', '1d', '1m30s', 'Infinitys', '1S'])
      assert.equal(readDuration(text), null, text);
  });
});
