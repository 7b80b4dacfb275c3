import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { refusedJwksUri, refusedKeySet } from '../../../src/config/jwks-source.ts';
import { one, places, refused, requestAuthentication } from './fixtures.ts';

const KEYS = '{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"1"},{"kty":"EC","crv":"P-256","x":"a","y":"b"},{"kty":"new"}]}';
const URI = 'https://issuer.example/keys';
const rule = (fields: string) => requestAuthentication(`{jwtRules: [{${fields}}]}`);
const R = 'spec.jwtRules[0]';

describe('RequestAuthentication', () => {
  it('is read as Istio writes it', () => {
    const { spec } = one(
      'RequestAuthentication',
      `apiVersion: "security.istio.io/v1"
kind: RequestAuthentication
metadata:
  name: jwt-example
  namespace: foo
spec:
  selector:
    matchLabels:
      app: httpbin
  jwtRules:
  - issuer: "testing@secure.istio.io"
    jwksUri: "https://raw.githubusercontent.com/istio/istio/release/security/tools/jwt/samples/jwks.json"
    forwardOriginalToken: true
  - issuer: other
    audiences: [a, b]
    jwks: |
      ${KEYS}
    fromHeaders: [{name: X-Token, prefix: "JWT "}, {name: authorization}]
    fromParams: [token]
    fromCookies: [session]
    outputPayloadToHeader: X-Payload
    outputClaimToHeaders: [{header: X-Sub, claim: sub}, {header: x-group, claim: groups.first}]
    timeout: 5s
`,
    );
    assert.deepEqual(spec, {
      selector: { app: 'httpbin' },
      jwtRules: [
        {
          issuer: 'testing@secure.istio.io',
          audiences: [],
          jwks: null,
          jwksUri: 'https://raw.githubusercontent.com/istio/istio/release/security/tools/jwt/samples/jwks.json',
          fromHeaders: [],
          fromParams: [],
          fromCookies: [],
          forwardOriginalToken: true,
          outputPayloadToHeader: null,
          outputClaimToHeaders: [],
        },
        {
          issuer: 'other',
          audiences: ['a', 'b'],
          jwks: `${KEYS}\n`,
          jwksUri: null,
          fromHeaders: [
            { name: 'x-token', prefix: 'JWT ' },
            { name: 'authorization', prefix: '' },
          ],
          fromParams: ['token'],
          fromCookies: ['session'],
          forwardOriginalToken: false,
          outputPayloadToHeader: 'x-payload',
          outputClaimToHeaders: [
            { header: 'x-sub', claim: 'sub' },
            { header: 'x-group', claim: 'groups.first' },
          ],
        },
      ],
    });
  });

  it('may be without rules, under each of its groups, and with the old spelling of jwksUri', () => {
    for (const version of ['security.istio.io/v1', 'security.istio.io/v1beta1', 'weft.dev/v1']) {
      const text = requestAuthentication('{}').replace('security.istio.io/v1', version);
      assert.deepEqual(one('RequestAuthentication', text).spec, { selector: null, jwtRules: [] });
    }
    assert.equal(one('RequestAuthentication', rule(`issuer: i, jwks_uri: "${URI}"`)).spec.jwtRules[0]?.jwksUri, URI);
  });

  for (const [what, fields, field] of [
    ['no issuer', `jwksUri: "${URI}"`, `MISSING_FIELD ${R}.issuer`],
    ['an empty issuer', `issuer: "", jwksUri: "${URI}"`, `INVALID_VALUE ${R}.issuer`],
    ['no keys', 'issuer: "https://issuer.example"', `MISSING_FIELD ${R}.jwksUri`],
    ['keys twice', `issuer: i, jwksUri: "${URI}", jwks: '${KEYS}'`, `INVALID_VALUE ${R}.jwks`],
    ['two spellings of one field', `issuer: i, jwksUri: "${URI}", jwks_uri: "${URI}"`, `INVALID_VALUE ${R}.jwks_uri`],
    ['keys that are no JSON', 'issuer: i, jwks: "{"', `INVALID_VALUE ${R}.jwks`],
    ['keys of the machine', 'issuer: i, jwksUri: "http://169.254.169.254/latest"', `INVALID_VALUE ${R}.jwksUri`],
    ['keys in a file', 'issuer: i, jwksUri: "file:///etc/shadow"', `INVALID_VALUE ${R}.jwksUri`],
    ['an empty list of audiences', `issuer: i, jwksUri: "${URI}", audiences: []`, `INVALID_VALUE ${R}.audiences`],
    ['a place without a name', `issuer: i, jwksUri: "${URI}", fromHeaders: [{prefix: a}]`, `MISSING_FIELD ${R}.fromHeaders[0].name`],
    ['a header that is none', `issuer: i, jwksUri: "${URI}", fromHeaders: [{name: "a b"}]`, `INVALID_VALUE ${R}.fromHeaders[0].name`],
    ['a cookie that is none', `issuer: i, jwksUri: "${URI}", fromCookies: ["a=b"]`, `INVALID_VALUE ${R}.fromCookies[0]`],
    [
      'an output that frames the request',
      `issuer: i, jwksUri: "${URI}", outputPayloadToHeader: Content-Length`,
      `INVALID_VALUE ${R}.outputPayloadToHeader`,
    ],
    [
      'one header for two claims',
      `issuer: i, jwksUri: "${URI}", outputClaimToHeaders: [{header: a, claim: b}, {header: A, claim: c}]`,
      `INVALID_VALUE ${R}.outputClaimToHeaders[1].header`,
    ],
    ['a field that is not supported', `issuer: i, jwksUri: "${URI}", spaceDelimitedClaims: [a]`, `UNSUPPORTED ${R}.spaceDelimitedClaims`],
    ['an unknown field', `issuer: i, jwksURI: "${URI}"`, `UNKNOWN_FIELD ${R}.jwksURI`],
  ] as const) {
    it(`is refused with ${what}`, () => {
      assert.deepEqual(
        places(refused(rule(fields))).map((place) => place.replace(/^\S+ /, '')),
        [field],
      );
    });
  }
});

describe('a place of keys', () => {
  it('is an http or https URL', () => {
    for (const uri of [
      URI,
      'http://jwks.auth.svc.cluster.local:8080/keys?tenant=a',
      'https://10.0.0.1/keys',
      'https://[fd00::1]:8443/keys',
      'http://192.168.0.1:9000/keys',
      'HTTPS://issuer.example',
    ]) {
      assert.equal(refusedJwksUri(uri), null, uri);
    }
  });

  it('never leads to the node or the credentials of the machine, however it is written', () => {
    for (const uri of [
      'http://169.254.169.254/latest/meta-data',
      'http://169.254.0.1',
      'http://169.254.169.254./',
      'http://2852039166/',
      'http://0xa9fea9fe/',
      'http://0xa9.254.0251.0376/',
      'http://169.254.43518/',
      'http://[::ffff:169.254.169.254]/',
      'http://[::ffff:a9fe:a9fe]/',
      'http://[::a9fe:a9fe]/',
      'http://[64:ff9b::169.254.169.254]/',
      'http://[fe80::1]/',
      'http://[febf::1]/',
      'http://[fd00:ec2::254]/latest',
      'http://[2002:a9fe:a9fe::1]/',
      'http://127.0.0.1:9000/',
      'http://2130706433/',
      'http://[::1]/',
      'http://localhost:8080/',
      'http://a.localhost/',
      'http://metadata.google.internal/',
      'http://METADATA.google.internal./',
      'http://100.100.100.200/',
      'http://0.0.0.0/',
      'http://[::]/',
      'http://239.1.1.1/',
      'http://[ff02::1]/',
    ]) {
      assert.notEqual(refusedJwksUri(uri), null, uri);
    }
  });

  it('is nothing else, and not what a URL parser has to repair', () => {
    for (const uri of [
      'ftp://issuer.example/',
      'file:///etc/passwd',
      'data:,x',
      'javascript:1',
      'issuer.example/keys',
      '//issuer.example/keys',
      'https:issuer.example',
      'https:///issuer.example',
      'https:\\\\issuer.example',
      'https://issuer.example\\@169.254.169.254/',
      ' https://issuer.example',
      'https://issuer.example/a b',
      'https://issuer.example/\n',
      'https://user@issuer.example/',
      'https://:secret@issuer.example/',
      'https://issuer.example/#a',
      'https://exämple.org/',
      'https://',
    ]) {
      assert.notEqual(refusedJwksUri(uri), null, uri);
    }
  });
});

describe('a key set', () => {
  it('has public keys only', () => {
    assert.equal(refusedKeySet(KEYS), null);
    assert.equal(refusedKeySet('{"keys":[]}'), null);
    for (const text of [
      '',
      'null',
      '[]',
      '{"kty":"RSA","n":"a","e":"AQAB"}',
      '{"keys":{}}',
      '{"keys":[null]}',
      '{"keys":[{}]}',
      '{"keys":[{"kty":"RSA","e":"AQAB"}]}',
      '{"keys":[{"kty":"EC","crv":"P-256","x":"a"}]}',
      '{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b","d":"c"}]}',
      '{"keys":[{"kty":"RSA","n":"a","e":"AQAB","d":"c"}]}',
      '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}',
      `{"keys":[${Array.from({ length: 257 }, () => '{"kty":"x"}').join(',')}]}`,
    ]) {
      assert.notEqual(refusedKeySet(text), null, text.slice(0, 100));
    }
  });

  it('is not quoted in the message that refuses it', () => {
    const [problem] = refused(rule(`issuer: i, jwks: '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}'`));
    assert.doesNotMatch(JSON.stringify(problem), /c2VjcmV0/);
  });
});
