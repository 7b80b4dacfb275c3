import {
  COUNTER_FAMILIES,
  type CounterFamily,
  COUNTERS,
  HISTOGRAM_BUCKETS,
  histogramBound,
  histogramBucket,
  type Side,
  SLOT_COUNT,
  TABLE_FINGERPRINT,
} from './counter-table.ts';
import { TelemetryError } from './telemetry-error.ts';

/**
 * The counters of one worker, in memory that the main thread reads whenever it likes: no message, no lock, no atomic operation. It can do
 * without, since one thread writes a block and a 64-bit aligned store is whole on the machines that Weft runs on; a reader may
 * see two counters of different moments. Numbers are exact up to 2^53. When a worker dies, keep its block: counters must not go back.
 */
export class CounterBlock {
  /** What main makes and hands to the worker. */
  readonly shared: SharedArrayBuffer;
  readonly #slots: Float64Array;

  private constructor(shared: SharedArrayBuffer) {
    this.shared = shared;
    this.#slots = new Float64Array(shared);
  }

  /** A new block, all zero. */
  static create(): CounterBlock {
    const block = new CounterBlock(new SharedArrayBuffer(SLOT_COUNT * Float64Array.BYTES_PER_ELEMENT));
    block.#slots[0] = TABLE_FINGERPRINT;
    return block;
  }

  /**
   * The same block from another thread.
   * @throws TelemetryError WEFT_TELEMETRY_LAYOUT if it was made with another table
   */
  static attach(shared: SharedArrayBuffer): CounterBlock {
    if (shared.byteLength !== SLOT_COUNT * Float64Array.BYTES_PER_ELEMENT || new Float64Array(shared)[0] !== TABLE_FINGERPRINT) {
      throw new TelemetryError('WEFT_TELEMETRY_LAYOUT', 'a counter block has another layout than this version of Weft', {
        nextStep: 'restart the agent, so that all its threads run one version',
      });
    }
    return new CounterBlock(shared);
  }

  /** Adds to a slot found with counterSlot(). Gauges take negative numbers too. */
  add(slot: number, n: number): void {
    (this.#slots[slot] as number) += n;
  }

  /** Puts a latency into weft_request_duration_seconds. */
  observeRequest(side: Side, microseconds: number): void {
    const first = COUNTERS.requestDuration.first + (side === 'outbound' ? 0 : HISTOGRAM_BUCKETS + 1);
    (this.#slots[first + histogramBucket(microseconds)] as number) += 1;
    (this.#slots[first + HISTOGRAM_BUCKETS] as number) += microseconds;
  }

  get(slot: number): number {
    return this.#slots[slot] as number;
  }
}

/** One combination of label values of a family, and its number. */
export interface CounterSample {
  readonly labels: Readonly<Record<string, string>>;
  /** First slot of the combination. */
  readonly slot: number;
}

/** Every combination of a family's labels. */
export function familySamples(family: CounterFamily): CounterSample[] {
  const samples: CounterSample[] = [];
  for (let combination = 0; combination * family.width < family.size; combination++) {
    const pairs: [string, string][] = [];
    let rest = combination;
    for (const { name, values } of family.labels.toReversed()) {
      pairs.unshift([name, values[rest % values.length] as string]);
      rest = Math.floor(rest / values.length);
    }
    samples.push({ labels: Object.fromEntries(pairs), slot: family.first + combination * family.width });
  }
  return samples;
}

/** The sums of all blocks, slot by slot. */
export function sumBlocks(blocks: readonly CounterBlock[]): Float64Array {
  const sums = new Float64Array(SLOT_COUNT);
  for (const block of blocks) {
    for (let slot = 1; slot < SLOT_COUNT; slot++) (sums[slot] as number) += block.get(slot);
  }
  return sums;
}

/** Numbers that are not zero by `name{label="value"}`, for people and scripts; a histogram gives its count. */
export function counterValues(sums: Float64Array): Record<string, number> {
  const values: Record<string, number> = {};
  for (const family of COUNTER_FAMILIES) {
    const isHistogram = family.kind === 'histogram';
    for (const { labels, slot } of familySamples(family)) {
      let value = sums[slot] as number;
      if (isHistogram) for (let bucket = 1; bucket < HISTOGRAM_BUCKETS; bucket++) value += sums[slot + bucket] as number;
      if (value === 0) continue;
      const pairs = Object.entries(labels).map(([name, text]) => `${name}="${text}"`);
      values[`${family.name}${isHistogram ? '_count' : ''}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`}`] = value;
    }
  }
  return values;
}

/**
 * An upper bound of a quantile of the request durations, in microseconds: the bound of the bucket it falls into, at most a quarter over.
 * Null before the first request.
 * @param quantile from 0 to 1
 */
export function requestQuantile(sums: Float64Array, side: Side, quantile: number): number | null {
  const first = COUNTERS.requestDuration.first + (side === 'outbound' ? 0 : HISTOGRAM_BUCKETS + 1);
  let count = 0;
  for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) count += sums[first + bucket] as number;
  if (count === 0) return null;
  const rank = Math.max(1, Math.ceil(count * quantile));
  let seen = 0;
  for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
    seen += sums[first + bucket] as number;
    if (seen >= rank) return histogramBound(bucket);
  }
  return Number.POSITIVE_INFINITY;
}
