/**
 * Traffic between workloads, for the metrics that dashboards of Istio and ztunnel know. A series is looked up once per connection and
 * counted in plain number fields; main asks for a snapshot when somebody scrapes.
 */

/** Who talks to whom. An empty text is unknown. */
export interface TrafficLabels {
  /** Which end reports: `source` is the client's node. */
  readonly reporter: 'source' | 'destination';
  readonly sourceWorkload: string;
  readonly sourceNamespace: string;
  /** SPIFFE ID. */
  readonly sourcePrincipal: string;
  readonly destinationWorkload: string;
  readonly destinationNamespace: string;
  readonly destinationPrincipal: string;
  /** `<namespace>/<name>`, or empty. */
  readonly destinationService: string;
  /** `mtls` and `kernel` are proven; Istio has no word for the second. */
  readonly security: 'mtls' | 'kernel' | 'plaintext';
}

/** One status code of one series. */
interface ResponseCount {
  readonly status: number;
  count: number;
}

/** Distinct status codes per series before further ones are counted as status 0. */
const MAX_STATUSES = 32;

/** The numbers of one pair of workloads. Fields are added to in place. */
export class TrafficSeries {
  readonly labels: TrafficLabels;
  connectionsOpened = 0;
  connectionsClosed = 0;
  /** Never established, or refused. */
  connectionsFailed = 0;
  /** From the client towards the server. */
  requestBytes = 0;
  /** From the server towards the client. */
  responseBytes = 0;
  readonly #responses: ResponseCount[] = [];

  constructor(labels: TrafficLabels) {
    this.labels = labels;
  }

  /** Counts one HTTP request. `status` is that of its answer, 0 if there was none. */
  request(status: number): void {
    const responses = this.#responses;
    for (let i = 0; i < responses.length; i++) {
      const response = responses[i] as ResponseCount;
      if (response.status === status) {
        response.count++;
        return;
      }
    }
    if (responses.length < MAX_STATUSES || status === 0) responses.push({ status, count: 1 });
    else this.request(0);
  }

  /** Plain data for a message to main. */
  snapshot(): TrafficSnapshot {
    return {
      labels: this.labels,
      connectionsOpened: this.connectionsOpened,
      connectionsClosed: this.connectionsClosed,
      connectionsFailed: this.connectionsFailed,
      requestBytes: this.requestBytes,
      responseBytes: this.responseBytes,
      responses: this.#responses.map(({ status, count }) => [status, count] as const),
    };
  }
}

/** A series as plain data. */
export interface TrafficSnapshot {
  readonly labels: TrafficLabels;
  readonly connectionsOpened: number;
  readonly connectionsClosed: number;
  readonly connectionsFailed: number;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly responses: readonly (readonly [status: number, count: number])[];
}

const OVERFLOW = 'overflow';

/** Names hold no line breaks: Kubernetes and SPIFFE forbid them. */
function keyOf(labels: TrafficLabels): string {
  return `${labels.reporter}\n${labels.sourceWorkload}\n${labels.sourceNamespace}\n${labels.sourcePrincipal}\n${labels.destinationWorkload}\n${labels.destinationNamespace}\n${labels.destinationPrincipal}\n${labels.destinationService}\n${labels.security}`;
}

function overflowLabels(reporter: TrafficLabels['reporter']): TrafficLabels {
  return {
    reporter,
    sourceWorkload: OVERFLOW,
    sourceNamespace: OVERFLOW,
    sourcePrincipal: '',
    destinationWorkload: OVERFLOW,
    destinationNamespace: OVERFLOW,
    destinationPrincipal: '',
    destinationService: '',
    security: 'plaintext',
  };
}

/** All series of a worker. Bounded: beyond `maxSeries` pairs, new ones share one series per reporter whose workloads are named `overflow`. */
export class TrafficMetrics {
  readonly #series = new Map<string, TrafficSeries>();
  readonly #maxSeries: number;
  readonly #onOverflow: () => void;

  /** @param onOverflow called for each look-up that got the shared series */
  constructor(maxSeries = 4096, onOverflow: () => void = () => {}) {
    this.#maxSeries = maxSeries;
    this.#onOverflow = onOverflow;
  }

  /** The series of a pair: keep it for the connection's life. */
  series(labels: TrafficLabels): TrafficSeries {
    const key = keyOf(labels);
    const known = this.#series.get(key);
    if (known !== undefined) return known;
    if (this.#series.size < this.#maxSeries) return this.#add(key, labels);
    this.#onOverflow();
    const overflow = overflowLabels(labels.reporter);
    const overflowKey = keyOf(overflow);
    return this.#series.get(overflowKey) ?? this.#add(overflowKey, overflow);
  }

  #add(key: string, labels: TrafficLabels): TrafficSeries {
    const made = new TrafficSeries(labels);
    this.#series.set(key, made);
    return made;
  }

  /** Every series as plain data, for postMessage. */
  snapshot(): TrafficSnapshot[] {
    return Array.from(this.#series.values(), (series) => series.snapshot());
  }
}

/** Adds up the snapshots of several workers, pair by pair. */
export function mergeTraffic(snapshots: readonly (readonly TrafficSnapshot[])[]): TrafficSnapshot[] {
  const merged = new Map<string, TrafficSnapshot>();
  for (const snapshot of snapshots) {
    for (const one of snapshot) {
      const key = keyOf(one.labels);
      const other = merged.get(key);
      merged.set(key, other === undefined ? one : sum(one, other));
    }
  }
  return [...merged.values()];
}

function sum(a: TrafficSnapshot, b: TrafficSnapshot): TrafficSnapshot {
  const responses = new Map(a.responses);
  for (const [status, count] of b.responses) responses.set(status, (responses.get(status) ?? 0) + count);
  return {
    labels: a.labels,
    connectionsOpened: a.connectionsOpened + b.connectionsOpened,
    connectionsClosed: a.connectionsClosed + b.connectionsClosed,
    connectionsFailed: a.connectionsFailed + b.connectionsFailed,
    requestBytes: a.requestBytes + b.requestBytes,
    responseBytes: a.responseBytes + b.responseBytes,
    responses: [...responses],
  };
}
