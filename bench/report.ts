import type { DecisionFigure } from './decisions.ts';

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

/** What the scenario `policy` adds: what decisions cost without traffic, in the mix of path patterns and in the slowest pattern. */
export interface PolicyReport extends Report {
  readonly scenario: 'policy';
  readonly decisions: readonly DecisionFigure[];
  readonly worst_pattern: { readonly name: string; readonly over_1: number; readonly decisions: readonly DecisionFigure[] };
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
  const runs = medians(samples);
  const ratios: Record<string, Record<string, number>> = {};
  for (const name of new Set(runs.map((run) => run.name))) {
    if (name !== 'direct') ratios[`${name}_over_direct`] = ratio(runs, name, 'direct', (run) => run.rps);
  }
  return { scenario, runs, ratios };
}

/**
 * The report of the scenario `policy`.
 * @param samples of the peers opaque, l7, grpc-direct and grpc-weft, each in order of rounds
 * @param patterns the decisions of every pattern; `mixed` is the one that counts
 */
export function summarizePolicy(patterns: ReadonlyMap<string, readonly DecisionFigure[]>, samples: readonly Sample[]): PolicyReport {
  const runs = medians(samples);
  const decisions = patterns.get('mixed') ?? [];
  const [name, slowest] = [...patterns].reduce((a, b) => (growth(b[1]) > growth(a[1]) ? b : a));
  return {
    scenario: 'policy',
    decisions,
    worst_pattern: { name, over_1: round(growth(slowest), 3), decisions: slowest },
    runs,
    ratios: {
      decision_10000_rules_over_1: { 1: round(growth(decisions), 3) },
      cpu_l7_over_opaque: cpuRatio(samples, 'l7', 'opaque'),
      grpc_weft_over_direct: ratio(runs, 'grpc-weft', 'grpc-direct', (run) => run.rps),
    },
  };
}

/** Time per decision with the most rules over that with the fewest. */
function growth(figures: readonly DecisionFigure[]): number {
  return (figures.at(-1)?.ns ?? Number.NaN) / (figures[0]?.ns ?? Number.NaN);
}

/** Number of connections -> CPU per request of one peer over that of another: the median of the rounds' ratios, since a round has both side by side. */
function cpuRatio(samples: readonly Sample[], name: string, base: string): Record<string, number> {
  const ratios: Record<string, number> = {};
  for (const [connections, group] of Map.groupBy(samples, (sample) => sample.connections)) {
    const bases = group.filter((sample) => sample.name === base);
    const rounds = group.filter((sample) => sample.name === name);
    if (rounds.length === 0 || rounds.length !== bases.length) continue;
    ratios[String(connections)] = round(median(rounds.map((each, i) => each.cpu_us_per_req / (bases[i] as Sample).cpu_us_per_req)), 3);
  }
  return ratios;
}

/** Number of connections -> the figure of one peer over that of another. */
function ratio(runs: readonly Sample[], name: string, base: string, pick: (run: Sample) => number): Record<string, number> {
  const ratios: Record<string, number> = {};
  for (const run of runs) {
    const other = runs.find((each) => each.name === base && each.connections === run.connections);
    if (run.name === name && other !== undefined) ratios[String(run.connections)] = round(pick(run) / pick(other), 3);
  }
  return ratios;
}

function medians(samples: readonly Sample[]): Sample[] {
  const groups = Map.groupBy(samples, (sample) => `${sample.name} ${sample.connections}`);
  return [...groups.values()].map((group) => {
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
}

/** The report for people. */
export function table(report: Report): string {
  const head = ['', 'connections', 'requests/s', 'of direct', 'p50 us', 'p99 us', 'CPU us/request', 'RSS MB'];
  const rows = report.runs.map((run) => {
    const share = report.ratios[`${run.name.replaceAll('-', '_')}_over_direct`]?.[String(run.connections)];
    const figures = [run.connections, run.rps, share?.toFixed(2) ?? '', run.p50_us, run.p99_us];
    return [run.name, ...figures.map(String), ...(run.rss_mb === 0 ? ['', ''] : [run.cpu_us_per_req.toFixed(1), run.rss_mb.toFixed(0)])];
  });
  return columns([head, ...rows]);
}

/** The report of the scenario `policy` for people. */
export function policyTable(report: PolicyReport): string {
  const { worst_pattern: worst, ratios } = report;
  const decisions = (name: string, figures: readonly DecisionFigure[]): string[][] =>
    figures.map((figure) => [name, String(figure.rules), String(figure.per_second), figure.ns.toFixed(0)]);
  const summary = Object.entries(ratios).flatMap(([name, values]) =>
    Object.entries(values).map(([connections, value]) => [name, connections, value.toFixed(2)]),
  );
  return [
    columns([
      ['decisions', 'rules', 'per second', 'ns'],
      ...decisions('mixed', report.decisions),
      ...decisions(`${worst.name} (worst)`, worst.decisions),
    ]),
    table(report),
    columns([['ratio', 'connections', ''], ...summary]),
  ].join('\n\n');
}

/** Cells in columns: the first to the left, all others to the right. */
function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map((row) => row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  '))
    .join('\n');
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
