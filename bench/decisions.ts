import { compileWorkloadPolicy } from '../proxy/policy/workload-policy.ts';
import { workloadIdentity } from '../src/model/identity.ts';
import type { ConnectionAttributes, ConnectionPolicy, RequestAttributes } from '../src/model/policy.ts';
import type { PolicyRule } from '../src/model/resources.ts';
import type { PolicyEntry } from '../src/model/snapshot.ts';

/** How the path of a rule is written. */
export type PathKind = 'exact' | 'prefix' | 'suffix' | 'template';

export type Pattern = PathKind | 'mixed' | 'mixed with suffixes';

/** Sets of rules that are measured: of one kind each, and kinds in turn. */
export const PATTERNS: Readonly<Record<Pattern, readonly PathKind[]>> = {
  exact: ['exact'],
  prefix: ['prefix'],
  suffix: ['suffix'],
  template: ['template'],
  mixed: ['exact', 'prefix', 'template'],
  'mixed with suffixes': ['exact', 'prefix', 'suffix', 'template'],
};

/** The sizes of policies that are measured, in rules. */
export const RULE_COUNTS = [1, 100, 10_000] as const;

/** What one decision about a request costs with so many rules. */
export interface DecisionFigure {
  readonly rules: number;
  readonly per_second: number;
  /** Nanoseconds. */
  readonly ns: number;
}

/** A path as a rule has it, and a request that it matches. All are about as long, whatever the number of rules. */
export interface RulePath {
  readonly written: string;
  readonly matching: string;
}

export const TRUST_DOMAINS: { readonly trustDomain: string; readonly trustDomainAliases: readonly string[] } = {
  trustDomain: 'cluster.local',
  trustDomainAliases: [],
};
const REQUESTS = 1024;
const TURNS = 150;
const REPEATS_IN_A_TURN = 4;
const NO_VALUES: readonly string[] = [];

/** Path of rule `i`. */
export function rulePath(kind: PathKind, i: number): RulePath {
  const id = String(i).padStart(5, '0');
  const matching = `/api/v1/tenants/tenant-${id}/orders`;
  switch (kind) {
    case 'exact':
      return { written: matching, matching };
    case 'prefix':
      return { written: `/api/v1/tenants/tenant-${id}/*`, matching };
    case 'suffix':
      return { written: `*/tenant-${id}/orders`, matching };
    case 'template':
      return { written: `/api/{*}/tenants/tenant-${id}/{**}/items`, matching: `${matching}/1/items` };
  }
}

/** A connection of the client with this service account. */
export function connectionOf(account: string): ConnectionAttributes {
  return {
    sourceIdentity: workloadIdentity('cluster.local', 'shop', account),
    sourceAddress: '10.1.2.3',
    destinationAddress: '10.9.9.9',
    destinationPort: 8080,
  };
}

/** One ALLOW policy with these rules. */
export function allow(rules: readonly PolicyRule[]): PolicyEntry[] {
  return [{ name: 'shop/allow', action: 'ALLOW', rules, provider: null, dryRun: false }];
}

/** A policy and the requests that it is asked about. */
export interface PreparedPolicy {
  readonly pattern: Pattern;
  readonly rules: number;
  /** Of the policies, in milliseconds. */
  readonly compileMilliseconds: number;
  /** The first request compiles the table. */
  readonly firstRequestMilliseconds: number;
  /** Asks about every request once. @returns how many are allowed: half of them */
  readonly run: () => number;
}

/**
 * A policy with a number of rules, and 1024 requests, half of them refused: their paths differ from a rule's in the tenant's name. One rule cannot mix: there each kind has a policy of its own with one rule, so that the same kinds of
 * requests are decided as with many.
 */
export function preparePolicy(pattern: Pattern, rules: number, tables = true): PreparedPolicy {
  const kinds = PATTERNS[pattern];
  const groups: readonly (readonly PathKind[])[] = rules === 1 ? kinds.map((kind) => [kind]) : [kinds];
  let compileMilliseconds = 0;
  const bound: ConnectionPolicy[] = [];
  for (const group of groups) {
    const list = Array.from({ length: rules }, (_, i) => ({
      from: [],
      to: [{ methods: ['GET'], paths: [rulePath(kindOf(group, i), i).written] }],
      when: [],
    }));
    const start = performance.now();
    bound.push(compileWorkloadPolicy(allow(list), { ...TRUST_DOMAINS, tables }).bind(connectionOf('web')));
    compileMilliseconds += performance.now() - start;
  }
  const requests = Array.from({ length: REQUESTS }, (_, i) => {
    const rule = rules === 1 ? 0 : (i * 7919) % rules;
    const group = groups[i % groups.length] as readonly PathKind[];
    const { matching } = rulePath(kindOf(group, rule), rule);
    // The turns of policies and of refusals must not be in step.
    return request(Math.floor(i / groups.length) % 2 === 0 ? matching : matching.replace('tenant-', 'tenant_'));
  });
  const start = performance.now();
  for (const [i, each] of bound.entries()) each.request(requests[i] as RequestAttributes);
  const firstRequestMilliseconds = performance.now() - start;
  const run = (): number => {
    let allowed = 0;
    const turn = bound.length;
    let i = 0;
    for (const asked of requests) {
      if ((bound[i] as ConnectionPolicy).request(asked).verdict === 'allow') allowed++;
      if (++i === turn) i = 0;
    }
    return allowed;
  };
  return { pattern, rules, compileMilliseconds, firstRequestMilliseconds, run };
}

/** Nanoseconds for a decision. They take turns, so that what else the machine does meets all of them; the best turn of each counts. */
export function nanosecondsPerDecision(prepared: readonly PreparedPolicy[]): number[] {
  const least = prepared.map(() => Number.POSITIVE_INFINITY);
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [i, { run, rules, pattern }] of prepared.entries()) {
      const start = process.hrtime.bigint();
      let allowed = 0;
      for (let repeat = 0; repeat < REPEATS_IN_A_TURN; repeat++) allowed += run();
      const nanoseconds = Number(process.hrtime.bigint() - start) / (REPEATS_IN_A_TURN * REQUESTS);
      least[i] = Math.min(least[i] as number, nanoseconds);
      const share = allowed / (REPEATS_IN_A_TURN * REQUESTS);
      if (Math.abs(share - 0.5) > 0.01) throw new Error(`${pattern}, ${rules} rules: ${share} of the requests are allowed, not half`);
    }
  }
  return least;
}

/** The figures of one pattern at every number of rules. */
export function measureDecisions(pattern: Pattern): DecisionFigure[] {
  const measured = nanosecondsPerDecision(RULE_COUNTS.map((rules) => preparePolicy(pattern, rules)));
  return RULE_COUNTS.map((rules, i) => {
    const ns = measured[i] as number;
    return { rules, per_second: Math.round(1e9 / ns), ns: Number(ns.toFixed(1)) };
  });
}

function kindOf(kinds: readonly PathKind[], i: number): PathKind {
  return kinds[i % kinds.length] as PathKind;
}

function request(path: string): RequestAttributes {
  // A head's texts come from the wire: each a string of its own, never seen before.
  const text = Buffer.from(path).latin1Slice();
  return { method: 'GET', path: text, host: 'items.shop:8080', header: () => NO_VALUES, remoteAddress: '10.1.2.3', jwt: null };
}
