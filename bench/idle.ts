import type { CountersAnswer } from '../src/model/admin-api.ts';
import { LabAgent, type LabNode, app } from '../test/kit/lab/index.ts';
import { type Placement, createSite } from './site.ts';

/** What connections cost an agent that only holds them, and what they leave when they are gone. Sums over the agents of all nodes. */
export interface IdleReport {
  readonly scenario: 'idle';
  readonly placements: readonly PlacementReport[];
}

interface PlacementReport {
  readonly placement: Placement;
  readonly held: { readonly connections: number; readonly kb_per_connection: number; readonly lost: number };
  readonly churned: {
    readonly connections: number;
    readonly failed: number;
    readonly before: Footprint;
    readonly after: Footprint;
  };
}

export interface Footprint {
  readonly rss_mb: number;
  readonly fds: number;
  readonly map_entries: number;
}

export interface IdleOptions {
  readonly held: number;
  readonly churned: number;
  readonly progress: (line: string) => void;
}

/** For closed connections to leave the agent, its timers and its garbage collector. */
const SETTLE_MS = 3000;

/** Holds and churns connections through agents in strict mode, on one node and across two. */
export async function measureIdle(options: IdleOptions): Promise<IdleReport> {
  const placements: PlacementReport[] = [];
  for (const placement of ['same-node', 'cross-node'] as const) placements.push(await measurePlacement(placement, options));
  return { scenario: 'idle', placements };
}

async function measurePlacement(placement: Placement, options: IdleOptions): Promise<PlacementReport> {
  const site = await createSite(placement);
  await using _lab = site.lab;
  const config = site.lab.writeConfig({ modes: { bench: 'strict' } });
  const nodes = [...new Set<LabNode>([site.clientNode, site.serverNode])];
  const agents: LabAgent[] = [];
  for (const node of nodes) agents.push(await LabAgent.start(node, { config, accessLog: 'off' }));
  const address = site.server.addresses.v4;

  // What the first connections bring into memory for good is not theirs.
  await churn(500);
  const before = await settled();
  options.progress(`${placement}: before ${describe(before)}`);

  const holder = await site.client.spawn(app('connections', 'hold', address, site.serverPort, options.held), { stdin: 'pipe' });
  const [, open] = await holder.waitForLine(/^holding (\d+) \d+/, 60_000);
  if (Number(open) !== options.held) throw new Error(`only ${open} of ${options.held} connections could be opened`);
  const holding = await settled();
  options.progress(`${placement}: holding ${open} connections ${describe(holding)}`);
  holder.input?.end();
  const [, lost] = await holder.waitForLine(/^lost (\d+)/);
  await holder.exited;

  // The first round brings the heap to its working size; the second must find it there. (Not before the connections are held: they
  // would fit into memory that was free already, and seem to cost nothing.)
  await churn(options.churned);
  const beforeChurn = await settled();
  const failed = await churn(options.churned);
  const after = await settled();
  options.progress(`${placement}: after ${options.churned} connections, twice, ${describe(beforeChurn)}, then ${describe(after)}`);
  return {
    placement,
    held: {
      connections: Number(open),
      kb_per_connection: Number((((holding.rss_mb - before.rss_mb) * 1000) / Number(open)).toFixed(1)),
      lost: Number(lost),
    },
    churned: { connections: options.churned, failed, before: beforeChurn, after },
  };

  async function churn(count: number): Promise<number> {
    const result = await site.client.exec(app('connections', 'churn', address, site.serverPort, count), { timeoutMs: 120_000 });
    const failures = /^done \d+ (\d+)/m.exec(result.stdout)?.[1];
    if (failures === undefined) throw new Error(`no connections were made: ${result.stderr}`);
    return Number(failures);
  }

  async function settled(): Promise<Footprint> {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    let fds = 0;
    let entries = 0;
    for (const agent of agents) {
      const counters = await agent.json<CountersAnswer>('/v1/counters');
      fds += counters.openFileDescriptors;
      entries += counters.kernelEntries.originalDestinations + counters.kernelEntries.presentedPeers;
    }
    const bytes = nodes.reduce((sum, node) => sum + node.agentResidentBytes(), 0);
    return { rss_mb: Number((bytes / 1e6).toFixed(1)), fds, map_entries: entries };
  }
}

function describe(footprint: Footprint): string {
  return `${footprint.rss_mb.toFixed(1)} MB, ${footprint.fds} descriptors, ${footprint.map_entries} map entries`;
}
