import type { RefusalLog } from './refusal-log.ts';
import type { Telemetry } from './telemetry/connection-record.ts';
import { COUNTERS, counterSlot, type HandshakeResult, type Malformed, type Refusal, type Side } from './telemetry/counter-table.ts';
import { errorText } from '../src/model/errors.ts';
import { TunnelError } from './tunnel/tunnel-error.ts';
import type { TunnelRefusal, TunnelRefused } from './tunnel/tunnel-server.ts';

/** What one refusal counts as. null: in that family it is nothing. */
interface Counted {
  readonly refusal: Refusal | null;
  readonly handshake: HandshakeResult | null;
  readonly malformed: Malformed | null;
}

const COUNTED: Readonly<Record<TunnelRefusal, Counted>> = {
  no_identity: { refusal: 'no-identity', handshake: 'other', malformed: null },
  limit: { refusal: 'limit', handshake: null, malformed: null },
  draining: { refusal: 'draining', handshake: null, malformed: null },
  handshake_timeout: { refusal: 'timeout', handshake: 'timeout', malformed: null },
  plaintext: { refusal: 'tls-failed', handshake: 'protocol', malformed: 'tls-hello' },
  not_tls: { refusal: 'tls-failed', handshake: 'protocol', malformed: 'tls-hello' },
  tls: { refusal: 'tls-failed', handshake: 'protocol', malformed: null },
  // It left by itself: nobody was refused.
  closed: { refusal: null, handshake: 'reset', malformed: null },
  no_certificate: { refusal: 'peer-identity', handshake: 'no-certificate', malformed: null },
  certificate: { refusal: 'peer-identity', handshake: 'peer-identity', malformed: null },
  http2: { refusal: 'malformed', handshake: null, malformed: 'http2' },
  not_connect: { refusal: 'malformed', handshake: null, malformed: 'tunnel-request' },
  authority: { refusal: 'malformed', handshake: null, malformed: 'tunnel-request' },
};

/** Where the code underneath tells more than the reason. */
const HANDSHAKE_OF_CODE: ReadonlyMap<string, HandshakeResult> = new Map([
  ['WEFT_IDENTITY_PEER_EXPIRED', 'expired'],
  ['WEFT_IDENTITY_PEER_NOT_YET_VALID', 'expired'],
  ['WEFT_IDENTITY_PEER_CHAIN', 'untrusted'],
  ['WEFT_IDENTITY_PEER_REVOKED', 'untrusted'],
  ['WEFT_IDENTITY_PEER_TRUST_DOMAIN', 'untrusted'],
  ['ERR_SSL_NO_APPLICATION_PROTOCOL', 'alpn'],
  ['handshake_timeout', 'timeout'],
]);

const LOST: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE']);

/** Counts tunnels in both directions, and logs who was refused on a workload's tunnel port. */
export class TunnelTelemetry {
  readonly #telemetry: Telemetry;
  readonly #log: RefusalLog;

  constructor(telemetry: Telemetry, log: RefusalLog) {
    this.#telemetry = telemetry;
    this.#log = log;
  }

  opened(side: Side, isResumed: boolean): void {
    const { counters } = this.#telemetry;
    counters.add(counterSlot(COUNTERS.handshakes, side, isResumed ? 'resumed' : 'ok'), 1);
    counters.add(counterSlot(COUNTERS.tunnelsActive, side), 1);
  }

  /** @param error what ended it; null for an orderly end */
  closed(side: Side, error: Error | null): void {
    const { counters } = this.#telemetry;
    counters.add(counterSlot(COUNTERS.tunnelsActive, side), -1);
    if (!(error instanceof TunnelError) || error.code !== 'WEFT_TUNNEL_REVOKED') return;
    counters.add(counterSlot(COUNTERS.tunnelsRevoked, side), 1);
    this.#log.add('warn', 'a tunnel was ended', { reason: 'certificate_revoked', code: error.code, side, error: errorText(error) });
  }

  /** A tunnel of ours could not be made. The access log tells of each connection that wanted it. */
  failed(error: TunnelError): void {
    // Nobody answered: that was no handshake.
    if (error.code === 'WEFT_TUNNEL_DIAL') return;
    const code = (error.cause as { readonly code?: string } | null | undefined)?.code ?? '';
    const isPeer = error.code === 'WEFT_TUNNEL_PEER' || error.code === 'WEFT_TUNNEL_PEER_IDENTITY';
    const otherwise: HandshakeResult = isPeer ? 'peer-identity' : LOST.has(code) ? 'reset' : 'protocol';
    this.#telemetry.counters.add(counterSlot(COUNTERS.handshakes, 'outbound', HANDSHAKE_OF_CODE.get(code) ?? otherwise), 1);
  }

  /** @param identity of the workload that was dialled */
  refused(refused: TunnelRefused, identity: string): void {
    const { refusal, handshake, malformed } = COUNTED[refused.reason];
    const { counters } = this.#telemetry;
    if (refusal !== null) this.#telemetry.refused('inbound', 'tunnel', refusal);
    if (malformed !== null) counters.add(counterSlot(COUNTERS.malformed, 'inbound', malformed), 1);
    if (handshake !== null) {
      const result = HANDSHAKE_OF_CODE.get(refused.code ?? '') ?? handshake;
      counters.add(counterSlot(COUNTERS.handshakes, 'inbound', result), 1);
    }
    // Who only looks whether the port is open (a scan, a TCP health check) is no news.
    const level = refusal === null ? 'info' : 'warn';
    this.#log.add(level, 'a tunnel was refused', { ...refused, identity });
  }
}
