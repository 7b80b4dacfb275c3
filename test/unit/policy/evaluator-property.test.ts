import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { explain } from '../../../proxy/policy/explain.ts';
import { compileWorkloadPolicy } from '../../../proxy/policy/workload-policy.ts';
import type { ConnectionAttributes, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyOperation } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';
import { DOMAINS, list, methods, pathValues, paths, peer, policies, request, requests, text } from './arbitraries.ts';
import { naiveCustom, naiveShadow, naiveVerdict, ruleHolds } from './naive.ts';

for (const tables of [true, false]) {
  it(`decides as the plain evaluator does, ${tables ? 'by decision tables' : 'by the index'}, for connections and each request, and its scope holds`, () => {
    fc.assert(
      fc.property(policies, fc.array(peer, { minLength: 1, maxLength: 3 }), requests, (written, peers, asked) => {
        const compiled = compileWorkloadPolicy(written, { ...DOMAINS, tables });
        assert.deepEqual(
          compiled.errors.filter(({ code }) => code !== 'WEFT_POLICY_PROVIDER'),
          [],
        );
        for (const from of peers) {
          const bound = compiled.bind(from);
          assert.equal(bound.tcp.verdict, naiveVerdict(written, from, null));
          assert.deepEqual(
            bound.tcpShadow.map(({ effect, policy }) => `${effect} ${policy}`),
            naiveShadow(written, from, null),
          );
          if (bound.scope !== 'request') assert.equal(bound.tcp.verdict, bound.scope);
          for (const one of asked) checkRequest(written, from, one, compiled.bind(from));
        }
      }),
      { numRuns: 400 },
    );
  });
}

function checkRequest(
  written: readonly PolicyEntry[],
  from: ConnectionAttributes,
  asked: RequestAttributes,
  bound: ReturnType<ReturnType<typeof compileWorkloadPolicy>['bind']>,
): void {
  const decision = bound.request(asked);
  assert.equal(decision.verdict, naiveVerdict(written, from, asked));
  const custom = bound.custom(asked);
  assert.equal(custom === null ? null : custom.dryRun ? 'dry run' : custom.provider, naiveCustom(written, from, asked));
  const shadow = bound.shadow(asked).map(({ effect, policy }) => `${effect} ${policy}`);
  assert.deepEqual(shadow, naiveShadow(written, from, asked));
  if (shadow.length > 0) assert.equal(bound.hasShadow, true);
  if (custom !== null) assert.equal(bound.hasCustom, true);
  if (bound.scope !== 'request') {
    assert.equal(decision.verdict, bound.scope);
    if (bound.scope === 'allow') assert.ok(custom === null || custom.dryRun);
  }
  if (decision.rule === null) return;
  // The rule that is named is one that says so.
  const named = written.filter(
    ({ name, action, dryRun }) =>
      !dryRun && name === decision.policy && (decision.verdict === 'deny' ? action === 'DENY' || action === 'CUSTOM' : action === 'ALLOW'),
  );
  assert.ok(
    named.some(({ action, rules }) => {
      const candidate = rules[decision.rule as number];
      return candidate !== undefined && ruleHolds(candidate, action, from, asked);
    }),
  );
}

it('allows no connection that is not HTTP of which a request may be denied, unless by where the request came from', () => {
  const withoutRemote = policies.filter((written) => !JSON.stringify(written).match(/remote/i));
  fc.assert(
    fc.property(withoutRemote, peer, (written, from) => {
      const bound = compileWorkloadPolicy(written, DOMAINS).bind({ ...from, serverName: null });
      if (bound.tcp.verdict === 'allow') assert.equal(bound.scope, 'allow');
    }),
    { numRuns: 300 },
  );
});

it('names the first rule in order among many, whether their paths are exact, prefixes, suffixes or templates', () => {
  const few: fc.Arbitrary<PolicyOperation> = fc.oneof(
    fc.record({ paths: pathValues, methods: list(fc.constantFrom(...methods)) }),
    fc.record({ paths: list(fc.constantFrom(...paths, '/a/b*', '/a*', '/*', '/b*')) }),
    fc.record({ paths: pathValues, notPaths: pathValues }),
    fc.record({ paths: pathValues, hosts: text('a', 'b.a') }),
  );
  const one = fc.record({ from: fc.constantFrom([], [{ namespaces: ['a'] }]), to: fc.tuple(few), when: fc.constant([]) });
  fc.assert(
    fc.property(fc.array(one, { minLength: 5, maxLength: 60 }), fc.tuple(peer, peer), requests, (rules, peers, asked) => {
      const policy: PolicyEntry = { name: 'a/p', action: 'DENY', rules, provider: null, dryRun: false };
      for (const tables of [true, false]) {
        const compiled = compileWorkloadPolicy([policy], { ...DOMAINS, tables });
        for (const from of peers) {
          const bound = compiled.bind(from);
          for (const request of asked) {
            const first = rules.findIndex((candidate) => ruleHolds(candidate, 'DENY', from, request));
            assert.equal(bound.request(request).rule, first === -1 ? null : first);
          }
        }
      }
    }),
    { numRuns: 150 },
  );
});

it('knows two connections apart that any rule tells apart, whatever was asked before', () => {
  fc.assert(
    fc.property(policies, fc.array(peer, { minLength: 2, maxLength: 6 }), request, (written, peers, asked) => {
      const kept = compileWorkloadPolicy(written, DOMAINS);
      for (const from of peers) {
        const fresh = compileWorkloadPolicy(written, DOMAINS).bind(from);
        assert.deepEqual(kept.bind(from).tcp, fresh.tcp);
        assert.deepEqual(kept.bind(from).request(asked), fresh.request(asked));
        assert.deepEqual(kept.bind(from).shadow(asked), fresh.shadow(asked));
      }
    }),
    { numRuns: 200 },
  );
});

it('explains the decision that is made, with what a dry run records and who is asked', () => {
  fc.assert(
    fc.property(policies, peer, request, (written, from, asked) => {
      const bound = compileWorkloadPolicy(written, DOMAINS).bind(from);
      const explained = explain(written, from, asked, DOMAINS);
      assert.equal(explained.decision, bound.request(asked).verdict);
      assert.equal(explained.policy === null, bound.request(asked).policy === null);
      assert.deepEqual(explained.dryRun, bound.shadow(asked));
      assert.equal(explained.custom?.provider, bound.custom(asked)?.provider);
      const onTcp = explain(written, from, null, DOMAINS);
      assert.equal(onTcp.decision, bound.tcp.verdict);
      assert.deepEqual(
        onTcp.dryRun.map(({ policy }) => policy),
        bound.tcpShadow.map(({ policy }) => policy),
      );
    }),
    { numRuns: 300 },
  );
});
