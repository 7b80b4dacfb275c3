import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PolicyOperation } from '../../../src/model/resources.ts';
import { allow, audit, compile, connection, custom, deny, dryRun, request, rule } from './fixtures.ts';

const get: PolicyOperation = { methods: ['GET'] };
const put: PolicyOperation = { methods: ['PUT'] };
const known = { providers: ['opa'] };

describe('CUSTOM', () => {
  it('names the provider to be asked, for requests that a rule matches', () => {
    const bound = compile([custom('a/c', 'opa', rule([], [put]), rule([], [get]))], known).bind(connection());
    assert.equal(bound.hasCustom, true);
    assert.deepEqual(bound.custom(request()), { policy: 'a/c', rule: 1, provider: 'opa', dryRun: false });
    assert.equal(bound.custom(request({ method: 'BREW' })), null);
    assert.equal(bound.request(request()).verdict, 'allow');
    assert.equal(bound.scope, 'request');
  });

  it('is asked though the connection alone matches the rule, and the scope leaves the answer open', () => {
    const bound = compile([custom('a/c', 'opa', rule())], known).bind(connection());
    assert.equal(bound.scope, 'request');
    assert.equal(bound.custom(request())?.provider, 'opa');
  });

  it('does not keep DENY and ALLOW from deciding as well', () => {
    const bound = compile([custom('a/c', 'opa', rule()), deny('a/d', rule([], [put])), allow('a/a', rule([], [get]))], known).bind(
      connection(),
    );
    assert.equal(bound.request(request()).policy, 'a/a');
    assert.equal(bound.request(request({ method: 'PUT' })).policy, 'a/d');
    assert.equal(bound.request(request({ method: 'BREW' })).verdict, 'deny');
  });

  it('refuses what is no HTTP request and would have to be asked about', () => {
    const bound = compile([custom('a/c', 'opa', rule([{ namespaces: ['shop'] }], [get]))], known);
    assert.equal(bound.bind(connection()).tcp.verdict, 'deny');
    assert.match(bound.bind(connection()).tcp.reason, /not HTTP/);
    assert.equal(bound.bind(connection({ sourceIdentity: null })).tcp.verdict, 'allow');
  });

  const unusable: readonly (readonly [string, ReturnType<typeof custom>[]])[] = [
    ['an unknown provider', [custom('a/c', 'nobody', rule([], [get]))]],
    ['no provider', [{ ...custom('a/c', '', rule([], [get])), provider: null }]],
    ['two providers on one workload', [custom('a/c', 'opa', rule([], [get])), custom('a/e', 'other', rule([], [put]))]],
  ];
  for (const [what, policies] of unusable) {
    it(`with ${what} denies what its rules match, before anything is asked`, () => {
      const compiled = compile(policies, { providers: ['opa', 'other'] });
      const bound = compiled.bind(connection());
      assert.deepEqual(bound.request(request()), {
        verdict: 'deny',
        policy: 'a/c',
        rule: 0,
        reason: 'matched a CUSTOM rule whose provider cannot be asked',
      });
      assert.equal(bound.request(request({ method: 'BREW' })).verdict, 'allow');
      assert.equal(bound.custom(request()), null);
      assert.equal(bound.tcp.verdict, 'deny');
      assert.equal(compiled.errors[0]?.code, 'WEFT_POLICY_PROVIDER');
    });
  }

  it('with a rule that cannot be compiled denies everything', () => {
    const bound = compile([custom('a/c', 'opa', rule([{ ipBlocks: ['x'] }]))], known).bind(connection());
    assert.equal(bound.scope, 'deny');
    assert.equal(bound.tcp.reason, 'a CUSTOM rule could not be compiled');
  });

  it('in a dry run says so, and never goes before one in earnest', () => {
    const bound = compile([dryRun(custom('a/dry', 'opa', rule())), custom('a/c', 'opa', rule([], [get]))], known).bind(connection());
    assert.equal(bound.custom(request())?.policy, 'a/c');
    assert.deepEqual(bound.custom(request({ method: 'PUT' })), { policy: 'a/dry', rule: 0, provider: 'opa', dryRun: true });
    assert.equal(compile([dryRun(custom('a/dry', 'nobody', rule()))], known).bind(connection()).tcp.verdict, 'allow');
  });
});

describe('AUDIT', () => {
  it('never changes a decision, and is recorded where a rule matches', () => {
    const bound = compile([audit('a/watch', rule([], [get]))]).bind(connection());
    assert.equal(bound.scope, 'allow');
    assert.equal(bound.hasShadow, true);
    assert.deepEqual(bound.shadow(request()), [{ policy: 'a/watch', rule: 0, effect: 'audit', reason: 'matched an AUDIT rule' }]);
    assert.deepEqual(bound.shadow(request({ method: 'PUT' })), []);
  });

  it('of another peer costs nothing', () => {
    assert.equal(compile([audit('a/watch', rule([{ namespaces: ['data'] }]))]).bind(connection()).hasShadow, false);
  });
});

describe('a dry run', () => {
  it('of DENY refuses nothing and records what it would have refused, with policy and rule', () => {
    const bound = compile([dryRun(deny('a/d', rule([], [put]), rule([], [get])))]).bind(connection());
    assert.equal(bound.scope, 'allow');
    assert.equal(bound.request(request()).verdict, 'allow');
    assert.deepEqual(bound.shadow(request()), [{ policy: 'a/d', rule: 1, effect: 'deny', reason: 'matched a DENY rule' }]);
  });

  it('of ALLOW makes nothing denied, and records what none of its rules allows', () => {
    const bound = compile([dryRun(allow('a/a', rule([], [get]))), dryRun(allow('a/b', rule([], [put])))]).bind(connection());
    assert.equal(bound.request(request({ method: 'BREW' })).verdict, 'allow');
    assert.deepEqual(bound.shadow(request({ method: 'BREW' })), [
      { policy: 'a/a, a/b', rule: null, effect: 'deny', reason: 'would be denied because no dry-run allow matched' },
    ]);
    assert.deepEqual(bound.shadow(request()), []);
    assert.deepEqual(bound.shadow(request({ method: 'PUT' })), []);
  });

  it('of ALLOW beside an ALLOW in earnest changes nothing: more would be allowed, not less', () => {
    const bound = compile([allow('a/a', rule([], [get])), dryRun(allow('a/b', rule([], [put])))]).bind(connection());
    assert.equal(bound.request(request()).verdict, 'allow');
    assert.equal(bound.request(request({ method: 'PUT' })).verdict, 'deny');
    assert.deepEqual(bound.shadow(request()), []);
  });

  it('of an ALLOW without rules records every request', () => {
    const bound = compile([dryRun(allow('a/nothing'))]).bind(connection());
    assert.equal(bound.scope, 'allow');
    assert.equal(bound.shadow(request()).length, 1);
    assert.equal(bound.tcpShadow.length, 1);
  });

  it('records every policy that would refuse a request, and what it would do to TCP', () => {
    const policies = [dryRun(deny('a/d', rule([], [get]))), dryRun(deny('a/e', rule())), dryRun(allow('a/a', rule([], [put])))];
    const bound = compile(policies).bind(connection());
    assert.deepEqual(
      bound.shadow(request()).map(({ policy }) => policy),
      ['a/d', 'a/e', 'a/a'],
    );
    assert.deepEqual(
      bound.tcpShadow.map(({ policy }) => policy),
      ['a/d', 'a/e', 'a/a'],
    );
    assert.equal(bound.tcp.verdict, 'allow');
  });

  it('of a DENY rule that cannot be compiled refuses nothing, and records what it would', () => {
    const bound = compile([dryRun(deny('a/d', rule([{ ipBlocks: ['x'] }])))]).bind(connection());
    assert.equal(bound.scope, 'allow');
    assert.deepEqual(bound.shadow(request()), [{ policy: 'a/d', rule: 0, effect: 'deny', reason: 'a DENY rule could not be compiled' }]);
  });
});
