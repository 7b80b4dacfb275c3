import { writeFileSync } from 'node:fs';
import type { LabPod } from '../test/kit/lab/index.ts';

/** What one run of a load generator saw. */
export interface Load {
  /** All that were made, also outside of the measured time. */
  readonly requests: number;
  readonly requestsPerSecond: number;
  readonly p50Microseconds: number;
  readonly p99Microseconds: number;
}

/** Only `done`, which runs once at the end: a script with `request` or `response` would cost CPU on every request. */
const SCRIPT = `
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests":%d,"duration":%d,"p50":%d,"p99":%d,"failed":%d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
`;

/**
 * Runs wrk in a pod, with connections kept.
 * @throws Error when a request failed: a figure with errors in it says nothing
 */
export async function runWrk(pod: LabPod, directory: string, url: string, connections: number, seconds: number): Promise<Load> {
  const script = `${directory}/wrk.lua`;
  writeFileSync(script, SCRIPT);
  const threads = Math.min(2, connections);
  const command = ['wrk', '--latency', `-t${threads}`, `-c${connections}`, `-d${seconds}s`, '--timeout', '5s', '-s', script, url];
  const result = await pod.exec(command, { timeoutMs: seconds * 1000 + 20_000 });
  return parseResult(result.stdout, result.stderr);
}

/** Reads the line that the script prints. */
export function parseResult(stdout: string, stderr: string): Load {
  const line = /^RESULT (\{.*\})$/m.exec(stdout)?.[1];
  if (line === undefined) throw new Error(`wrk gave no result: ${stderr}${stdout}`);
  const { requests, duration, p50, p99, failed } = JSON.parse(line) as Record<'requests' | 'duration' | 'p50' | 'p99' | 'failed', number>;
  if (failed > 0 || requests === 0) throw new Error(`wrk: ${failed} requests failed, ${requests} answered: ${stdout}`);
  return { requests, requestsPerSecond: requests / (duration / 1e6), p50Microseconds: p50, p99Microseconds: p99 };
}
