import { type DecisionFigure, measureDecisions, PATTERNS, type Pattern } from './decisions.ts';
import { runGrpcLoad } from './h2load.ts';
import { grpcDirect, grpcWeft, l7, opaque } from './peers/policy-peers.ts';
import { type PolicyReport, summarizePolicy } from './report.ts';
import { measureAlongside, measureThroughput } from './throughput.ts';

export interface PolicyOptions {
  readonly connections: readonly number[];
  readonly seconds: number;
  readonly rounds: number;
  readonly progress: (line: string) => void;
}

/**
 * What policy costs: decisions alone, HTTP/1.1 with policy beside the same bytes without, and gRPC beside no mesh. All on one node, where
 * no encryption hides what policy takes.
 */
export async function measurePolicy(options: PolicyOptions): Promise<PolicyReport> {
  const patterns = new Map<string, readonly DecisionFigure[]>();
  for (const pattern of Object.keys(PATTERNS) as Pattern[]) {
    const figures = measureDecisions(pattern);
    patterns.set(pattern, figures);
    options.progress(`${pattern}: ${figures.map(({ rules, ns }) => `${rules} rules ${ns.toFixed(0)} ns`).join(', ')} for a decision`);
  }
  const http = await measureAlongside(opaque, l7, {
    ...options,
    placement: 'same-node',
    // With one connection the agent sleeps between requests, and both figures are mostly of waking it.
    connections: options.connections.filter((connections) => connections > 1),
  });
  const grpc = await measureThroughput({ ...options, placement: 'same-node', peers: [grpcDirect, grpcWeft], load: runGrpcLoad });
  return summarizePolicy(patterns, [...http, ...grpc]);
}
