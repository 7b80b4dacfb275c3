import type { LabPod } from '../test/kit/lab/index.ts';
import type { Peer, RunningPeer, Site } from './peers/peer.ts';
import { median, type Sample } from './report.ts';
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
        options.progress(progressLine(sample, round, options.rounds));
      }
    }
  }
  // Peers side by side in the tables, whichever went first.
  const order = options.peers.map((peer) => peer.name);
  return samples.toSorted((a, b) => a.connections - b.connections || order.indexOf(a.name) - order.indexOf(b.name));
}

/** The length of a turn of peers that are measured alongside each other. */
const TURN_SECONDS = 2;
/**
 * Load on each of them before. What compiles at run time takes its time to settle, and takes longer the more there is to compile: after the
 * short warm-up the peer with more code would be charged for it.
 */
const LONG_WARM_UP_SECONDS = 12;

/**
 * Measures two peers so that their CPU per request can be compared closely: both are up at once, each in a lab of its own, for the whole
 * of it, and they take short turns (first, second, second, first), while the other one is idle. Samples are in order of rounds.
 */
export async function measureAlongside(first: Peer, second: Peer, options: Omit<ThroughputOptions, 'peers' | 'load'>): Promise<Sample[]> {
  const samples: Sample[] = [];
  if (options.connections.length === 0) return samples;
  const firstSite = await createSite(options.placement);
  await using _first = firstSite.lab;
  const secondSite = await createSite(options.placement);
  await using _second = secondSite.lab;
  const arms = [await startArm(first, firstSite), await startArm(second, secondSite)] as const;
  const turns = Math.ceil(options.seconds / TURN_SECONDS);
  const seconds = Math.max(1, Math.round(options.seconds / turns));
  let swap = false;
  for (let round = 0; round < options.rounds; round++) {
    for (const connections of options.connections) {
      for (let turn = 0; turn < turns; turn++) {
        for (const arm of swap ? arms.toReversed() : arms) await takeTurn(arm, connections, seconds);
        swap = !swap;
      }
      for (const arm of arms) {
        const sample = summarizeTurns(arm, connections);
        samples.push(sample);
        options.progress(progressLine(sample, round, options.rounds));
      }
    }
  }
  return samples.toSorted((a, b) => a.connections - b.connections || Number(a.name === second.name) - Number(b.name === second.name));
}

/** A peer that is up, and what its turns since the last summary gave. */
interface Arm {
  readonly peer: Peer;
  readonly site: Site;
  readonly running: RunningPeer;
  readonly loads: Load[];
  cpuMicroseconds: number;
}

async function startArm(peer: Peer, site: Site): Promise<Arm> {
  const running = await peer.start(site);
  await runWrk(site.client, site.lab.directory, running.url, WARM_UP_CONNECTIONS, LONG_WARM_UP_SECONDS);
  return { peer, site, running, loads: [], cpuMicroseconds: 0 };
}

async function takeTurn(arm: Arm, connections: number, seconds: number): Promise<void> {
  const { site, running } = arm;
  const before = running.cpuMicroseconds();
  arm.loads.push(await runWrk(site.client, site.lab.directory, running.url, connections, seconds));
  arm.cpuMicroseconds += running.cpuMicroseconds() - before;
}

/** Ends a round: its turns become one sample. */
function summarizeTurns(arm: Arm, connections: number): Sample {
  const { peer, running, cpuMicroseconds } = arm;
  const loads = arm.loads.splice(0);
  arm.cpuMicroseconds = 0;
  return {
    name: peer.name,
    connections,
    rps: median(loads.map((load) => load.requestsPerSecond)),
    p50_us: median(loads.map((load) => load.p50Microseconds)),
    p99_us: median(loads.map((load) => load.p99Microseconds)),
    cpu_us_per_req: cpuMicroseconds / loads.reduce((sum, load) => sum + load.requests, 0),
    rss_mb: running.residentBytes() / 1e6,
  };
}

function progressLine(sample: Sample, round: number, rounds: number): string {
  const cpu = sample.rss_mb === 0 ? '' : `, ${sample.cpu_us_per_req.toFixed(1)} us CPU/request, ${sample.rss_mb.toFixed(0)} MB`;
  return (
    `round ${round + 1}/${rounds}  ${sample.name.padEnd(11)} ${String(sample.connections).padStart(3)} connections: ` +
    `${sample.rps.toFixed(0)} requests/s, p50 ${sample.p50_us} us, p99 ${sample.p99_us} us${cpu}`
  );
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
