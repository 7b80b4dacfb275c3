import { once } from 'node:events';
import net from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import type { SecureContext } from 'node:tls';
import { IdentityMirror } from '../../../certs/svid/identity-mirror.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { SvidTlsContexts } from '../../../certs/svid/tls-contexts.ts';
import { ChainWatch } from '../../../proxy/tunnel/chain-watch.ts';
import { TunnelServer } from '../../../proxy/tunnel/tunnel-server.ts';
import type { TunnelConnect, TunnelRefused, TunnelResponder, TunnelServerLimits } from '../../../proxy/tunnel/tunnel-server.ts';
import { TunnelClient } from '../../../proxy/tunnel/tunnel-client.ts';
import type { TunnelClientOptions } from '../../../proxy/tunnel/tunnel-client.ts';
import type { Dialer, DialRequest, PeerVerifier, SvidMaterial, TlsContexts, TrustBundle } from '../../../src/model/data-plane.ts';
import { type ForgeOptions, type Forged, forge, forgeRoot, keyBytes } from '../../unit/certs/forge.ts';

export const CLIENT_ID = 'spiffe://example.org/ns/shop/sa/web';
export const SERVER_ID = 'spiffe://example.org/ns/shop/sa/cart';

/** Identities of one trust domain, TLS contexts made of them, and a verifier: what the agent hands to the tunnel. */
export class TunnelWorld implements Disposable {
  readonly root: Forged;
  readonly mirror: IdentityMirror = new IdentityMirror({ request: () => {} });
  readonly contexts: SvidTlsContexts;
  readonly verifier: SvidVerifier;
  /** As a worker has it: it looks at open tunnels again when bundles change. */
  readonly watch: ChainWatch;
  #svids: SvidMaterial[] = [];
  #bundle: TrustBundle;

  private constructor(root: Forged) {
    this.root = root;
    this.contexts = new SvidTlsContexts(this.mirror);
    this.verifier = new SvidVerifier(this.mirror);
    this.watch = new ChainWatch(this.verifier);
    this.#bundle = { trustDomain: 'example.org', roots: [root.der], revokedKeys: [], sequence: 1 };
  }

  static async make(): Promise<TunnelWorld> {
    const world = new TunnelWorld(await forgeRoot());
    await world.issue(CLIENT_ID);
    await world.issue(SERVER_ID);
    return world;
  }

  /** Issues, or rotates, the SVID of an identity. */
  async issue(identity: string, issuer: Forged = this.root, options: ForgeOptions = {}): Promise<void> {
    const leaf = await forge({ issuer, uris: [identity], ...options });
    const svid = {
      identity,
      certificateChain: leaf.pem + (issuer === this.root ? '' : issuer.pem),
      privateKey: keyBytes(leaf.privateKey),
      notAfter: Date.now() + 3_600_000,
    };
    this.#svids = [...this.#svids.filter((other) => other.identity !== identity), svid];
    this.#apply();
  }

  #apply(): void {
    this.mirror.apply({ svids: this.#svids, bundles: [this.#bundle] });
  }

  /** Changes the bundle, as the agent's main thread would. */
  trust(wish: Partial<Pick<TrustBundle, 'roots' | 'revokedKeys'>>): void {
    this.#bundle = { ...this.#bundle, ...wish, sequence: this.#bundle.sequence + 1 };
    this.#apply();
    this.watch.recheck();
  }

  context(identity: string): SecureContext {
    const context = this.contexts.context(identity);
    if (context === null) throw new Error(`no SVID for ${identity}`);
    return context;
  }

  /** A context with a certificate made to order: what an attacker brings. */
  async forged(options: ForgeOptions): Promise<SecureContext> {
    const leaf = await forge({ issuer: this.root, ...options });
    return createSecureContext({ key: leaf.privateKey, cert: leaf.pem, ca: this.root.pem, minVersion: 'TLSv1.3' });
  }

  [Symbol.dispose](): void {
    this.watch[Symbol.dispose]();
    this.contexts[Symbol.dispose]();
    this.mirror[Symbol.dispose]();
  }
}

/** Dials 127.0.0.1, whatever the address says. */
export class LoopbackDialer implements Dialer {
  readonly requests: DialRequest[] = [];
  readonly sockets: Socket[] = [];

  dial(request: DialRequest): Socket {
    this.requests.push(request);
    const socket = net.connect({ host: '127.0.0.1', port: request.port, allowHalfOpen: true });
    this.sockets.push(socket);
    return socket;
  }
}

export type OnConnect = (connect: TunnelConnect, responder: TunnelResponder) => void;

/** Answers 200 and sends everything back. */
export const echo: OnConnect = (_connect, responder) => {
  const stream = responder.accept();
  stream.attach({
    onData: (chunk) => {
      if (!stream.write(chunk)) stream.pause();
    },
    onEnd: () => stream.end(),
    onDrain: () => stream.resume(),
    onClose: () => {},
  });
  stream.resume();
};

/** What a server and its clients need of a world. */
export interface TunnelSide {
  readonly contexts: TlsContexts;
  readonly verifier: PeerVerifier;
  readonly watch: ChainWatch;
}

/** A tunnel server on a loopback port. */
export class TunnelHost implements AsyncDisposable {
  readonly listener: Server;
  readonly server: TunnelServer;
  readonly refused: TunnelRefused[] = [];
  /** Of each tunnel that was opened: whether its session is that of an earlier one. */
  readonly opened: boolean[] = [];
  #waiters: (() => void)[] = [];
  readonly #sockets = new Set<Socket>();

  constructor(world: TunnelSide, onConnect: OnConnect = echo, limits: Partial<TunnelServerLimits> = {}, identity: string = SERVER_ID) {
    this.server = new TunnelServer({
      contexts: world.contexts,
      identity,
      verifier: world.verifier,
      watch: world.watch,
      onConnect,
      onRefused: (refused) => {
        this.refused.push(refused);
        for (const wake of this.#waiters.splice(0)) wake();
      },
      onOpened: (isResumed) => this.opened.push(isResumed),
      limits,
    });
    this.listener = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
      this.server.accept(socket);
    });
  }

  async listen(): Promise<this> {
    this.listener.listen(0, '127.0.0.1');
    await once(this.listener, 'listening');
    return this;
  }

  get port(): number {
    return (this.listener.address() as AddressInfo).port;
  }

  /** The first refusal, now or soon. */
  async firstRefusal(): Promise<TunnelRefused> {
    while (this.refused.length === 0) {
      await new Promise<void>((resolve) => {
        this.#waiters.push(resolve);
      });
    }
    return this.refused[0] as TunnelRefused;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.dispose();
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => {
      this.listener.close(resolve);
    });
  }
}

/** A client of the host with the world's own identities. */
export function connect(world: TunnelWorld, host: TunnelHost, options: Partial<TunnelClientOptions> = {}): TunnelClient {
  return new TunnelClient({
    dialer: new LoopbackDialer(),
    verifier: world.verifier,
    watch: world.watch,
    ownChain: world.contexts.chainOf(world.context(CLIENT_ID)),
    context: world.context(CLIENT_ID),
    sourceWorkloadId: 7,
    destinationAddress: '127.0.0.1',
    port: host.port,
    expectedIdentities: [SERVER_ID],
    ...options,
  });
}
