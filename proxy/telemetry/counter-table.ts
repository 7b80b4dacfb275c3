import { REFUSAL_STATUS } from '../http1/refusal.ts';
import { HTTP2_REFUSAL_STATUS } from '../http2/refusal.ts';
import { TelemetryError } from './telemetry-error.ts';

/** The label values that counters know. A value outside its list counts as its last one: lists of reasons end in `other`. */
export const SIDES = ['outbound', 'inbound'] as const;
/** How a connection travels. */
export const PATHS = ['tunnel', 'local', 'plaintext', 'passthrough'] as const;
export const VERDICTS = ['allow', 'deny', 'error'] as const;
/** `none`: the exchange ended before a status line. */
export const RESPONSE_CLASSES = ['1xx', '2xx', '3xx', '4xx', '5xx', 'none'] as const;
/** Why a connection did not get to its destination. */
export const REFUSALS = [
  'policy',
  'strict-mode',
  'no-identity',
  'peer-identity',
  'no-endpoint',
  'unknown-destination',
  'forbidden-port',
  'not-captured',
  'dial-failed',
  'tunnel-failed',
  'tls-failed',
  'malformed',
  'timeout',
  'limit',
  'draining',
  'other',
] as const;
export const HANDSHAKE_RESULTS = [
  'ok',
  'resumed',
  'no-certificate',
  'expired',
  'untrusted',
  'peer-identity',
  'alpn',
  'protocol',
  'timeout',
  'reset',
  'other',
] as const;
export const PROTOCOLS = ['http1', 'http2', 'tls', 'tcp', 'other'] as const;
/** What dry-run and AUDIT policies would have done. */
export const SHADOW_EFFECTS = ['deny', 'audit'] as const;
/** Input under HTTP/1, or beside it, that was malformed. */
export const MALFORMED = ['tls-hello', 'http2', 'tunnel-request', 'other'] as const;
/** Why HTTP requests were refused or cut: the names of the codecs. */
export const HTTP_REFUSALS: readonly string[] = [
  ...new Set([...Object.keys(REFUSAL_STATUS), ...Object.keys(HTTP2_REFUSAL_STATUS)]),
  'other',
];

export type Side = (typeof SIDES)[number];
export type ConnectionPath = (typeof PATHS)[number];
export type Verdict = (typeof VERDICTS)[number];
export type ResponseClass = (typeof RESPONSE_CLASSES)[number];
export type Refusal = (typeof REFUSALS)[number];
export type HandshakeResult = (typeof HANDSHAKE_RESULTS)[number];
export type Protocol = (typeof PROTOCOLS)[number];
export type Malformed = (typeof MALFORMED)[number];

/** What a family is to Prometheus. A histogram's slots are its buckets, then its sum. */
export type FamilyKind = 'counter' | 'gauge' | 'histogram';

export interface LabelDimension {
  readonly name: string;
  readonly values: readonly string[];
}

/** A named group of slots that differ in their labels. */
export interface CounterFamily {
  readonly name: string;
  readonly help: string;
  readonly kind: FamilyKind;
  readonly labels: readonly LabelDimension[];
  /** Index of its first slot. */
  readonly first: number;
  /** How many slots one combination of label values takes. */
  readonly width: number;
  /** How many slots it takes in all. */
  readonly size: number;
}

/** Slot 0 holds a number made from the table, so that two versions of it never share a block. */
const FIRST_SLOT = 1;
let nextSlot = FIRST_SLOT;
const families: CounterFamily[] = [];

function family(name: string, kind: FamilyKind, help: string, labels: readonly LabelDimension[] = [], width = 1): CounterFamily {
  let combinations = 1;
  for (const { values } of labels) combinations *= values.length;
  const made: CounterFamily = { name, help, kind, labels, first: nextSlot, width, size: combinations * width };
  nextSlot += made.size;
  families.push(made);
  return made;
}

/**
 * The histogram's buckets: a latency in whole microseconds falls into the octave of its highest bit, and each octave is cut in four.
 * The last bucket takes what is over 2^27 us (134 s).
 */
export const HISTOGRAM_OCTAVES = 27;
export const BUCKETS_PER_OCTAVE = 4;
export const HISTOGRAM_BUCKETS: number = HISTOGRAM_OCTAVES * BUCKETS_PER_OCTAVE + 1;

const side: LabelDimension = { name: 'side', values: SIDES };
const path: LabelDimension = { name: 'path', values: PATHS };

/** What a worker counts. */
export type CounterName =
  | 'connectionsOpened'
  | 'connectionsClosed'
  | 'connectionsActive'
  | 'connectionsRefused'
  | 'tunnelFallbacks'
  | 'requests'
  | 'httpRefusals'
  | 'dryRun'
  | 'requestBytes'
  | 'responseBytes'
  | 'handshakes'
  | 'tunnelsActive'
  | 'tunnelsRevoked'
  | 'protocols'
  | 'malformed'
  | 'accessLogLines'
  | 'accessLogDropped'
  | 'trafficOverflow'
  | 'requestDuration';

/** Every counter, gauge and histogram of a worker: the one table. Its order is the layout of the block. */
export const COUNTERS: Readonly<Record<CounterName, CounterFamily>> = {
  connectionsOpened: family('weft_connections_opened_total', 'counter', 'Connections accepted, by the way they came', [side, path]),
  connectionsClosed: family('weft_connections_closed_total', 'counter', 'Connections that ended', [side, path]),
  connectionsActive: family('weft_connections_active', 'gauge', 'Connections open now', [side, path]),
  connectionsRefused: family('weft_connections_refused_total', 'counter', 'Connections refused, by reason', [
    side,
    path,
    { name: 'reason', values: REFUSALS },
  ]),
  tunnelFallbacks: family(
    'weft_tunnel_fallbacks_total',
    'counter',
    'Connections to permissive workloads that went in plaintext since the far agent was away; they stay counted under path tunnel',
  ),
  requests: family('weft_requests_total', 'counter', 'HTTP requests, by class of status and by verdict', [
    side,
    { name: 'response_class', values: RESPONSE_CLASSES },
    { name: 'verdict', values: VERDICTS },
  ]),
  httpRefusals: family('weft_http_refusals_total', 'counter', 'HTTP requests that were refused or cut, by reason', [
    side,
    { name: 'reason', values: HTTP_REFUSALS },
  ]),
  dryRun: family(
    'weft_dry_run_total',
    'counter',
    'What dry-run policies would have denied, and what AUDIT rules matched, per policy and request',
    [{ name: 'effect', values: SHADOW_EFFECTS }],
  ),
  requestBytes: family('weft_client_bytes_total', 'counter', 'Bytes from clients towards servers', [side, path]),
  responseBytes: family('weft_server_bytes_total', 'counter', 'Bytes from servers towards clients', [side, path]),
  handshakes: family('weft_handshakes_total', 'counter', 'TLS handshakes of tunnels, by result', [
    side,
    { name: 'result', values: HANDSHAKE_RESULTS },
  ]),
  tunnelsActive: family('weft_tunnels_active', 'gauge', 'Tunnel connections between nodes open now', [side]),
  tunnelsRevoked: family(
    'weft_tunnels_revoked_total',
    'counter',
    'Tunnels ended because a certificate they were made with is trusted no more',
    [side],
  ),
  protocols: family('weft_protocols_detected_total', 'counter', 'Protocols told from the first bytes', [
    side,
    { name: 'protocol', values: PROTOCOLS },
  ]),
  malformed: family('weft_malformed_total', 'counter', 'Malformed input below HTTP, by what was malformed', [
    side,
    { name: 'reason', values: MALFORMED },
  ]),
  accessLogLines: family('weft_access_log_lines_total', 'counter', 'Access log lines handed to the writer'),
  accessLogDropped: family(
    'weft_access_log_dropped_total',
    'counter',
    'Access log lines dropped because their reader was too slow or gone',
  ),
  trafficOverflow: family(
    'weft_traffic_overflow_total',
    'counter',
    'Connections counted without their own labels because there were too many',
  ),
  requestDuration: family(
    'weft_request_duration_seconds',
    'histogram',
    'From the head of a request to the end of its response',
    [side],
    HISTOGRAM_BUCKETS + 1,
  ),
};

/** All families in the order of their slots. */
export const COUNTER_FAMILIES: readonly CounterFamily[] = families;
/** How many 64-bit slots a block has. */
export const SLOT_COUNT: number = nextSlot;

/** A number that changes with the table. */
export const TABLE_FINGERPRINT: number = fingerprint();

function fingerprint(): number {
  let hash = 0x811c9dc5;
  const text = families
    .map(({ name, size, labels }) => `${name} ${size} ${labels.map(({ values }) => values.join()).join(';')}`)
    .join('\n');
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x0100_0193);
  return (hash >>> 0) + 1;
}

/**
 * The slot of one combination of label values, given in the order of the family's labels. A value that its list does not have counts as
 * the list's last. Look a slot up once per connection where you can.
 * @throws TelemetryError WEFT_TELEMETRY_LABELS if the number of values is not that of the labels: a mistake of the caller
 */
export function counterSlot(family: CounterFamily, ...values: readonly string[]): number {
  const { labels } = family;
  if (values.length !== labels.length) {
    throw new TelemetryError('WEFT_TELEMETRY_LABELS', `${family.name} has ${labels.length} labels, not ${values.length}`, {
      nextStep: 'report this as a bug of Weft',
    });
  }
  let combination = 0;
  for (let i = 0; i < labels.length; i++) {
    const { values: known } = labels[i] as LabelDimension;
    const at = known.indexOf(values[i] as string);
    combination = combination * known.length + (at === -1 ? known.length - 1 : at);
  }
  return family.first + combination * family.width;
}

/** The class of a status code; `none` for a number that is no status. */
export function responseClass(status: number): ResponseClass {
  return status >= 100 && status < 600 ? (RESPONSE_CLASSES[Math.floor(status / 100) - 1] as ResponseClass) : 'none';
}

/** The slot of weft_requests_total for one request, without searching. */
export function requestSlot(side: Side, status: number, verdict: Verdict): number {
  const responses = RESPONSE_CLASSES.length;
  const verdicts = VERDICTS.length;
  const response = status >= 100 && status < 600 ? Math.floor(status / 100) - 1 : responses - 1;
  let result = 2;
  if (verdict === 'allow') result = 0;
  else if (verdict === 'deny') result = 1;
  return COUNTERS.requests.first + ((side === 'outbound' ? 0 : 1) * responses + response) * verdicts + result;
}

/** The bucket of a latency in microseconds. A latency equal to a bucket's bound is in that bucket, as Prometheus has it. */
export function histogramBucket(microseconds: number): number {
  const below = Math.ceil(microseconds) - 1;
  if (!(below >= BUCKETS_PER_OCTAVE)) return below > 0 ? below : 0;
  if (below >= 2 ** HISTOGRAM_OCTAVES) return HISTOGRAM_BUCKETS - 1;
  const octave = 31 - Math.clz32(below);
  // The two bits under the highest one tell the quarter.
  return octave * BUCKETS_PER_OCTAVE + ((below >>> (octave - 2)) & 3);
}

/** The greatest latency in microseconds that falls into a bucket. */
export function histogramBound(bucket: number): number {
  if (bucket >= HISTOGRAM_BUCKETS - 1) return Number.POSITIVE_INFINITY;
  const octave = Math.floor(bucket / BUCKETS_PER_OCTAVE);
  const quarter = bucket % BUCKETS_PER_OCTAVE;
  // Under 4 us a bucket is a microsecond; what would be octave 1 is in them, and its buckets stay empty.
  if (octave === 0) return quarter + 1;
  return octave === 1 ? BUCKETS_PER_OCTAVE : 2 ** octave + (quarter + 1) * 2 ** (octave - 2);
}
