import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseSpiffeId, workloadIdentity } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, JwtIdentity, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicySource } from '../../../src/model/resources.ts';
import { allow, compile, connection, deny, plaintext, request, rule } from './fixtures.ts';

function jwt(change: Partial<JwtIdentity> = {}): JwtIdentity {
  return {
    issuer: 'https://issuer.example/x',
    subject: 'alice',
    principal: 'https://issuer.example/x/alice',
    audiences: ['shop', 'bank'],
    presenter: 'app',
    claims: { group: 'admin', roles: ['reader', 7, 'writer'], deep: { er: { est: 'yes' } }, count: 3, scope: 'read write', note: 'a b' },
    ...change,
  };
}

function headers(values: Record<string, readonly string[]>): Partial<RequestAttributes> {
  return { header: (name) => values[name] ?? [] };
}

function conditionHolds(key: string, value: string, asked: Partial<RequestAttributes>, peer: Partial<ConnectionAttributes> = {}): boolean {
  const [positive, negative] = (
    [
      { key, values: [value] },
      { key, notValues: [value] },
    ] as const
  ).map(
    (condition) =>
      compile([allow('shop/p', rule([], [], [condition]))])
        .bind(connection(peer))
        .request(request(asked)).verdict === 'allow',
  );
  assert.notEqual(positive, negative, 'notValues are the opposite of values');
  return positive as boolean;
}

const outside = parseSpiffeId('spiffe://other.example/gateway');

describe('a condition', () => {
  const table: readonly (readonly [
    key: string,
    value: string,
    asked: Partial<RequestAttributes>,
    peer: Partial<ConnectionAttributes>,
    holds: boolean,
  ])[] = [
    ['request.headers[x-tier]', 'gold', headers({ 'x-tier': ['gold'] }), {}, true],
    ['request.headers[X-Tier]', 'gold', headers({ 'x-tier': ['gold'] }), {}, true],
    ['request.headers[x-tier]', 'gold', headers({ 'x-tier': ['Gold'] }), {}, false],
    ['request.headers[x-tier]', 'gold', headers({ 'x-tier': ['zzz', 'gold'] }), {}, true],
    ['request.headers[x-tier]', 'gold', headers({ 'x-tier': ['zzz,gold'] }), {}, false],
    ['request.headers[x-tier]', 'go*', headers({ 'x-tier': ['gold'] }), {}, true],
    ['request.headers[x-tier]', '*ld', headers({ 'x-tier': ['gold'] }), {}, true],
    ['request.headers[x-tier]', '*', headers({ 'x-tier': [''] }), {}, true],
    ['request.headers[x-tier]', '*', headers({}), {}, false],
    ['request.headers[x-tier]', 'gold', headers({}), {}, false],
    ['request.headers[host]', 'Items.Shop', { host: 'items.shop' }, {}, true],
    ['request.headers[:authority]', 'items.shop', { host: 'items.shop:80' }, {}, false],
    ['request.headers[:method]', 'GET', {}, {}, true],
    ['source.ip', '10.1.0.0/16', {}, {}, true],
    ['source.ip', '10.2.0.0/16', {}, {}, false],
    ['remote.ip', '192.0.2.0/24', { remoteAddress: '192.0.2.7' }, {}, true],
    ['remote.ip', '10.1.0.0/16', { remoteAddress: '192.0.2.7' }, {}, false],
    ['destination.ip', '10.9.9.9', {}, {}, true],
    ['destination.ip', 'fd00::/8', {}, {}, false],
    ['destination.port', '8080', {}, {}, true],
    ['destination.port', '808', {}, {}, false],
    ['source.namespace', 'sh*', {}, {}, true],
    ['source.namespace', '*', {}, { sourceIdentity: null }, false],
    ['source.serviceAccount', 'shop/web', {}, {}, true],
    ['source.serviceAccount', 'web', {}, {}, true],
    ['source.serviceAccount', 'data/web', {}, {}, false],
    ['source.principal', 'cluster.local/ns/shop/sa/web', {}, {}, true],
    ['source.principal', '*', {}, { sourceIdentity: null }, false],
    ['source.trustDomain', 'cluster.local', {}, {}, true],
    ['source.trustDomain', 'other*', {}, { sourceIdentity: outside }, true],
    ['source.trustDomain', 'cluster.local', {}, { sourceIdentity: outside }, false],
    ['connection.sni', 'A.example', {}, { serverName: 'a.EXAMPLE' }, true],
    ['connection.sni', '*', {}, { serverName: null }, false],
    ['request.auth.principal', 'https://issuer.example/x/alice', { jwt: jwt() }, {}, true],
    ['request.auth.principal', '*', {}, {}, false],
    ['request.auth.audiences', 'bank', { jwt: jwt() }, {}, true],
    ['request.auth.audiences', 'ban', { jwt: jwt() }, {}, false],
    ['request.auth.presenter', 'app', { jwt: jwt() }, {}, true],
    ['request.auth.presenter', '*', { jwt: jwt({ presenter: null }) }, {}, false],
    ['request.auth.claims[group]', 'admin', { jwt: jwt() }, {}, true],
    ['request.auth.claims[group]', 'adm*', { jwt: jwt() }, {}, true],
    ['request.auth.claims[group]', 'admin', {}, {}, false],
    ['request.auth.claims[roles]', 'writer', { jwt: jwt() }, {}, true],
    ['request.auth.claims[roles]', '7', { jwt: jwt() }, {}, false],
    ['request.auth.claims[deep][er][est]', 'yes', { jwt: jwt() }, {}, true],
    ['request.auth.claims[deep][er]', '*', { jwt: jwt() }, {}, false],
    ['request.auth.claims[count]', '*', { jwt: jwt() }, {}, false],
    ['request.auth.claims[scope]', 'write', { jwt: jwt() }, {}, true],
    ['request.auth.claims[note]', 'b', { jwt: jwt() }, {}, false],
    ['request.auth.claims[constructor][name]', '*', { jwt: jwt() }, {}, false],
    ['request.auth.claims[__proto__]', '*', { jwt: jwt() }, {}, false],
    ['request.auth.claims[group]', '*', { jwt: jwt({ claims: Object.create({ group: 'inherited' }) }) }, {}, false],
  ];
  for (const [key, value, asked, peer, expected] of table) {
    const about = JSON.stringify({ ...asked, ...peer, ...(asked.header === undefined ? {} : { header: asked.header('x-tier') }) });
    it(`${key} ${value} ${expected ? 'holds' : 'does not hold'} for ${about.slice(0, 90)}`, () => {
      assert.equal(conditionHolds(key, value, asked, peer), expected);
    });
  }

  it('of several must hold all, with any of its values and none of its notValues', () => {
    const bound = compile([
      allow(
        'a/p',
        rule(
          [],
          [],
          [
            { key: 'request.headers[a]', values: ['1', '2'], notValues: ['3'] },
            { key: 'source.namespace', values: ['shop'] },
          ],
        ),
      ),
    ]);
    const ask = (a: readonly string[], peer = connection()): string => bound.bind(peer).request(request(headers({ a }))).verdict;
    assert.equal(ask(['2']), 'allow');
    assert.equal(ask(['2', '3']), 'deny');
    assert.equal(ask(['4']), 'deny');
    assert.equal(ask(['2'], plaintext), 'deny');
  });

  it('on an empty header trips notValues "*": it is present', () => {
    const bound = compile([allow('a/p', rule([], [], [{ key: 'request.headers[a]', notValues: ['*'] }]))]).bind(connection());
    assert.equal(bound.request(request(headers({ a: [''] }))).verdict, 'deny');
    assert.equal(bound.request(request(headers({}))).verdict, 'allow');
  });
});

/** Without a token. */
function verdictOf(source: PolicySource): string {
  return compile([allow('a/p', rule([source]))])
    .bind(connection())
    .request(request()).verdict;
}

describe('request principals', () => {
  const table: readonly (readonly [value: string, issuer: string, subject: string | null, matches: boolean])[] = [
    ['*', 'i', 's', true],
    ['*', 'i', '', false],
    ['*', 'i', null, false],
    ['i/s', 'i', 's', true],
    ['https://i/x/s', 'https://i/x', 's', true],
    ['https://i/x/s', 'https://i', 'x/s', false],
    ['i', 'i', '', true],
    ['i', 'i', null, false],
    ['i', 'i', 's', false],
    ['i/*', 'i', 's', true],
    ['i/*', 'i', '', false],
    ['i/s*', 'i', 'sub', true],
    ['i/s*', 'ii', 'sub', false],
    ['i*', 'issuer', 's', true],
    ['*/s', 'i', 's', true],
    ['*/s', 'i', 'as', false],
    ['*i/s', 'xi', 's', true],
    ['*s', 'i', 'as', true],
  ];
  for (const [value, issuer, subject, expected] of table) {
    it(`${value}: issuer ${issuer}, subject ${JSON.stringify(subject)}: ${expected}, and the not-form the opposite`, () => {
      const asked = request({ jwt: jwt({ issuer, subject, principal: `${issuer}/${subject ?? ''}` }) });
      const verdict = (source: PolicySource): string =>
        compile([allow('a/p', rule([source]))])
          .bind(connection())
          .request(asked).verdict;
      assert.equal(verdict({ requestPrincipals: [value] }), expected ? 'allow' : 'deny');
      assert.equal(verdict({ notRequestPrincipals: [value] }), expected ? 'deny' : 'allow');
    });
  }

  it('are not there without a token, which only the not-form matches', () => {
    assert.equal(verdictOf({ requestPrincipals: ['*'] }), 'deny');
    assert.equal(verdictOf({ notRequestPrincipals: ['*'] }), 'allow');
  });

  it('are asked only of requests from peers that the rest of the source matches', () => {
    const bound = compile([
      allow(
        'a/p',
        rule([
          { namespaces: ['data'], requestPrincipals: ['*'] },
          { namespaces: ['shop'], requestPrincipals: ['i/s'] },
        ]),
      ),
    ]);
    const web = bound.bind(connection());
    assert.equal(web.scope, 'request');
    assert.equal(web.request(request({ jwt: jwt() })).verdict, 'deny');
    assert.equal(web.request(request({ jwt: jwt({ issuer: 'i', subject: 's', principal: 'i/s' }) })).verdict, 'allow');
    assert.equal(
      bound.bind(connection({ sourceIdentity: workloadIdentity('cluster.local', 'data', 'db') })).request(request({ jwt: jwt() })).verdict,
      'allow',
    );
    assert.equal(bound.bind(plaintext).scope, 'deny');
  });
});

describe('remoteIpBlocks', () => {
  it('are of the address that the request came from, not of the peer', () => {
    const bound = compile([allow('a/p', rule([{ remoteIpBlocks: ['192.0.2.0/24'] }]))]).bind(connection());
    assert.equal(bound.request(request({ remoteAddress: '192.0.2.9' })).verdict, 'allow');
    assert.equal(bound.request(request({ remoteAddress: '10.1.2.3' })).verdict, 'deny');
    assert.equal(bound.tcp.verdict, 'deny');
  });

  it('are of the peer where nothing was forwarded: on a connection that is not HTTP', () => {
    assert.equal(compile([allow('a/p', rule([{ remoteIpBlocks: ['10.1.0.0/16'] }]))]).bind(connection()).tcp.verdict, 'allow');
    assert.equal(compile([deny('a/p', rule([{ notRemoteIpBlocks: ['10.1.0.0/16'] }]))]).bind(connection()).tcp.verdict, 'allow');
  });
});

describe('on a connection that is not HTTP', () => {
  const http: readonly (readonly [string, ReturnType<typeof rule>])[] = [
    ['requestPrincipals', rule([{ requestPrincipals: ['*'] }])],
    ['notRequestPrincipals', rule([{ notRequestPrincipals: ['*'] }])],
    ['a header', rule([], [], [{ key: 'request.headers[a]', values: ['1'] }])],
    ['a claim', rule([], [], [{ key: 'request.auth.claims[a]', values: ['1'] }])],
  ];
  for (const [what, written] of http) {
    it(`${what} makes an ALLOW rule void, and a DENY rule does without it`, () => {
      assert.equal(compile([allow('a/p', written)]).bind(connection()).tcp.verdict, 'deny');
      const denied = compile([deny('a/p', written)]).bind(connection()).tcp;
      assert.deepEqual(denied, { verdict: 'deny', policy: 'a/p', rule: 0, reason: 'matched a DENY rule, without its HTTP fields' });
    });
  }

  it('a DENY rule without its HTTP fields still asks the others', () => {
    const written = rule([{ namespaces: ['data'], requestPrincipals: ['*'] }], [], [{ key: 'request.headers[a]', values: ['1'] }]);
    assert.equal(compile([deny('a/p', written)]).bind(connection()).tcp.verdict, 'allow');
  });

  it('a server name that nobody has looked for opens nothing: neither by ALLOW nor past DENY', () => {
    const sni = rule([], [], [{ key: 'connection.sni', values: ['a'] }]);
    const not = rule([], [], [{ key: 'connection.sni', notValues: ['a'] }]);
    for (const written of [sni, not]) {
      assert.equal(compile([allow('a/p', written)]).bind(connection()).tcp.verdict, 'deny');
      assert.equal(compile([deny('a/p', written)]).bind(connection()).tcp.verdict, 'deny');
    }
    assert.equal(compile([allow('a/p', sni)]).bind(connection({ serverName: 'a' })).tcp.verdict, 'allow');
    assert.equal(compile([deny('a/p', sni)]).bind(connection({ serverName: 'b' })).tcp.verdict, 'allow');
    assert.equal(compile([deny('a/p', sni)]).bind(connection({ serverName: null })).tcp.verdict, 'allow');
  });
});

function from(domain: string): ConnectionAttributes {
  return connection({ sourceIdentity: workloadIdentity(domain, 'shop', 'web') });
}

describe('trust domain aliases', () => {
  const options = { trustDomain: 'new.example', trustDomainAliases: ['old.example'] };
  const table: readonly (readonly [principal: string, domain: string, matches: boolean])[] = [
    ['new.example/ns/shop/sa/web', 'old.example', true],
    ['old.example/ns/shop/sa/web', 'new.example', true],
    ['cluster.local/ns/shop/sa/web', 'old.example', true],
    ['cluster.local/ns/shop/sa/web', 'cluster.local', false],
    ['old.example/ns/shop/sa/*', 'new.example', true],
    ['*/ns/shop/sa/web', 'elsewhere.example', true],
    ['elsewhere.example/ns/shop/sa/web', 'old.example', false],
    ['elsewhere.example/ns/shop/sa/web', 'elsewhere.example', true],
    ['new.example/ns/shop/*', 'old.example', false],
    ['*w.example/ns/shop/sa/web', 'old.example', true],
    ['*w.example/ns/shop/sa/web', 'new.example', true],
    ['*w.example/ns/shop/sa/web', 'now.example', true],
  ];
  for (const [principal, domain, expected] of table) {
    it(`${principal} ${expected ? 'is' : 'is not'} a peer of ${domain}, in from, not-form and when`, () => {
      const verdict = (source: PolicySource): string => compile([allow('a/p', rule([source]))], options).bind(from(domain)).tcp.verdict;
      assert.equal(verdict({ principals: [principal] }), expected ? 'allow' : 'deny');
      assert.equal(verdict({ notPrincipals: [principal] }), expected ? 'deny' : 'allow');
      const condition = { key: 'source.principal', values: [principal] };
      assert.equal(compile([allow('a/p', rule([], [], [condition]))], options).bind(from(domain)).tcp.verdict, expected ? 'allow' : 'deny');
    });
  }

  it('count for source.trustDomain too', () => {
    const condition = { key: 'source.trustDomain', values: ['new.example'] };
    const policy = compile([allow('a/p', rule([], [], [condition]))], options);
    assert.equal(policy.bind(from('old.example')).tcp.verdict, 'allow');
    assert.equal(policy.bind(from('elsewhere.example')).tcp.verdict, 'deny');
  });
});

describe('path templates', () => {
  const table: readonly (readonly [template: string, path: string, matches: boolean])[] = [
    ['/allow/admin/{**}', '/allow/admin/', true],
    ['/allow/admin/{**}', '/allow/admin/a/b', true],
    ['/allow/admin/{**}', '/allow/admin', false],
    ['/foo/{*}/bar/{**}', '/foo/a/bar/x', true],
    ['/foo/{*}/bar/{**}', '/foo//bar/x', false],
    ['/foo/{*}/bar/{**}', '/foo/a/b/bar/x', false],
    ['/store/{**}/cart', '/store//cart', true],
    ['/store/{**}/cart', '/store/a/b/cart', true],
    ['/store/{**}/cart', '/store/cart', false],
    ['/store/{**}/cart', '/store/a/cart/x', false],
    ['/{*}', '/a', true],
    ['/{*}', '/', false],
    ['/{*}', '/a/b', false],
    ['/{*}/', '/a/', true],
    ['/{**}', '/', true],
    ['/{*}/{*}', '/a/b', true],
    ['/a.b/{*}', '/axb/c', false],
  ];
  for (const [template, path, expected] of table) {
    it(`${template} ${expected ? 'matches' : 'does not match'} ${path}, for ALLOW and DENY, and the not-form is the opposite`, () => {
      const asked = request({ path });
      const positive = rule([], [{ paths: [template] }]);
      const negative = rule([], [{ notPaths: [template] }]);
      for (const tables of [true, false]) {
        const verdict = (policy: Parameters<typeof compile>[0]): string =>
          compile(policy, { tables }).bind(connection()).request(asked).verdict;
        assert.equal(verdict([allow('a/p', positive)]), expected ? 'allow' : 'deny');
        assert.equal(verdict([deny('a/p', positive)]), expected ? 'deny' : 'allow');
        assert.equal(verdict([allow('a/p', negative)]), expected ? 'deny' : 'allow');
        assert.equal(verdict([deny('a/p', negative)]), expected ? 'allow' : 'deny');
      }
    });
  }

  it('are not got around by characters that Envoy leaves out: these open nothing', () => {
    const asked = request({ path: '/users/a"b*/delete' });
    for (const tables of [true, false]) {
      const verdict = (policy: Parameters<typeof compile>[0]): string =>
        compile(policy, { tables }).bind(connection()).request(asked).verdict;
      assert.equal(verdict([deny('a/p', rule([], [{ paths: ['/users/{*}/delete'] }]))]), 'deny');
      assert.equal(verdict([allow('a/p', rule([], [{ paths: ['/users/{*}/delete'] }]))]), 'deny');
      assert.equal(verdict([allow('a/p', rule([], [{ notPaths: ['/users/{**}'] }]))]), 'deny');
      assert.equal(verdict([deny('a/p', rule([], [{ notPaths: ['/users/{**}'] }]))]), 'deny');
    }
  });
});
