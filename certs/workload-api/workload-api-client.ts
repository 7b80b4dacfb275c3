import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { GrpcClient, type GrpcClientOptions } from '../../src/grpc/grpc-client.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import { type Backoff, backoffMs } from '../backoff.ts';
import { type Clock, sleep, systemClock } from '../clock.ts';
import type { EndpointAddress } from './endpoint-address.ts';
import {
  FETCH_JWT_BUNDLES,
  FETCH_JWT_SVID,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  type JwtBundlesResponse,
  type JwtSvidRequest,
  type JwtSvidResponse,
  SECURITY_HEADER,
  type X509BundlesResponse,
  type X509SvidResponse,
} from './messages.ts';

export interface WorkloadApiClientOptions extends Pick<GrpcClientOptions, 'keepaliveIntervalMs'> {
  /** Connected to when the first call is made, and anew after it broke. */
  readonly endpoint: EndpointAddress;
  readonly clock?: Clock;
  /** 0 to 1, for jitter. Default: Math.random. */
  readonly random?: () => number;
}

export interface WatchOptions {
  readonly signal: AbortSignal;
  /** Told why a stream ended, before it is opened again. */
  readonly onRetry?: (error: GrpcStatusError, afterMs: number) => void;
}

const BACKOFF: Backoff = { startMs: 1_000, capMs: 30_000, jitter: 0.2 };
const METADATA = { [SECURITY_HEADER]: 'true' };
/** For what is asked once. */
export const CALL_TIMEOUT_MS = 10_000;
const CALL_OPTIONS = { metadata: METADATA, timeoutMs: CALL_TIMEOUT_MS };
/** SPIFFE_Workload_Endpoint.md section 6: the request itself is wrong, or the server does not have what it asks for. Trying again is no help. */
const FINAL: ReadonlySet<number> = new Set([GRPC_STATUS.INVALID_ARGUMENT, GRPC_STATUS.UNIMPLEMENTED]);

/**
 * Whoever does not wait gets EAGAIN from a socket with as many callers as it keeps waiting (connect(2)). It takes one of
 * them in microseconds, and who asks next has the place: so it is asked often.
 */
const FULL_SOCKET_PAUSE_MS = 5;

/** A client of a SPIFFE Workload API (SPIFFE_Workload_API.md): what it is given is for this process, which the server sees for itself. */
export class WorkloadApiClient implements AsyncDisposable {
  readonly #grpc: GrpcClient;
  readonly #clock: Clock;
  readonly #random: () => number;

  constructor({ endpoint, clock = systemClock, random = Math.random, ...options }: WorkloadApiClientOptions) {
    this.#clock = clock;
    this.#random = random;
    this.#grpc = new GrpcClient({ ...options, authority: 'localhost', connect: (signal) => dial(endpoint, signal) });
  }

  /** The X.509-SVIDs of this process, and again with each change, until the call ends. @throws GrpcStatusError out of the iteration */
  x509Svids(signal: AbortSignal): AsyncIterable<X509SvidResponse> {
    return this.#grpc.serverStream(FETCH_X509_SVID, {}, { metadata: METADATA, signal });
  }

  x509Bundles(signal: AbortSignal): AsyncIterable<X509BundlesResponse> {
    return this.#grpc.serverStream(FETCH_X509_BUNDLES, {}, { metadata: METADATA, signal });
  }

  jwtBundles(signal: AbortSignal): AsyncIterable<JwtBundlesResponse> {
    return this.#grpc.serverStream(FETCH_JWT_BUNDLES, {}, { metadata: METADATA, signal });
  }

  /** The X.509-SVIDs of this process now. @throws GrpcStatusError */
  async currentX509Svids(): Promise<X509SvidResponse> {
    for await (const response of this.#grpc.serverStream(FETCH_X509_SVID, {}, CALL_OPTIONS)) return response;
    throw new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the Workload API ended the stream without a message');
  }

  /**
   * Those of now, and again with each change, until the signal aborts. A stream that ends is opened again: at once after it gave something
   * (SPIFFE_Workload_API.md section 4.2), else after a growing pause, also when access is denied, since the workload may be enrolled a moment
   * later.
   * @throws GrpcStatusError for what trying again does not help
   */
  async *watchX509Svids({ signal, onRetry }: WatchOptions): AsyncGenerator<X509SvidResponse> {
    let failures = 0;
    while (!signal.aborted) {
      let ended: GrpcStatusError;
      let given = false;
      try {
        for await (const response of this.x509Svids(signal)) {
          given = true;
          failures = 0;
          yield response;
        }
        ended = new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the Workload API ended the stream');
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof GrpcStatusError) || FINAL.has(error.status)) throw error;
        ended = error;
      }
      const pause = given ? 0 : backoffMs(++failures, BACKOFF, this.#random);
      onRetry?.(ended, pause);
      if (pause > 0) await sleep(this.#clock, pause, signal);
    }
  }

  /** @throws GrpcStatusError */
  jwtSvids(request: JwtSvidRequest): Promise<JwtSvidResponse> {
    return this.#grpc.unary(FETCH_JWT_SVID, request, CALL_OPTIONS);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#grpc[Symbol.asyncDispose]();
  }
}

/**
 * Connects to an endpoint. The signal destroys the socket while it is not connected.
 * @throws Error of the system, or that the signal has aborted
 */
export async function dial(endpoint: EndpointAddress, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    const socket = connect(endpoint);
    try {
      await once(socket, 'connect', { signal });
      return socket;
    } catch (error) {
      socket.destroy();
      if (signal.aborted || (error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
    await sleep(systemClock, FULL_SOCKET_PAUSE_MS, signal);
  }
}
