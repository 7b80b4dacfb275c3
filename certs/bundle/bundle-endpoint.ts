import { createServer, type Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import { errorText } from '../../src/model/errors.ts';
import { CertsError } from '../errors.ts';
import { formatBundle } from './bundle-format.ts';
import type { SpiffeBundle } from './trust-state.ts';

/** What the endpoint publishes. */
export interface PublishedBundle {
  /** The latest bundle of the own trust domain; null while it is not known. */
  bundle(): SpiffeBundle | null;
}

/** What the endpoint shows its clients: an X.509-SVID (https_spiffe) or a certificate of the web (https_web). */
export interface EndpointCertificate {
  /** Lends the PEM chain, leaf first, and its key, which may be wiped when `use` returns. False when there is none: handshakes then fail. */
  lend(use: (pair: Required<Pick<SecureContextOptions, 'cert' | 'key'>>) => void): boolean;
  /** Calls back after what is lent changed. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void;
}

export interface BundleEndpointOptions {
  readonly host: string;
  /** 0: any. */
  readonly port: number;
  /** Default `/`. */
  readonly path?: string;
  readonly source: PublishedBundle;
  readonly certificate: EndpointCertificate;
  /** How often clients should come, in seconds, where it is not what the bundle says. */
  readonly refreshHintSeconds?: number | null;
  /** Told of certificates that cannot be used, and of failures to accept. */
  readonly onError: (error: CertsError) => void;
}

/** Clients come once in some minutes, each for one short answer. */
const MAX_CONNECTIONS = 256;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 10_000;
const IDLE_TIMEOUT_MS = 10_000;
const MAX_HEADER_BYTES = 8 * 1024;
const RETRY_AFTER_SECONDS = 5;

/** The suites of Mozilla's intermediate compatibility (version 5.7) with forward secrecy over elliptic curves; TLS 1.2 and 1.3. */
const SUITES =
  'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:' +
  'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:' +
  'ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305';

/**
 * Publishes the bundle of the own trust domain for others to fetch (SPIFFE_Federation.md sections 5.2.1.3 and 5.2.2.3). Its profile is that of its
 * certificate. Clients are never asked who they are. One answer for each connection.
 */
export class BundleEndpoint implements AsyncDisposable {
  readonly #server: Server;
  readonly #unsubscribe: () => void;
  /** Also those that have not come as far as TLS, which the server itself does not know how to close. */
  readonly #sockets: ReadonlySet<Socket>;

  private constructor(server: Server, unsubscribe: () => void, sockets: ReadonlySet<Socket>) {
    this.#server = server;
    this.#unsubscribe = unsubscribe;
    this.#sockets = sockets;
  }

  /** @throws CertsError WEFT_CERTS_BUNDLE_LISTEN when the address cannot be listened on */
  static async listen(options: BundleEndpointOptions): Promise<BundleEndpoint> {
    const { host, port, certificate, onError } = options;
    const server = createServer(
      {
        minVersion: 'TLSv1.2',
        ciphers: SUITES,
        ALPNProtocols: ['http/1.1'],
        requestCert: false,
        handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
        headersTimeout: REQUEST_TIMEOUT_MS,
        requestTimeout: REQUEST_TIMEOUT_MS,
        // Deadlines above are looked at this often.
        connectionsCheckingInterval: 1_000,
        maxHeaderSize: MAX_HEADER_BYTES,
      },
      (request, response) => answer(request, response, options),
    );
    server.maxConnections = MAX_CONNECTIONS;
    const sockets = new Set<Socket>();
    server.on('connection', (socket: Socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    server.maxRequestsPerSocket = 1;
    server.setTimeout(IDLE_TIMEOUT_MS, (socket) => socket.destroy());
    // Of one client, who hears of it too; what clients do is no error of ours.
    server.on('tlsClientError', (_, socket) => socket.destroy());
    const show = (): void => useCertificate(server, certificate, onError);
    show();
    const unsubscribe = certificate.onChange(show);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ host, port }, resolve);
      });
    } catch (error) {
      unsubscribe();
      throw new CertsError(
        'WEFT_CERTS_BUNDLE_LISTEN',
        `cannot listen on ${host} port ${port} for the bundle endpoint: ${errorText(error)}`,
        {
          nextStep: 'choose another address with --bundle-endpoint',
          cause: error,
        },
      );
    }
    server.on('error', (error) =>
      onError(
        new CertsError('WEFT_CERTS_BUNDLE_LISTEN', `the bundle endpoint cannot accept a connection: ${errorText(error)}`, {
          nextStep: 'see how many descriptors the process has open',
          cause: error,
        }),
      ),
    );
    return new BundleEndpoint(server, unsubscribe, sockets);
  }

  get address(): AddressInfo {
    return this.#server.address() as AddressInfo;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#unsubscribe();
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

/** Connections that are open keep the certificate that they have seen. */
function useCertificate(server: Server, certificate: EndpointCertificate, onError: (error: CertsError) => void): void {
  try {
    certificate.lend((pair) => server.setSecureContext({ ...pair, minVersion: 'TLSv1.2', ciphers: SUITES }));
  } catch (error) {
    onError(
      new CertsError('WEFT_CERTS_BUNDLE_CERTIFICATE', `the bundle endpoint cannot use its certificate: ${errorText(error)}`, {
        nextStep: 'give a PEM chain and its key; the one before stays in use',
        cause: error,
      }),
    );
  }
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { path = '/', source, refreshHintSeconds = null }: BundleEndpointOptions,
): void {
  response.shouldKeepAlive = false;
  response.setHeader('x-content-type-options', 'nosniff');
  const [pathname] = (request.url ?? '').split('?', 1);
  if (pathname !== path) return end(response, 404, 'there is no bundle at this path\n');
  if (request.method !== 'GET') {
    response.setHeader('allow', 'GET');
    return end(response, 405, 'a bundle can be fetched with GET\n');
  }
  const bundle = source.bundle();
  if (bundle === null) {
    response.setHeader('retry-after', RETRY_AFTER_SECONDS);
    return end(response, 503, 'the bundle is not known yet\n');
  }
  // A cache that showed an old bundle would delay a revocation.
  response.setHeader('cache-control', 'no-cache');
  response.setHeader('content-type', 'application/json');
  end(response, 200, formatBundle(refreshHintSeconds === null ? bundle : { ...bundle, refreshHintSeconds }));
}

function end(response: ServerResponse, status: number, body: string): void {
  if (!response.hasHeader('content-type')) response.setHeader('content-type', 'text/plain; charset=utf-8');
  response.writeHead(status).end(body);
}
