import { createServer, type Server, type Socket } from 'node:net';
import { type SecureContext, TLSSocket } from 'node:tls';
import { canonicalAddress, joinHostPort } from '../../src/model/address.ts';
import { CertsError } from '../errors.ts';
import { addressGroup } from './address-group.ts';

export interface TlsListenerOptions {
  /** A name or an address; `::` is every IPv6 and IPv4 address. */
  readonly host: string;
  readonly port: number;
  /** The server's certificate now. */
  readonly context: () => SecureContext;
  /** A handshake is over. Nothing of the peer has been checked; the socket is the callee's, who must listen for 'error'. */
  readonly onSecure: (socket: TLSSocket, address: string) => void;
  /** A handshake did not come to an end, or was not begun. */
  readonly onFailed: (address: string, reason: string) => void;
  readonly limits?: Partial<TlsListenerLimits>;
}

export interface TlsListenerLimits {
  /** Connections at once. */
  readonly connections: number;
  /** Of these, from one address (an IPv6 /64 counts as one). */
  readonly connectionsPerAddress: number;
  /** Handshakes under way at once. The oldest gives way to a new one. */
  readonly handshakes: number;
  readonly handshakeTimeoutMs: number;
}

const DEFAULT_LIMITS: TlsListenerLimits = { connections: 4096, connectionsPerAddress: 64, handshakes: 128, handshakeTimeoutMs: 10_000 };
const ALPN_HTTP2 = 'h2';

/**
 * Accepts TLS 1.3 connections for gRPC within limits: a peer that is silent, slow or many holds little, and for a short time. A client's
 * certificate is asked for and not needed. Sessions are not resumed, so that every connection shows its certificates.
 */
export class TlsListener implements Disposable {
  readonly #options: TlsListenerOptions;
  readonly #limits: TlsListenerLimits;
  readonly #server: Server;
  readonly #connectionsOf = new Map<string, number>();
  /** Ends the handshake with a reason; in the order in which they began. */
  readonly #handshakes = new Set<(reason: string) => void>();

  private constructor(options: TlsListenerOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = this.#limits.connections;
  }

  /** @throws CertsError WEFT_CERTS_LISTEN */
  static async listen(options: TlsListenerOptions): Promise<TlsListener> {
    const listener = new TlsListener(options);
    const { host, port } = options;
    await new Promise<void>((resolve, reject) => {
      listener.#server.once('error', (cause) =>
        reject(
          new CertsError('WEFT_CERTS_LISTEN', `cannot listen on ${joinHostPort(host, port)}: ${cause.message}`, {
            cause,
            nextStep: 'choose another --ca-listen',
          }),
        ),
      );
      listener.#server.listen({ host, port }, resolve);
    });
    listener.#server.on('error', (error) => options.onFailed('', error.message));
    return listener;
  }

  /** The port it listens on. */
  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === 'object' ? address.port : 0;
  }

  /** Connections that are open, in any state. */
  get connections(): number {
    return [...this.#connectionsOf.values()].reduce((sum, count) => sum + count, 0);
  }

  /** Handshakes under way. */
  get handshakes(): number {
    return this.#handshakes.size;
  }

  #accept(socket: Socket): void {
    const address = canonicalAddress(socket.remoteAddress ?? '');
    const group = addressGroup(address);
    const count = this.#connectionsOf.get(group) ?? 0;
    socket.on('error', () => {});
    if (count >= this.#limits.connectionsPerAddress) {
      socket.destroy();
      this.#options.onFailed(address, 'it has too many connections');
      return;
    }
    this.#connectionsOf.set(group, count + 1);
    socket.once('close', () => {
      const left = (this.#connectionsOf.get(group) ?? 1) - 1;
      if (left === 0) this.#connectionsOf.delete(group);
      else this.#connectionsOf.set(group, left);
    });
    if (this.#handshakes.size >= this.#limits.handshakes) this.#handshakes.values().next().value?.('it made room for another');
    this.#shakeHands(socket, address);
  }

  #shakeHands(socket: Socket, address: string): void {
    let secure: TLSSocket | null = null;
    const over = (): boolean => {
      clearTimeout(timer);
      return this.#handshakes.delete(fail);
    };
    const fail = (reason: string): void => {
      if (!over()) return;
      (secure ?? socket).destroy();
      this.#options.onFailed(address, reason);
    };
    const timer = setTimeout(() => fail('the handshake took too long'), this.#limits.handshakeTimeoutMs);
    this.#handshakes.add(fail);
    socket.once('close', () => fail('it left during the handshake'));
    // No TLS before the first byte: a silent connection costs a socket.
    const onReadable = (): void => {
      const first = socket.read() as Buffer | null;
      // The end comes as 'readable' too, and then as 'close'.
      if (first === null || !this.#handshakes.has(fail)) return;
      socket.off('readable', onReadable);
      // TLSSocket takes what the socket has buffered.
      socket.unshift(first);
      secure = new TLSSocket(socket, {
        isServer: true,
        secureContext: this.#options.context(),
        requestCert: true,
        // Decided from the DER afterwards, with a reason.
        rejectUnauthorized: false,
        ALPNProtocols: [ALPN_HTTP2],
      });
      const established = secure;
      secure.on('error', (error) => fail(error.message));
      secure.on('_tlsError', (error: Error) => fail(error.message));
      secure.once('secure', () => {
        if (!over()) return;
        if (established.alpnProtocol !== ALPN_HTTP2) {
          established.destroy();
          this.#options.onFailed(address, 'it does not speak HTTP/2');
        } else this.#options.onSecure(established, address);
      });
    };
    socket.on('readable', onReadable);
  }

  /** Takes no more connections, and ends the handshakes under way. Established connections are their owner's. */
  [Symbol.dispose](): void {
    this.#server.close();
    for (const end of this.#handshakes) end('the server is closing');
  }
}
