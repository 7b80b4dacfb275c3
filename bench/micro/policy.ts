/**
 * What a policy decision costs, without sockets: `node bench/micro/policy.ts [pattern …] [--no-tables]`. Prints one line of JSON.
 * `ns_per_decision` is of request() with 1, 100 and 10,000 rules whose paths are of one kind, or of several mixed, over as many different
 * requests (half of them refused); `ratio` is 10,000 rules over 1. `bind_ns` is of bind() for a kind of connection that is known, and for
 * one that is new, where each rule names a peer of its own; `compile_ms` is of the policies, and `first_request_ms` of the first request,
 * which compiles the table.
 */
import { compileWorkloadPolicy } from '../../proxy/policy/workload-policy.ts';
import type { ConnectionAttributes } from '../../src/model/policy.ts';
import {
  allow,
  connectionOf,
  nanosecondsPerDecision,
  PATTERNS,
  type Pattern,
  type PreparedPolicy,
  preparePolicy,
  RULE_COUNTS,
  rulePath,
  TRUST_DOMAINS,
} from '../decisions.ts';

let sum = 0;

/** Nanoseconds for one of `count` calls, the best of several rounds. */
function best(rounds: number, count: number, run: (i: number) => void): number {
  let least = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < rounds; turn++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < count; i++) run(i);
    least = Math.min(least, Number(process.hrtime.bigint() - start) / count);
  }
  return least;
}

/** Rules that each name one peer: what bind() costs when the kind of connection is known, and when it is new. */
function measureBind(size: number): { readonly known: number; readonly fresh: number } {
  const rules = Array.from({ length: size }, (_, i) => ({
    from: [{ principals: [`cluster.local/ns/shop/sa/account-${i}`] }],
    to: [{ paths: [rulePath('exact', i).written] }],
    when: [],
  }));
  const peers = Array.from({ length: 4000 }, (_, i) => connectionOf(`account-${i % Math.max(size, 4000)}`));
  let compiled = compileWorkloadPolicy(allow(rules), TRUST_DOMAINS);
  let fresh = Number.POSITIVE_INFINITY;
  const bind = (i: number): void => void (sum += compiled.bind(peers[i] as ConnectionAttributes).scope.length);
  for (let turn = 0; turn < 5; turn++) {
    compiled = compileWorkloadPolicy(allow(rules), TRUST_DOMAINS);
    fresh = Math.min(fresh, best(1, peers.length, bind));
  }
  return { known: round(best(10, peers.length, bind)), fresh: round(fresh) };
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('-')) as Pattern[];
const tables = !process.argv.includes('--no-tables');
const nsPerDecision: Record<string, Record<string, number>> = {};
const ratio: Record<string, number> = {};
const compileMs: Record<string, number> = {};
const firstRequestMs: Record<string, number> = {};
for (const pattern of wanted.length > 0 ? wanted : (Object.keys(PATTERNS) as Pattern[])) {
  const prepared = RULE_COUNTS.map((rules) => preparePolicy(pattern, rules, tables));
  const measured = nanosecondsPerDecision(prepared);
  nsPerDecision[pattern] = Object.fromEntries(RULE_COUNTS.map((rules, i) => [rules, round(measured[i] as number)]));
  ratio[pattern] = Math.round(((measured.at(-1) as number) / (measured[0] as number)) * 100) / 100;
  compileMs[pattern] = round((prepared.at(-1) as PreparedPolicy).compileMilliseconds);
  firstRequestMs[pattern] = round((prepared.at(-1) as PreparedPolicy).firstRequestMilliseconds);
}
const bind = Object.fromEntries(RULE_COUNTS.map((rules) => [rules, measureBind(rules)]));
console.log(
  JSON.stringify({
    ns_per_decision: nsPerDecision,
    ratio,
    worst_ratio: Math.max(...Object.values(ratio)),
    compile_ms: compileMs,
    first_request_ms: firstRequestMs,
    bind_ns: bind,
    tables,
    checked: sum > 0,
  }),
);
