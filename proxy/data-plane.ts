import { createServer, type Server, type Socket } from 'node:net';
import type { Dialer, OriginalDestinations, PeerVerifier, TlsContexts } from '../src/model/data-plane.ts';
import type { MeshSnapshot } from '../src/model/snapshot.ts';
import type { ConnectionInfo, ListenerPorts } from '../src/model/worker-messages.ts';
import { errorText, WeftError } from '../src/model/errors.ts';
import { Inbound } from './inbound/inbound.ts';
import type { RequestChecks } from './inbound/inbound-connection.ts';
import { MeshView } from './mesh-view.ts';
import { Outbound } from './outbound/outbound.ts';
import { ProxyError } from './proxy-error.ts';
import { type LogLine, RefusalLog } from './refusal-log.ts';
import type { Telemetry } from './telemetry/connection-record.ts';
import { TunnelTelemetry } from './tunnel-telemetry.ts';
import { ChainWatch } from './tunnel/chain-watch.ts';
import { TunnelPool } from './tunnel/tunnel-pool.ts';
import { TunnelServer } from './tunnel/tunnel-server.ts';

/** What the data plane is handed. */
export interface DataPlaneOptions {
  readonly worker: number;
  readonly snapshot: MeshSnapshot;
  readonly dialer: Dialer;
  readonly originalDestinations: OriginalDestinations;
  readonly contexts: TlsContexts;
  readonly verifier: PeerVerifier;
  readonly telemetry: Telemetry;
  readonly deniedByHeader: boolean;
  /** Tokens and external authorisers; without them, what needs them is refused. */
  readonly checks?: RequestChecks;
  readonly log: LogLine;
  /** Default: 32,768. */
  readonly maxConnectionsPerListener?: number;
}

/** Listening descriptors of one workload; the data plane takes them over. */
export interface ListenRequest {
  readonly workloadId: number;
  readonly identity: string;
  readonly ports: ListenerPorts;
  readonly outbound: readonly number[];
  readonly inbound: readonly number[];
  readonly tunnel: readonly number[];
}

interface Listeners {
  readonly ports: ListenerPorts;
  readonly servers: readonly Server[];
  readonly tunnel: TunnelServer | null;
}

/** Connections that one worker holds per listener. Past it new ones are reset: a flood costs no more than this. */
const MAX_CONNECTIONS_PER_LISTENER = 32_768;

/** What the connections of a listener count as. */
const LISTENERS = {
  outbound: { side: 'outbound', path: 'passthrough' },
  inbound: { side: 'inbound', path: 'plaintext' },
  tunnel: { side: 'inbound', path: 'tunnel' },
} as const;

/** How long the streams of a closed tunnel listener may go on. */
const TUNNEL_DRAIN_MS = 3_600_000;

/** One worker's proxy: listeners, the two halves, and the mesh they look at. */
export class DataPlane implements AsyncDisposable {
  readonly #options: DataPlaneOptions;
  readonly #inbound: Inbound;
  readonly #outbound: Outbound;
  readonly #tunnels: TunnelPool;
  readonly #tunnelTelemetry: TunnelTelemetry;
  readonly #watch: ChainWatch;
  readonly #failures: RefusalLog;
  readonly #listeners = new Map<number, Listeners>();
  #view: MeshView;

  constructor(options: DataPlaneOptions) {
    this.#options = options;
    this.#view = new MeshView(options.snapshot);
    const view = (): MeshView => this.#view;
    const { dialer, telemetry, contexts, verifier, originalDestinations, deniedByHeader } = options;
    const refusals = new RefusalLog(options.log);
    this.#failures = refusals;
    const tunnelTelemetry = new TunnelTelemetry(telemetry, refusals);
    this.#tunnelTelemetry = tunnelTelemetry;
    this.#watch = new ChainWatch(verifier);
    this.#tunnels = new TunnelPool({
      dialer,
      contexts,
      verifier,
      watch: this.#watch,
      onOpened: (isResumed) => tunnelTelemetry.opened('outbound', isResumed),
      onClosed: (error) => tunnelTelemetry.closed('outbound', error),
      onFailed: (error) => tunnelTelemetry.failed(error),
    });
    this.#inbound = new Inbound({
      view,
      dialer,
      telemetry,
      refusals,
      deniedByHeader,
      ...(options.checks === undefined ? {} : { checks: options.checks }),
      portsOf: (workloadId) => this.#listeners.get(workloadId)?.ports ?? null,
    });
    this.#outbound = new Outbound({
      view,
      dialer,
      originalDestinations,
      telemetry,
      tunnels: this.#tunnels,
      acceptLocal: (arrival) => this.#inbound.acceptLocal(arrival),
    });
  }

  /** Swaps the mesh, and decides about open connections again. */
  apply(snapshot: MeshSnapshot): void {
    this.#view = new MeshView(snapshot);
    this.#inbound.reconsider(this.#view);
  }

  /** Trust bundles have changed: ends the tunnels made with certificates that are trusted no more. */
  bundlesChanged(): void {
    this.#watch.recheck();
  }

  /** Starts to accept for a workload. A second call for the same workload replaces its listeners. */
  listen(request: ListenRequest): void {
    this.unlisten(request.workloadId);
    const { workloadId, ports } = request;
    const tunnel = request.tunnel.length === 0 ? null : this.#tunnelServer(request);
    const servers = [
      ...request.outbound.map((fd) => this.#server(fd, 'outbound', (socket) => this.#outbound.accept(socket, workloadId))),
      ...request.inbound.map((fd) => this.#server(fd, 'inbound', (socket) => this.#inbound.acceptPlaintext(socket, workloadId, ports))),
      ...request.tunnel.map((fd) => this.#server(fd, 'tunnel', (socket) => tunnel?.accept(socket))),
    ];
    this.#listeners.set(workloadId, { ports, servers, tunnel });
  }

  #server(fd: number, kind: keyof ListenerPorts, accept: (socket: Socket) => void): Server {
    const { telemetry, maxConnectionsPerListener = MAX_CONNECTIONS_PER_LISTENER } = this.#options;
    const { side, path } = LISTENERS[kind];
    let open = 0;
    const closed = (): void => {
      open--;
    };
    // Not Node's maxConnections: that closes in order, and a client that keeps its end open then keeps its entry in the kernel's map.
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
      if (open >= maxConnectionsPerListener) {
        telemetry.refused(side, path, 'limit');
        socket.resetAndDestroy();
        return;
      }
      open++;
      socket.once('close', closed);
      try {
        accept(socket);
      } catch (error) {
        // One connection's failure must not end the worker, and with it everybody's.
        telemetry.refused(side, path, 'other');
        this.#failed('a connection could not be accepted', kind, error);
        socket.resetAndDestroy();
      }
    });
    // Running out of descriptors must not end the worker; the next accept tries again.
    server.on('error', (error) => this.#failed('a listener failed', kind, error));
    server.listen({ fd });
    return server;
  }

  #failed(message: string, listener: keyof ListenerPorts, error: unknown): void {
    const code = error instanceof WeftError ? error.code : ((error as NodeJS.ErrnoException).code ?? null);
    this.#failures.add('warn', message, { reason: message, code, listener, error: errorText(error) });
  }

  #tunnelServer({ workloadId, identity, ports }: ListenRequest): TunnelServer {
    const { contexts, verifier } = this.#options;
    return new TunnelServer({
      contexts,
      verifier,
      watch: this.#watch,
      identity,
      onConnect: (connect, responder) => this.#inbound.acceptTunnel(connect, responder, workloadId, ports),
      onRefused: (refused) => this.#tunnelTelemetry.refused(refused, identity),
      onOpened: (isResumed) => this.#tunnelTelemetry.opened('inbound', isResumed),
      onClosed: (error) => this.#tunnelTelemetry.closed('inbound', error),
    });
  }

  /** Stops accepting for a workload. With `gone` its connections end too. */
  unlisten(workloadId: number, gone = false): void {
    const listeners = this.#listeners.get(workloadId);
    this.#listeners.delete(workloadId);
    for (const server of listeners?.servers ?? []) server.close();
    if (gone) {
      void listeners?.tunnel?.dispose();
      this.#inbound.destroyWorkload(workloadId);
      this.#outbound.destroyWorkload(workloadId);
    } else void listeners?.tunnel?.drain(TUNNEL_DRAIN_MS);
  }

  /** Every open connection, for the admin endpoint. */
  connections(): ConnectionInfo[] {
    const { worker } = this.#options;
    return [
      ...[...this.#inbound.connections].map((connection) => connection.record.info(worker, connection.state)),
      ...[...this.#outbound.connections].map((connection) => connection.record.info(worker, 'open')),
    ];
  }

  /** Stops accepting, lets connections finish, and ends those that are left after `deadlineMs`. */
  async drain(deadlineMs: number): Promise<void> {
    for (const workloadId of this.#listeners.keys()) this.unlisten(workloadId);
    this.#inbound.drain();
    const deadline = Date.now() + deadlineMs;
    while (this.#inbound.connections.size + this.#outbound.connections.size > 0 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const workloadId of this.#listeners.keys()) this.unlisten(workloadId, true);
    const stopping = new ProxyError('WEFT_PROXY_STOPPING', 'the agent is stopping');
    for (const connection of this.#inbound.connections) connection.destroy(stopping);
    for (const connection of this.#outbound.connections) connection.destroy(stopping);
    await this.#tunnels.dispose();
    this.#watch[Symbol.dispose]();
  }
}
