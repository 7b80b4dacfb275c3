import type { Socket } from 'node:net';
import { canonicalAddress, isIpv6, joinHostPort } from '../../src/model/address.ts';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { Dialer, OriginalDestinations } from '../../src/model/data-plane.ts';
import type { WorkloadEntry } from '../../src/model/snapshot.ts';
import type { LocalArrival } from '../local-arrival.ts';
import type { MeshView } from '../mesh-view.ts';
import { ProxyError } from '../proxy-error.ts';
import { relay } from '../relay.ts';
import { SocketByteStream } from '../../src/transport/socket-stream.ts';
import type { ConnectionRecord, Telemetry } from '../telemetry/connection-record.ts';
import { TunnelError } from '../tunnel/tunnel-error.ts';
import type { TunnelPool } from '../tunnel/tunnel-pool.ts';
import { RoundRobin, route } from './route.ts';
import type { Route } from './route.ts';

/** What the outbound half of the data plane is made of. */
export interface OutboundDependencies {
  readonly view: () => MeshView;
  readonly dialer: Dialer;
  readonly originalDestinations: OriginalDestinations;
  readonly tunnels: TunnelPool;
  readonly telemetry: Telemetry;
  /** The inbound half, for endpoints on this node. */
  readonly acceptLocal: (arrival: LocalArrival) => void;
}

/** A captured connection being carried. */
export interface OutboundConnection {
  readonly client: WorkloadEntry;
  readonly record: ConnectionRecord;
  destroy(error: Error): void;
}

/**
 * While the far node's agent is away its port refuses at once. A permissive endpoint then gets the connection in plaintext, as it would
 * have without the mesh; a strict one is tried again until this much time has passed, which bridges a restart.
 */
const STRICT_RETRY_MS = 5_000;
const PERMISSIVE_RETRY_MS = 150;
const RETRY_PAUSE_MS = 50;
/** Nothing listens, or who listened went away before the handshake was done: nothing of the application's was sent yet. */
const MAY_COME_BACK: ReadonlySet<string> = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE']);
/** How long plaintext goes on to a permissive endpoint whose tunnel was refused, before the tunnel is tried again. */
const TUNNEL_AWAY_MS = 1_000;
const MAX_TUNNELS_AWAY = 4_096;

/** Everything that workloads of this node dial. */
export class Outbound {
  readonly connections: Set<OutboundConnection> = new Set();
  readonly #dependencies: OutboundDependencies;
  readonly #balance = new RoundRobin();
  /** Client and endpoint to when the tunnel may be tried again (ms). A client's own network decides: what it saw is no other's business. */
  readonly #tunnelAway = new Map<string, number>();

  constructor(dependencies: OutboundDependencies) {
    this.#dependencies = dependencies;
  }

  /** A leg accepted on a workload's in-pod listener (or on the host's, shared by all workloads that are cgroups). */
  accept(socket: Socket, listenerWorkloadId: number): void {
    const { originalDestinations, telemetry, view } = this.#dependencies;
    const original = originalDestinations.find(socket, listenerWorkloadId);
    if (original === null) {
      telemetry.refused('outbound', 'passthrough', 'not-captured');
      socket.resetAndDestroy();
      return;
    }
    const now = view();
    // A connection that was captured for a former agent carries its number; the namespace that it came from is the listener's workload's.
    const client = now.workload(original.workloadId) ?? now.workload(listenerWorkloadId);
    if (client === undefined) {
      telemetry.refused('outbound', 'passthrough', 'unknown-destination');
      socket.resetAndDestroy();
      return;
    }
    const leg = new SocketByteStream(socket);
    const port = socket.remotePort ?? 0;
    this.#carry(leg, client, port, route(now, original, this.#balance), original);
  }

  #carry(leg: ByteStream, client: WorkloadEntry, port: number, path: Route, original: { address: string; port: number }): void {
    const source = { address: sourceAddress(client, original.address), port };
    if (path.kind === 'local') {
      this.#dependencies.acceptLocal({
        stream: leg,
        client,
        server: path.server,
        source,
        destination: { address: path.address, port: path.port },
      });
      return;
    }
    const record = this.#dependencies.telemetry.open({
      direction: 'outbound',
      security: path.kind === 'tunnel' ? 'mtls' : 'plaintext',
      path: path.kind === 'tunnel' ? 'tunnel' : 'passthrough',
      source: { ...source, workload: client, identity: client.identity },
      destination: {
        address: path.kind === 'none' ? original.address : path.address,
        port: path.kind === 'none' ? original.port : path.port,
        workload: path.kind === 'none' ? null : path.server,
        service: path.service,
        identity: path.kind === 'tunnel' ? path.server.identity : null,
      },
      stream: leg,
    });
    const connection: OutboundConnection = { client, record, destroy: (error) => leg.destroy(error) };
    this.connections.add(connection);
    const closed = (error: Error | null): void => {
      this.connections.delete(connection);
      record.close(error, null);
    };
    if (path.kind === 'none') {
      this.#refuse(leg, new ProxyError('WEFT_PROXY_NO_ENDPOINT', `service ${path.service} has no endpoint`), closed);
    } else if (path.kind === 'passthrough') {
      this.#passthrough(leg, client, path.address, path.port, closed);
    } else {
      void this.#tunnel(leg, client, source, path.server, path.address, path.port, record, closed);
    }
  }

  #refuse(leg: ByteStream, error: Error, closed: (error: Error | null) => void): void {
    leg.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose: () => closed(error) });
    leg.destroy(error);
  }

  #passthrough(leg: ByteStream, client: WorkloadEntry, address: string, port: number, closed: (error: Error | null) => void): void {
    let socket: Socket;
    try {
      socket = this.#dependencies.dialer.dial({ workloadId: client.id, address, port, presentedPeer: null });
    } catch (error) {
      this.#refuse(leg, new ProxyError('WEFT_PROXY_DIAL', 'no socket towards the destination', { cause: error }), closed);
      return;
    }
    relay(leg, new SocketByteStream(socket), closed);
  }

  async #tunnel(
    leg: ByteStream,
    client: WorkloadEntry,
    source: { address: string; port: number },
    server: WorkloadEntry,
    address: string,
    port: number,
    record: ConnectionRecord,
    closed: (error: Error | null) => void,
  ): Promise<void> {
    // Until the tunnel is there the leg is paused, and only its end matters.
    let gone: Error | null = null;
    leg.attach({
      onData() {},
      onEnd() {},
      onDrain() {},
      onClose: (error) => (gone = error ?? new ProxyError('WEFT_PROXY_CLIENT_CLOSED', 'the client left')),
    });
    const permissive = this.#dependencies.view().modeOf(server, port) === 'permissive';
    const pair = `${client.id} ${address}`;
    if (permissive && this.#isAway(pair)) {
      record.fellBack();
      this.#passthrough(leg, client, address, port, closed);
      return;
    }
    const deadline = Date.now() + (permissive ? PERMISSIVE_RETRY_MS : STRICT_RETRY_MS);
    for (;;) {
      try {
        const stream = await this.#dependencies.tunnels.open({
          sourceWorkloadId: client.id,
          sourceIdentity: client.identity,
          destinationAddress: address,
          expectedIdentities: [server.identity],
          authority: joinHostPort(address, port),
          headers: source.address === '' ? {} : { forwarded: `for="${joinHostPort(source.address, source.port)}"` },
        });
        if (gone !== null) {
          stream.destroy();
          closed(gone);
          return;
        }
        relay(leg, stream, closed);
        return;
      } catch (error) {
        if (gone !== null) {
          closed(gone);
          return;
        }
        const code = failureCode(error);
        if (MAY_COME_BACK.has(code) && Date.now() < deadline) {
          await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE_MS));
          continue;
        }
        if (code === 'ECONNREFUSED' && permissive) {
          this.#setAway(pair);
          record.fellBack();
          this.#passthrough(leg, client, address, port, closed);
          return;
        }
        this.#refuse(leg, error as Error, closed);
        return;
      }
    }
  }

  #isAway(pair: string): boolean {
    const until = this.#tunnelAway.get(pair);
    if (until === undefined) return false;
    if (until > Date.now()) return true;
    this.#tunnelAway.delete(pair);
    return false;
  }

  #setAway(pair: string): void {
    const now = Date.now();
    if (this.#tunnelAway.size >= MAX_TUNNELS_AWAY) {
      for (const [known, until] of this.#tunnelAway) if (until <= now) this.#tunnelAway.delete(known);
      // Without a place in the map the tunnel is only tried each time.
      if (this.#tunnelAway.size >= MAX_TUNNELS_AWAY) return;
    }
    this.#tunnelAway.set(pair, now + TUNNEL_AWAY_MS);
  }

  /** Ends the connections of one workload: its network namespace is gone. */
  destroyWorkload(workloadId: number): void {
    const gone = new ProxyError('WEFT_PROXY_WORKLOAD_GONE', 'the workload is gone');
    for (const connection of this.connections) if (connection.client.id === workloadId) connection.destroy(gone);
  }
}

/**
 * The address that the client's packets would carry: the one of its own in the family it dialled. '' for a workload without addresses,
 * such as one of `weft run`: to policy it is then unknown, and no rule about addresses decides in its favour.
 */
function sourceAddress(client: WorkloadEntry, dialled: string): string {
  return canonicalAddress(client.addresses.find((address) => isIpv6(address) === isIpv6(dialled)) ?? client.addresses[0] ?? '');
}

/** The system's word for why there is no tunnel, or ''. */
function failureCode(error: unknown): string {
  return error instanceof TunnelError ? ((error.cause as NodeJS.ErrnoException | undefined)?.code ?? '') : '';
}
