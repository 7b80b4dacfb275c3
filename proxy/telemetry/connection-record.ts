import type { ByteStream } from '../../src/model/byte-stream.ts';
import { errorText, WeftError } from '../../src/model/errors.ts';
import type { Decision, ShadowDecision } from '../../src/model/policy.ts';
import type { WorkloadEntry } from '../../src/model/snapshot.ts';
import type { ConnectionInfo } from '../../src/model/worker-messages.ts';
import type { AccessLog, AccessLogConnection, AccessLogEndpoint } from './access-log.ts';
import {
  COUNTERS,
  counterSlot,
  type ConnectionPath,
  type Refusal,
  type Malformed,
  requestSlot,
  type Side,
  type Verdict,
} from './counter-table.ts';
import type { CounterBlock } from './counters.ts';
import type { TrafficLabels, TrafficMetrics, TrafficSeries, TrafficSnapshot } from './traffic-metrics.ts';

/** One end of a connection, as the data path knows it. */
export interface RecordedEndpoint {
  readonly address: string;
  readonly port: number;
  readonly workload: WorkloadEntry | null;
  /** SPIFFE ID, proven or (the far end of a tunnel) demanded. */
  readonly identity: string | null;
}

/** What is known of a connection when it is accepted. */
export interface RecordedConnection {
  readonly direction: Side;
  readonly security: 'mtls' | 'kernel' | 'plaintext';
  readonly path: ConnectionPath;
  readonly source: RecordedEndpoint;
  readonly destination: RecordedEndpoint & {
    /** `<namespace>/<name>`, or null. */
    readonly service: string | null;
  };
  /** The client's end: bytes are counted there. */
  readonly stream: ByteStream;
}

/** An HTTP exchange that has ended. Not kept. */
export interface RecordedExchange {
  readonly method: string;
  readonly path: string;
  readonly host: string;
  readonly status: number;
  /** Not there: not gRPC. null: gRPC, but it ended without a grpc-status. */
  readonly grpcStatus?: number | null;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly durationMicros: number;
  readonly decision: Decision;
  /** What dry-run and AUDIT policies would have done. */
  readonly shadow: readonly ShadowDecision[];
  /** Why the answer was not the upstream's, by the codec's name; null when it was. */
  readonly refusal: string | null;
  /** More about the refusal, in words; null when its name says all. */
  readonly detail?: string | null;
}

/** What ends a connection before it is established, by error code. */
const REFUSAL_OF_CODE: ReadonlyMap<string, Refusal> = new Map([
  ['WEFT_PROXY_NO_ENDPOINT', 'no-endpoint'],
  ['WEFT_PROXY_DIAL', 'dial-failed'],
  ['WEFT_IDENTITY_UNAVAILABLE', 'no-identity'],
]);

/** All that a worker counts and logs about connections. One per worker. */
export class Telemetry {
  readonly counters: CounterBlock;
  readonly accessLog: AccessLog | null;
  readonly #traffic: TrafficMetrics;
  readonly #open = new Set<ConnectionRecord>();

  /** @param accessLog null turns the log off; whoever made it closes it */
  constructor(counters: CounterBlock, traffic: TrafficMetrics, accessLog: AccessLog | null) {
    this.counters = counters;
    this.accessLog = accessLog;
    this.#traffic = traffic;
  }

  /** A connection was accepted and will end with close() on its record, exactly once. */
  open(connection: RecordedConnection): ConnectionRecord {
    const record = new ConnectionRecord(connection, this, this.#traffic);
    this.#open.add(record);
    return record;
  }

  /** A connection was refused before anything was known of it. */
  refused(side: Side, path: ConnectionPath, reason: Refusal): void {
    this.counters.add(counterSlot(COUNTERS.connectionsRefused, side, path, reason), 1);
  }

  /** The traffic between workloads up to now, open connections included. */
  snapshotTraffic(): TrafficSnapshot[] {
    for (const record of this.#open) record.settle();
    return this.#traffic.snapshot();
  }

  /** For ConnectionRecord: it has ended. */
  forget(record: ConnectionRecord): void {
    this.#open.delete(record);
  }
}

/** What a connection adds to counters and the access log, from its acceptance to its end. */
export class ConnectionRecord {
  readonly connection: RecordedConnection;
  readonly openedAt: number = Date.now();
  readonly #telemetry: Telemetry;
  readonly #traffic: TrafficMetrics;
  readonly #started = performance.now();
  #security: RecordedConnection['security'];
  #protocol = 'unknown';
  #series: TrafficSeries;
  /** On one node a single proxy stands for both ends, and reports for both. */
  #sourceSeries: TrafficSeries | null;
  /** Made with the first line. */
  #prefix: string | null = null;
  #isRefused = false;
  #requestBytes = 0;
  #responseBytes = 0;
  #isClosed = false;

  /** Made by Telemetry.open(). */
  constructor(connection: RecordedConnection, telemetry: Telemetry, traffic: TrafficMetrics) {
    this.connection = connection;
    this.#telemetry = telemetry;
    this.#traffic = traffic;
    this.#security = connection.security;
    const { direction, path } = connection;
    this.#series = traffic.series(this.#labels(direction === 'inbound' ? 'destination' : 'source'));
    this.#sourceSeries = connection.security === 'kernel' ? traffic.series(this.#labels('source')) : null;
    this.#series.connectionsOpened++;
    if (this.#sourceSeries !== null) this.#sourceSeries.connectionsOpened++;
    const { counters } = telemetry;
    counters.add(counterSlot(COUNTERS.connectionsOpened, direction, path), 1);
    counters.add(counterSlot(COUNTERS.connectionsActive, direction, path), 1);
  }

  /** What the connection carries was told, or declared: `http1`, `http2`, `tls`, `tcp`. */
  protocol(name: string): void {
    this.#protocol = name;
    this.#telemetry.counters.add(counterSlot(COUNTERS.protocols, this.connection.direction, name), 1);
  }

  /** The tunnel was refused, and a permissive destination gets plaintext. Opening and closing stay counted under the tunnel. */
  fellBack(): void {
    if (this.#security === 'plaintext') return;
    this.settle();
    this.#security = 'plaintext';
    this.#prefix = null;
    this.#series.connectionsClosed++;
    this.#series = this.#traffic.series(this.#labels('source'));
    this.#series.connectionsOpened++;
    this.#telemetry.counters.add(COUNTERS.tunnelFallbacks.first, 1);
  }

  /** The connection is refused, or could not be carried on; close() follows. The first reason counts. */
  refused(reason: Refusal): void {
    if (this.#isRefused) return;
    this.#isRefused = true;
    const { direction, path } = this.connection;
    this.#telemetry.counters.add(counterSlot(COUNTERS.connectionsRefused, direction, path, reason), 1);
    this.#series.connectionsFailed++;
    if (this.#sourceSeries !== null) this.#sourceSeries.connectionsFailed++;
  }

  /** A message below HTTP's was malformed, and was refused. */
  malformed(what: Malformed): void {
    this.#telemetry.counters.add(counterSlot(COUNTERS.malformed, this.connection.direction, what), 1);
  }

  /** An HTTP exchange has ended. */
  exchange(exchange: RecordedExchange): void {
    const { counters, accessLog } = this.#telemetry;
    const { direction } = this.connection;
    const { decision, refusal, shadow, status } = exchange;
    const isDenied = refusal === 'policy-denied';
    let verdict: Verdict = decision.verdict;
    if (refusal !== null) {
      verdict = isDenied ? 'deny' : 'error';
      counters.add(counterSlot(COUNTERS.httpRefusals, direction, refusal), 1);
    }
    for (const { effect } of shadow) counters.add(counterSlot(COUNTERS.dryRun, effect), 1);
    counters.add(requestSlot(direction, status, verdict), 1);
    counters.observeRequest(direction, exchange.durationMicros);
    this.#series.request(status);
    this.#sourceSeries?.request(status);
    if (accessLog === null) return;
    const { detail, grpcStatus } = exchange;
    accessLog.request(this.#linePrefix(accessLog), {
      protocol: grpcStatus === undefined ? this.#protocol : 'grpc',
      ...(grpcStatus === undefined ? {} : { grpcStatus }),
      decision,
      shadow,
      error: isDenied || refusal === null || !detail ? (isDenied ? null : refusal) : `${refusal}: ${detail}`,
      method: exchange.method,
      path: exchange.path,
      host: exchange.host,
      status,
      requestBytes: exchange.requestBytes,
      responseBytes: exchange.responseBytes,
      durationMicroseconds: exchange.durationMicros,
    });
  }

  /**
   * The connection has ended. Later calls do nothing.
   * @param error what ended it; null for an orderly end
   * @param decision of policy about the whole connection; null when policy was not asked, or asked for each request
   */
  close(error: Error | null, decision: Decision | null): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.settle();
    const { direction, path } = this.connection;
    const { counters, accessLog } = this.#telemetry;
    counters.add(counterSlot(COUNTERS.connectionsClosed, direction, path), 1);
    counters.add(counterSlot(COUNTERS.connectionsActive, direction, path), -1);
    this.#series.connectionsClosed++;
    if (this.#sourceSeries !== null) this.#sourceSeries.connectionsClosed++;
    const isDenied = decision?.verdict === 'deny';
    if (isDenied) this.refused('policy');
    else if (error !== null) this.#refusedBy(error);
    this.#telemetry.forget(this);
    accessLog?.connection(this.#linePrefix(accessLog), {
      protocol: this.#protocol,
      decision,
      // The error of a denied connection is only how it was ended.
      error: error === null || isDenied ? null : errorText(error),
      requestBytes: this.#requestBytes,
      responseBytes: this.#responseBytes,
      durationMicroseconds: (performance.now() - this.#started) * 1000,
    });
  }

  /** Counts the bytes since the last time. */
  settle(): void {
    const { direction, path, stream } = this.connection;
    const received = stream.bytesRead - this.#requestBytes;
    const sent = stream.bytesWritten - this.#responseBytes;
    this.#requestBytes = stream.bytesRead;
    this.#responseBytes = stream.bytesWritten;
    this.#series.requestBytes += received;
    this.#series.responseBytes += sent;
    if (this.#sourceSeries !== null) {
      this.#sourceSeries.requestBytes += received;
      this.#sourceSeries.responseBytes += sent;
    }
    const { counters } = this.#telemetry;
    counters.add(counterSlot(COUNTERS.requestBytes, direction, path), received);
    counters.add(counterSlot(COUNTERS.responseBytes, direction, path), sent);
  }

  /** For the admin endpoint. */
  info(worker: number, state: string): ConnectionInfo {
    const { direction, source, destination, stream } = this.connection;
    return {
      worker,
      direction,
      state,
      protocol: this.#protocol,
      security: this.#security,
      source: endpointText(source),
      sourceIdentity: source.identity,
      destination: endpointText(destination),
      destinationIdentity: destination.identity,
      openedAt: new Date(this.openedAt).toISOString(),
      bytesReceived: stream.bytesRead,
      bytesSent: stream.bytesWritten,
    };
  }

  #refusedBy(error: Error): void {
    if (!(error instanceof WeftError)) return;
    const reason = REFUSAL_OF_CODE.get(error.code);
    if (reason !== undefined) this.refused(reason);
    else if (error.code.startsWith('WEFT_TUNNEL_') && this.#responseBytes === 0) this.refused('tunnel-failed');
  }

  #linePrefix(log: AccessLog): string {
    this.#prefix ??= log.prefix(this.#logged());
    return this.#prefix;
  }

  #logged(): AccessLogConnection {
    const { direction, source, destination } = this.connection;
    return {
      direction,
      security: this.#security,
      source: loggedEndpoint(source),
      destination: { ...loggedEndpoint(destination), service: destination.service },
    };
  }

  #labels(reporter: TrafficLabels['reporter']): TrafficLabels {
    const { source, destination } = this.connection;
    return {
      reporter,
      sourceWorkload: source.workload?.name ?? '',
      sourceNamespace: source.workload?.namespace ?? '',
      sourcePrincipal: source.identity ?? '',
      destinationWorkload: destination.workload?.name ?? '',
      destinationNamespace: destination.workload?.namespace ?? '',
      destinationPrincipal: destination.identity ?? '',
      destinationService: destination.service ?? '',
      security: this.#security,
    };
  }
}

function loggedEndpoint({ address, port, workload, identity }: RecordedEndpoint): AccessLogEndpoint {
  return { address, port, workload: workload?.name ?? null, namespace: workload?.namespace ?? null, identity };
}

function endpointText({ address, port }: RecordedEndpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
