import { exposition, METRICS_CONTENT_TYPE } from '../metrics/exposition.ts';
import type { MetricFamily } from '../model/metrics.ts';
import type { Answer } from './answer.ts';

/** Metrics as Prometheus reads them. */
export async function metricsAnswer(families: readonly MetricFamily[]): Promise<Answer> {
  return { status: 200, body: await exposition(families), type: METRICS_CONTENT_TYPE };
}
