import { type AuthorityStatusAnswer, REFUSAL_REASONS, ROTATION_PHASES } from '../model/authority-api.ts';
import type { MetricFamily, MetricSample } from '../model/metrics.ts';

/**
 * What is worth watching of a certificate authority.
 * @param now milliseconds since the epoch
 */
export function authorityMetrics({ slots, rotation, nodes, sequence, counts }: AuthorityStatusAnswer, now: number): MetricFamily[] {
  const live = nodes.filter(({ liveUntil }) => liveUntil !== null && Date.parse(liveUntil) > now);
  const phase = rotation?.phase ?? 'none';
  return [
    counter('weft_authority_svids_issued_total', 'SVIDs that the authority has signed, by kind', [
      { labels: { kind: 'x509' }, value: counts.issued.x509 },
      { labels: { kind: 'jwt' }, value: counts.issued.jwt },
    ]),
    counter(
      'weft_authority_refusals_total',
      'What nodes asked for and did not get, by reason',
      REFUSAL_REASONS.map((reason) => ({ labels: { reason }, value: counts.refused[reason] })),
    ),
    counter('weft_authority_joins_total', 'Nodes that joined with a token', [{ labels: {}, value: counts.joins }]),
    gauge('weft_authority_nodes', 'Nodes of the trust domain: known, live, awaited by the rotation under way, evicted', [
      { labels: { state: 'known' }, value: nodes.length },
      { labels: { state: 'live' }, value: live.length },
      { labels: { state: 'awaited' }, value: rotation?.waitingFor.length ?? 0 },
      { labels: { state: 'evicted' }, value: nodes.filter(({ evicted }) => evicted).length },
    ]),
    gauge(
      'weft_authority_rotation_phase',
      'The phase that the rotation is in is 1, all others 0',
      ROTATION_PHASES.map((each) => ({ labels: { phase: each }, value: each === phase ? 1 : 0 })),
    ),
    gauge(
      'weft_authority_expiry_seconds',
      'Seconds until the certificates of an authority expire, by its state',
      slots.map(({ id, state, notAfter }) => ({ labels: { authority: id, state }, value: (Date.parse(notAfter) - now) / 1000 })),
    ),
    gauge('weft_authority_bundle_sequence', 'Sequence number of the trust bundle that the authority publishes', [
      { labels: {}, value: Number(sequence) },
    ]),
  ];
}

function counter(name: string, help: string, samples: readonly MetricSample[]): MetricFamily {
  return { name, help, type: 'counter', samples };
}

function gauge(name: string, help: string, samples: readonly MetricSample[]): MetricFamily {
  return { name, help, type: 'gauge', samples };
}
