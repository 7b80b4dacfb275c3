import { type Metric, Registry } from 'prom-client';
import type { MetricFamily } from '../model/metrics.ts';

/** The Content-Type of what exposition() makes. */
export const METRICS_CONTENT_TYPE: string = Registry.PROMETHEUS_CONTENT_TYPE;

/** A family as prom-client renders it: numbers that others counted, so there is nothing to increment. */
class ReadMetric {
  readonly name: string;
  readonly #family: MetricFamily;

  constructor(family: MetricFamily) {
    this.name = family.name;
    this.#family = family;
  }

  async get(): Promise<object> {
    const { name, help, type, samples } = this.#family;
    return {
      name,
      help,
      type,
      aggregator: 'sum',
      values: samples.map((sample) => ({ metricName: sample.name ?? name, labels: sample.labels, value: sample.value })),
    };
  }
}

/** Families in the Prometheus text format 0.0.4. Those of one name become one, with the samples of all. */
export async function exposition(families: readonly MetricFamily[]): Promise<string> {
  const byName = new Map<string, MetricFamily>();
  for (const family of families) {
    const known = byName.get(family.name);
    byName.set(family.name, known === undefined ? family : { ...known, samples: [...known.samples, ...family.samples] });
  }
  const registry = new Registry();
  for (const family of byName.values()) registry.registerMetric(new ReadMetric(family) as unknown as Metric);
  return registry.metrics();
}
