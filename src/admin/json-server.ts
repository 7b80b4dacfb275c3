import { mkdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { dirname } from 'node:path';
import type { Log } from '../model/log.ts';
import { AdminError } from './admin-error.ts';
import { type Answer, failure, send } from './answer.ts';
import type { Endpoint } from './endpoint.ts';
import { clearStaleSocket } from './unix-socket.ts';

/** Answers one request. What it throws becomes the answer. */
export type Route = (request: IncomingMessage) => Promise<Answer>;

/** A unix socket that only its owner may open, or a TCP address. */
export type Address = { readonly path: string } | { readonly host: string; readonly port: number };

const MAX_CONNECTIONS = 128;

/** An HTTP server with short answers for the operator's own tools. Disposing of it ends its connections and removes its socket. */
export class JsonServer implements AsyncDisposable {
  readonly #server: Server;
  readonly #socketPath: string | null;

  private constructor(server: Server, socketPath: string | null) {
    this.#server = server;
    this.#socketPath = socketPath;
  }

  /**
   * Listens. The directory of a unix socket is made when it is not there; a socket that nobody answers on is replaced.
   * @throws AdminError the endpoint's `running` code when another process answers on the socket, its `listen` code when it cannot listen
   */
  static async listen(endpoint: Endpoint, address: Address, route: Route, log: Log): Promise<JsonServer> {
    const socketPath = 'path' in address ? address.path : null;
    if (socketPath !== null) {
      // Others may pass to what is public below it (the Workload API), and list nothing.
      mkdirSync(dirname(socketPath), { recursive: true, mode: 0o711 });
      if (!(await clearStaleSocket(socketPath)))
        throw new AdminError(endpoint.codes.running, `${endpoint.name} answers on ${socketPath} already`, {
          nextStep: endpoint.whenRunning,
        });
    }
    const server = createServer({ requestTimeout: 30_000, headersTimeout: 10_000 }, (request, response) => {
      route(request).then(
        (answer) => send(response, answer),
        (error: unknown) => send(response, failure(endpoint, error, log)),
      );
    });
    server.maxConnections = MAX_CONNECTIONS;
    // The socket is born private: between bind and chmod anybody could connect.
    const mask = socketPath === null ? null : process.umask(0o177);
    const listening = new Promise<void>((resolve, reject) => {
      server.once('error', (cause) =>
        reject(
          new AdminError(endpoint.codes.listen, `cannot listen on ${JSON.stringify(address)}`, {
            cause,
            nextStep: 'choose another address',
          }),
        ),
      );
      server.listen(address, resolve);
    });
    if (mask !== null) process.umask(mask);
    await listening;
    // Running out of descriptors must not end the process; the next accept tries again.
    server.on('error', (error) => log.error({ err: error }, 'the admin endpoint cannot accept'));
    return new JsonServer(server, socketPath);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    if (this.#socketPath !== null) rmSync(this.#socketPath, { force: true });
  }
}
