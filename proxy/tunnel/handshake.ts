import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { SecureContext } from 'node:tls';
import { canonicalAddress } from '../../src/model/address.ts';
import { ALPN_HTTP2 } from './tunnel-client.ts';

/** First byte of a TLS record that carries a handshake (RFC 8446 section 5.1). */
const TLS_HANDSHAKE_RECORD = 0x16;

/** Why there was no handshake. */
export type HandshakeFailure =
  /** The peer took too long. */
  | 'handshake_timeout'
  /** HTTP without TLS. */
  | 'plaintext'
  /** Bytes that are no TLS. */
  | 'not_tls'
  /** TLS that cannot be agreed on: version, suite, ALPN, broken messages. */
  | 'tls'
  /** The peer left. */
  | 'closed'
  /** Nothing to answer with. */
  | 'no_identity'
  /** It had to make room for younger ones. */
  | 'limit'
  /** The server is closing. */
  | 'draining';

/** Who owns a handshake. Exactly one of onSecure and onFailed is called, once. */
export interface HandshakeOwner {
  /** TLS begins, at once or with the peer's first byte: from now on the handshake costs memory and CPU. */
  onStarted(handshake: Handshake): void;
  /** The handshake is over; nothing of the peer has been checked. The socket is the owner's from now on. */
  onSecure(handshake: Handshake, secure: TLSSocket): void;
  onFailed(handshake: Handshake, reason: HandshakeFailure, error: unknown): void;
  /** @throws WeftError when there is an SVID, and it is of no use */
  context(): SecureContext | null;
  /** Waits a moment for an SVID, as after the last one was revoked. Rejects when none came. */
  wait(): Promise<SecureContext>;
}

/**
 * One accepted TCP connection up to the end of its TLS handshake.
 *
 * States: `silent` (no byte yet: a socket and no TLS, so that half-open connections are cheap), `started` (TLS, or first a wait for the SVID
 * to do it with), `over`. One timer covers all of it.
 * The owner says when it starts: with `start` at once, which saves a twentieth of a resumed handshake's CPU, or with the peer's first byte.
 */
export class Handshake {
  /** Canonical text, as is localAddress. */
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly #socket: Socket;
  readonly #owner: HandshakeOwner;
  readonly #timer: NodeJS.Timeout;
  #state: 'silent' | 'started' | 'over' = 'silent';
  #secure: TLSSocket | null = null;
  #context: SecureContext | null = null;

  constructor(socket: Socket, owner: HandshakeOwner, timeoutMs: number) {
    this.#socket = socket;
    this.#owner = owner;
    this.remoteAddress = canonicalAddress(socket.remoteAddress ?? '');
    this.remotePort = socket.remotePort ?? 0;
    this.localAddress = canonicalAddress(socket.localAddress ?? '');
    this.#timer = setTimeout(() => this.fail('handshake_timeout', new Error('the TLS handshake timed out')), timeoutMs);
    socket.setNoDelay(true);
    socket.on('error', this.#onSilentError);
  }

  /** Starts TLS as soon as the peer has said something that looks like it. */
  awaitFirstByte(): void {
    this.#socket.on('end', this.#onSilentClose);
    this.#socket.on('close', this.#onSilentClose);
    this.#socket.on('readable', this.#onReadable);
  }

  /** What it was, or is being, made with; null while nothing was said. */
  get context(): SecureContext | null {
    return this.#context;
  }

  get state(): 'silent' | 'started' | 'over' {
    return this.#state;
  }

  readonly #onSilentError = (error: Error): void => this.fail('closed', error);
  readonly #onSilentClose = (): void => this.fail('closed', new Error('the peer left before it said anything'));

  readonly #onReadable = (): void => {
    const first = this.#socket.read() as Buffer | null;
    // The end comes as 'readable' too, and then as 'end'.
    if (first === null) return;
    if (first[0] === TLS_HANDSHAKE_RECORD) this.start(first);
    else if (isHttp(first)) this.fail('plaintext', new Error('HTTP without TLS'));
    else this.fail('not_tls', new Error(`bytes that are no TLS: ${first.subarray(0, 8).toString('hex')}`));
  };

  /** @param first what the peer has said so far; null: nothing was read yet */
  start(first: Buffer | null): void {
    let context: SecureContext | null;
    try {
      context = this.#owner.context();
    } catch (error) {
      this.fail('no_identity', error);
      return;
    }
    this.#state = 'started';
    if (first !== null) this.#stopListening();
    this.#owner.onStarted(this);
    if (context !== null) this.#secureWith(context, first);
    else {
      this.#owner.wait().then(
        (context) => this.#secureWith(context, first),
        (error: unknown) => this.fail('no_identity', error),
      );
    }
  }

  #secureWith(context: SecureContext, first: Buffer | null): void {
    // Its owner may have ended it meanwhile.
    if (this.#state === 'over') return;
    const socket = this.#socket;
    this.#context = context;
    // TLSSocket takes what the socket has buffered.
    if (first !== null) socket.unshift(first);
    const secure = new TLSSocket(socket, {
      isServer: true,
      secureContext: context,
      requestCert: true,
      // Decided later from the DER, with a reason: OpenSSL is given no roots.
      rejectUnauthorized: false,
      ALPNProtocols: [ALPN_HTTP2],
    });
    this.#secure = secure;
    secure.on('error', this.#onTlsError);
    // A failed handshake destroys the socket without 'error'; this is where its reason is.
    secure.on('_tlsError', this.#onTlsError);
    // With half-open sockets a client that leaves early would be waited for.
    secure.on('end', this.#onLeft);
    secure.on('close', this.#onLeft);
    secure.once('secure', () => this.#onSecure(secure));
  }

  readonly #onTlsError = (error: Error): void => this.fail(failureOf(error), error);
  readonly #onLeft = (): void => this.fail('closed', new Error('the peer left during the handshake'));

  #onSecure(secure: TLSSocket): void {
    if (this.#state === 'over') return;
    this.#state = 'over';
    clearTimeout(this.#timer);
    // The 'error' listeners stay on both sockets: whoever takes over adds its own.
    secure.off('_tlsError', this.#onTlsError);
    secure.off('end', this.#onLeft);
    secure.off('close', this.#onLeft);
    this.#owner.onSecure(this, secure);
  }

  /** The 'error' listener stays. */
  #stopListening(): void {
    this.#socket.off('readable', this.#onReadable);
    this.#socket.off('end', this.#onSilentClose);
    this.#socket.off('close', this.#onSilentClose);
  }

  /** Ends it, if it is not over. */
  fail(reason: HandshakeFailure, error: unknown): void {
    if (this.#state === 'over') return;
    this.#state = 'over';
    clearTimeout(this.#timer);
    this.#stopListening();
    (this.#secure ?? this.#socket).destroy();
    this.#owner.onFailed(this, reason, error);
  }
}

/** A request line in sight, as of a client that does not know that this port speaks TLS. */
function isHttp(first: Buffer): boolean {
  return /^(?:[A-Z]{3,10} [^\r\n]*HTTP\/[0-9]|(?:GET|POST|PUT|HEAD|DELETE|PATCH|OPTIONS|CONNECT|PRI) )/.test(
    first.toString('latin1', 0, 2048),
  );
}

function failureOf(error: NodeJS.ErrnoException): HandshakeFailure {
  const { code = '' } = error;
  if (code === 'ECONNRESET' || code === 'EPIPE') return 'closed';
  if (code === 'ERR_SSL_HTTP_REQUEST' || code === 'ERR_SSL_HTTPS_PROXY_REQUEST') return 'plaintext';
  return ['ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_BAD_RECORD_TYPE', 'ERR_SSL_PACKET_LENGTH_TOO_LONG'].includes(code) ? 'not_tls' : 'tls';
}
