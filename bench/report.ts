/** One measurement: one peer, one number of connections, one round. */
export interface Sample {
  readonly name: string;
  readonly connections: number;
  readonly rps: number;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly cpu_us_per_req: number;
  readonly rss_mb: number;
}

/** What --json prints: medians over the rounds, and each peer's requests per second as a share of direct's. */
export interface Report {
  readonly scenario: string;
  readonly runs: readonly Sample[];
  /** `<peer>_over_direct` -> number of connections -> ratio. */
  readonly ratios: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** The middle value; of an even number of values, the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? Number.NaN) + high) / 2;
}

/** Sums up the samples of all rounds. Runs come in the order of their first sample. */
export function summarize(scenario: string, samples: readonly Sample[]): Report {
  const groups = Map.groupBy(samples, (sample) => `${sample.name} ${sample.connections}`);
  const runs = [...groups.values()].map((group) => {
    const of = (pick: (sample: Sample) => number, digits: number): number => round(median(group.map(pick)), digits);
    const { name, connections } = group[0] as Sample;
    return {
      name,
      connections,
      rps: of((sample) => sample.rps, 0),
      p50_us: of((sample) => sample.p50_us, 0),
      p99_us: of((sample) => sample.p99_us, 0),
      cpu_us_per_req: of((sample) => sample.cpu_us_per_req, 2),
      rss_mb: of((sample) => sample.rss_mb, 1),
    };
  });
  const ratios: Record<string, Record<string, number>> = {};
  for (const run of runs) {
    const base = runs.find((each) => each.name === 'direct' && each.connections === run.connections);
    if (run.name === 'direct' || base === undefined) continue;
    const ratio = (ratios[`${run.name}_over_direct`] ??= {});
    ratio[String(run.connections)] = round(run.rps / base.rps, 3);
  }
  return { scenario, runs, ratios };
}

/** The report for people. */
export function table(report: Report): string {
  const head = ['', 'connections', 'requests/s', 'of direct', 'p50 us', 'p99 us', 'CPU us/request', 'RSS MB'];
  const rows = report.runs.map((run) => {
    const ratio = report.ratios[`${run.name}_over_direct`]?.[String(run.connections)];
    const figures = [run.connections, run.rps, ratio?.toFixed(2) ?? '', run.p50_us, run.p99_us];
    return [run.name, ...figures.map(String), ...(run.rss_mb === 0 ? ['', ''] : [run.cpu_us_per_req.toFixed(1), run.rss_mb.toFixed(0)])];
  });
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)));
  return [head, ...rows]
    .map((row) => row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  '))
    .join('\n');
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
