/**
 * What a policy decision costs, without sockets: `node bench/micro/policy.ts`. Prints one line of JSON. `ns_per_decision` is of request()
 * with 1, 100 and 10,000 rules whose paths are of one kind, or of all kinds mixed, over as many different requests (half of them refused);
 * `ratio` is 10,000 rules over 1. `bind_ns` is of bind() for a kind of connection that is known, and for one that is new, where each rule names a peer of its
 * own; `compile_ms` is of the policies, and `first_request_ms` of the first request, which compiles the table.
 */
import { compileWorkloadPolicy } from '../../proxy/policy/workload-policy.ts';
import { workloadIdentity } from '../../src/model/identity.ts';
import type { ConnectionAttributes, RequestAttributes } from '../../src/model/policy.ts';
import type { PolicyRule } from '../../src/model/resources.ts';
import type { PolicyEntry } from '../../src/model/snapshot.ts';

const SIZES = [1, 100, 10_000] as const;
const DOMAINS = { trustDomain: 'cluster.local', trustDomainAliases: [] };
const REQUESTS = 1024;
const ROUNDS = 150;
const NO_VALUES: readonly string[] = [];

type Kind = 'exact' | 'prefix' | 'suffix' | 'template' | 'mixed';
const PLAIN_KINDS = ['exact', 'prefix', 'suffix', 'template'] as const;

/** Path of rule i, a request that it matches, and one that no rule does. All are about as long, whatever the number of rules. */
function paths(kind: Kind, i: number): { readonly written: string; readonly matching: string } {
  const id = String(i).padStart(5, '0');
  switch (kind) {
    case 'exact':
      return { written: `/api/v1/tenants/tenant-${id}/orders`, matching: `/api/v1/tenants/tenant-${id}/orders` };
    case 'prefix':
      return { written: `/api/v1/tenants/tenant-${id}/*`, matching: `/api/v1/tenants/tenant-${id}/orders` };
    case 'suffix':
      return { written: `*/tenant-${id}/orders`, matching: `/api/v1/tenants/tenant-${id}/orders` };
    case 'template':
      return { written: `/api/{*}/tenants/tenant-${id}/{**}/items`, matching: `/api/v1/tenants/tenant-${id}/orders/1/items` };
    case 'mixed':
      return paths(PLAIN_KINDS[i % PLAIN_KINDS.length] as Kind, i);
  }
}

function connection(account: string): ConnectionAttributes {
  return {
    sourceIdentity: workloadIdentity('cluster.local', 'shop', account),
    sourceAddress: '10.1.2.3',
    destinationAddress: '10.9.9.9',
    destinationPort: 8080,
  };
}

function request(path: string): RequestAttributes {
  // A head's texts come from the wire: each a string of its own, never seen before.
  const text = Buffer.from(path).latin1Slice();
  return { method: 'GET', path: text, host: 'items.shop:8080', header: () => NO_VALUES, remoteAddress: '10.1.2.3', jwt: null };
}

function allow(rules: readonly PolicyRule[]): PolicyEntry[] {
  return [{ name: 'shop/allow', action: 'ALLOW', rules, provider: null, dryRun: false }];
}

/** Best of several rounds, in nanoseconds. */
function best(rounds: number, iterations: number, run: (i: number) => void): number {
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < rounds; round++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < iterations; i++) run(i);
    least = Math.min(least, Number(process.hrtime.bigint() - start) / iterations);
  }
  return least;
}

function milliseconds(run: () => void): number {
  const start = process.hrtime.bigint();
  run();
  return Number(process.hrtime.bigint() - start) / 1e6;
}

let sum = 0;

/** The only rule of a mixture has a path of each kind, so that as much is looked for as in ten thousand. */
function pathsOf(kind: Kind, i: number, size: number): string[] {
  return kind === 'mixed' && size === 1 ? PLAIN_KINDS.map((one) => paths(one, i).written) : [paths(kind, i).written];
}

interface Prepared {
  readonly compile: number;
  readonly firstRequest: number;
  /** Asks every request once. */
  readonly run: () => void;
}

function prepare(kind: Kind, size: number, tables: boolean): Prepared {
  const rules = Array.from({ length: size }, (_, i) => ({
    from: [],
    to: [{ methods: ['GET'], paths: pathsOf(kind, i, size) }],
    when: [],
  }));
  let compiled = compileWorkloadPolicy([], DOMAINS);
  const compile = milliseconds(() => (compiled = compileWorkloadPolicy(allow(rules), { ...DOMAINS, tables })));
  const bound = compiled.bind(connection('web'));
  const requests = Array.from({ length: REQUESTS }, (_, i) => {
    const { matching } = paths(kind, (i * 7919) % size);
    return request(i % 2 === 0 ? matching : matching.replace('tenant-', 'tenant_'));
  });
  const firstRequest = milliseconds(() => bound.request(requests[0] as RequestAttributes));
  const run = (): void => {
    for (const asked of requests) sum += bound.request(asked).verdict.length;
  };
  return { compile, firstRequest, run };
}

/** The sizes take turns, so that what else the machine does meets all of them; the best turn of each counts. */
function nanosecondsPerDecision(prepared: readonly Prepared[]): number[] {
  const least = prepared.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, { run }] of prepared.entries()) least[i] = Math.min(least[i] as number, best(1, 4, run) / REQUESTS);
  }
  return least;
}

/** Rules that each name one peer: what bind() costs when the kind of connection is known, and when it is new. */
function measureBind(size: number): { readonly known: number; readonly fresh: number } {
  const rules = Array.from({ length: size }, (_, i) => ({
    from: [{ principals: [`cluster.local/ns/shop/sa/account-${i}`] }],
    to: [{ paths: [paths('exact', i).written] }],
    when: [],
  }));
  const peers = Array.from({ length: 4000 }, (_, i) => connection(`account-${i % Math.max(size, 4000)}`));
  let compiled = compileWorkloadPolicy(allow(rules), DOMAINS);
  let fresh = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 5; round++) {
    compiled = compileWorkloadPolicy(allow(rules), DOMAINS);
    fresh = Math.min(
      fresh,
      best(1, peers.length, (i) => void (sum += compiled.bind(peers[i] as ConnectionAttributes).scope.length)),
    );
  }
  const known = best(10, peers.length, (i) => void (sum += compiled.bind(peers[i] as ConnectionAttributes).scope.length));
  return { known, fresh };
}

const round = (value: number): number => Math.round(value * 10) / 10;
const kinds = process.argv.slice(2).filter((argument) => !argument.startsWith('-')) as Kind[];
const tables = !process.argv.includes('--no-tables');
const nsPerDecision: Record<string, Record<string, number>> = {};
const ratio: Record<string, number> = {};
const compileMs: Record<string, number> = {};
const firstRequestMs: Record<string, number> = {};
for (const kind of kinds.length > 0 ? kinds : [...PLAIN_KINDS, 'mixed' as const]) {
  const prepared = SIZES.map((size) => prepare(kind, size, tables));
  const measured = nanosecondsPerDecision(prepared);
  nsPerDecision[kind] = Object.fromEntries(SIZES.map((size, i) => [size, round(measured[i] as number)]));
  ratio[kind] = Math.round(((measured[2] as number) / (measured[0] as number)) * 100) / 100;
  compileMs[kind] = round((prepared[2] as Prepared).compile);
  firstRequestMs[kind] = round((prepared[2] as Prepared).firstRequest);
}
const bind = Object.fromEntries(SIZES.map((size) => [size, measureBind(size)]));
console.log(
  JSON.stringify({
    ns_per_decision: nsPerDecision,
    ratio,
    worst_ratio: Math.max(...Object.values(ratio)),
    compile_ms: compileMs,
    first_request_ms: firstRequestMs,
    bind_ns: Object.fromEntries(
      SIZES.map((size) => [size, { known: round(bind[size]?.known ?? 0), fresh: round(bind[size]?.fresh ?? 0) }]),
    ),
    tables,
    checked: sum > 0,
  }),
);
