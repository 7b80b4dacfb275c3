import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';
import { jwtRule, provider } from '../../unit/gate/fixtures.ts';
import { ISSUER, jwk, jwks, token } from '../../unit/jwt/token-factory.ts';
import { type Answer, GateWorld } from './gate-world.ts';

const inAnHour = Math.floor(Date.now() / 1000) + 3600;

function entry(action: PolicyEntry['action'], rule: Partial<PolicyEntry['rules'][0]>, more: Partial<PolicyEntry> = {}): PolicyEntry {
  const rules = [{ from: [], to: [], when: [], ...rule }];
  return { name: `shop/${action.toLowerCase()}`, action, rules, provider: null, dryRun: false, ...more };
}

function seen(answer: Answer): { url: string; headers: Record<string, string> } {
  assert.equal(answer.status, 200, answer.body);
  return JSON.parse(answer.body) as { url: string; headers: Record<string, string> };
}

function bearer(claims: Record<string, unknown>, key = 'P-256/one'): { authorization: string } {
  return {
    authorization: `Bearer ${token({ key, header: { kid: key }, payload: { iss: ISSUER, sub: 'ann', exp: inAnHour, ...claims } })}`,
  };
}

const key = (name: string): Record<string, unknown> => jwk(name, { kid: name, use: 'sig' });

describe('requests with tokens', () => {
  const onlyReaders = entry('ALLOW', { when: [{ key: 'request.auth.claims[scope]', values: ['read'] }] });

  it('are decided by claims of tokens that keys from the issuer verify, also after the keys rotate', async () => {
    let keys = jwks(key('P-256/one'));
    let fetches = 0;
    await using world = await GateWorld.open({ policies: [onlyReaders] });
    const port = await world.serve((_, response) => {
      fetches++;
      response.end(keys);
    });
    const jwksUri = `http://127.0.0.1:${port}/keys`;
    const rule = jwtRule({ jwksUri, audiences: ['items'], outputClaimToHeaders: [{ header: 'x-user', claim: 'sub' }] });
    world.mesh = { policies: [onlyReaders], authentications: [{ name: 'shop/jwt', rules: [rule] }] };
    world.store.setUris(new Set([jwksUri]));

    const good = bearer({ aud: 'items', scope: 'write read' });
    // Sloppy servers take `_` for `-`.
    const { headers } = seen(await world.get('/items', { ...good, 'x-user': 'root', x_user: 'root' }));
    assert.deepEqual([headers['x-user'], headers['x_user'], headers['authorization']], ['ann', undefined, undefined]);

    const wrongScope = await world.get('/items', bearer({ aud: 'items', scope: 'write' }));
    assert.deepEqual([wrongScope.status, wrongScope.headers['x-weft-denied-by']], [403, 'shop/allow']);
    const none = await world.get('/items');
    assert.equal(none.status, 403);
    const wrongAudience = await world.get('/items', bearer({ aud: 'other', scope: 'read' }));
    assert.equal(wrongAudience.status, 401);
    assert.match(wrongAudience.headers['www-authenticate'] ?? '', /^Bearer .*error="invalid_token"/);
    assert.equal(world.exchanges.at(-1)?.decision.policy, 'shop/jwt');
    const forged = await world.get('/items', bearer({ aud: 'items', scope: 'read' }, 'P-256/evil'));
    assert.equal(forged.status, 401);
    assert.equal(fetches, 1);

    // As if half a minute had passed since the last fetch.
    keys = jwks(key('P-256/two'));
    world.store.setUris(new Set());
    world.store.setUris(new Set([jwksUri]));
    await world.store.refresh(jwksUri);
    assert.equal(fetches, 2);
    assert.equal((await world.get('/items', bearer({ aud: 'items', scope: 'read' }, 'P-256/two'))).status, 200);
    assert.equal((await world.get('/items', good)).status, 401);
  });

  it('are refused while the issuer cannot be reached', async () => {
    const rule = jwtRule({ jwksUri: 'http://127.0.0.1:1/keys' });
    await using world = await GateWorld.open({ policies: [], authentications: [{ name: 'shop/jwt', rules: [rule] }] });
    assert.equal((await world.get('/items')).status, 200);
    const answer = await world.get('/items', bearer({}));
    assert.equal(answer.status, 401);
    assert.equal(answer.body, 'the keys of the issuer are not available\n');
    assert.match(world.keyFailures[0] ?? '', /could not be fetched/);
  });
});

describe('requests that an external authoriser is asked about', () => {
  const ask = entry('CUSTOM', { to: [{ paths: ['/admin*'] }] }, { provider: 'authz' });

  it('go on changed, are answered by the authoriser, or refused when it is away', async () => {
    await using world = await GateWorld.open({ policies: [ask] });
    const port = await world.serve((request, response) => {
      if (request.headers['cookie'] === 'session=ann') response.setHeader('x-user', 'ann').end();
      else response.writeHead(302, { location: '/login', 'x-private': '1' }).end('log in');
    });
    const authz = provider({
      port,
      includeRequestHeaders: ['cookie'],
      headersToUpstream: ['x-user'],
      headersToDownstream: ['location'],
    });
    world.mesh = { policies: [ask], settings: { extensionProviders: [authz] } };

    const { url, headers } = seen(await world.get('/admin/x?y=1', { cookie: 'session=ann', 'x-user': 'root' }));
    assert.deepEqual([url, headers['x-user']], ['/admin/x?y=1', 'ann']);
    const refused = await world.get('/admin', { cookie: 'none' });
    assert.deepEqual(
      [refused.status, refused.headers.location, refused.headers['x-private'], refused.body],
      [302, '/login', undefined, 'log in'],
    );
    assert.equal(seen(await world.get('/items', { 'x-user': 'me' })).headers['x-user'], 'me');

    world.mesh = { policies: [ask], settings: { extensionProviders: [{ ...authz, port: 1 }] } };
    assert.equal((await world.get('/admin', { cookie: 'session=ann' })).status, 403);
    world.mesh = { policies: [ask], settings: { extensionProviders: [] } };
    assert.equal((await world.get('/admin', { cookie: 'session=ann' })).status, 403);
    world.mesh = { policies: [ask], settings: { extensionProviders: [{ ...authz, port: 1, failOpen: true }] } };
    assert.equal(seen(await world.get('/admin', { 'x-user': 'root' })).headers['x-user'], undefined);
  });
});

describe('headers that clients may not write', () => {
  it('do not reach the application, and X-Forwarded-For tells the truth at its end', async () => {
    const office = entry('ALLOW', { from: [{ remoteIpBlocks: ['192.0.2.0/24'] }] });
    await using world = await GateWorld.open({ policies: [office], settings: { trustedForwardedHops: 1 } });
    const { headers } = seen(
      await world.get('/', {
        'x-forwarded-for': ['203.0.113.1', '192.0.2.7'],
        'x-forwarded-client-cert': 'By=evil',
        'x-weft-identity': 'evil',
      }),
    );
    assert.equal(headers['x-forwarded-for'], '203.0.113.1, 192.0.2.7, 10.1.2.3');
    assert.equal(headers['x-forwarded-client-cert'], undefined);
    assert.equal(headers['x-weft-identity'], undefined);
    assert.equal((await world.get('/', { 'x-forwarded-for': '192.0.2.7, 203.0.113.1' })).status, 403);
    world.mesh = { policies: [office] };
    assert.equal((await world.get('/', { 'x-forwarded-for': '192.0.2.7' })).status, 403);
  });
});
