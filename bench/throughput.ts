import type { LabPod } from '../test/kit/lab/index.ts';
import type { Peer } from './peers/peer.ts';
import type { Sample } from './report.ts';
import { type Placement, createSite } from './site.ts';
import { type Load, runWrk } from './wrk.ts';

export interface ThroughputOptions {
  readonly placement: Placement;
  /** What makes the requests. Default: wrk. */
  readonly load?: LoadGenerator;
  readonly peers: readonly Peer[];
  readonly connections: readonly number[];
  readonly seconds: number;
  readonly rounds: number;
  readonly progress: (line: string) => void;
}

/**
 * Makes requests in a pod for some seconds, with so many connections kept. May leave files in `directory`.
 * @throws Error when a request failed
 */
export type LoadGenerator = (pod: LabPod, directory: string, url: string, connections: number, seconds: number) => Promise<Load>;

/** Load before each measurement, so that what compiles at run time has done so. Not part of any figure. */
const WARM_UP_SECONDS = 2;
const WARM_UP_CONNECTIONS = 16;

/**
 * Measures every peer at every number of connections, in rounds. The peers take turns within each number of connections, in an order
 * that turns round with each round, so that a machine that gets slower or faster does so for all. Each has the machine to itself.
 */
export async function measureThroughput(options: ThroughputOptions): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let round = 0; round < options.rounds; round++) {
    for (const connections of options.connections) {
      for (const peer of round % 2 === 0 ? options.peers : options.peers.toReversed()) {
        const sample = await measure(peer, connections, options);
        samples.push(sample);
        const cpu = sample.rss_mb === 0 ? '' : `, ${sample.cpu_us_per_req.toFixed(1)} us CPU/request, ${sample.rss_mb.toFixed(0)} MB`;
        options.progress(
          `round ${round + 1}/${options.rounds}  ${peer.name.padEnd(11)} ${String(connections).padStart(3)} connections: ` +
            `${sample.rps.toFixed(0)} requests/s, p50 ${sample.p50_us} us, p99 ${sample.p99_us} us${cpu}`,
        );
      }
    }
  }
  // Peers side by side in the tables, whichever went first.
  const order = options.peers.map((peer) => peer.name);
  return samples.toSorted((a, b) => a.connections - b.connections || order.indexOf(a.name) - order.indexOf(b.name));
}

async function measure(peer: Peer, connections: number, options: ThroughputOptions): Promise<Sample> {
  const site = await createSite(options.placement);
  await using _lab = site.lab;
  const generate = options.load ?? runWrk;
  const running = await peer.start(site);
  await generate(site.client, site.lab.directory, running.url, WARM_UP_CONNECTIONS, WARM_UP_SECONDS);
  const before = running.cpuMicroseconds();
  const load = await generate(site.client, site.lab.directory, running.url, connections, options.seconds);
  return {
    name: peer.name,
    connections,
    rps: load.requestsPerSecond,
    p50_us: load.p50Microseconds,
    p99_us: load.p99Microseconds,
    cpu_us_per_req: (running.cpuMicroseconds() - before) / load.requests,
    rss_mb: running.residentBytes() / 1e6,
  };
}
