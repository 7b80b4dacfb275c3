/** One line of the exposition. `name` differs from the family's for the parts of a histogram. */
export interface MetricSample {
  readonly name?: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

/** One metric with all its label combinations, read at the moment of the scrape. */
export interface MetricFamily {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly samples: readonly MetricSample[];
}
