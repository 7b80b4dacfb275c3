/**
 * `npm run bench`: measures Weft beside no mesh at all, on this machine, in labs made for it. Figures compare within one run only.
 */
import { parseArgs } from 'node:util';
import { identityTable, measureIdentity } from './identity.ts';
import { measureIdle } from './idle.ts';
import { PEERS } from './peers/index.ts';
import { measurePolicy } from './policy.ts';
import { policyTable, summarize, table } from './report.ts';
import { measureThroughput } from './throughput.ts';

const USAGE = `usage: npm run bench -- --scenario same-node|cross-node [options]
       npm run bench -- --scenario policy [options]
       npm run bench -- --scenario identity [--json] [--rounds 3] [--svids 1000]
       npm run bench -- --scenario idle [--json] [--held 2000] [--churned 10000]

  --connections 1,16,64   numbers of kept connections
  --seconds 4             length of each measurement
  --rounds 3              the figures are medians over the rounds
  --peers direct,weft     what to measure, same-node and cross-node; direct always is
  --json                  JSON on standard output, and nothing else`;

class UsageError extends Error {}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      scenario: { type: 'string' },
      json: { type: 'boolean', default: false },
      connections: { type: 'string', default: '1,16,64' },
      seconds: { type: 'string', default: '4' },
      rounds: { type: 'string', default: '3' },
      peers: { type: 'string' },
      held: { type: 'string', default: '2000' },
      svids: { type: 'string', default: '1000' },
      churned: { type: 'string', default: '10000' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return;
  }
  const { scenario } = values;
  if (scenario === 'idle') {
    const report = await measureIdle({ held: count(values.held), churned: count(values.churned), progress: console.error });
    console.log(JSON.stringify(report, null, values.json ? 0 : 2));
    return;
  }
  if (scenario === 'identity') {
    const report = await measureIdentity({ rounds: count(values.rounds), svids: count(values.svids), progress: console.error });
    console.log(values.json ? JSON.stringify(report) : identityTable(report));
    return;
  }
  const counts = { connections: values.connections.split(',').map(count), seconds: count(values.seconds), rounds: count(values.rounds) };
  if (scenario === 'policy') {
    if (values.peers !== undefined) throw new UsageError('--peers is for same-node and cross-node');
    const report = await measurePolicy({ ...counts, progress: console.error });
    console.log(values.json ? JSON.stringify(report) : policyTable(report));
    return;
  }
  if (scenario !== 'same-node' && scenario !== 'cross-node')
    throw new UsageError('--scenario is same-node, cross-node, policy, identity or idle');
  const names = values.peers === undefined ? PEERS.map((peer) => peer.name) : ['direct', ...values.peers.split(',')];
  const unknown = names.find((name) => !PEERS.some((peer) => peer.name === name));
  if (unknown !== undefined) throw new UsageError(`there is no peer ${unknown}: ${PEERS.map((peer) => peer.name).join(', ')}`);
  const samples = await measureThroughput({
    placement: scenario,
    peers: PEERS.filter((peer) => names.includes(peer.name)),
    ...counts,
    progress: console.error,
  });
  const report = summarize(scenario, samples);
  console.log(values.json ? JSON.stringify(report) : table(report));
}

function count(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new UsageError(`not a positive whole number: ${text}`);
}

try {
  await main();
} catch (error) {
  const isUsage = error instanceof UsageError || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS') === true;
  console.error(isUsage ? `${(error as Error).message}\n${USAGE}` : error);
  process.exitCode = isUsage ? 2 : 1;
}
