import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { explain } from '../../../proxy/policy/explain.ts';
import { allow, audit, connection, custom, deny, dryRun, plaintext, request, rule } from './fixtures.ts';

const options = { trustDomain: 'cluster.local', trustDomainAliases: [], providers: ['opa'] };

function because(...parameters: Parameters<typeof explain>): string {
  return explain(...parameters).steps[0]?.because ?? '';
}

describe('explain', () => {
  it('says of every rule why it matched or not, and what decided', () => {
    const policies = [
      allow('shop/read', rule([{ namespaces: ['data'] }]), rule([{ namespaces: ['shop'] }], [{ methods: ['GET'], paths: ['/api/*'] }])),
      deny('shop/no-secrets', rule([], [{ paths: ['/api/secrets*'] }])),
    ];
    const explained = explain(policies, connection(), request(), options);
    assert.equal(explained.decision, 'allow');
    assert.equal(explained.policy, 'shop/read');
    assert.equal(explained.rule, 1);
    assert.equal(explained.reason, 'matched an ALLOW rule');
    assert.deepEqual(
      explained.steps.map(({ policy, rule: index, matched, because: why }) => [policy, index, matched, why]),
      [
        ['shop/read', 0, false, 'from[0]: the namespace is "shop", none of "data"'],
        ['shop/read', 1, true, 'every field matched'],
        ['shop/no-secrets', 0, false, 'to[0]: the path is "/api/items", none of "/api/secrets*"'],
      ],
    );
  });

  it('names what a peer without identity is missing, and what excludes a request', () => {
    assert.equal(
      because([allow('a/p', rule([{ principals: ['*'] }]))], plaintext, request(), options),
      'from[0]: principals is nothing, none of "*"',
    );
    assert.equal(
      because([allow('a/p', rule([], [{ notPaths: ['/api/*'] }]))], connection(), request(), options),
      'to[0]: the path is "/api/items", which "/api/*" excludes',
    );
    assert.equal(
      because([allow('a/p', rule([], [], [{ key: 'request.headers[x-a]', values: ['1'] }]))], connection(), request(), options),
      'when: request.headers[x-a] is not there, none of "1"',
    );
  });

  it('says which fields a connection that is not HTTP cannot be asked', () => {
    const written = rule([], [{ methods: ['GET'] }]);
    const denied = explain([deny('a/d', written)], connection(), null, options);
    assert.equal(denied.reason, 'matched a DENY rule, without its HTTP fields');
    assert.equal(denied.steps[0]?.because, 'every field matched, without methods, which only HTTP has');
    const allowed = explain([allow('a/a', written)], connection(), null, options);
    assert.equal(allowed.decision, 'deny');
    assert.match(allowed.steps[0]?.because ?? '', /^methods cannot be asked/);
  });

  it('reports dry runs and audits beside the decision, and the provider that is asked first', () => {
    const policies = [dryRun(deny('a/dry', rule())), audit('a/watch', rule()), custom('a/ask', 'opa', rule())];
    const explained = explain(policies, connection(), request(), options);
    assert.equal(explained.decision, 'allow');
    assert.deepEqual(
      explained.dryRun.map(({ policy, effect }) => `${effect} ${policy}`),
      ['deny a/dry', 'audit a/watch'],
    );
    assert.deepEqual(explained.custom, { policy: 'a/ask', rule: 0, provider: 'opa', dryRun: false });
  });

  it('says what cannot be compiled, and that it closes', () => {
    const explained = explain([deny('a/d', rule([{ ipBlocks: ['x'] }]))], connection(), request(), options);
    assert.equal(explained.decision, 'deny');
    assert.equal(explained.reason, 'a DENY rule could not be compiled');
    assert.match(explained.steps[0]?.because ?? '', /cannot be compiled: ipBlocks has a value/);
    const allowed = explain([allow('a/p', rule([{ ipBlocks: ['x'] }]))], connection(), request(), options);
    assert.equal(allowed.reason, 'no ALLOW rule matched; some could not be compiled');
  });
});
