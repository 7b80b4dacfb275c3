import type { Socket } from 'node:net';
import { canonicalAddress, joinHostPort } from '../../src/model/address.ts';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { Dialer } from '../../src/model/data-plane.ts';
import { parseSpiffeId } from '../../src/model/identity.ts';
import type { WorkloadEntry } from '../../src/model/snapshot.ts';
import type { LocalArrival } from '../local-arrival.ts';
import type { MeshView } from '../mesh-view.ts';
import { ProxyError } from '../proxy-error.ts';
import type { RefusalLog } from '../refusal-log.ts';
import { SocketByteStream } from '../../src/transport/socket-stream.ts';
import type { ConnectionRecord, Telemetry } from '../telemetry/connection-record.ts';
import type { Refusal } from '../telemetry/counter-table.ts';
import type { TunnelConnect, TunnelResponder } from '../tunnel/tunnel-server.ts';
import { bindPolicy, InboundConnection } from './inbound-connection.ts';
import type { InboundArrival, RequestChecks } from './inbound-connection.ts';

/** What the inbound half of the data plane is made of. */
export interface InboundDependencies {
  readonly view: () => MeshView;
  readonly dialer: Dialer;
  readonly telemetry: Telemetry;
  readonly refusals: RefusalLog;
  /** Name the policy in `x-weft-denied-by` of refusals. */
  readonly deniedByHeader: boolean;
  /** Tokens and external authorisers; without them, what needs them is refused. */
  readonly checks?: RequestChecks;
  /** The agent's own ports in a local workload's namespace; null while nobody listens there. */
  readonly portsOf: (workloadId: number) => AgentPorts | null;
}

/** Ports of the agent's own in-pod listeners: never a destination (`illegal_ports` of ztunnel). */
export interface AgentPorts {
  readonly outbound: number;
  readonly inbound: number;
  readonly tunnel: number;
}

const PATH_OF = { mtls: 'tunnel', kernel: 'local', plaintext: 'plaintext' } as const;

export const NO_CHECKS: RequestChecks = { tokens: null, authorisers: null };

/** How long an application may take to accept, before a tunnel's CONNECT is answered 503. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Everything that arrives for workloads of this node: in plaintext, through a tunnel, or from a local peer. */
export class Inbound {
  readonly connections: Set<InboundConnection> = new Set();
  readonly #dependencies: InboundDependencies;

  constructor(dependencies: InboundDependencies) {
    this.#dependencies = dependencies;
  }

  /** A connection from outside the mesh, picked up by sk_lookup: its local address is the one the client dialled. */
  acceptPlaintext(socket: Socket, workloadId: number, ports: AgentPorts): void {
    const { view, telemetry } = this.#dependencies;
    const workload = view().workload(workloadId);
    const port = socket.localPort;
    // Without addresses it was reset before it was accepted.
    if (workload === undefined || socket.localAddress === undefined || port === undefined || socket.remoteAddress === undefined) {
      telemetry.refused('inbound', 'plaintext', workload === undefined ? 'unknown-destination' : 'other');
      socket.resetAndDestroy();
      return;
    }
    if (port === ports.inbound || port === ports.outbound) {
      // Somebody dialled the listener itself; there is no application behind it.
      telemetry.refused('inbound', 'plaintext', 'forbidden-port');
      socket.resetAndDestroy();
      return;
    }
    this.#start({
      workload,
      stream: new SocketByteStream(socket),
      security: 'plaintext',
      peer: null,
      source: { address: canonicalAddress(socket.remoteAddress), port: socket.remotePort ?? 0 },
      destination: { address: canonicalAddress(socket.localAddress), port },
    });
  }

  /** A connection from a workload of this node, which the kernel attests: no TLS, the same policy. */
  acceptLocal(local: LocalArrival): void {
    const { portsOf, telemetry } = this.#dependencies;
    if (isAgentPort(portsOf(local.server.id), local.destination.port)) {
      telemetry.refused('inbound', 'local', 'forbidden-port');
      local.stream.destroy(new ProxyError('WEFT_PROXY_REFUSED', "refused: this port is an agent's own"));
      return;
    }
    this.#start(
      {
        workload: local.server,
        stream: local.stream,
        security: 'kernel',
        peer: parseSpiffeId(local.client.identity),
        source: local.source,
        destination: local.destination,
      },
      local.client,
    );
  }

  /** A CONNECT of a peer whose certificate was verified. */
  acceptTunnel(connect: TunnelConnect, responder: TunnelResponder, workloadId: number, ports: AgentPorts): void {
    const workload = this.#dependencies.view().workload(workloadId);
    if (workload === undefined) {
      this.#dependencies.telemetry.refused('inbound', 'tunnel', 'unknown-destination');
      responder.refuse(503);
      return;
    }
    const address = canonicalAddress(connect.host);
    if (address !== canonicalAddress(connect.localAddress) && !workload.addresses.includes(address)) {
      // Another pod's address: this tunnel ends here and does not route.
      this.#refuseConnect(connect, responder, workload, 'unknown-destination', 400);
      return;
    }
    if (isAgentPort(ports, connect.port)) {
      this.#refuseConnect(connect, responder, workload, 'forbidden-port', 503);
      return;
    }
    const partial = {
      workload,
      security: 'mtls' as const,
      peer: connect.peer,
      source: { address: canonicalAddress(connect.remoteAddress), port: clientPort(connect) },
      destination: { address, port: connect.port },
    };
    this.#connectTunnel(partial, responder);
  }

  #refuseConnect(connect: TunnelConnect, responder: TunnelResponder, workload: WorkloadEntry, reason: Refusal, status: 400 | 503): void {
    const { host, port, peer, remoteAddress } = connect;
    this.#dependencies.telemetry.refused('inbound', 'tunnel', reason);
    this.#dependencies.refusals.add('warn', 'a CONNECT was refused', {
      reason,
      remoteAddress,
      peer: peer.text,
      destination: joinHostPort(host, port),
      identity: workload.identity,
    });
    responder.refuse(status);
  }

  /** Answers 200 once the application accepted, as ztunnel does; or at once when the answer is a refusal that the client should read. */
  #connectTunnel(partial: Omit<InboundArrival, 'stream'>, responder: TunnelResponder): void {
    // The policy does not look at the stream; it is not there before the answer.
    const policy = bindPolicy(this.#dependencies.view(), partial as InboundArrival);
    if (policy.scope === 'deny') {
      this.#adopt({ ...partial, stream: responder.accept() }, null, this.#clientOf(partial));
      return;
    }
    let socket: Socket;
    try {
      socket = this.#dial(partial);
    } catch {
      this.#dependencies.telemetry.refused('inbound', 'tunnel', 'dial-failed');
      responder.refuse(503);
      return;
    }
    const fail = (): void => {
      this.#dependencies.telemetry.refused('inbound', 'tunnel', 'dial-failed');
      socket.destroy();
      responder.refuse(503);
    };
    socket.setTimeout(CONNECT_TIMEOUT_MS, fail);
    socket.once('error', fail);
    responder.onAbort(() => socket.destroy());
    socket.once('connect', () => {
      socket.setTimeout(0);
      socket.off('timeout', fail);
      socket.off('error', fail);
      responder.onAbort(null);
      // The mesh may be another by now, and with it the workload's mode and policies.
      const workload = this.#dependencies.view().workload(partial.workload.id);
      if (workload === undefined) {
        fail();
        return;
      }
      const arrival = { ...partial, workload, stream: responder.accept() };
      this.#adopt(arrival, new SocketByteStream(socket), this.#clientOf(arrival));
    });
  }

  #dial(arrival: Omit<InboundArrival, 'stream'>): Socket {
    const { workload, destination, source } = arrival;
    return this.#dependencies.dialer.dial({
      workloadId: workload.id,
      address: destination.address,
      port: destination.port,
      // Without an address there is nothing to show.
      presentedPeer: source.address === '' ? null : source,
    });
  }

  /** The workload at the peer's address, if the identity is its: who shares an address does not get the name. For logs only. */
  #clientOf({ peer, source }: Omit<InboundArrival, 'stream'>): WorkloadEntry | null {
    const found = peer === null ? undefined : this.#dependencies.view().workloadAt(source.address);
    return found?.identity === peer?.text ? (found ?? null) : null;
  }

  #start(arrival: InboundArrival, client: WorkloadEntry | null = null): void {
    const policy = bindPolicy(this.#dependencies.view(), arrival);
    let upstream: ByteStream | null = null;
    if (policy.scope !== 'deny') {
      try {
        upstream = new SocketByteStream(this.#dial(arrival));
      } catch (error) {
        this.#dependencies.telemetry.refused('inbound', PATH_OF[arrival.security], 'dial-failed');
        arrival.stream.destroy(new ProxyError('WEFT_PROXY_DIAL', 'no socket towards the application', { cause: error }));
        return;
      }
    }
    this.#adopt(arrival, upstream, client);
  }

  #adopt(arrival: InboundArrival, upstream: ByteStream | null, client: WorkloadEntry | null): void {
    const { view, telemetry } = this.#dependencies;
    const now = view();
    const record: ConnectionRecord = telemetry.open({
      direction: 'inbound',
      security: arrival.security,
      path: PATH_OF[arrival.security],
      source: { ...arrival.source, workload: client, identity: arrival.peer?.text ?? null },
      destination: {
        ...arrival.destination,
        workload: arrival.workload,
        service: now.serviceOf(arrival.workload),
        identity: arrival.workload.identity,
      },
      stream: arrival.stream,
    });
    const { deniedByHeader, checks } = this.#dependencies;
    const connection = new InboundConnection(arrival, now, upstream, record, deniedByHeader, checks ?? NO_CHECKS, (done) =>
      this.connections.delete(done),
    );
    if (connection.state !== 'closed') this.connections.add(connection);
  }

  /** Applies a new view to every open connection. */
  reconsider(view: MeshView): void {
    for (const connection of this.connections) {
      const workload: WorkloadEntry | undefined = view.workload(connection.arrival.workload.id);
      if (workload === undefined) continue;
      try {
        connection.reconsider(view, workload);
      } catch (error) {
        // What cannot be decided again does not go on, and the others are still decided.
        connection.destroy(new ProxyError('WEFT_PROXY_POLICY_CHANGED', 'the changed policy could not be evaluated', { cause: error }));
      }
    }
  }

  /** Tells every HTTP client to go elsewhere after what is open. */
  drain(): void {
    for (const connection of this.connections) connection.drain();
  }

  /** Ends the connections of one workload: its network namespace is gone. */
  destroyWorkload(workloadId: number): void {
    const gone = new ProxyError('WEFT_PROXY_WORKLOAD_GONE', 'the workload is gone');
    for (const connection of this.connections) if (connection.arrival.workload.id === workloadId) connection.destroy(gone);
  }
}

function isAgentPort(ports: AgentPorts | null, port: number): boolean {
  return ports !== null && (port === ports.outbound || port === ports.inbound || port === ports.tunnel);
}

/**
 * The port of the client's own socket, for the application's eyes only: the `forwarded` header is believed when it names the very
 * address that the tunnel comes from. Policy never reads it.
 */
function clientPort(connect: TunnelConnect): number {
  const match = /^for="?\[?([0-9a-fA-F.:]{2,45}?)\]?:(\d{1,5})"?(?:;|$)/.exec(connect.headers.get('forwarded') ?? '');
  if (match === null || canonicalAddress(match[1] as string) !== canonicalAddress(connect.remoteAddress)) return connect.remotePort;
  const port = Number(match[2]);
  return port > 0 && port < 65_536 ? port : connect.remotePort;
}
