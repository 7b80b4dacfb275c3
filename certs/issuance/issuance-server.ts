import type { TLSSocket } from 'node:tls';
import { GrpcServer } from '../../src/grpc/grpc-server.ts';
import { errorText } from '../../src/model/errors.ts';
import type { Log } from '../../src/model/log.ts';
import { peerChain } from '../../src/model/peer-certificates.ts';
import type { Placements } from '../../src/model/placements.ts';
import { type Clock, systemClock } from '../clock.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { readCertificateFields } from '../x509/certificate-fields.ts';
import { addressGroup } from './address-group.ts';
import { BoundedLog } from './bounded-log.ts';
import type { IssuancePeer } from './caller.ts';
import type { IssuanceCounts } from './issuance-counts.ts';
import { DEFAULT_MAX_TTL_SECONDS, IssuanceService, type IssuanceServiceOptions } from './issuance-service.ts';
import type { IssuingAuthority } from './issuing-authority.ts';
import { ISSUANCE_SERVICES } from './messages.ts';
import type { NodeRegister } from './node-register.ts';
import { OwnBundle } from './own-bundle.ts';
import { ServerIdentity } from './server-identity.ts';
import { TlsListener, type TlsListenerLimits } from './tls-listener.ts';

export interface IssuanceOptions {
  readonly authority: IssuingAuthority;
  readonly nodes: NodeRegister;
  readonly placements: Placements;
  readonly listen: { readonly host: string; readonly port: number };
  /** DNS names of the server's certificate, for clients that check one. */
  readonly dns: readonly string[];
  readonly counts: IssuanceCounts;
  readonly log: Log;
  readonly clock?: Clock;
  readonly connectionLimits?: Partial<TlsListenerLimits>;
  readonly service?: Pick<IssuanceServiceOptions, 'maxTtlSeconds' | 'authenticators' | 'perNode' | 'perAddress'>;
}

/**
 * Connections at once of those who show no SVID: a node that joins needs one for a second. The oldest makes room, so that many addresses with many
 * idle connections keep out neither whoever joins nor, above all, the nodes, for whom the rest of the places are.
 */
const MAX_WITHOUT_SVID = 256;

interface Connection {
  /** DER, leaf first. Empty: it showed no certificate. */
  readonly chain: readonly Uint8Array[];
  readonly address: string;
  readonly cancelExpiry: () => void;
}

/** The issuance service on its port. Every connection that shows a certificate shows a valid SVID of the trust domain, as long as it lasts. */
export class IssuanceServer implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #counts: IssuanceCounts;
  readonly #warnings: BoundedLog;
  readonly #verifier: SvidVerifier;
  readonly #grpc: GrpcServer<IssuancePeer>;
  readonly #connections = new Map<TLSSocket, Connection>();
  /** Those of them that showed no SVID, in the order in which they came. */
  readonly #withoutSvid = new Set<TLSSocket>();
  readonly #owned = new AsyncDisposableStack();
  #listener: TlsListener | null = null;

  private constructor(options: IssuanceOptions) {
    const { authority, log } = options;
    this.#clock = options.clock ?? systemClock;
    this.#counts = options.counts;
    this.#warnings = new BoundedLog(log, this.#clock);
    this.#verifier = new SvidVerifier(new OwnBundle(() => authority.trust()), { now: () => this.#clock.now() });
    this.#grpc = this.#owned.use(
      new GrpcServer<IssuancePeer>({ peerKey: ({ identity, address }) => identity?.text ?? addressGroup(address) }),
    );
    new IssuanceService({
      authority,
      nodes: options.nodes,
      placements: options.placements,
      counts: options.counts,
      log,
      clock: this.#clock,
      ...options.service,
    }).addTo(this.#grpc);
    this.#grpc.reflect(ISSUANCE_SERVICES);
    this.#owned.defer(() => this.#endConnections());
  }

  /** @throws CertsError WEFT_CERTS_LISTEN, or why there is no certificate for the server */
  static async start(options: IssuanceOptions): Promise<IssuanceServer> {
    const server = new IssuanceServer(options);
    try {
      await server.#start(options);
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  async #start({ authority, dns, log, listen, connectionLimits, service }: IssuanceOptions): Promise<void> {
    const ttlSeconds = service?.maxTtlSeconds ?? DEFAULT_MAX_TTL_SECONDS;
    const identity = this.#owned.use(await ServerIdentity.create({ authority, dns, ttlSeconds, log, clock: this.#clock }));
    this.#owned.defer(authority.onChange(() => this.#verifyAgain()));
    this.#listener = this.#owned.use(
      await TlsListener.listen({
        ...listen,
        context: () => identity.context,
        onSecure: (socket, address) => this.#take(socket, address),
        onFailed: (address, reason) => this.#warnings.warn({ address, reason }, 'no TLS connection to the issuance service'),
        ...(connectionLimits === undefined ? {} : { limits: connectionLimits }),
      }),
    );
  }

  /** The port it listens on. */
  get port(): number {
    return this.#listener?.port ?? 0;
  }

  /** Connections that are open, handshakes included. */
  get connections(): number {
    return this.#listener?.connections ?? 0;
  }

  #take(socket: TLSSocket, address: string): void {
    const chain = peerChain(socket);
    let peer: IssuancePeer = { address, identity: null, validFrom: null, expiresAt: null };
    if (chain.length > 0) {
      try {
        const identity = this.#verifier.verify(chain);
        const { notBefore, notAfter } = readCertificateFields(chain[0] as Uint8Array);
        peer = { address, identity, validFrom: notBefore, expiresAt: notAfter };
      } catch (error) {
        socket.destroy();
        this.#counts.refused.unauthenticated++;
        this.#warnings.warn({ address, reason: errorText(error) }, 'the certificate of a client of the issuance service is refused');
        return;
      }
    }
    const { expiresAt } = peer;
    const cancelExpiry = expiresAt === null ? () => {} : this.#clock.after(expiresAt - this.#clock.now(), () => socket.destroy());
    this.#connections.set(socket, { chain, address, cancelExpiry });
    if (chain.length === 0) this.#withoutSvid.add(socket);
    socket.once('close', () => {
      cancelExpiry();
      this.#connections.delete(socket);
      this.#withoutSvid.delete(socket);
    });
    if (this.#withoutSvid.size > MAX_WITHOUT_SVID) this.#withoutSvid.values().next().value?.destroy();
    this.#grpc.accept(socket, peer);
  }

  /** After a change of trust: who would not be let in now is not left in. */
  #verifyAgain(): void {
    for (const [socket, { chain, address }] of this.#connections) {
      if (chain.length === 0) continue;
      try {
        this.#verifier.verify(chain);
      } catch (error) {
        socket.destroy();
        this.#warnings.warn({ address, reason: errorText(error) }, 'a client of the issuance service is not trusted any more');
      }
    }
  }

  #endConnections(): void {
    for (const [socket, { cancelExpiry }] of this.#connections) {
      cancelExpiry();
      socket.destroy();
    }
  }

  /** Takes no more calls, and lets those under way end within `ms`. */
  async drain(ms: number): Promise<void> {
    this.#listener?.[Symbol.dispose]();
    await this.#grpc.drain(ms);
    await this[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#owned.disposeAsync();
  }
}
