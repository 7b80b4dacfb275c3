/**
 * Verification of JWT-SVIDs, rule by rule of JWT-SVID.md. The cases of go-spiffe's svid/jwtsvid/svid_test.go are among them, made anew; a token
 * without key id is one where the standard allows what go-spiffe refuses.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { JwtAuthority, SpiffeBundle } from '../../../certs/bundle/trust-state.ts';
import { JWT_SVID_LEEWAY_SECONDS, type VerifiedJwtSvid, verifyJwtSvid } from '../../../certs/jwt/jwt-svid-verifier.ts';
import { IdentityError } from '../../../src/model/identity.ts';
import { jwk, KEY_OF, NOW, pair, token } from '../jwt/token-factory.ts';

const SUBJECT = 'spiffe://trustdomain/ns/shop/sa/cart';
const CLAIMS = { sub: SUBJECT, aud: ['audience'], exp: NOW + 300, iat: NOW };

function authority(keyId: string, key: string = keyId): JwtAuthority {
  return { keyId, jwk: jwk(key) };
}

function bundleOf(trustDomain: string, ...jwtAuthorities: JwtAuthority[]): SpiffeBundle {
  return { trustDomain, x509Authorities: [], jwtAuthorities, sequence: null, refreshHintSeconds: null };
}

const BUNDLES: ReadonlyMap<string, SpiffeBundle> = new Map([
  [
    'trustdomain',
    bundleOf('trustdomain', authority('rsa'), authority('P-256'), authority('P-384'), authority('P-521'), authority('weak', 'rsa-1024')),
  ],
  ['other.domain', bundleOf('other.domain', authority('P-256', 'P-256/other-domain'))],
  ['revoked.domain', bundleOf('revoked.domain')],
]);

function verify(text: string, audience = 'audience', now = NOW): VerifiedJwtSvid {
  return verifyJwtSvid(text, { audience, bundle: (trustDomain) => BUNDLES.get(trustDomain) ?? null, now: () => now * 1000 });
}

function assertRefused(text: string, code: string, message: RegExp = /./, audience = 'audience', now = NOW): void {
  assert.throws(
    () => verify(text, audience, now),
    (error) => error instanceof IdentityError && error.code === `WEFT_IDENTITY_JWT_${code}` && message.test(error.message),
  );
}

function withClaims(claims: Record<string, unknown>, header: Record<string, unknown> = { kid: 'P-256' }): string {
  return token({ header, payload: { ...CLAIMS, ...claims } });
}

describe('JWT-SVID', () => {
  it('success: the ID, and the claims as they were written', () => {
    const verified = verify(withClaims({ iss: 'issuer', role: { name: 'x' } }));
    assert.equal(verified.id.text, SUBJECT);
    assert.deepEqual(JSON.parse(JSON.stringify(verified.claims)), { ...CLAIMS, iss: 'issuer', role: { name: 'x' } });
  });

  for (const [alg, key] of Object.entries(KEY_OF)) {
    it(`section 2.1: ${alg} verifies, and not for another payload or by another key`, () => {
      const good = token({ alg, header: { kid: key }, payload: CLAIMS });
      assert.equal(verify(good).id.text, SUBJECT);
      const [header, , signature] = good.split('.');
      const forged = withClaims({ sub: 'spiffe://trustdomain/admin' }).split('.')[1];
      assertRefused(`${header}.${forged}.${signature}`, 'SIGNATURE');
      assertRefused(token({ alg, key: `${key}/stranger`, header: { kid: key }, payload: CLAIMS }), 'SIGNATURE');
    });
  }

  it('section 2.1: any other algorithm is refused, none and HMAC among them', () => {
    for (const alg of ['none', 'NONE', '', 'HS256', 'EdDSA', 'ES256K', 'es256', '__proto__']) {
      assertRefused(token({ rawHeader: JSON.stringify({ alg, kid: 'P-256' }), payload: CLAIMS }), 'ALGORITHM');
    }
    const input = [JSON.stringify({ alg: 'HS256', typ: 'JWT' }), JSON.stringify(CLAIMS)]
      .map((part) => Buffer.from(part).toString('base64url'))
      .join('.');
    const secret = pair('rsa').publicKey.export({ format: 'pem', type: 'spki' });
    assertRefused(`${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`, 'ALGORITHM');
  });

  it('section 2.1: an algorithm counts only with a key of its type and curve', () => {
    assertRefused(token({ alg: 'ES256', header: { kid: 'P-384' }, payload: CLAIMS }), 'KEY');
    assertRefused(token({ alg: 'ES256', header: { kid: 'rsa' }, payload: CLAIMS }), 'KEY');
  });

  it('section 2.2: kid is optional; without it the keys of the algorithm are tried', () => {
    for (const [alg] of Object.entries(KEY_OF)) assert.equal(verify(token({ alg, payload: CLAIMS })).id.text, SUBJECT);
    assertRefused(token({ key: 'P-256/stranger', payload: CLAIMS }), 'SIGNATURE');
  });

  it('section 2.2: a kid that the bundle does not have is refused, though another key of it made the signature', () => {
    assertRefused(withClaims({}, { kid: 'noKey' }), 'KEY', /no key "noKey"/);
    assertRefused(withClaims({}, { kid: '' }), 'KEY');
    assertRefused(withClaims({}, { kid: 7 }), 'MALFORMED');
  });

  it('a weak key of the bundle verifies nothing', () => {
    assertRefused(token({ alg: 'RS256', key: 'rsa-1024', header: { kid: 'weak' }, payload: CLAIMS }), 'KEY');
  });

  it('section 2.3: typ may be missing, JWT or JOSE, and nothing else', () => {
    for (const typ of ['JWT', 'JOSE']) verify(withClaims({}, { typ }));
    for (const typ of ['invalid', 'jwt', '', 'at+jwt', 7, null]) assertRefused(withClaims({}, { typ }), 'HEADER', /typ/);
  });

  it('section 2: any other header is refused', () => {
    const others = [
      { jku: 'https://evil.example' },
      { jwk: jwk('P-256') },
      { x5c: [] },
      { x5u: 'x' },
      { cty: 'JWT' },
      { private: 1 },
      { crit: ['exp'] },
      { b64: false },
    ];
    for (const other of others) assertRefused(withClaims({}, { kid: 'P-256', ...other }), 'HEADER');
  });

  it('section 3.1: sub must be there, and be the SPIFFE ID of a workload', () => {
    assertRefused(withClaims({ sub: undefined }), 'SUBJECT', /no sub/);
    for (const sub of [
      '',
      'invalid subject',
      'https://trustdomain/a',
      'Spiffe://trustdomain/a',
      'spiffe://trustdomain/a/',
      'spiffe://trustdomain/../a',
    ]) {
      assertRefused(withClaims({ sub }), 'SUBJECT');
    }
    assertRefused(withClaims({ sub: 'spiffe://trustdomain' }), 'SUBJECT', /trust domain/);
    assertRefused(withClaims({ sub: [SUBJECT] }), 'SUBJECT');
  });

  it('section 3.2: aud must be there, as text or as a list of texts', () => {
    verify(withClaims({ aud: 'audience' }));
    verify(withClaims({ aud: ['x', 'audience'] }));
    for (const aud of [undefined, null, [], 7, [7], ['audience', 7], { audience: true }]) assertRefused(withClaims({ aud }), 'AUDIENCE');
  });

  it('section 3.2: the own audience must be among them, to the letter', () => {
    for (const aud of ['another', 'Audience', 'audience ', 'audience,another', ['another']])
      assertRefused(withClaims({ aud }), 'AUDIENCE', /is for/);
  });

  it('section 3.3: exp must be there, and not be past, with a small leeway', () => {
    for (const exp of [undefined, null, '9999999999', -1]) assertRefused(withClaims({ exp }), 'EXPIRED', /no time/);
    assertRefused(token({ payload: JSON.stringify(CLAIMS).replace(/"exp":\d+/, '"exp":1e999') }), 'EXPIRED');
    verify(withClaims({ exp: NOW - JWT_SVID_LEEWAY_SECONDS + 1 }));
    assertRefused(withClaims({ exp: NOW - JWT_SVID_LEEWAY_SECONDS }), 'EXPIRED', /expired 30 s ago/);
  });

  it('RFC 7519: a token from the future is refused, with the same leeway', () => {
    for (const name of ['nbf', 'iat']) {
      verify(withClaims({ [name]: NOW + JWT_SVID_LEEWAY_SECONDS }));
      assertRefused(withClaims({ [name]: NOW + JWT_SVID_LEEWAY_SECONDS + 1 }), 'NOT_YET_VALID', new RegExp(name));
      for (const value of ['now', null, -1]) assertRefused(withClaims({ [name]: value }), 'NOT_YET_VALID', /not a time/);
    }
    verify(withClaims({ iat: undefined }));
  });

  it("a token counts by a key of its subject's own trust domain alone", () => {
    const foreign = { ...CLAIMS, sub: 'spiffe://other.domain/ns/shop/sa/cart' };
    assert.equal(verify(token({ key: 'P-256/other-domain', header: { kid: 'P-256' }, payload: foreign })).id.trustDomain, 'other.domain');
    assertRefused(token({ key: 'P-256', header: { kid: 'P-256' }, payload: foreign }), 'SIGNATURE');
    assertRefused(token({ key: 'P-256/other-domain', header: { kid: 'P-256' }, payload: CLAIMS }), 'SIGNATURE');
  });

  it('no bundle, a bundle of another trust domain, and one without keys verify nothing', () => {
    assertRefused(withClaims({ sub: 'spiffe://another.domain/host' }), 'TRUST_DOMAIN', /"another.domain"/);
    assertRefused(withClaims({ sub: 'spiffe://revoked.domain/host' }), 'KEY');
    const mixedUp = BUNDLES.get('other.domain') as SpiffeBundle;
    assert.throws(() => verifyJwtSvid(withClaims({}), { audience: 'audience', bundle: () => mixedUp, now: () => NOW * 1000 }), {
      code: 'WEFT_IDENTITY_JWT_TRUST_DOMAIN',
    });
  });

  it('a key that left the bundle verifies nothing any more', () => {
    const options = { audience: 'audience', now: () => NOW * 1000 };
    const before = bundleOf('trustdomain', authority('P-256'), authority('P-384'));
    const after = bundleOf('trustdomain', authority('P-384'));
    verifyJwtSvid(withClaims({}), { ...options, bundle: () => before });
    assert.throws(() => verifyJwtSvid(withClaims({}), { ...options, bundle: () => after }), { code: 'WEFT_IDENTITY_JWT_KEY' });
  });

  it('section 5.1: anything but a compact JWS is refused', () => {
    const good = withClaims({});
    const [header, payload, signature] = good.split('.');
    const json = JSON.stringify({ protected: header, payload, signature });
    for (const text of [
      '',
      'invalid token',
      '..',
      `${header}.${payload}`,
      `${header}.${payload}.`,
      `${good}.${signature}`,
      ` ${good}`,
      `${good}=`,
      json,
    ]) {
      assertRefused(text, 'MALFORMED');
    }
    assertRefused(`${good}${'a'.repeat(16 * 1024)}`, 'MALFORMED', /16 KiB/);
    assertRefused(token({ payload: JSON.stringify(CLAIMS).replace('{', `{"sub":"${SUBJECT}",`) }), 'MALFORMED');
  });

  it('no error holds the token', () => {
    const signature = withClaims({}).split('.')[2] as string;
    for (const text of [withClaims({ exp: 1 }), withClaims({}, { kid: 'none' }), `${withClaims({})}x`]) {
      assert.throws(
        () => verify(text),
        (error) =>
          error instanceof IdentityError &&
          !error.describe().includes(text.split('.')[1] as string) &&
          !error.describe().includes(signature),
      );
    }
  });

  it('a good token with any byte changed, and any other text, is refused with an IdentityError', () => {
    const good = withClaims({});
    const changed = fc
      .tuple(fc.nat(good.length - 1), fc.constantFrom(...'Aa0_-.='))
      .filter(([at, by]) => good[at] !== by)
      .map(([at, by]) => `${good.slice(0, at)}${by}${good.slice(at + 1)}`);
    const header = fc
      .dictionary(fc.constantFrom('alg', 'kid', 'typ', 'crit'), fc.jsonValue())
      .map((value) => token({ rawHeader: JSON.stringify(value) }));
    const payload = fc.json().map((text) => token({ payload: text }));
    fc.assert(
      fc.property(fc.oneof(changed, header, payload, fc.string()), (text) => {
        assert.throws(() => verify(text), IdentityError);
      }),
      { numRuns: 2000 },
    );
  });
});
