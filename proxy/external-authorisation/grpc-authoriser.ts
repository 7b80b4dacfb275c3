import { once } from 'node:events';
import type { Socket } from 'node:net';
import { joinHostPort } from '../../src/model/address.ts';
import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { RequestHead } from '../../src/model/request-gate.ts';
import type { ExtensionProvider } from '../../src/model/resources.ts';
import { GrpcClient } from '../../src/grpc/grpc-client.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import { AuthorisationError } from './authorisation-error.ts';
import { ANSWER_LIMITS, type CheckAnswer, checkRequest, readCheckResponse } from './check-messages.ts';
import { CHECK } from './check-types.ts';

/** After a connection failed, requests in this time fail at once instead of each trying for itself. */
const RECONNECT_PAUSE_MS = 250;

/** One authoriser that is asked by gRPC (ext_authz v3): one HTTP/2 connection, kept, and made anew when it is lost. */
export class GrpcAuthoriser implements Disposable {
  readonly #provider: ExtensionProvider;
  readonly #dial: () => Socket;
  #client: GrpcClient;
  #failedAt = Number.NEGATIVE_INFINITY;

  constructor(provider: ExtensionProvider, dial: () => Socket) {
    this.#provider = provider;
    this.#dial = dial;
    this.#client = this.#newClient();
  }

  /** @throws AuthorisationError, GrpcStatusError */
  async check(head: RequestHead, connection: ConnectionAttributes, timeoutMs: number): Promise<CheckAnswer> {
    const client = this.#client;
    const request = checkRequest(head, connection);
    try {
      return readCheckResponse(await client.unary(CHECK, request, { timeoutMs }));
    } catch (error) {
      // A connection that is dead without a word would swallow every later check too.
      const silent = error instanceof GrpcStatusError && error.status === GRPC_STATUS.DEADLINE_EXCEEDED;
      if (silent && this.#client === client) {
        this.#client = this.#newClient();
        void client.drain(timeoutMs);
      }
      throw error;
    }
  }

  #newClient(): GrpcClient {
    const { service, port } = this.#provider;
    return new GrpcClient({
      connect: (signal) => this.#connect(signal),
      authority: joinHostPort(service, port),
      answerLimits: ANSWER_LIMITS,
    });
  }

  async #connect(signal: AbortSignal): Promise<Socket> {
    if (performance.now() < this.#failedAt + RECONNECT_PAUSE_MS) {
      throw new AuthorisationError('WEFT_EXTAUTHZ_CONNECT', 'the connection failed just now');
    }
    const socket = this.#dial();
    // Also when it breaks, or speaks something else, later.
    socket.on('error', () => {
      this.#failedAt = performance.now();
    });
    try {
      await once(socket, 'connect', { signal });
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    void this.#client[Symbol.asyncDispose]();
  }
}
