import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { JwtIdentity, RequestAttributes } from '../../../src/model/policy.ts';
import { DEFAULT_MESH_SETTINGS, type MeshSettings } from '../../../src/model/resources.ts';
import type { TokenFailure, TokenVerifier, VerifiedToken } from '../../../proxy/jwt/token-verifier.ts';
import { PolicyGate } from '../../../proxy/gate/request-gate.ts';
import { ALLOWED, authorisers, CONNECTION, DENIED, forwarded, gate, head, jwtRule, policy, provider } from './fixtures.ts';

const JWT: JwtIdentity = { issuer: 'i', subject: 's', principal: 'i/s', audiences: [], presenter: null, claims: {} };
const CUSTOM = { policy: 'shop/ask', rule: 2, provider: 'authz', dryRun: false };

function verifier(outcome: VerifiedToken | TokenFailure | Promise<VerifiedToken | TokenFailure>): TokenVerifier & { asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    verify: (_rules, _location, token) => {
      asked.push(token);
      return outcome;
    },
  };
}

const accepted: VerifiedToken = { identity: JWT, rule: 0, outputHeaders: [] };
const authentication = { name: 'shop/jwt', rules: [jwtRule()] };
const bearer = head([['authorization', 'Bearer a.b.c']]);

describe('a gate with policy alone', () => {
  it('gives the very same answer for the same decision, with nothing to change', () => {
    const asking = gate();
    const first = asking.ask(head());
    assert.equal(asking.ask(head([], { path: '/other' })), first);
    assert.deepEqual(first, { decision: ALLOWED, refusal: null, change: null, shadow: [] });
    const current = policy();
    assert.equal(new PolicyGate(() => current, CONNECTION).ask(head()), first);
  });

  it('shows policy the request, and lets go of it afterwards', () => {
    let seen: RequestAttributes | null = null;
    const asking = policy({
      decide: (attributes) => {
        seen = attributes;
        assert.equal(attributes.method, 'POST');
        assert.equal(attributes.path, '/x');
        assert.equal(attributes.host, 'items.shop');
        assert.deepEqual(attributes.header('a'), ['1', '2']);
        assert.equal(attributes.remoteAddress, '10.1.2.3');
        assert.equal(attributes.jwt, null);
        return ALLOWED;
      },
    });
    const request = head(
      [
        ['a', '1'],
        ['a', '2'],
      ],
      { method: 'POST', path: '/x' },
    );
    gate({ policy: () => asking }).ask(request);
    assert.deepEqual((seen as RequestAttributes | null)?.header('a'), []);
  });

  it('refuses when policy throws', () => {
    const broken = policy({
      decide: () => {
        throw new Error('bug');
      },
    });
    for (const asking of [gate({ policy: () => broken }), new PolicyGate(() => broken, CONNECTION)]) {
      const answer = asking.ask(head());
      assert.ok(!(answer instanceof Promise));
      assert.equal(answer.decision.verdict, 'deny');
    }
  });

  it('records what dry-run and AUDIT policies say, whatever the decision', () => {
    const shadow = [{ policy: 'shop/try', rule: 1, effect: 'deny' as const, reason: 'matched a DENY rule' }];
    for (const decision of [ALLOWED, DENIED]) {
      const asking = policy({ decide: () => decision, shadow: () => shadow });
      assert.deepEqual(gate({ policy: () => asking }).ask(head()), { decision, refusal: null, change: null, shadow });
    }
  });

  it('does not fail a request because a dry-run policy does', () => {
    const asking = policy({
      shadow: () => {
        throw new Error('bug');
      },
    });
    const answer = gate({ policy: () => asking }).ask(head());
    assert.ok(!(answer instanceof Promise));
    assert.equal(answer.decision, ALLOWED);
  });
});

describe('what may be remembered', () => {
  it('is the answer while the policy and the mesh stay as they are', () => {
    const first = policy();
    let current = first;
    const asking = gate({ policy: () => current });
    const basis = asking.basis();
    assert.notEqual(basis, null);
    assert.equal(asking.basis(), basis);
    current = policy();
    assert.notEqual(asking.basis(), basis);
    const second = asking.basis();
    asking.update([], { ...DEFAULT_MESH_SETTINGS, trustedForwardedHops: 1 });
    assert.notEqual(asking.basis(), second);
  });

  it('is nothing where tokens expire or a provider is asked', () => {
    assert.equal(gate({ authentications: [authentication] }).basis(), null);
    const custom = policy({ custom: () => null });
    assert.equal(gate({ policy: () => custom }).basis(), null);
  });
});

function hops(trustedForwardedHops: number): MeshSettings {
  return { ...DEFAULT_MESH_SETTINGS, trustedForwardedHops };
}

async function remoteAddress(trusted: number, values: readonly string[]): Promise<string> {
  let seen = '';
  const asking = policy({
    decide: (attributes) => {
      seen = attributes.remoteAddress;
      return ALLOWED;
    },
  });
  await gate({ policy: () => asking, settings: hops(trusted) }).ask(head(values.map((value) => ['x-forwarded-for', value])));
  return seen;
}

describe('header trust', () => {
  it('does not believe X-Forwarded-For unless hops are trusted', async () => {
    assert.equal(await remoteAddress(0, ['192.0.2.1']), '10.1.2.3');
    assert.equal(await remoteAddress(1, ['192.0.2.1']), '192.0.2.1');
  });

  it('takes the entry that the furthest trusted proxy wrote, counted from the right over all fields', async () => {
    assert.equal(await remoteAddress(1, ['203.0.113.9, 192.0.2.1']), '192.0.2.1');
    assert.equal(await remoteAddress(2, ['203.0.113.9, 192.0.2.1']), '203.0.113.9');
    assert.equal(await remoteAddress(2, ['203.0.113.9 ,198.51.100.7', '192.0.2.1']), '198.51.100.7');
    assert.equal(await remoteAddress(3, ['203.0.113.9', '192.0.2.1']), '10.1.2.3');
  });

  it('falls back to the peer for what is not a plain address', async () => {
    for (const entry of ['unknown', '192.0.2.1:80', '[2001:db8::1]', '192.0.2.01', 'fe80::1%eth0', '', '1.2.3', '0x7f.1']) {
      assert.equal(await remoteAddress(1, [`203.0.113.9,${entry}`]), '10.1.2.3', entry);
    }
  });

  it('writes addresses in canonical text', async () => {
    assert.equal(await remoteAddress(1, ['2001:DB8:0:0::1']), '2001:db8::1');
    assert.equal(await remoteAddress(1, ['::ffff:192.0.2.1']), '192.0.2.1');
    assert.equal(await remoteAddress(1, ['::ffff:c000:201']), '192.0.2.1');
  });

  it('appends the peer to an X-Forwarded-For that is there, as one field, and makes none', async () => {
    const request = head([
      ['x-forwarded-for', '192.0.2.1'],
      ['accept', '*/*'],
      ['x-forwarded-for', '192.0.2.2'],
    ]);
    assert.deepEqual(forwarded(request, await gate().ask(request)), [
      ['accept', '*/*'],
      ['x-forwarded-for', '192.0.2.1, 192.0.2.2, 10.1.2.3'],
    ]);
    assert.equal((await gate().ask(head([['accept', '*/*']]))).change, null);
  });

  it('changes nothing of a request that is refused', async () => {
    const denying = policy({ decide: () => DENIED });
    const answer = await gate({ policy: () => denying }).ask(head([['x-weft-a', 'b']]));
    assert.deepEqual([answer.decision, answer.change], [DENIED, null]);
  });

  it('removes all of it also with underscores, which HTTP/2 lets through and many an application takes for the same', async () => {
    const request = head([
      ['x_forwarded_client_cert', 'URI=spiffe://cluster.local/ns/shop/sa/admin'],
      ['x_weft-a', 'b'],
      ['x_forwarded-for', '192.0.2.1'],
      ['x_other', 'c'],
    ]);
    assert.deepEqual(forwarded(request, await gate().ask(request)), [['x_other', 'c']]);
    const both = head([
      ['x_forwarded_for', '192.0.2.7'],
      ['x-forwarded-for', '192.0.2.1'],
    ]);
    assert.deepEqual(forwarded(both, await gate().ask(both)), [['x-forwarded-for', '192.0.2.1, 10.1.2.3']]);
  });

  it('removes what speaks for the mesh', async () => {
    const request = head([
      ['x-forwarded-client-cert', 'By=spiffe://evil'],
      ['x-weft-identity', 'spiffe://evil'],
      ['x-weft-denied-by', 'nobody'],
      ['x-forwarded-proto', 'https'],
      ['x-weather', 'sunny'],
    ]);
    assert.deepEqual(forwarded(request, await gate().ask(request)), [
      ['x-forwarded-proto', 'https'],
      ['x-weather', 'sunny'],
    ]);
  });

  it('does not look when the codec knows that there is nothing', () => {
    const request = {
      ...head([], { hasTrustHeaders: false }),
      headers: () => assert.fail('a pass over the headers'),
    };
    gate({ settings: hops(1) }).ask(request);
  });

  it('removes output headers of a RequestAuthentication from clients, token or not', async () => {
    const rule = jwtRule({ outputPayloadToHeader: 'X-Payload', outputClaimToHeaders: [{ header: 'X-Role', claim: 'role' }] });
    const request = head([
      ['x-payload', 'forged'],
      ['x-role', 'admin'],
      ['x-role', 'root'],
      // Many an application takes them for the same.
      ['x_role', 'admin'],
      ['x_payload', 'forged'],
      ['a', 'b'],
    ]);
    const answer = await gate({ authentications: [{ name: 'shop/jwt', rules: [rule] }] }).ask(request);
    assert.deepEqual(forwarded(request, answer), [['a', 'b']]);
  });

  it('removes them as sloppy servers read them, and from trailers, which no gate sees', async () => {
    const rule = jwtRule({ outputClaimToHeaders: [{ header: 'X-Role', claim: 'role' }] });
    const answer = await gate({ authentications: [{ name: 'shop/jwt', rules: [rule] }] }).ask(head([['x_role', 'admin']]));
    assert.deepEqual(answer.change?.remove, ['x-role']);
  });
});

describe('authentication', () => {
  it('lets a request without a token pass, without an identity', async () => {
    const asking = policy({ decide: ({ jwt }) => (jwt === null ? DENIED : ALLOWED) });
    const answer = await gate({ policy: () => asking, authentications: [authentication], tokens: verifier(accepted) }).ask(head());
    assert.equal(answer.decision, DENIED);
    assert.equal(answer.refusal, null);
  });

  it('shows policy who the token names, at once or later', async () => {
    for (const outcome of [accepted, Promise.resolve(accepted)]) {
      const asking = policy({ decide: ({ jwt }) => (jwt === JWT ? ALLOWED : DENIED) });
      const answer = await gate({ policy: () => asking, authentications: [authentication], tokens: verifier(outcome) }).ask(bearer);
      assert.equal(answer.decision, ALLOWED);
    }
  });

  it('answers a bad token 401 with a challenge, before policy is asked', async () => {
    const asking = policy({ decide: () => assert.fail('policy was asked') });
    for (const outcome of [
      { failure: 'expired', authentication: 'shop/jwt' } as const,
      Promise.resolve({ failure: 'expired', authentication: 'shop/jwt' } as const),
    ]) {
      const { decision, refusal, change } = await gate({
        policy: () => asking,
        authentications: [authentication],
        tokens: verifier(outcome),
      }).ask(bearer);
      assert.deepEqual(decision, { verdict: 'deny', policy: 'shop/jwt', rule: null, reason: 'the token has expired' });
      assert.equal(refusal?.status, 401);
      assert.deepEqual(refusal?.headers[0], [
        'www-authenticate',
        'Bearer realm="weft", error="invalid_token", error_description="the token has expired"',
      ]);
      assert.equal(change, null);
    }
  });

  it('refuses several tokens in one request', async () => {
    const two = [
      head([
        ['authorization', 'Bearer a.b.c'],
        ['authorization', 'Bearer d.e.f'],
      ]),
      head([['authorization', 'Bearer a.b.c']], { query: 'access_token=d.e.f' }),
      head([], { query: 'access_token=a&access_token=b' }),
    ];
    for (const request of two) {
      const answer = await gate({ authentications: [authentication], tokens: verifier(accepted) }).ask(request);
      assert.equal(answer.refusal?.status, 401);
    }
  });

  it('refuses tokens where nobody can verify them', async () => {
    assert.equal((await gate({ authentications: [authentication] }).ask(bearer)).refusal?.status, 401);
  });

  it('refuses when the verifier breaks', async () => {
    const thrown = { verify: () => Promise.reject(new Error('bug')) };
    const answer = await gate({ authentications: [authentication], tokens: thrown }).ask(bearer);
    assert.equal(answer.decision.verdict, 'deny');
  });

  it('takes the token out of what the application gets, and leaves what is not the token', async () => {
    const request = head([
      ['authorization', 'Basic abc'],
      ['authorization', 'bearer a.b.c'],
      ['a', 'b'],
    ]);
    const tokens = verifier(accepted);
    const answer = await gate({ authentications: [authentication], tokens }).ask(request);
    assert.deepEqual(tokens.asked, ['a.b.c']);
    assert.deepEqual(forwarded(request, answer), [
      ['a', 'b'],
      ['authorization', 'Basic abc'],
    ]);
    const kept = gate({ authentications: [{ name: 'x', rules: [jwtRule({ forwardOriginalToken: true })] }], tokens: verifier(accepted) });
    assert.equal((await kept.ask(request)).change, null);
  });

  it('takes a token out of the cookies and leaves the others', async () => {
    const rules = [jwtRule({ fromCookies: ['session'] })];
    const request = head([['cookie', 'a=1; session=x.y.z; b=2']]);
    const answer = await gate({ authentications: [{ name: 'x', rules }], tokens: verifier(accepted) }).ask(request);
    assert.deepEqual(forwarded(request, answer), [['cookie', 'a=1; b=2']]);
  });

  it("puts the rule's outputs in place of whatever the client sent", async () => {
    const rules = [jwtRule({ outputPayloadToHeader: 'x-payload', forwardOriginalToken: true })];
    const request = head([
      ['authorization', 'Bearer a.b.c'],
      ['x-payload', 'forged'],
    ]);
    const tokens = verifier({ ...accepted, outputHeaders: [['x-payload', 'true']] });
    const answer = await gate({ authentications: [{ name: 'x', rules }], tokens }).ask(request);
    assert.deepEqual(forwarded(request, answer), [
      ['authorization', 'Bearer a.b.c'],
      ['x-payload', 'true'],
    ]);
  });

  it('shows policy and providers the headers that the application gets, not those that a client forged', async () => {
    const rules = [jwtRule({ outputClaimToHeaders: [{ header: 'x-role', claim: 'role' }] })];
    const forged = [
      ['x-role', 'admin'],
      ['x-forwarded-client-cert', 'URI=spiffe://cluster.local/ns/shop/sa/admin'],
      ['x-weft-a', 'b'],
      ['x-kept', 'c'],
    ] as const;
    for (const [headers, expected] of [
      [forged, []],
      [[...forged, ['authorization', 'Bearer a.b.c']], ['user']],
    ] as const) {
      const seen: string[][] = [];
      const look = ({ header }: Pick<RequestAttributes, 'header'>): void => {
        for (const name of ['x-role', 'x-forwarded-client-cert', 'x-weft-a', 'x-kept']) seen.push([name, ...header(name)]);
      };
      const looking = policy({
        custom: (attributes) => (look(attributes), CUSTOM),
        decide: (attributes) => (look(attributes), ALLOWED),
        shadow: (attributes) => (look(attributes), []),
      });
      const provided: (readonly [string, string])[] = [];
      const answer = await gate({
        policy: () => looking,
        authentications: [{ name: 'x', rules }],
        tokens: verifier({ ...accepted, outputHeaders: [['x-role', 'user']] }),
        settings: { ...DEFAULT_MESH_SETTINGS, extensionProviders: [provider()] },
        authorisers: {
          check: async (_, asked) => {
            look({ header: (name) => asked.header(name) });
            provided.push(...asked.headers());
            return { allow: true, failed: false, reason: '', change: { remove: [], set: [['x-asked', 'yes']] }, refusal: null };
          },
        },
      }).ask(head(headers));
      const once = [['x-role', ...expected], ['x-forwarded-client-cert'], ['x-weft-a'], ['x-kept', 'c']];
      assert.deepEqual(seen, [...once, ...once, ...once, ...once]);
      assert.deepEqual(provided, [['x-kept', 'c'], ...expected.map((role) => ['x-role', role])]);
      assert.deepEqual(forwarded(head(headers), answer), [...provided, ['x-asked', 'yes']]);
    }
  });

  it('does not work for a peer that can be allowed nothing', async () => {
    const tokens = verifier(accepted);
    const denying = policy({ scope: 'deny', decide: () => DENIED, custom: () => CUSTOM });
    const answer = await gate({ policy: () => denying, authentications: [authentication], tokens }).ask(bearer);
    assert.equal(answer.decision, DENIED);
    assert.deepEqual(tokens.asked, []);
  });

  it('decides by the policy in force when the token is verified, not by an older one', async () => {
    let current = policy();
    const pending = Promise.withResolvers<VerifiedToken>();
    const answer = gate({ policy: () => current, authentications: [authentication], tokens: verifier(pending.promise) }).ask(bearer);
    current = policy({ decide: () => DENIED });
    pending.resolve(accepted);
    assert.equal((await answer).decision, DENIED);
  });

  it('keeps requests apart that wait at the same time', async () => {
    const pending = [Promise.withResolvers<VerifiedToken>(), Promise.withResolvers<VerifiedToken>()];
    const asking = policy({ decide: ({ path, jwt }) => (jwt?.subject === path ? ALLOWED : DENIED) });
    const tokens: TokenVerifier = { verify: (_rules, _location, token) => (pending[Number(token)] as (typeof pending)[0]).promise };
    const asked = gate({ policy: () => asking, authentications: [authentication], tokens });
    const answers = ['/0', '/1'].map((path, i) => asked.ask(head([['authorization', `Bearer ${i}`]], { path })));
    pending[1]?.resolve({ ...accepted, identity: { ...JWT, subject: '/1' } });
    pending[0]?.resolve({ ...accepted, identity: { ...JWT, subject: '/0' } });
    assert.deepEqual(
      (await Promise.all(answers)).map(({ decision }) => decision),
      [ALLOWED, ALLOWED],
    );
  });
});

describe('external authorisation', () => {
  const settings = { ...DEFAULT_MESH_SETTINGS, extensionProviders: [provider()] };
  const asking = policy({ custom: ({ path }) => (path === '/items' ? CUSTOM : null) });

  it('asks only for what a CUSTOM rule matches', async () => {
    const authz = authorisers({ allow: false });
    const asked = gate({ policy: () => asking, settings, authorisers: authz });
    assert.equal((await asked.ask(head([], { path: '/open' }))).decision, ALLOWED);
    assert.equal(authz.asked, 0);
    const { decision } = await asked.ask(head());
    assert.deepEqual(decision, { verdict: 'deny', policy: 'shop/ask', rule: 2, reason: 'said so' });
  });

  it("gives the client the provider's answer", async () => {
    const refusal = { status: 302, headers: [['location', '/login']] as const, body: '' };
    const answer = await gate({ policy: () => asking, settings, authorisers: authorisers({ allow: false, refusal }) }).ask(head());
    assert.equal(answer.refusal, refusal);
  });

  it('changes the request as the provider says, and policy still decides', async () => {
    const change = { remove: ['cookie'], set: [['x-user', 'ann']] as const };
    const request = head([
      ['cookie', 'a'],
      ['x-user', 'root'],
      ['x-weft-a', 'b'],
    ]);
    const authz = authorisers({ change: { ...change, remove: ['cookie', 'x-user'] } });
    const answer = await gate({ policy: () => asking, settings, authorisers: authz }).ask(request);
    assert.deepEqual(forwarded(request, answer), [['x-user', 'ann']]);
    const denying = policy({ custom: () => CUSTOM, decide: () => DENIED });
    assert.equal((await gate({ policy: () => denying, settings, authorisers: authz }).ask(request)).decision, DENIED);
  });

  it('refuses when there is no such provider, nobody to ask, or asking breaks', async () => {
    const broken = authorisers(() => Promise.reject(new Error('bug')));
    for (const options of [
      { settings: DEFAULT_MESH_SETTINGS, authorisers: authorisers({}) },
      { settings, authorisers: null },
      { settings, authorisers: broken },
    ]) {
      assert.equal((await gate({ policy: () => asking, ...options }).ask(head())).decision.verdict, 'deny');
    }
  });

  it('only records what a dry-run CUSTOM policy would have refused', async () => {
    const dry = policy({ custom: () => ({ ...CUSTOM, dryRun: true }) });
    const change = { remove: [], set: [['x-user', 'ann']] as const };
    const denied = await gate({ policy: () => dry, settings, authorisers: authorisers({ allow: false }) }).ask(head());
    assert.equal(denied.decision, ALLOWED);
    assert.deepEqual(denied.shadow, [{ policy: 'shop/ask', rule: 2, effect: 'deny', reason: 'said so' }]);
    const allowed = await gate({ policy: () => dry, settings, authorisers: authorisers({ change }) }).ask(head());
    assert.deepEqual([allowed.change, allowed.shadow], [null, []]);
  });

  it('asks again when the policy changed meanwhile, and gives up when it never stays', async () => {
    let current = policy({ custom: () => CUSTOM });
    const authz = authorisers(async () => {
      current = policy({ custom: () => CUSTOM });
      return { allow: true, failed: false, reason: '', change: null, refusal: null };
    });
    const answer = await gate({ policy: () => current, settings, authorisers: authz }).ask(head());
    assert.equal(answer.decision.verdict, 'deny');
    assert.ok(authz.asked > 1 && authz.asked < 10);
  });
});
