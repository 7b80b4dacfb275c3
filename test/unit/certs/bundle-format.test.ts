/**
 * The SPIFFE bundle format. The cases valid, no_keys, missing_kid, multiple_x509 and with_wit are those of go-spiffe's bundle/spiffebundle/testdata,
 * made anew; where the standard asks for something else than go-spiffe does, the standard counts, and the test says so.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { before, describe, it } from 'node:test';
import fc from 'fast-check';
import { formatBundle, formatJwtBundle, MAX_BUNDLE_KEYS, MAX_BUNDLE_LENGTH, parseBundle } from '../../../certs/bundle/bundle-format.ts';
import type { SpiffeBundle } from '../../../certs/bundle/trust-state.ts';
import { CertsError } from '../../../certs/errors.ts';
import { KeySet } from '../../../src/jose/key-set.ts';
import { SIGNATURE_ALGORITHMS, type SignatureAlgorithm } from '../../../src/jose/signature-algorithm.ts';
import { IdentityError } from '../../../src/model/identity.ts';
import { type Forged, forge, forgeRoot } from './forge.ts';

type Entry = Record<string, unknown>;

const ES256 = SIGNATURE_ALGORITHMS.get('ES256') as SignatureAlgorithm;

let root: Forged;
let otherRoot: Forged;
let leaf: Forged;

before(async () => {
  [root, otherRoot, leaf] = await Promise.all([forgeRoot(), forgeRoot({ subject: 'CN=other root' }), forge()]);
});

function x509Entry(forged: Forged, more: Entry = {}): Entry {
  const key = new X509Certificate(forged.der).publicKey.export({ format: 'jwk' });
  return { ...key, use: 'x509-svid', x5c: [Buffer.from(forged.der).toString('base64')], ...more };
}

function jwtEntry(kid: string | undefined, more: Entry = {}): Entry {
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' });
  return { ...key, use: 'jwt-svid', kid, ...more };
}

function bundleText(keys: unknown, more: Entry = {}): string {
  return JSON.stringify({ keys, ...more });
}

/** The bundle, and the entries that were left out with the reason. */
function read(text: string): { bundle: SpiffeBundle; ignored: Map<number, string> } {
  const ignored = new Map<number, string>();
  const bundle = parseBundle(text, 'domain.test', { onIgnored: (index, why) => ignored.set(index, why) });
  return { bundle, ignored };
}

/** The one entry is left out for a reason like this one, and the one beside it counts. */
function assertIgnored(entry: Entry, why: RegExp): void {
  const { bundle, ignored } = read(bundleText([entry, x509Entry(root)]));
  assert.deepEqual([...ignored.keys()], [0]);
  assert.match(ignored.get(0) as string, why);
  assert.equal(bundle.x509Authorities.length, 1);
  assert.equal(bundle.jwtAuthorities.length, 0);
}

function assertRefused(text: string, why: RegExp): void {
  assert.throws(
    () => parseBundle(text, 'domain.test'),
    (error) => error instanceof CertsError && error.code === 'WEFT_CERTS_BUNDLE_FORMAT' && why.test(error.message),
  );
}

describe('reading a SPIFFE bundle', () => {
  it('valid: roots, JWT keys, sequence and refresh hint', () => {
    const { bundle, ignored } = read(
      bundleText([x509Entry(root), x509Entry(otherRoot), jwtEntry('a'), jwtEntry('b')], { spiffe_sequence: 1, spiffe_refresh_hint: 60 }),
    );
    assert.equal(bundle.trustDomain, 'domain.test');
    assert.deepEqual(bundle.x509Authorities, [root.der, otherRoot.der]);
    assert.deepEqual(
      bundle.jwtAuthorities.map(({ keyId }) => keyId),
      ['a', 'b'],
    );
    assert.equal(bundle.sequence, 1n);
    assert.equal(bundle.refreshHintSeconds, 60);
    assert.equal(ignored.size, 0);
  });

  it('sequence and refresh hint may be missing', () => {
    const { bundle } = read(bundleText([x509Entry(root)]));
    assert.equal(bundle.sequence, null);
    assert.equal(bundle.refreshHintSeconds, null);
  });

  it('a sequence of 64 bits loses no digit, and one beyond is refused', () => {
    assert.equal(read('{"keys":[],"spiffe_sequence":9007199254740993}').bundle.sequence, 9007199254740993n);
    assert.equal(read('{"keys":[],"spiffe_sequence":18446744073709551615}').bundle.sequence, 2n ** 64n - 1n);
    assertRefused('{"keys":[],"spiffe_sequence":18446744073709551616}', /spiffe_sequence/);
    assertRefused(`{"keys":[],"spiffe_sequence":${'9'.repeat(100_000)}}`, /too many digits/);
  });

  it('a sequence or refresh hint that is no integer is refused', () => {
    for (const value of ['-1', '1.0', '1e3', '"1"', 'null', 'true', '[]']) {
      assertRefused(`{"keys":[],"spiffe_sequence":${value}}`, /spiffe_sequence/);
      assertRefused(`{"keys":[],"spiffe_refresh_hint":${value}}`, /spiffe_refresh_hint/);
    }
  });

  it('no_keys: `keys` must be there, and be a list', () => {
    assertRefused('{}', /no list of keys/);
    assertRefused('{"spiffe_sequence":1}', /no list of keys/);
    assertRefused('{"keys":null}', /no list of keys/);
    assertRefused('{"keys":{}}', /no list of keys/);
  });

  it('an empty list of keys revokes everything', () => {
    const { bundle } = read('{"keys":[]}');
    assert.deepEqual([bundle.x509Authorities, bundle.jwtAuthorities], [[], []]);
  });

  it('missing_kid: a JWT key without key id is ignored (go-spiffe refuses the whole bundle)', () => {
    assertIgnored(jwtEntry(undefined), /no key id/);
    assertIgnored(jwtEntry(''), /no key id/);
    assertIgnored({ ...jwtEntry('a'), kid: 7 }, /no key id/);
  });

  it('multiple_x509: of several certificates the first counts alone (X509-SVID.md section 6.2; go-spiffe refuses the whole bundle)', () => {
    const x5c = [root, otherRoot].map(({ der }) => Buffer.from(der).toString('base64'));
    const { bundle } = read(bundleText([x509Entry(root, { x5c })]));
    assert.deepEqual(bundle.x509Authorities, [root.der]);
  });

  it('a root without certificate is ignored', () => {
    for (const x5c of [undefined, [], null, 'text', [1]]) assertIgnored(x509Entry(otherRoot, { x5c }), /no certificate/);
  });

  it('a certificate that is not base64 in its standard alphabet is ignored', () => {
    const base64 = Buffer.from(otherRoot.der).toString('base64');
    const url = Buffer.from(otherRoot.der).toString('base64url');
    for (const encoded of ['', '!', `${base64}\n`, ` ${base64}`, url === base64 ? '-' : url, otherRoot.pem]) {
      assertIgnored(x509Entry(otherRoot, { x5c: [encoded] }), /not base64/);
    }
  });

  it('a certificate that is no CA, or no certificate, is ignored', () => {
    assertIgnored(x509Entry(leaf), /not a CA certificate/);
    assertIgnored(x509Entry(otherRoot, { x5c: [Buffer.from('nothing').toString('base64')] }), /cannot be a root/);
    const trailing = Buffer.concat([otherRoot.der, Buffer.from([0])]).toString('base64');
    assertIgnored(x509Entry(otherRoot, { x5c: [trailing] }), /cannot be a root/);
  });

  it('a certificate of another key than the entry says is ignored', () => {
    const { x, y } = x509Entry(root);
    assertIgnored(x509Entry(otherRoot, { x, y }), /another key/);
    assertIgnored(x509Entry(otherRoot, { kty: 'RSA' }), /another key/);
  });

  it('a certificate counts where the entry repeats nothing of its key, and where it has a kid, which means nothing', () => {
    const { x5c } = x509Entry(root);
    const { bundle } = read(bundleText([{ kty: 'EC', use: 'x509-svid', x5c }, x509Entry(otherRoot, { kid: 'a' })]));
    assert.equal(bundle.x509Authorities.length, 2);
  });

  it('RSA roots count', async () => {
    const rsa = await forgeRoot({
      keyAlgorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]) },
      signingAlgorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
    });
    assert.deepEqual(read(bundleText([x509Entry(rsa)])).bundle.x509Authorities, [rsa.der]);
  });

  it('unknown key types and uses are ignored, with_wit among them', () => {
    assertIgnored({ kty: 'oct', use: 'jwt-svid', kid: 'a', k: 'AAAA' }, /no key type/);
    assertIgnored({ kty: 'AKP', use: 'jwt-svid', kid: 'a' }, /no key type/);
    assertIgnored({ use: 'jwt-svid', kid: 'a' }, /no key type/);
    assertIgnored({ ...jwtEntry('a'), kty: '__proto__' }, /no key type/);
    assertIgnored(jwtEntry('a', { use: 'wit-svid' }), /no use/);
    assertIgnored(jwtEntry('a', { use: 'JWT-SVID' }), /no use/);
    assertIgnored(jwtEntry('a', { use: undefined }), /no use/);
  });

  it('a JWT key that signs no JWT-SVID, or cannot be read, is ignored', () => {
    const ed25519 = generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' });
    assertIgnored({ ...ed25519, use: 'jwt-svid', kid: 'a' }, /signs no JWT-SVID/);
    assertIgnored(jwtEntry('a', { x: 'AAAA' }), /cannot be read/);
    assertIgnored(jwtEntry('a', { crv: undefined }), /cannot be read/);
    assertIgnored(jwtEntry('a'.repeat(2000)), /too long/);
  });

  it('an entry with its private key is ignored, and no private member is kept of any', () => {
    const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    assertIgnored({ ...pair.privateKey.export({ format: 'jwk' }), use: 'jwt-svid', kid: 'a' }, /private key/);
  });

  it('other parameters, of the set and of entries, are not needed and not kept', () => {
    const { bundle } = read(bundleText([jwtEntry('a', { x5t: 'a', 'x5t#S256': 'b', other: {} })], { issuer: 'x', version: 3 }));
    assert.deepEqual(Object.keys(bundle.jwtAuthorities[0]?.jwk ?? {}).toSorted(), ['crv', 'kty', 'x', 'y']);
  });

  it('a member that is there twice is refused, whichever it is', () => {
    assertRefused('{"keys":[],"keys":[]}', /twice/);
    assertRefused('{"keys":[],"spiffe_sequence":1,"spiffe_sequenc\\u0065":2}', /twice/);
    assertRefused('{"keys":[{"kty":"EC","kty":"RSA"}]}', /twice/);
  });

  it('what is no JSON object, too long, too deep or has too many keys is refused', () => {
    for (const text of ['', '[]', 'null', '7', '{"keys":[]', '{"keys":[]}x', "{'keys':[]}", '\ufeff{"keys":[]}']) assertRefused(text, /./);
    assertRefused('{"keys":[7]}', /key 0 is not an object/);
    assertRefused(`{"keys":[]${' '.repeat(MAX_BUNDLE_LENGTH)}}`, /1 MiB/);
    assertRefused(`{"keys":[],"a":${'['.repeat(40)}${']'.repeat(40)}}`, /too deep/);
    assertRefused(bundleText(Array.from({ length: MAX_BUNDLE_KEYS + 1 }, () => ({}))), /more than 256 keys/);
  });

  it('the name of the trust domain is checked', () => {
    assert.throws(() => parseBundle('{"keys":[]}', 'Domain.Test'), IdentityError);
  });

  it('any text is read or refused with the one error', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.json(),
      fc
        .record({ keys: fc.array(fc.dictionary(fc.constantFrom('kty', 'use', 'kid', 'x5c', 'x'), fc.jsonValue())) })
        .map((value) => JSON.stringify(value)),
    );
    fc.assert(
      fc.property(texts, (text) => {
        try {
          const { bundle } = read(text);
          assert.equal(bundle.x509Authorities.length + bundle.jwtAuthorities.length, 0);
        } catch (error) {
          assert.ok(error instanceof CertsError && error.code === 'WEFT_CERTS_BUNDLE_FORMAT', String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('writing a SPIFFE bundle', () => {
  const text = (): string =>
    bundleText([x509Entry(root), jwtEntry('a'), jwtEntry('b')], { spiffe_refresh_hint: 60 }).replace(
      /}$/,
      ',"spiffe_sequence":9007199254740993}',
    );

  it('what was written is read again, to the last digit of the sequence', () => {
    const { bundle } = read(text());
    assert.deepEqual(read(formatBundle(bundle)), { bundle, ignored: new Map() });
    assert.match(formatBundle(bundle), /"spiffe_sequence":9007199254740993\b/);
  });

  it('entries are as the standard wants them: kty and use always, kid for JWT keys alone, one certificate', () => {
    const { keys } = JSON.parse(formatBundle(read(text()).bundle)) as { keys: Entry[] };
    assert.deepEqual(
      keys.map((entry) => Object.keys(entry).toSorted()),
      [
        ['crv', 'kty', 'use', 'x', 'x5c', 'y'],
        ['crv', 'kid', 'kty', 'use', 'x', 'y'],
        ['crv', 'kid', 'kty', 'use', 'x', 'y'],
      ],
    );
    assert.deepEqual(keys[0]?.['x5c'], [Buffer.from(root.der).toString('base64')]);
  });

  it('an empty bundle has its empty list of keys', () => {
    const { bundle } = read('{"keys":[]}');
    assert.equal(formatBundle(bundle), '{"keys":[]}');
    assert.equal(formatJwtBundle(bundle), '{"keys":[]}');
  });

  it('private members of a key are never written', () => {
    const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
    const bundle = {
      trustDomain: 'domain.test',
      x509Authorities: [],
      jwtAuthorities: [{ keyId: 'a', jwk }],
      sequence: null,
      refreshHintSeconds: null,
    };
    for (const written of [formatBundle(bundle), formatJwtBundle(bundle)]) {
      assert.ok(!written.includes(jwk.d as string));
      assert.ok(written.includes(jwk.x as string));
    }
  });

  it('the JWT bundle is a JWK Set of the JWT keys alone, with key ids and without use, so that any JOSE library takes them', () => {
    const jwtBundle = formatJwtBundle(read(text()).bundle);
    const { keys } = JSON.parse(jwtBundle) as { keys: Entry[] };
    assert.deepEqual(
      keys.map(({ kid, use, x5c }) => ({ kid, use, x5c })),
      ['a', 'b'].map((kid) => ({ kid, use: undefined, x5c: undefined })),
    );
    assert.equal(KeySet.parse(jwtBundle).candidates(ES256, 'b').length, 1);
  });
});
