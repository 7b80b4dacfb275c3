import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { JwtRule } from '../../../src/model/resources.ts';
import { JwtVerifier } from '../../../proxy/jwt/jwt-verifier.ts';
import { KeySet } from '../../../src/jose/key-set.ts';
import type { KeySource } from '../../../proxy/jwt/key-source.ts';
import { TokenCache } from '../../../proxy/jwt/token-cache.ts';
import type { TokenFailureReason, VerifiedToken } from '../../../proxy/jwt/token-verifier.ts';
import { CLAIMS, inlineKeys, ISSUER, jwk, jwks, KEY_OF, NOW, pair, ruleSet, token } from './token-factory.ts';

const ALL_KEYS = jwks(jwk('rsa'), jwk('P-256'), jwk('P-384'), jwk('P-521'));

function verifier(now = NOW): JwtVerifier {
  return new JwtVerifier({ keys: inlineKeys(), now: () => now * 1000 });
}

type Given = string | Partial<JwtRule>;

function verify(text: string, given: Given = ALL_KEYS, now = NOW): VerifiedToken | TokenFailureReason {
  const outcome = verifier(now).verify(ruleSet(typeof given === 'string' ? { jwks: given } : { jwks: ALL_KEYS, ...given }), 0, text);
  assert.ok(!(outcome instanceof Promise));
  return 'failure' in outcome ? outcome.failure : outcome;
}

function accepted(text: string, given: Given = ALL_KEYS, now = NOW): VerifiedToken {
  const outcome = verify(text, given, now);
  assert.ok(typeof outcome !== 'string', `refused: ${String(outcome)}`);
  return outcome;
}

describe('algorithms', () => {
  for (const alg of Object.keys(KEY_OF)) {
    it(`${alg} verifies, and not for another payload or key`, () => {
      const good = token({ alg });
      assert.equal(accepted(good).identity.principal, `${ISSUER}/ann`);
      const [header, , signature] = good.split('.');
      const other = token({ alg, payload: { ...CLAIMS, sub: 'eve' } }).split('.')[1];
      assert.equal(verify(`${header}.${other}.${signature}`), 'signature');
      assert.equal(verify(token({ alg, key: `${KEY_OF[alg]}/other` })), 'signature');
    });
  }

  it('refuses none, HMAC with the public key as its secret, and names it does not know', () => {
    for (const alg of ['none', 'None', 'NONE', '', 'EdDSA', 'ES256K', 'rs256', 'RS1', '__proto__']) {
      assert.equal(verify(token({ rawHeader: JSON.stringify({ alg }) })), 'algorithm', alg);
    }
    const [, payload] = token().split('.');
    const input = `${Buffer.from('{"alg":"HS256"}').toString('base64url')}.${payload}`;
    const pem = pair('rsa').publicKey.export({ format: 'pem', type: 'spki' });
    assert.equal(verify(`${input}.${createHmac('sha256', pem).update(input).digest('base64url')}`), 'algorithm');
    assert.equal(verify(`${Buffer.from('{"alg":"none"}').toString('base64url')}.${payload}.`), 'malformed');
  });

  it('takes an algorithm only with a key of its type and curve, and of its own alg', () => {
    assert.equal(verify(token({ alg: 'RS256' }), jwks(jwk('P-256'))), 'unknown-key');
    assert.equal(verify(token({ alg: 'ES256' }), jwks(jwk('P-384'))), 'unknown-key');
    assert.equal(verify(token({ alg: 'RS256' }), jwks(jwk('rsa', { alg: 'PS256' }))), 'unknown-key');
    accepted(token({ alg: 'PS256' }), jwks(jwk('rsa', { alg: 'PS256' })));
  });

  it('refuses an ECDSA signature in DER, or of another length', () => {
    const [header, payload, signature] = token().split('.') as [string, string, string];
    const raw = Buffer.from(signature, 'base64url');
    for (const bytes of [Buffer.concat([raw, Buffer.alloc(1)]), raw.subarray(1), Buffer.alloc(64), Buffer.alloc(0)]) {
      assert.notEqual(typeof verify(`${header}.${payload}.${bytes.toString('base64url')}`), 'object');
    }
  });
});

describe('keys', () => {
  it('finds the key by its id, and tries keys without one', () => {
    const set = jwks(jwk('P-256/a', { kid: 'a' }), jwk('P-256/b', { kid: 'b' }), jwk('P-256/c'));
    accepted(token({ key: 'P-256/b', header: { kid: 'b' } }), set);
    assert.equal(verify(token({ key: 'P-256/b', header: { kid: 'a' } }), set), 'signature');
    accepted(token({ key: 'P-256/c', header: { kid: 'new' } }), set);
    accepted(token({ key: 'P-256/b' }), set);
    assert.equal(verify(token({ key: 'P-256/b', header: { kid: 'z' } }), jwks(jwk('P-256/b', { kid: 'b' }))), 'unknown-key');
  });

  it('tries a bounded number of keys', () => {
    const wrong = Array.from({ length: 40 }, (_, i) => jwk(`P-256/${i % 3}`));
    assert.equal(verify(token({ key: 'P-256/last' }), jwks(...wrong, jwk('P-256/last'))), 'signature');
  });

  it('leaves out keys for other uses, weak ones and broken ones, and keeps the rest', () => {
    const unusable = [
      jwk('P-256', { use: 'enc' }),
      jwk('P-256', { key_ops: ['sign'] }),
      jwk('P-256', { key_ops: 'verify' }),
      jwk('P-256', { alg: 'HS256' }),
      jwk('P-256', { alg: 'ES384' }),
      jwk('P-256', { kid: 7 }),
      jwk('P-256', { x: 'AAAA' }),
      jwk('rsa-1024'),
      jwk('rsa', { e: 'AQ' }),
      { kty: 'oct', k: 'c2VjcmV0' },
      { kty: 'OKP', crv: 'Ed25519', x: 'AAAA' },
    ];
    for (const key of unusable) assert.equal(KeySet.parse(jwks(key)).size, 0, JSON.stringify(key));
    assert.equal(
      KeySet.parse(JSON.stringify({ keys: [null, 1, 'x', [], ...unusable, jwk('rsa', { use: 'sig', key_ops: ['verify'] })] })).size,
      1,
    );
  });

  it('refuses what is no JWK Set', () => {
    for (const text of [
      '',
      '{}',
      '[]',
      'null',
      '{"keys":{}}',
      '<html>',
      `{"keys":[],"keys":[]}`,
      jwks(...Array.from({ length: 300 }, () => ({}))),
    ]) {
      assert.throws(() => KeySet.parse(text), { code: 'WEFT_JWT_KEY_SET' }, text.slice(0, 40));
    }
  });

  it('never looks at keys that a token brings', () => {
    const header = { jwk: jwk('P-256/evil'), jku: 'https://evil.example/keys', x5u: 'https://evil.example/cert' };
    assert.equal(verify(token({ key: 'P-256/evil', header })), 'signature');
  });
});

describe('form', () => {
  const [header, payload, signature] = token().split('.') as [string, string, string];

  it('refuses what is not a compact JWS', () => {
    for (const text of [
      '',
      'a',
      '..',
      'a.b',
      `${header}.${payload}`,
      `${header}.${payload}.`,
      `${header}.${payload}.${signature}.`,
      `${header}.${payload}.${signature}.x.y`,
      `.${payload}.${signature}`,
      `${header}..${signature}`,
      ` ${header}.${payload}.${signature}`,
      `${header}.${payload}.${signature} `,
    ]) {
      assert.equal(verify(text), 'malformed', text);
    }
  });

  it('takes base64url in its one spelling only', () => {
    const last = signature.at(-1) as string;
    // 64 bytes leave two bits over in the last character: another character may decode to the same bytes.
    const twin = String.fromCharCode(last.charCodeAt(0) + 1);
    for (const changed of [
      `${signature}=`,
      `${signature}\n`,
      signature.replaceAll('-', '+').replaceAll('_', '/').padEnd(88, '='),
      `${signature.slice(0, -1)}${twin}`,
    ]) {
      assert.equal(verify(`${header}.${payload}.${changed}`), 'malformed', changed);
    }
  });

  it('refuses crit and b64, whatever they say', () => {
    for (const more of [{ crit: ['exp'], exp: NOW }, { crit: [] }, { b64: false }, { b64: true, crit: ['b64'] }]) {
      assert.equal(verify(token({ header: more })), 'critical-header');
    }
  });

  it('refuses repeated names, in the header and in any depth of the payload, however they are escaped', () => {
    assert.equal(verify(token({ rawHeader: '{"alg":"none","alg":"ES256"}' })), 'malformed');
    for (const text of [
      `{"iss":"x","iss":"${ISSUER}"}`,
      `{"iss":"${ISSUER}","\\u0069ss":"x"}`,
      `{"iss":"${ISSUER}","a":[{"b":1,"b":1}]}`,
    ]) {
      assert.equal(verify(token({ payload: text })), 'malformed', text);
    }
  });

  it('refuses what is not one JSON object of UTF-8, or too deep', () => {
    const deep = `{"iss":"${ISSUER}","a":${'['.repeat(40)}${']'.repeat(40)}}`;
    for (const text of [
      '[]',
      '"x"',
      'null',
      '1',
      `{"iss":"${ISSUER}",}`,
      `{"iss":"${ISSUER}"} x`,
      `{"iss":'x'}`,
      `{"a":01}`,
      `{"a":NaN}`,
      deep,
    ]) {
      assert.equal(verify(token({ payload: text })), 'malformed', text.slice(0, 60));
    }
    const latin = Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xff, 0x22, 0x7d]).toString('base64url');
    assert.equal(verify(`${header}.${latin}.${signature}`), 'malformed');
  });

  it('refuses a token over 16 KiB unread', () => {
    assert.equal(verify(token({ payload: { ...CLAIMS, pad: 'x'.repeat(16_384) } })), 'too-large');
    accepted(token({ payload: { ...CLAIMS, pad: 'x'.repeat(8_192) } }));
  });

  it('accepts nothing but what was signed, whatever is changed in the text', () => {
    const good = token();
    const verifying = verifier();
    const rules = ruleSet({ jwks: ALL_KEYS });
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.string({ minLength: 0, maxLength: 3 }), fc.nat(2), (at, text, drop) => {
        const changed = good.slice(0, at) + text + good.slice(at + drop);
        const outcome = verifying.verify(rules, 0, changed);
        assert.ok(changed === good || 'failure' in outcome, changed);
      }),
      { numRuns: 300 },
    );
  });
});

function withTimes(claims: Record<string, number>): VerifiedToken | TokenFailureReason {
  return verify(token({ payload: { ...CLAIMS, ...claims } }));
}

describe('claims', () => {
  it('chooses the rule by iss, to the letter', () => {
    for (const iss of [`${ISSUER}/`, ISSUER.toUpperCase(), 'https://other.example']) {
      assert.equal(verify(token({ payload: { ...CLAIMS, iss } })), 'issuer', iss);
    }
    for (const iss of [undefined, '', 7, [ISSUER]]) assert.equal(verify(token({ payload: { ...CLAIMS, iss } })), 'claims');
  });

  it('allows a minute of difference between clocks, and no more', () => {
    assert.equal(typeof withTimes({ exp: NOW - 59 }), 'object');
    assert.equal(withTimes({ exp: NOW - 60 }), 'expired');
    assert.equal(typeof withTimes({ nbf: NOW + 60 }), 'object');
    assert.equal(withTimes({ nbf: NOW + 61 }), 'not-yet-valid');
    assert.equal(withTimes({ iat: NOW + 61 }), 'not-yet-valid');
    const { exp: _, ...eternal } = CLAIMS;
    accepted(token({ payload: eternal }));
  });

  it('refuses registered claims of the wrong type', () => {
    for (const wrong of [
      { exp: `${NOW + 60}` },
      { exp: null },
      { nbf: -1 },
      { iat: true },
      { sub: 1 },
      { aud: 1 },
      { aud: ['a', 1] },
      { aud: { a: 1 } },
    ]) {
      assert.equal(verify(token({ payload: { ...CLAIMS, ...wrong } })), 'claims', JSON.stringify(wrong));
    }
    assert.equal(verify(token({ payload: `{"iss":"${ISSUER}","exp":1e999}` })), 'claims');
  });

  it('asks for any of the audiences, when the rule names some', () => {
    const rule = { audiences: ['a', 'b'] };
    accepted(token({ payload: { ...CLAIMS, aud: 'b' } }), rule);
    accepted(token({ payload: { ...CLAIMS, aud: ['x', 'a'] } }), rule);
    for (const aud of [undefined, 'c', [], 'A', 'ab']) assert.equal(verify(token({ payload: { ...CLAIMS, aud } }), rule), 'audience');
    assert.deepEqual(accepted(token({ payload: { ...CLAIMS, aud: 'c' } })).identity.audiences, ['c']);
  });

  it('makes the identity that policy knows', () => {
    const { identity } = accepted(
      token({ payload: { ...CLAIMS, azp: 'app', scope: 'read  write', permission: 'x', groups: ['g'], nested: { scope: 'a b' } } }),
    );
    assert.equal(identity.issuer, ISSUER);
    assert.equal(identity.subject, 'ann');
    assert.equal(identity.principal, `${ISSUER}/ann`);
    assert.equal(identity.presenter, 'app');
    assert.deepEqual(identity.claims['scope'], ['read', 'write']);
    assert.deepEqual(identity.claims['permission'], ['x']);
    assert.deepEqual(identity.claims['groups'], ['g']);
    assert.deepEqual({ ...(identity.claims['nested'] as object) }, { scope: 'a b' });
    const { sub: _, ...nobody } = CLAIMS;
    assert.equal(accepted(token({ payload: nobody })).identity.subject, null);
  });

  it('has no claims but those in the token', () => {
    const { claims } = accepted(token({ payload: `{"iss":"${ISSUER}","a":{},"__proto__":{"admin":"yes"}}` })).identity;
    for (const name of ['constructor', 'toString', 'admin']) {
      assert.equal(claims[name], undefined);
      assert.equal((claims['a'] as Record<string, unknown>)[name], undefined);
    }
  });

  it('puts payload and claims into the headers that the rule names', () => {
    const rule = {
      outputPayloadToHeader: 'X-Payload',
      outputClaimToHeaders: [
        { header: 'X-Sub', claim: 'sub' },
        { header: 'X-Role', claim: 'realm.role' },
        { header: 'X-Groups', claim: 'groups' },
        { header: 'X-Age', claim: 'age' },
        { header: 'X-Scope', claim: 'scope' },
        { header: 'X-None', claim: 'none' },
        { header: 'X-Evil', claim: 'evil' },
        { header: 'X-Name', claim: 'name' },
        { header: 'Content-Length', claim: 'age' },
        { header: 'Transfer_Encoding', claim: 'age' },
      ],
    };
    const text = token({
      payload: { ...CLAIMS, realm: { role: 'admin' }, groups: ['a'], age: 7, scope: 'a b', evil: 'x\r\ny: z', name: 'Zoë' },
    });
    assert.deepEqual(accepted(text, rule).outputHeaders, [
      ['x-payload', text.split('.')[1]],
      ['x-sub', 'ann'],
      ['x-role', 'admin'],
      ['x-groups', Buffer.from('["a"]').toString('base64url')],
      ['x-age', '7'],
      ['x-scope', 'a b'],
      ['x-name', Buffer.from('Zoë').toString('latin1')],
    ]);
  });

  it('makes no header of a number that is not the one in the token', () => {
    const names = ['id', 'huge', 'inside', 'half', 'largest'];
    const rule = { outputClaimToHeaders: names.map((claim) => ({ header: `x-${claim}`, claim })) };
    // 2^53 + 1 is read as 2^53: the header would name another user.
    const numbers = '"id":9007199254740993,"huge":1e400,"inside":{"ids":[1,9007199254740993]},"half":0.5,"largest":9007199254740991';
    const text = token({ payload: JSON.stringify(CLAIMS).replace(/}$/, `,${numbers}}`) });
    assert.deepEqual(accepted(text, rule).outputHeaders, [
      ['x-half', '0.5'],
      ['x-largest', '9007199254740991'],
    ]);
  });

  it('lets any rule of the issuer accept, and says which refused first', () => {
    const rules = ruleSet({ jwks: jwks(jwk('P-256/x')) }, { jwks: ALL_KEYS, audiences: ['a'] });
    const outcome = verifier().verify(rules, 0, token({ payload: { ...CLAIMS, aud: 'a' } }));
    assert.equal((outcome as VerifiedToken).rule, 1);
    assert.deepEqual(verifier().verify(rules, 0, token()), { failure: 'signature', authentication: 'shop/jwt' });
  });

  it('takes tokens of an issuer only where its rule looks', () => {
    const rules = ruleSet({ jwks: ALL_KEYS, fromHeaders: [{ name: 'x-a', prefix: '' }] }, { issuer: 'other', jwks: ALL_KEYS });
    const place = (name: string): number => rules.headers.find((each) => each.name === name)?.forms[0]?.location ?? -1;
    assert.ok('identity' in verifier().verify(rules, place('x-a'), token()));
    assert.deepEqual(verifier().verify(rules, place('authorization'), token()), { failure: 'issuer', authentication: null });
  });
});

function counted(
  keys: KeySource,
  now: () => number = () => NOW * 1000,
  cache: TokenCache = new TokenCache(),
): { events: string[]; verifier: JwtVerifier } {
  const events: string[] = [];
  return { events, verifier: new JwtVerifier({ keys, now, cache, count: (event) => events.push(event) }) };
}

describe('tokens seen before', () => {
  it('are the same object, without another signature check', () => {
    const { events, verifier: verifying } = counted(inlineKeys());
    const rules = ruleSet({ jwks: ALL_KEYS });
    const first = verifying.verify(rules, 0, token());
    // ECDSA signs anew each time: ask with the very text.
    const text = token();
    assert.notEqual(verifying.verify(rules, 0, text), first);
    assert.equal(verifying.verify(rules, 0, text), verifying.verify(rules, 0, text));
    assert.deepEqual(events, ['verified', 'verified', 'cached', 'cached']);
  });

  it('expire', () => {
    let now = NOW;
    const { verifier: verifying } = counted(inlineKeys(), () => now * 1000);
    const rules = ruleSet({ jwks: ALL_KEYS });
    const text = token();
    verifying.verify(rules, 0, text);
    now = (CLAIMS['exp'] as number) + 60;
    assert.deepEqual(verifying.verify(rules, 0, text), { failure: 'expired', authentication: null });
  });

  it('are verified again with other keys, and refused without', () => {
    let keys: KeySet | null = KeySet.parse(ALL_KEYS);
    const { events, verifier: verifying } = counted({ keys: () => keys, refresh: () => null });
    const rules = ruleSet({ jwksUri: 'https://issuer.example/keys' });
    const text = token();
    verifying.verify(rules, 0, text);
    keys = KeySet.parse(ALL_KEYS);
    verifying.verify(rules, 0, text);
    keys = KeySet.parse(jwks(jwk('P-256/next')));
    verifying.verify(rules, 0, text);
    keys = null;
    verifying.verify(rules, 0, text);
    assert.deepEqual(events, ['verified', 'verified', 'signature', 'keys-unavailable']);
  });

  it('count for the rules they were verified by alone', () => {
    const shared = KeySet.parse(ALL_KEYS);
    const { verifier: verifying } = counted({
      keys: (rule) => (rule.jwks === ALL_KEYS ? shared : KeySet.parse(rule.jwks ?? '')),
      refresh: () => null,
    });
    const text = token();
    assert.ok('identity' in verifying.verify(ruleSet({ jwks: ALL_KEYS }), 0, text));
    assert.ok('failure' in verifying.verify(ruleSet({ jwks: ALL_KEYS, issuer: 'other' }), 0, text));
    assert.ok('failure' in verifying.verify(ruleSet({ jwks: ALL_KEYS, audiences: ['a'] }), 0, text));
    assert.ok('failure' in verifying.verify(ruleSet({ jwks: jwks(jwk('P-256/x')) }), 0, text));
  });

  it('stay known when a snapshot brings the same rules again', () => {
    const { events, verifier: verifying } = counted(inlineKeys());
    const text = token();
    for (let i = 0; i < 2; i++) verifying.verify(ruleSet({ jwks: ALL_KEYS }), 0, text);
    assert.deepEqual(events, ['verified', 'cached']);
  });

  it('take bounded memory, the oldest forgotten first', () => {
    const cache = new TokenCache(3, 1_000_000);
    const { events, verifier: verifying } = counted(inlineKeys(), () => NOW * 1000, cache);
    const rules = ruleSet({ jwks: ALL_KEYS });
    const texts = Array.from({ length: 4 }, () => token());
    for (const text of texts) verifying.verify(rules, 0, text);
    assert.equal(cache.count, 3);
    verifying.verify(rules, 0, texts[3] as string);
    verifying.verify(rules, 0, texts[0] as string);
    assert.deepEqual(events.slice(4), ['cached', 'verified']);
    const small = new TokenCache(100, 500);
    const { verifier: other } = counted(inlineKeys(), () => NOW * 1000, small);
    for (const text of texts) other.verify(rules, 0, text);
    assert.ok(small.count < 4);
  });
});
