import { once } from 'node:events';
import { connect as connectTls, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls';
import { GrpcClient } from '../../src/grpc/grpc-client.ts';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { peerChain } from '../../src/model/peer-certificates.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import { CertsError } from '../errors.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { withPemKey } from '../svid/private-key.ts';
import { TLS_SUITES } from '../svid/tls-contexts.ts';
import type { JwtSvidResponse, X509SvidResponse } from '../workload-api/messages.ts';
import { CALL_TIMEOUT_MS, dial } from '../workload-api/workload-api-client.ts';
import { BROKER_FETCH_JWT_SVID, BROKER_SECURITY_HEADER, pidReference, SUBSCRIBE_TO_X509_SVID } from './broker-messages.ts';
import { certificatesToPem } from '../x509/pem.ts';
import { noSvid } from './spire-error.ts';

export interface BrokerConnectionOptions {
  readonly socketPath: string;
  readonly trustDomain: string;
  /** SPIFFE IDs that the server may have; none: any below `/spire/agent/` of the trust domain, which SPIRE gives to its agents alone. */
  readonly servers: readonly string[];
  /** The broker's own SVID now. */
  readonly ownSvid: () => SvidMaterial | null;
  /** What the server's SVID is verified with. */
  readonly trust: () => TrustState | null;
}

/** gRPC's own servers take more than one question in five minutes for abuse. */
export const KEEPALIVE_INTERVAL_MS: number = 6 * 60_000;
const METADATA: Readonly<Record<string, string>> = { [BROKER_SECURITY_HEADER]: 'true' };

/**
 * A SPIFFE Broker API (SPIFFE_Broker_API.md) that this process is a client of: identities of workloads that it refers to by a process. Both
 * ends show X.509-SVIDs, over the unix socket too (SPIFFE_Broker_Endpoint.md section 4).
 */
export class BrokerConnection implements AsyncDisposable {
  readonly #options: BrokerConnectionOptions;
  readonly #client: GrpcClient;

  constructor(options: BrokerConnectionOptions) {
    this.#options = options;
    this.#client = new GrpcClient({
      connect: (signal) => this.#connect(signal),
      authority: 'localhost',
      scheme: 'https',
      keepaliveIntervalMs: KEEPALIVE_INTERVAL_MS,
    });
  }

  x509Svids(pid: number, signal: AbortSignal): AsyncIterable<X509SvidResponse> {
    return this.#client.serverStream(SUBSCRIBE_TO_X509_SVID, { reference: pidReference(pid) }, { metadata: METADATA, signal });
  }

  /** @throws GrpcStatusError */
  jwtSvid(pid: number, identity: string, audience: readonly string[]): Promise<JwtSvidResponse> {
    const request = { reference: pidReference(pid), audience, spiffeId: identity };
    return this.#client.unary(BROKER_FETCH_JWT_SVID, request, { metadata: METADATA, timeoutMs: CALL_TIMEOUT_MS });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#client[Symbol.asyncDispose]();
  }

  async #connect(signal: AbortSignal): Promise<TLSSocket> {
    const svid = this.#options.ownSvid();
    const trust = this.#options.trust();
    if (svid === null || trust === null) throw noSvid('the agent itself', 'without it there is no connection to the Broker API');
    const socket = await dial({ kind: 'unix', path: this.#options.socketPath }, signal);
    const tls = connectTls({
      socket,
      secureContext: contextOf(svid, trust),
      ALPNProtocols: ['h2'],
      // The name of an SVID is in its URI, which Node does not compare: see #checkServer.
      checkServerIdentity: () => undefined,
    });
    try {
      await once(tls, 'secureConnect', { signal });
      this.#checkServer(tls, trust);
      return tls;
    } catch (error) {
      tls.destroy();
      throw error;
    }
  }

  #checkServer(tls: TLSSocket, { bundle }: TrustState): void {
    const { trustDomain, servers, socketPath } = this.#options;
    const verifier = new SvidVerifier(
      { bundle: (name) => (name === trustDomain ? { trustDomain, roots: bundle.x509Authorities, revokedKeys: [], sequence: 0 } : null) },
      { cacheSize: 0 },
    );
    const server = verifier.verify(peerChain(tls)).text;
    const allowed = servers.length > 0 ? servers.includes(server) : server.startsWith(`spiffe://${trustDomain}/spire/agent/`);
    if (allowed && tls.alpnProtocol === 'h2') return;
    const what = allowed
      ? `${server} at ${socketPath} does not speak HTTP/2`
      : `${server} answers at ${socketPath}, which may not serve the Broker API`;
    throw new CertsError('WEFT_CERTS_SPIRE_BROKER', what, { nextStep: 'check --spire-broker-socket and --spire-broker-id' });
  }
}

function contextOf(svid: SvidMaterial, { bundle }: TrustState): SecureContext {
  return withPemKey(svid.privateKey, (key) =>
    createSecureContext({
      key,
      cert: svid.certificateChain,
      ca: certificatesToPem(bundle.x509Authorities),
      minVersion: 'TLSv1.3',
      ciphers: TLS_SUITES,
    }),
  );
}
