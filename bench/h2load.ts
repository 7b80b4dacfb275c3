import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LabPod } from '../test/kit/lab/index.ts';
import { GRPC_MESSAGE } from './nginx.ts';
import type { Load } from './wrk.ts';

const LATENCY_SECONDS = 1;

/**
 * Calls a unary gRPC method with h2load (HTTP/2 by prior knowledge), on each connection one call after the other. h2load knows no
 * percentiles: they are from a second, shorter run that logs each call, so that logging costs the first nothing.
 * @throws Error when a call failed
 */
export async function runGrpcLoad(pod: LabPod, directory: string, url: string, connections: number, seconds: number): Promise<Load> {
  const log = join(directory, 'calls.log');
  rmSync(log, { force: true });
  const logged = await h2load(pod, directory, url, connections, LATENCY_SECONDS, [`--log-file=${log}`]);
  const latency = parseLatencies(existsSync(log) ? readFileSync(log, 'latin1') : '');
  rmSync(log, { force: true });
  const measured = await h2load(pod, directory, url, connections, seconds, []);
  return { ...measured, requests: logged.requests + measured.requests, ...latency };
}

async function h2load(
  pod: LabPod,
  directory: string,
  url: string,
  connections: number,
  seconds: number,
  more: readonly string[],
): Promise<Pick<Load, 'requests' | 'requestsPerSecond'>> {
  const message = join(directory, 'message');
  writeFileSync(message, GRPC_MESSAGE, { mode: 0o600 });
  const headers = ['-H', 'content-type: application/grpc', '-H', 'te: trailers'];
  const command = ['h2load', '-p', 'h2c', '-t1', `-c${connections}`, '-m1', `-D${seconds}`, '-d', message, ...headers, ...more, url];
  const result = await pod.exec(command, { timeoutMs: seconds * 1000 + 20_000 });
  return parseCalls(result.stdout, result.stderr, seconds);
}

/** Reads h2load's summary of a run of so many seconds. */
export function parseCalls(stdout: string, stderr: string, seconds: number): Pick<Load, 'requests' | 'requestsPerSecond'> {
  const counts = /^requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$/m.exec(stdout);
  if (counts === null) throw new Error(`h2load gave no result: ${stderr}${stdout}`);
  const [done = 0, succeeded = 0, ...bad] = counts.slice(1).map(Number);
  if (done === 0 || succeeded !== done || bad.some((count) => count > 0)) throw new Error(`h2load: calls failed: ${counts[0]}`);
  return { requests: done, requestsPerSecond: done / seconds };
}

/** Reads h2load's log of calls: start, status and microseconds, with tabs between. */
export function parseLatencies(log: string): Pick<Load, 'p50Microseconds' | 'p99Microseconds'> {
  const lines = log.split('\n').filter(Boolean);
  const times = Float64Array.from(lines, (line) => Number(line.split('\t')[2])).toSorted();
  if (times.length === 0) throw new Error('h2load logged no calls');
  const at = (share: number): number => times[Math.min(times.length - 1, Math.floor(times.length * share))] as number;
  return { p50Microseconds: at(0.5), p99Microseconds: at(0.99) };
}
