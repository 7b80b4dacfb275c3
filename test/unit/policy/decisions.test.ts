import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { modeDenied, modeDeniedPolicy, strictModeDecision } from '../../../proxy/policy/mode-decision.ts';
import type { Decision } from '../../../src/model/policy.ts';
import type { PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';
import { allow, compile, connection, deny, plaintext, request, rule } from './fixtures.ts';

const fromShop: PolicySource = { namespaces: ['shop'] };
const get: PolicyOperation = { methods: ['GET'] };

function decide(policies: readonly PolicyEntry[], asked = request()): Decision {
  return compile(policies).bind(connection()).request(asked);
}

function tcp(...policies: PolicyEntry[]): Decision {
  return compile(policies).bind(connection()).tcp;
}

describe('the order of evaluation', () => {
  it('allows when no policy applies', () => {
    assert.deepEqual(decide([]), { verdict: 'allow', policy: null, rule: null, reason: 'no policy applies' });
  });

  it('allows what no DENY matches when there is no ALLOW policy', () => {
    const policies = [deny('shop/no-delete', rule([], [{ methods: ['DELETE'] }]))];
    assert.deepEqual(decide(policies), { verdict: 'allow', policy: null, rule: null, reason: 'no ALLOW policy applies' });
    assert.deepEqual(decide(policies, request({ method: 'DELETE' })), {
      verdict: 'deny',
      policy: 'shop/no-delete',
      rule: 0,
      reason: 'matched a DENY rule',
    });
  });

  it('denies what both DENY and ALLOW match, wherever the DENY stands', () => {
    const policies = [allow('shop/all', rule()), deny('shop/no-get', rule([fromShop], [get]))];
    assert.equal(decide(policies).policy, 'shop/no-get');
    assert.equal(decide(policies.toReversed()).policy, 'shop/no-get');
  });

  it('allows what one of several ALLOW policies matches, and names it and its rule', () => {
    const policies = [
      allow('shop/a', rule([], [{ methods: ['PUT'] }])),
      allow('shop/b', rule([], [{ ports: [1] }]), rule([fromShop], [get])),
    ];
    assert.deepEqual(decide(policies), { verdict: 'allow', policy: 'shop/b', rule: 1, reason: 'matched an ALLOW rule' });
  });

  it('denies what no ALLOW matches, and names the one that was considered', () => {
    assert.deepEqual(decide([allow('shop/read', rule([], [get]))], request({ method: 'DELETE' })), {
      verdict: 'deny',
      policy: 'shop/read',
      rule: null,
      reason: 'no ALLOW rule matched',
    });
  });

  it('names all ALLOW policies that were considered, in a text that stays short', () => {
    assert.equal(decide([allow('a/x'), allow('a/y'), deny('a/z')]).policy, 'a/x, a/y');
    const many = Array.from({ length: 1000 }, (_, i) => allow(`namespace/policy-${i}`));
    const named = decide(many).policy ?? '';
    assert.match(named, /^namespace\/policy-0, namespace\/policy-1, .* and 9\d\d more$/);
    assert.ok(named.length < 250);
  });

  it('names the first rule in the order of the author, however its paths are written', () => {
    const rules = [
      rule([], [{ paths: ['/other'] }]),
      rule([], [{ paths: ['/api/*'], methods: ['GET'] }]),
      rule([], [{ paths: ['/api/items'] }]),
      rule([], [{ paths: ['*/items'] }]),
    ];
    assert.equal(decide([allow('a/p', ...rules)]).rule, 1);
    assert.equal(decide([allow('a/p', ...rules)], request({ method: 'PUT' })).rule, 2);
    assert.equal(decide([allow('a/p', ...rules)], request({ path: '/x/items' })).rule, 3);
  });

  it('gives the same object for the same rule, so that a request costs no memory', () => {
    const bound = compile([allow('a/p', rule([], [get]))]).bind(connection());
    assert.equal(bound.request(request()), bound.request(request({ path: '/other' })));
    assert.equal(bound.request(request({ method: 'PUT' })), bound.request(request({ method: 'POST' })));
    assert.ok(Object.isFrozen(bound.request(request())));
  });
});

describe('emptiness', () => {
  it('a policy without rules never matches: an ALLOW allows nothing', () => {
    assert.equal(decide([allow('a/nothing')]).verdict, 'deny');
    assert.equal(decide([deny('a/nothing')]).verdict, 'allow');
  });

  it('a rule without from and to matches everything, plaintext too', () => {
    assert.equal(compile([allow('a/all', rule())]).bind(plaintext).scope, 'allow');
    assert.equal(compile([deny('a/all', rule())]).bind(plaintext).scope, 'deny');
  });

  it('a rule without from matches any peer, and one without to any operation', () => {
    assert.equal(compile([allow('a/p', rule([], [{ ports: [8080] }]))]).bind(plaintext).scope, 'allow');
    assert.equal(compile([allow('a/p', rule([fromShop], []))]).bind(connection()).scope, 'allow');
    assert.equal(compile([allow('a/p', rule([fromShop], []))]).bind(plaintext).scope, 'deny');
  });
});

describe('what the connection decides', () => {
  const scopes: readonly (readonly [string, readonly PolicyEntry[], 'allow' | 'deny' | 'request'])[] = [
    ['an ALLOW for the peer', [allow('a/p', rule([fromShop]))], 'allow'],
    ['an ALLOW for other peers', [allow('a/p', rule([{ namespaces: ['data'] }], [get]))], 'deny'],
    ['an ALLOW for another port', [allow('a/p', rule([], [{ ports: [1], methods: ['GET'] }]))], 'deny'],
    ['an ALLOW of some requests', [allow('a/p', rule([fromShop], [get]))], 'request'],
    ['an ALLOW of all beside one of some', [allow('a/p', rule([fromShop], [get])), allow('a/q', rule([fromShop]))], 'allow'],
    ['a DENY of some requests', [deny('a/p', rule([fromShop], [get]))], 'request'],
    ['a DENY of some requests of others', [deny('a/p', rule([{ namespaces: ['data'] }], [get]))], 'allow'],
    ['a DENY of some requests on another port', [deny('a/p', rule([], [{ ports: [1], methods: ['GET'] }]))], 'allow'],
    ['a DENY of the peer', [deny('a/p', rule([fromShop])), allow('a/q', rule())], 'deny'],
    ['a DENY of some where nothing is allowed', [deny('a/p', rule([fromShop], [get])), allow('a/q')], 'deny'],
  ];
  for (const [what, policies, scope] of scopes) {
    it(`${what}: ${scope}`, () => {
      const bound = compile(policies).bind(connection());
      assert.equal(bound.scope, scope);
      if (scope !== 'request') {
        assert.equal(bound.tcp.verdict, scope);
        assert.equal(bound.request(request()).verdict, scope);
      }
    });
  }
});

describe('a connection that is not HTTP', () => {
  const httpFields: readonly (keyof PolicyOperation)[] = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths'];

  for (const field of httpFields) {
    it(`is not allowed by an ALLOW rule with ${field}, and is denied by a DENY rule with nothing else`, () => {
      assert.equal(tcp(allow('a/p', rule([], [{ [field]: ['x'] }]))).verdict, 'deny');
      assert.deepEqual(tcp(deny('a/p', rule([], [{ [field]: ['x'] }]))), {
        verdict: 'deny',
        policy: 'a/p',
        rule: 0,
        reason: 'matched a DENY rule, without its HTTP fields',
      });
    });
  }

  it('is not allowed by an ALLOW rule of which only one operation has HTTP fields; its requests are', () => {
    const bound = compile([allow('a/p', rule([], [{ ports: [8080] }, get]))]).bind(connection());
    assert.equal(bound.tcp.verdict, 'deny');
    assert.equal(bound.request(request({ method: 'PUT' })).verdict, 'allow');
    assert.equal(bound.scope, 'request');
  });

  it('is denied by a DENY rule with HTTP fields only where its other fields match', () => {
    assert.equal(tcp(deny('a/p', rule([{ namespaces: ['data'] }], [get]))).verdict, 'allow');
    assert.equal(tcp(deny('a/p', rule([], [{ ports: [1], methods: ['GET'] }]))).verdict, 'allow');
    assert.equal(tcp(deny('a/p', rule([], [{ ports: [8080], methods: ['GET'] }]))).verdict, 'deny');
  });

  it('is allowed by an ALLOW rule without HTTP fields', () => {
    assert.equal(tcp(allow('a/p', rule([], [get]), rule([fromShop], [{ ports: [8080] }]))).rule, 1);
  });
});

describe('content that cannot be compiled fails closed', () => {
  const bad: readonly (readonly [string, unknown, string])[] = [
    ['an address block that is none', rule([{ ipBlocks: ['10.0.0.0/33'] }]), 'WEFT_POLICY_ADDRESS'],
    ['an address block with a bad length', rule([{ ipBlocks: ['10.0.0.0/08'] }]), 'WEFT_POLICY_ADDRESS'],
    ['a mapped block wider than the mapped range', rule([{ ipBlocks: ['::ffff:0.0.0.0/95'] }]), 'WEFT_POLICY_ADDRESS'],
    ['an octal octet', rule([{ notIpBlocks: ['010.0.0.1'] }]), 'WEFT_POLICY_ADDRESS'],
    ['a service account with too many parts', rule([{ serviceAccounts: ['a/b/c'] }]), 'WEFT_POLICY_VALUE'],
    ['a service account with a wildcard', rule([{ serviceAccounts: ['shop/*'] }]), 'WEFT_POLICY_VALUE'],
    ['an empty list', rule([{ principals: [] }]), 'WEFT_POLICY_VALUE'],
    ['an empty value', rule([], [{ paths: ['/a', ''] }]), 'WEFT_POLICY_VALUE'],
    ['a value that is no text', rule([], [{ methods: [1 as unknown as string] }]), 'WEFT_POLICY_VALUE'],
    ['a port out of range', rule([], [{ ports: [65_536] }]), 'WEFT_POLICY_VALUE'],
    ['a template that is no whole segment', rule([], [{ paths: ['/a/x{*}/b'] }]), 'WEFT_POLICY_TEMPLATE'],
    ['a template with an operator after {**}', rule([], [{ paths: ['/{**}/{*}'] }]), 'WEFT_POLICY_TEMPLATE'],
    ['a template with a star', rule([], [{ notPaths: ['/{*}/*'] }]), 'WEFT_POLICY_TEMPLATE'],
    ['a template without its slash', rule([], [{ paths: ['{*}'] }]), 'WEFT_POLICY_TEMPLATE'],
    ['a condition of an unknown key', rule([], [], [{ key: 'request.cookie', values: ['a'] }]), 'WEFT_POLICY_CONDITION'],
    ['a condition of an Envoy filter', rule([], [], [{ key: 'experimental.envoy.filters.a[b]', values: ['a'] }]), 'WEFT_POLICY_CONDITION'],
    ['a condition of no header', rule([], [], [{ key: 'request.headers[]', values: ['a'] }]), 'WEFT_POLICY_CONDITION'],
    ['a condition of a pseudo-header', rule([], [], [{ key: 'request.headers[:path]', values: ['/a'] }]), 'WEFT_POLICY_CONDITION'],
    ['a condition of half a claim', rule([], [], [{ key: 'request.auth.claims[a', values: ['a'] }]), 'WEFT_POLICY_CONDITION'],
    ['a condition without values', rule([], [], [{ key: 'source.ip' }]), 'WEFT_POLICY_VALUE'],
    ['a condition on a port that is none', rule([], [], [{ key: 'destination.port', values: ['80a'] }]), 'WEFT_POLICY_VALUE'],
    ['a condition on an address that is none', rule([], [], [{ key: 'remote.ip', notValues: ['10.0.0'] }]), 'WEFT_POLICY_ADDRESS'],
    ['an empty source', rule([{}]), 'WEFT_POLICY_FIELD'],
    ['an empty operation', rule([], [{}]), 'WEFT_POLICY_FIELD'],
    ['a source field of a later version', rule([{ trustLevels: ['*'] } as PolicySource]), 'WEFT_POLICY_FIELD'],
    ['a field named like one of all objects', rule([{ constructor: ['*'] } as PolicySource]), 'WEFT_POLICY_FIELD'],
    ['a field besides from, to and when', { ...rule(), unless: [] }, 'WEFT_POLICY_FIELD'],
    ['a rule without lists', {}, 'WEFT_POLICY_FIELD'],
    ['no rule at all', null, 'WEFT_POLICY_FIELD'],
  ];
  for (const [what, written, code] of bad) {
    it(`${what}: the ALLOW rule allows nothing, the DENY rule denies everything, ${code} says why`, () => {
      const badRule = written as PolicyRule;
      const allowed = compile([allow('a/p', badRule)]);
      assert.equal(allowed.bind(connection()).scope, 'deny');
      assert.match(allowed.bind(connection()).tcp.reason, /could not be compiled/);
      assert.equal(allowed.errors[0]?.code, code);
      assert.match(allowed.errors[0]?.message ?? '', /^a\/p rule 0: /);
      assert.notEqual(allowed.errors[0]?.nextStep, null);
      const denied = compile([allow('a/all', rule()), deny('a/p', rule([], [get]), badRule)]).bind(connection());
      assert.equal(denied.scope, 'deny');
      assert.deepEqual(denied.tcp, { verdict: 'deny', policy: 'a/p', rule: 1, reason: 'a DENY rule could not be compiled' });
    });
  }

  it('leaves the other rules of an ALLOW policy in force', () => {
    const policy = compile([allow('a/p', rule([{ ipBlocks: ['x'] }]), rule([fromShop]))]);
    assert.equal(policy.errors.length, 1);
    assert.equal(policy.bind(connection()).tcp.rule, 1);
    assert.equal(policy.bind(plaintext).scope, 'deny');
  });

  it('denies everything for an action or rules that it does not know', () => {
    for (const entry of [
      { name: 'a/p', action: 'PERMIT', rules: [] },
      { name: 'a/p', action: 'ALLOW', rules: null },
    ]) {
      const policy = compile([entry as unknown as PolicyEntry, allow('a/all', rule())]);
      assert.equal(policy.bind(connection()).scope, 'deny');
      assert.equal(policy.bind(connection()).tcp.policy, 'a/p');
      assert.equal(policy.errors[0]?.code, 'WEFT_POLICY_ACTION');
    }
  });

  it('does not decide in favour of a peer whose address cannot be read', () => {
    const unreadable = connection({ sourceAddress: 'nowhere' });
    for (const source of [{ ipBlocks: ['0.0.0.0/0'] }, { notIpBlocks: ['10.0.0.0/8'] }]) {
      assert.equal(compile([allow('a/p', rule([source]))]).bind(unreadable).scope, 'deny');
      assert.equal(compile([deny('a/p', rule([source]))]).bind(unreadable).scope, 'deny');
    }
  });
});

describe('strict mode', () => {
  it('refuses a peer without mTLS or attestation, and names what made the mode', () => {
    const expected: Decision = {
      verdict: 'deny',
      policy: 'PeerAuthentication shop/strict',
      rule: null,
      reason: 'strict mode requires mTLS or a local peer that the kernel attests',
    };
    assert.deepEqual(strictModeDecision('strict', 'PeerAuthentication shop/strict', false), expected);
    assert.deepEqual(modeDenied('PeerAuthentication shop/strict'), expected);
    const bound = modeDeniedPolicy('PeerAuthentication shop/strict');
    assert.equal(bound.scope, 'deny');
    assert.deepEqual(bound.tcp, expected);
    assert.equal(bound.request(request()), bound.tcp);
  });

  it('lets proven peers, and everybody in other modes, on to policy', () => {
    assert.equal(strictModeDecision('strict', 'x', true), null);
    assert.equal(strictModeDecision('permissive', 'x', false), null);
    assert.equal(strictModeDecision('off', 'x', false), null);
  });
});
