import { connect, type Socket } from 'node:net';
import { GrpcClient } from '../../src/grpc/grpc-client.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import type { MethodDefinition } from '../../src/grpc/service.ts';
import { type Backoff, backoffMs } from '../backoff.ts';
import { type Clock, sleep, systemClock } from '../clock.ts';
import { type EndpointAddress, parseEndpointAddress } from './endpoint-address.ts';
import {
  type EmptyRequest,
  FETCH_JWT_BUNDLES,
  FETCH_JWT_SVID,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  type JwtBundlesResponse,
  type JwtSvidRequest,
  type JwtSvidResponse,
  SECURITY_HEADER,
  VALIDATE_JWT_SVID,
  type ValidateJwtSvidRequest,
  type ValidateJwtSvidResponse,
  type X509BundlesResponse,
  type X509SvidResponse,
} from './messages.ts';

export interface WorkloadApiClientOptions {
  /** `unix:///path` or `tcp://IP:port`, as SPIFFE_ENDPOINT_SOCKET has it. */
  readonly address: string;
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
const CALL_TIMEOUT_MS = 10_000;
const METADATA = { [SECURITY_HEADER]: 'true' };
/** SPIFFE_Workload_Endpoint.md section 6: the request itself is wrong, or the server does not have what it asks for. Trying again is no help. */
const FINAL: ReadonlySet<number> = new Set([GRPC_STATUS.INVALID_ARGUMENT, GRPC_STATUS.UNIMPLEMENTED]);

/** A client of the SPIFFE Workload API. Who it is, the server sees for itself. */
export class WorkloadApiClient implements AsyncDisposable {
  readonly #grpc: GrpcClient;
  readonly #clock: Clock;
  readonly #random: () => number;

  /** @throws IdentityError WEFT_IDENTITY_ENDPOINT */
  constructor({ address, clock = systemClock, random = Math.random }: WorkloadApiClientOptions) {
    const endpoint = parseEndpointAddress(address);
    this.#clock = clock;
    this.#random = random;
    this.#grpc = new GrpcClient({ authority: 'localhost', connect: (signal) => dial(endpoint, signal) });
  }

  /** The X.509-SVIDs of this process now. @throws GrpcStatusError */
  x509Svids(signal?: AbortSignal): Promise<X509SvidResponse> {
    return this.#first(FETCH_X509_SVID, signal);
  }

  /** The same, and again with each change, until the signal aborts. @throws GrpcStatusError for what trying again does not help */
  watchX509Svids(options: WatchOptions): AsyncGenerator<X509SvidResponse> {
    return this.#watch(FETCH_X509_SVID, options);
  }

  /** @throws GrpcStatusError as watchX509Svids() */
  watchX509Bundles(options: WatchOptions): AsyncGenerator<X509BundlesResponse> {
    return this.#watch(FETCH_X509_BUNDLES, options);
  }

  /** @throws GrpcStatusError as watchX509Svids() */
  watchJwtBundles(options: WatchOptions): AsyncGenerator<JwtBundlesResponse> {
    return this.#watch(FETCH_JWT_BUNDLES, options);
  }

  /** @throws GrpcStatusError */
  jwtSvids(request: JwtSvidRequest, signal?: AbortSignal): Promise<JwtSvidResponse> {
    return this.#grpc.unary(FETCH_JWT_SVID, request, callOptions(signal));
  }

  /** @throws GrpcStatusError */
  validateJwtSvid(request: ValidateJwtSvidRequest, signal?: AbortSignal): Promise<ValidateJwtSvidResponse> {
    return this.#grpc.unary(VALIDATE_JWT_SVID, request, callOptions(signal));
  }

  async #first<Response>(method: MethodDefinition<EmptyRequest, Response>, signal?: AbortSignal): Promise<Response> {
    for await (const response of this.#grpc.serverStream(method, {}, callOptions(signal))) return response;
    throw new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the Workload API ended the stream without a message');
  }

  /**
   * A stream that ends is opened again: at once after it gave something (SPIFFE_Workload_API.md section 4.2), else after a growing pause, also
   * when access is denied, since the workload may be enrolled a moment later.
   */
  async *#watch<Response>(method: MethodDefinition<EmptyRequest, Response>, { signal, onRetry }: WatchOptions): AsyncGenerator<Response> {
    let failures = 0;
    while (!signal.aborted) {
      let ended: GrpcStatusError;
      let given = false;
      try {
        for await (const response of this.#grpc.serverStream(method, {}, { metadata: METADATA, signal })) {
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

  [Symbol.asyncDispose](): Promise<void> {
    return this.#grpc[Symbol.asyncDispose]();
  }
}

function callOptions(signal: AbortSignal | undefined): { metadata: typeof METADATA; timeoutMs: number; signal?: AbortSignal } {
  return { metadata: METADATA, timeoutMs: CALL_TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) };
}

function dial(endpoint: EndpointAddress, signal: AbortSignal): Promise<Socket> {
  const where = endpoint.kind === 'unix' ? { path: endpoint.path } : { host: endpoint.host, port: endpoint.port };
  return new Promise((resolve, reject) => {
    const socket = connect({ ...where, signal });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}
