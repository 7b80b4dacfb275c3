import type { Decision, ShadowDecision } from '../../src/model/policy.ts';
import type { CounterBlock } from './counters.ts';
import { COUNTERS } from './counter-table.ts';
import { jsonText } from './json-text.ts';
import { LineWriter, type LineWriterOptions } from './line-writer.ts';

/** One end of a connection. null is unknown, or not of the mesh. */
export interface AccessLogEndpoint {
  readonly address: string;
  readonly port: number;
  readonly workload: string | null;
  readonly namespace: string | null;
  /** SPIFFE ID, proven or (the far end of a tunnel) demanded. */
  readonly identity: string | null;
}

/** What all lines of one connection have in common. */
export interface AccessLogConnection {
  readonly direction: 'inbound' | 'outbound';
  /** How the client's identity is known. */
  readonly security: 'mtls' | 'kernel' | 'plaintext';
  readonly source: AccessLogEndpoint;
  readonly destination: AccessLogEndpoint & {
    /** `<namespace>/<name>`, or null. */
    readonly service: string | null;
  };
}

/** The end of a connection or an exchange. */
interface AccessLogEntry {
  /** As detected or declared: `http1`, `tls`, `tcp`, … */
  readonly protocol: string;
  /** null when policy was not asked: on the client's side, or since it failed before. */
  readonly decision: Decision | null;
  /** What went wrong, in words; null when nothing did. */
  readonly error: string | null;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly durationMicroseconds: number;
}

/** One HTTP request. The caller may keep one object and fill it anew each time. */
export interface AccessLogRequest extends AccessLogEntry {
  readonly method: string;
  /** A query, if any is left in it, is not logged. */
  readonly path: string;
  readonly host: string;
  /** What dry-run and AUDIT policies would have done; no more than the first 16 are written. */
  readonly shadow: readonly ShadowDecision[];
  /** 0 when there was no answer. */
  readonly status: number;
  /** Not there: not gRPC. null: gRPC, but it ended without a grpc-status. */
  readonly grpcStatus?: number | null;
}

/** One connection, at its end. Bytes are those of the client's end. */
export type AccessLogClose = AccessLogEntry;

export interface AccessLogOptions extends Pick<LineWriterOptions, 'maxQueuedBytes' | 'write'> {
  /** False where paths hold what must not be logged: `path` is then null. */
  readonly logPath?: boolean;
  /** Where lines and drops are counted. */
  readonly counters?: CounterBlock;
  /** Milliseconds since the epoch. */
  readonly clock?: () => number;
}

/** Longer texts are cut: a line cannot grow with what a client sends. */
const MAX_PATH = 2048;
const MAX_HOST = 256;
const MAX_METHOD = 32;
const MAX_NAME = 256;
/** SPIFFE-ID.md section 2.3. */
const MAX_IDENTITY = 2048;
const MAX_ERROR = 512;
const MAX_SHADOW = 16;

/**
 * The access log: JSON, one line per HTTP request and one per connection, written when each ends. `time` is the end. Never logged:
 * queries, headers, bodies. Never blocks: when lines have to be dropped the next line carries `dropped_before`, their number.
 */
export class AccessLog {
  readonly #writer: LineWriter;
  readonly #logPath: boolean;
  readonly #counters: CounterBlock | null;
  readonly #clock: () => number;
  /** Decisions are made once per rule, and so is their text. */
  readonly #decisionTexts = new WeakMap<Decision, string>();
  #dropped = 0;
  #lastTime = Number.NaN;
  #lastTimeText = '';

  /** @param fd stays its owner's to close, after close() */
  constructor(fd: number, options: AccessLogOptions = {}) {
    const { logPath, counters, clock, ...writer } = options;
    this.#writer = new LineWriter(fd, { ...writer, onDropped: (lines) => this.#countDropped(lines) });
    this.#logPath = logPath ?? true;
    this.#counters = counters ?? null;
    this.#clock = clock ?? Date.now;
  }

  /** The text that all lines of a connection share: make it once, and hand it to request() and connection(). */
  prefix(connection: AccessLogConnection): string {
    const { direction, security, source, destination } = connection;
    const service = nullable(destination.service, MAX_NAME);
    return `"direction":"${direction}","security":"${security}","source":{${endpoint(source)}},"destination":{${endpoint(destination)},"service":${service}},`;
  }

  /** Logs an HTTP request that has ended. */
  request(prefix: string, request: AccessLogRequest): void {
    let path = 'null';
    if (this.#logPath) {
      const query = request.path.indexOf('?');
      path = jsonText(query === -1 ? request.path : request.path.slice(0, query), MAX_PATH);
    }
    let status = request.status === 0 ? 'null' : String(request.status);
    const dryRun = request.shadow.length === 0 ? '' : this.#shadowText(request.shadow);
    if (request.grpcStatus !== undefined) status += `,"grpc_status":${request.grpcStatus}`;
    this.#push(
      `{"time":"${this.#time()}","kind":"request",${prefix}${this.#entry(request)}${dryRun},"method":${jsonText(request.method, MAX_METHOD)},"path":${path},"host":${jsonText(request.host, MAX_HOST)},"status":${status}${this.#end(request)}`,
    );
  }

  /** Logs a connection that has ended. */
  connection(prefix: string, close: AccessLogClose): void {
    this.#push(`{"time":"${this.#time()}","kind":"connection",${prefix}${this.#entry(close)}${this.#end(close)}`);
  }

  /** Writes what is waiting, for at most `timeoutMs`. */
  async close(timeoutMs?: number): Promise<void> {
    await this.#writer.close(timeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #entry(entry: AccessLogEntry): string {
    const { decision, error } = entry;
    let decided: string;
    if (decision === null) {
      decided = `"verdict":"${error === null ? 'none' : 'error'}","policy":null,"rule":null,"reason":${nullable(error, MAX_ERROR)}`;
    } else {
      decided = this.#decisionText(decision);
      if (error !== null) decided += `,"error":${jsonText(error, MAX_ERROR)}`;
    }
    return `"protocol":${jsonText(entry.protocol, MAX_METHOD)},${decided}`;
  }

  #decisionText(decision: Decision): string {
    let text = this.#decisionTexts.get(decision);
    if (text === undefined) {
      const { verdict, policy, rule, reason } = decision;
      text = `"verdict":"${verdict}","policy":${nullable(policy, MAX_NAME)},"rule":${rule},"reason":${jsonText(reason, MAX_ERROR)}`;
      this.#decisionTexts.set(decision, text);
    }
    return text;
  }

  #shadowText(shadow: readonly ShadowDecision[]): string {
    let text = '';
    for (const { policy, rule, effect, reason } of shadow.length > MAX_SHADOW ? shadow.slice(0, MAX_SHADOW) : shadow) {
      if (text !== '') text += ',';
      text += `{"policy":${jsonText(policy, MAX_NAME)},"rule":${rule},"effect":"${effect}","reason":${jsonText(reason, MAX_ERROR)}}`;
    }
    return `,"dry_run":[${text}]`;
  }

  #end(entry: AccessLogEntry): string {
    const duration = whole(entry.durationMicroseconds);
    const dropped = this.#dropped === 0 ? '' : `,"dropped_before":${this.#dropped}`;
    return `,"request_bytes":${whole(entry.requestBytes)},"response_bytes":${whole(entry.responseBytes)},"duration_us":${duration}${dropped}}\n`;
  }

  #time(): string {
    const now = this.#clock();
    if (now !== this.#lastTime) {
      this.#lastTime = now;
      this.#lastTimeText = new Date(now).toISOString();
    }
    return this.#lastTimeText;
  }

  #push(line: string): void {
    if (!this.#writer.push(line)) {
      this.#countDropped(1);
      return;
    }
    this.#dropped = 0;
    this.#counters?.add(COUNTERS.accessLogLines.first, 1);
  }

  #countDropped(lines: number): void {
    this.#dropped += lines;
    this.#counters?.add(COUNTERS.accessLogDropped.first, lines);
  }
}

/** JSON has no NaN and no infinity. */
function whole(n: number): number {
  return n > 0 && n < Number.MAX_SAFE_INTEGER ? Math.round(n) : 0;
}

function nullable(text: string | null, maxLength: number): string {
  return text === null ? 'null' : jsonText(text, maxLength);
}

function endpoint({ address, port, workload, namespace, identity }: AccessLogEndpoint): string {
  return `"address":${jsonText(address, MAX_NAME)},"port":${port},"workload":${nullable(workload, MAX_NAME)},"namespace":${nullable(namespace, MAX_NAME)},"identity":${nullable(identity, MAX_IDENTITY)}`;
}
