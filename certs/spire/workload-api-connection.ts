import { connect, type Socket } from 'node:net';
import { once } from 'node:events';
import { GrpcClient } from '../../src/grpc/grpc-client.ts';
import {
  FETCH_JWT_BUNDLES,
  FETCH_JWT_SVID,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  type JwtBundlesResponse,
  type JwtSvidResponse,
  SECURITY_HEADER,
  type X509BundlesResponse,
  type X509SvidResponse,
} from '../workload-api/messages.ts';

/** gRPC's own servers take more than one question in five minutes for abuse. */
export const KEEPALIVE_INTERVAL_MS: number = 6 * 60_000;
export const UNARY_TIMEOUT_MS = 10_000;
const METADATA: Readonly<Record<string, string>> = { [SECURITY_HEADER]: 'true' };

/** A SPIFFE Workload API that this process is a client of (SPIFFE_Workload_API.md): what it is given is for itself. */
export class WorkloadApiConnection implements AsyncDisposable {
  readonly #client: GrpcClient;

  /** @param socketPath of the unix socket; connected to when the first call is made, and anew after it broke */
  constructor(socketPath: string) {
    this.#client = new GrpcClient({
      connect: (signal) => connectUnix(socketPath, signal),
      authority: 'localhost',
      keepaliveIntervalMs: KEEPALIVE_INTERVAL_MS,
    });
  }

  x509Svids(signal: AbortSignal): AsyncIterable<X509SvidResponse> {
    return this.#client.serverStream(FETCH_X509_SVID, {}, { metadata: METADATA, signal });
  }

  x509Bundles(signal: AbortSignal): AsyncIterable<X509BundlesResponse> {
    return this.#client.serverStream(FETCH_X509_BUNDLES, {}, { metadata: METADATA, signal });
  }

  jwtBundles(signal: AbortSignal): AsyncIterable<JwtBundlesResponse> {
    return this.#client.serverStream(FETCH_JWT_BUNDLES, {}, { metadata: METADATA, signal });
  }

  /** @throws GrpcStatusError */
  jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvidResponse> {
    return this.#client.unary(FETCH_JWT_SVID, { audience, spiffeId: identity }, { metadata: METADATA, timeoutMs: UNARY_TIMEOUT_MS });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#client[Symbol.asyncDispose]();
  }
}

/** Connects to a unix socket. The signal destroys it while it is not connected. */
export async function connectUnix(path: string, signal: AbortSignal): Promise<Socket> {
  const socket = connect(path);
  try {
    await once(socket, 'connect', { signal });
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}
