import { type CompiledWorkloadPolicy, compileWorkloadPolicy, type WorkloadPolicyOptions } from '../../../proxy/policy/workload-policy.ts';
import { workloadIdentity } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';

/** A peer with mTLS: namespace shop, service account web. */
export function connection(change: Partial<ConnectionAttributes> = {}): ConnectionAttributes {
  return {
    sourceIdentity: workloadIdentity('cluster.local', 'shop', 'web'),
    sourceAddress: '10.1.2.3',
    destinationAddress: '10.9.9.9',
    destinationPort: 8080,
    ...change,
  };
}

export const plaintext: ConnectionAttributes = connection({ sourceIdentity: null });

export function request(change: Partial<RequestAttributes> = {}): RequestAttributes {
  return { method: 'GET', path: '/api/items', host: 'items.shop', header: () => [], remoteAddress: '10.1.2.3', jwt: null, ...change };
}

export function rule(
  from: readonly PolicySource[] = [],
  to: readonly PolicyOperation[] = [],
  when: readonly PolicyCondition[] = [],
): PolicyRule {
  return { from, to, when };
}

export function allow(name: string, ...rules: PolicyRule[]): PolicyEntry {
  return { name, action: 'ALLOW', rules, provider: null, dryRun: false };
}

export function deny(name: string, ...rules: PolicyRule[]): PolicyEntry {
  return { name, action: 'DENY', rules, provider: null, dryRun: false };
}

export function audit(name: string, ...rules: PolicyRule[]): PolicyEntry {
  return { name, action: 'AUDIT', rules, provider: null, dryRun: false };
}

export function custom(name: string, provider: string, ...rules: PolicyRule[]): PolicyEntry {
  return { name, action: 'CUSTOM', rules, provider, dryRun: false };
}

export function dryRun(policy: PolicyEntry): PolicyEntry {
  return { ...policy, dryRun: true };
}

/** Policies compiled for the trust domain cluster.local, which has no aliases. */
export function compile(policies: readonly PolicyEntry[], options: Partial<WorkloadPolicyOptions> = {}): CompiledWorkloadPolicy {
  return compileWorkloadPolicy(policies, { trustDomain: 'cluster.local', trustDomainAliases: [], ...options });
}
