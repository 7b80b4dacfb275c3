import { workloadIdentity } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
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
  return { method: 'GET', path: '/api/items', host: 'items.shop', ...change };
}

export function rule(from: readonly PolicySource[] = [], to: readonly PolicyOperation[] = []): PolicyRule {
  return { from, to };
}

export function allow(name: string, ...rules: PolicyRule[]): PolicyEntry {
  return { name, action: 'ALLOW', rules };
}

export function deny(name: string, ...rules: PolicyRule[]): PolicyEntry {
  return { name, action: 'DENY', rules };
}
