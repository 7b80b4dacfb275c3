import { once } from 'node:events';
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
  request as httpRequest,
  type Server,
} from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Server as TcpServer, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import type { ConnectionPolicy } from '../../../src/model/policy.ts';
import { DEFAULT_MESH_SETTINGS, type MeshSettings } from '../../../src/model/resources.ts';
import type { PolicyEntry, RequestAuthenticationEntry } from '../../../src/model/snapshot.ts';
import { createJwksFetcher } from '../../../src/agent/jwks-fetcher.ts';
import { MeshAuthorisers } from '../../../proxy/external-authorisation/mesh-authorisers.ts';
import { WorkloadGate } from '../../../proxy/gate/workload-gate.ts';
import { DEFAULT_HTTP1_LIMITS } from '../../../proxy/http1/limits.ts';
import { Http1Session } from '../../../proxy/http1/session.ts';
import type { HttpExchange } from '../../../proxy/http-exchange.ts';
import { JwksMirror } from '../../../proxy/jwt/jwks-mirror.ts';
import { JwksStore, jwksUris } from '../../../proxy/jwt/jwks-store.ts';
import { JwtVerifier } from '../../../proxy/jwt/jwt-verifier.ts';
import { compileWorkloadPolicy } from '../../../proxy/policy/workload-policy.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';
import { CONNECTION } from '../../unit/gate/fixtures.ts';

/** Listens on a port of 127.0.0.1 that is free. */
export async function listen(server: Server | TcpServer): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

interface Mesh {
  readonly policies: readonly PolicyEntry[];
  readonly authentications?: readonly RequestAuthenticationEntry[];
  readonly settings?: Partial<MeshSettings>;
}

/** An application behind an HTTP/1 session with a whole gate; the keys come from the agent's store, over what stands for the thread boundary. */
export class GateWorld implements AsyncDisposable {
  readonly exchanges: HttpExchange[] = [];
  readonly keyFailures: string[] = [];
  readonly store: JwksStore;
  readonly #servers: (Server | TcpServer)[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #mirror: JwksMirror;
  readonly #authorisers: MeshAuthorisers;
  #mesh: Mesh;
  #port = 0;
  #applicationPort = 0;

  private constructor(mesh: Mesh) {
    this.#mesh = mesh;
    this.store = new JwksStore({
      fetchJwks: createJwksFetcher({ allows: () => true }),
      onFailure: (_uri, error) => this.keyFailures.push(String(error)),
    });
    this.#mirror = new JwksMirror({ request: (uri) => void setImmediate(() => void this.store.refresh(uri)) });
    this.store.onChange((update) => this.#mirror.apply(structuredClone(update)));
    this.#authorisers = new MeshAuthorisers({ dial: (service, port) => connect(port, service) });
  }

  static async open(mesh: Mesh): Promise<GateWorld> {
    const world = new GateWorld(mesh);
    world.#applicationPort = await world.serve((request, response) => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ url: request.url, headers: request.headers }));
    });
    world.store.setUris(jwksUris(mesh.authentications ?? []));
    world.#port = await world.#listenForClients();
    return world;
  }

  /** One more server of the world: an issuer, an authoriser. Returns its port. */
  async serve(listener: RequestListener): Promise<number> {
    const server = createServer(listener);
    this.#servers.push(server);
    server.on('connection', (socket: Socket) => this.#sockets.add(socket));
    return listen(server);
  }

  set mesh(mesh: Mesh) {
    this.#mesh = mesh;
  }

  #listenForClients(): Promise<number> {
    const server = createTcpServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      this.#sockets.add(socket);
      const settings: MeshSettings = { ...DEFAULT_MESH_SETTINGS, ...this.#mesh.settings };
      const policy: ConnectionPolicy = compileWorkloadPolicy(this.#mesh.policies, {
        trustDomain: 'cluster.local',
        trustDomainAliases: [],
        providers: settings.extensionProviders.map(({ name }) => name),
      }).bind(CONNECTION);
      const gate = new WorkloadGate({
        policy: () => policy,
        connection: CONNECTION,
        authentications: this.#mesh.authentications ?? [],
        settings,
        tokens: new JwtVerifier({ keys: this.#mirror }),
        authorisers: this.#authorisers,
      });
      new Http1Session({
        downstream: new SocketByteStream(socket),
        upstream: new SocketByteStream(connect({ port: this.#applicationPort, host: '127.0.0.1', allowHalfOpen: true })),
        gate: () => gate,
        normalisation: () => 'base',
        onExchange: (exchange) => this.exchanges.push({ ...exchange }),
        onClose: () => {},
        limits: DEFAULT_HTTP1_LIMITS,
        deniedByHeader: true,
        clock: () => performance.now() * 1000,
      }).start(null);
    });
    this.#servers.push(server);
    return listen(server);
  }

  /** One request of a client, on a connection of its own. */
  async get(path: string, headers: Record<string, string | string[]> = {}): Promise<Answer> {
    const request = httpRequest({ host: '127.0.0.1', port: this.#port, path, headers: { host: 'items.shop', ...headers }, agent: false });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    return { status: response.statusCode ?? 0, headers: response.headers, body: await text(response) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.store[Symbol.dispose]();
    this.#authorisers[Symbol.dispose]();
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
  }
}
