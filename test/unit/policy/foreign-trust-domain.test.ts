/** Federation lets a foreign workload be verified; it makes it equal to nobody here. Aliases do, and those are configured apart from it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { workloadIdentity } from '../../../src/model/identity.ts';
import type { PolicySource } from '../../../src/model/resources.ts';
import { allow, compile, connection, deny, rule } from './fixtures.ts';

/** The same namespace and service account, in a trust domain that is federated with. */
const foreign = connection({ sourceIdentity: workloadIdentity('partner.example', 'shop', 'web') });

function allowed(source: PolicySource, trustDomainAliases: readonly string[] = []): boolean {
  return compile([allow('a/p', rule([source]))], { trustDomainAliases }).bind(foreign).tcp.verdict === 'allow';
}

describe('a workload of a federated trust domain', () => {
  it('is not the principal of the same name here', () => {
    assert.ok(!allowed({ principals: ['cluster.local/ns/shop/sa/web'] }));
  });

  it('is allowed by the name that has its trust domain', () => {
    assert.ok(allowed({ principals: ['partner.example/ns/shop/sa/web'] }));
  });

  it('is of the namespace and service account of its path, as Istio has it: a rule that means this trust domain adds source.trustDomain', () => {
    for (const source of [{ namespaces: ['shop'] }, { serviceAccounts: ['shop/web'] }]) {
      assert.ok(allowed(source));
      const ownAlone = rule([source], [], [{ key: 'source.trustDomain', values: ['cluster.local'] }]);
      assert.equal(compile([allow('a/p', ownAlone)]).bind(foreign).tcp.verdict, 'deny');
    }
  });

  it('is the principal of the same name here only where its trust domain is an alias', () => {
    assert.ok(allowed({ principals: ['cluster.local/ns/shop/sa/web'] }, ['partner.example']));
  });

  it('does not escape a DENY of its name', () => {
    const { verdict } = compile([deny('a/p', rule([{ principals: ['partner.example/*'] }]))]).bind(foreign).tcp;
    assert.equal(verdict, 'deny');
  });
});
