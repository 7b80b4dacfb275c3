import { SVID_FAILURES } from '../../certs/svid/svid-failure.ts';
import type { SvidCounters } from '../../certs/svid/svid-manager.ts';
import { COUNTER_FAMILIES, type CounterFamily, HISTOGRAM_BUCKETS, histogramBound } from '../../proxy/telemetry/counter-table.ts';
import { type CounterBlock, familySamples, sumBlocks } from '../../proxy/telemetry/counters.ts';
import { mergeTraffic, type TrafficLabels, type TrafficSnapshot } from '../../proxy/telemetry/traffic-metrics.ts';
import type { MetricFamily, MetricSample } from '../model/metrics.ts';
import { WORKLOAD_API_REFUSALS, type WorkloadApiRefusal } from './workload-api-socket.ts';

/** What the kernel counted, by the reason that its hooks gave (bpf/weft.h). */
export function kernelEvents(countByReason: ReadonlyMap<string, number>): MetricFamily {
  return {
    name: 'weft_kernel_events_total',
    help: 'What the hooks did with connections, by reason',
    type: 'counter',
    samples: Array.from(countByReason, ([reason, value]) => ({ labels: { reason }, value })),
  };
}

/** Problems that the configuration has had since the agent's start, by code. */
export function configurationProblems(countByCode: ReadonlyMap<string, number>): MetricFamily {
  return {
    name: 'weft_configuration_problems_total',
    help: 'Problems found in the configuration, by code; the last good state of each file stays in force',
    type: 'counter',
    samples: Array.from(countByCode, ([code, value]) => ({ labels: { code }, value })),
  };
}

/**
 * How long each SVID is still valid. Negative once it has expired.
 * @param now and `notAfter` in milliseconds since the epoch
 */
export function svidExpiry(svids: readonly { readonly identity: string; readonly notAfter: number }[], now: number): MetricFamily {
  return {
    name: 'weft_svid_expiry_seconds',
    help: 'Seconds until the SVID of an identity expires',
    type: 'gauge',
    samples: svids.map(({ identity, notAfter }) => ({ labels: { identity }, value: (notAfter - now) / 1000 })),
  };
}

/** What became of requests for SVIDs since the agent's start. */
export function svidRequests(counters: SvidCounters): MetricFamily[] {
  const total = (name: string, help: string, value: number): MetricFamily => ({
    name,
    help,
    type: 'counter',
    samples: [{ labels: {}, value }],
  });
  return [
    total('weft_svids_issued_total', 'First SVIDs of identities', counters.issued),
    total('weft_svids_renewed_total', 'SVIDs that replaced another', counters.renewed),
    {
      name: 'weft_svid_failures_total',
      help: 'Requests for an SVID that failed, by reason; they are repeated',
      type: 'counter',
      samples: SVID_FAILURES.map((reason) => ({ labels: { reason }, value: counters.failed[reason] ?? 0 })),
    },
  ];
}

/** Connections to the Workload API that were closed before a call, since the agent's start. */
export function workloadApiRefusals(refused: Partial<Readonly<Record<WorkloadApiRefusal, number>>>): MetricFamily {
  return {
    name: 'weft_workload_api_refusals_total',
    help: 'Connections to the Workload API that were closed before a call, by reason',
    type: 'counter',
    samples: WORKLOAD_API_REFUSALS.map((reason) => ({ labels: { reason }, value: refused[reason] ?? 0 })),
  };
}

/** The sequence of each trust bundle (spiffe_sequence where its publisher gives one). */
export function bundleSequences(bundles: readonly { readonly trustDomain: string; readonly sequence: bigint }[]): MetricFamily {
  return {
    name: 'weft_trust_bundle_sequence',
    help: 'Sequence number of the trust bundle of a trust domain; it grows with each change',
    type: 'gauge',
    samples: bundles.map(({ trustDomain, sequence }) => ({ labels: { trust_domain: trustDomain }, value: Number(sequence) })),
  };
}

/** How often the bundle of each federated trust domain could not be refreshed, since the relationship was started. */
export function bundleRefreshFailures(
  relationships: readonly { readonly trustDomain: string; readonly failuresTotal: number }[],
): MetricFamily {
  return {
    name: 'weft_bundle_refresh_failures_total',
    help: 'How often the bundle of a federated trust domain could not be refreshed; the last good one stays in force',
    type: 'counter',
    samples: relationships.map(({ trustDomain, failuresTotal }) => ({ labels: { trust_domain: trustDomain }, value: failuresTotal })),
  };
}

/** @param seconds how far our clock is ahead of the identity provider's; null: not measured, and no sample */
export function clockSkew(seconds: number | null): MetricFamily {
  return {
    name: 'weft_clock_skew_seconds',
    help: "How far this node's clock is ahead of its identity provider's",
    type: 'gauge',
    samples: seconds === null ? [] : [{ labels: {}, value: seconds }],
  };
}

/**
 * What the workers count.
 * @param blocks of all workers, those that have died included
 * @param traffic the snapshot of each worker
 */
export function workerMetrics(blocks: readonly CounterBlock[], traffic: readonly (readonly TrafficSnapshot[])[]): MetricFamily[] {
  return [...workerFamilies(sumBlocks(blocks)), ...trafficFamilies(mergeTraffic(traffic))];
}

function workerFamilies(sums: Float64Array): MetricFamily[] {
  return COUNTER_FAMILIES.map((family) => ({
    name: family.name,
    help: family.help,
    type: family.kind,
    samples: family.kind === 'histogram' ? histogramSamples(family, sums) : numberSamples(family, sums),
  }));
}

function numberSamples(family: CounterFamily, sums: Float64Array): MetricSample[] {
  return familySamples(family).map(({ labels, slot }) => ({ labels, value: sums[slot] as number }));
}

/** One line per octave: the quarters are for quantiles that Weft itself prints. */
function histogramSamples(family: CounterFamily, sums: Float64Array): MetricSample[] {
  const samples: MetricSample[] = [];
  for (const { labels, slot } of familySamples(family)) {
    let count = 0;
    for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
      count += sums[slot + bucket] as number;
      const bound = histogramBound(bucket);
      if (Number.isInteger(Math.log2(bound)) && histogramBound(bucket + 1) !== bound) {
        samples.push({ name: `${family.name}_bucket`, labels: { ...labels, le: bound / 1e6 }, value: count });
      }
    }
    samples.push({ name: `${family.name}_bucket`, labels: { ...labels, le: '+Inf' }, value: count });
    samples.push({ name: `${family.name}_sum`, labels, value: (sums[slot + HISTOGRAM_BUCKETS] as number) / 1e6 });
    samples.push({ name: `${family.name}_count`, labels, value: count });
  }
  return samples;
}

/** Istio knows two words; a peer that the kernel attests is neither. */
const SECURITY_POLICY: Readonly<Record<TrafficLabels['security'], string>> = {
  mtls: 'mutual_tls',
  kernel: 'kernel_attested',
  plaintext: 'unknown',
};

function known(text: string): string {
  return text === '' ? 'unknown' : text;
}

/** The label names of Istio's standard metrics, as ztunnel fills them. */
function istioLabels(labels: TrafficLabels, protocol: 'tcp' | 'http'): Record<string, string> {
  const slash = labels.destinationService.indexOf('/');
  const namespace = slash === -1 ? '' : labels.destinationService.slice(0, slash);
  const name = labels.destinationService.slice(slash + 1);
  return {
    reporter: labels.reporter,
    source_workload: known(labels.sourceWorkload),
    source_workload_namespace: known(labels.sourceNamespace),
    source_principal: known(labels.sourcePrincipal),
    destination_workload: known(labels.destinationWorkload),
    destination_workload_namespace: known(labels.destinationNamespace),
    destination_principal: known(labels.destinationPrincipal),
    destination_service: namespace === '' ? known(name) : `${name}.${namespace}.svc.cluster.local`,
    destination_service_name: known(name),
    destination_service_namespace: known(namespace),
    request_protocol: protocol,
    connection_security_policy: SECURITY_POLICY[labels.security],
  };
}

function trafficFamilies(traffic: readonly TrafficSnapshot[]): MetricFamily[] {
  const tcp = (name: string, help: string, value: (series: TrafficSnapshot) => number): MetricFamily => ({
    name,
    help,
    type: 'counter',
    samples: traffic.map((series) => ({ labels: istioLabels(series.labels, 'tcp'), value: value(series) })),
  });
  return [
    tcp('istio_tcp_connections_opened_total', 'Connections opened', (series) => series.connectionsOpened),
    tcp('istio_tcp_connections_closed_total', 'Connections closed', (series) => series.connectionsClosed),
    tcp('istio_tcp_connections_failed_total', 'Connections refused, or never established', (series) => series.connectionsFailed),
    // Istio counts from the server's end whoever reports: sent is what the client receives.
    tcp('istio_tcp_sent_bytes_total', 'Bytes from servers towards clients', (series) => series.responseBytes),
    tcp('istio_tcp_received_bytes_total', 'Bytes from clients towards servers', (series) => series.requestBytes),
    {
      name: 'istio_requests_total',
      help: 'HTTP requests; response_code 0 is one without an answer',
      type: 'counter',
      samples: traffic.flatMap(({ labels, responses }) => {
        const shared = istioLabels(labels, 'http');
        return responses.map(([status, value]) => ({ labels: { ...shared, response_code: status }, value }));
      }),
    },
  ];
}
