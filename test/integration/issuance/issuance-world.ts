import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { Authority } from '../../../certs/authority/authority.ts';
import type { Clock } from '../../../certs/clock.ts';
import { systemClock } from '../../../certs/clock.ts';
import { IssuanceCounts } from '../../../certs/issuance/issuance-counts.ts';
import { type IssuanceOptions, IssuanceServer } from '../../../certs/issuance/issuance-server.ts';
import { CREATE_CERTIFICATE, IMPERSONATED_IDENTITY } from '../../../certs/issuance/messages.ts';
import { NodeRegister } from '../../../certs/issuance/node-register.ts';
import { RemoteProvider, type RemoteProviderOptions } from '../../../certs/issuance/remote-provider.ts';
import { toPem } from '../../../certs/x509/pem.ts';
import { createSigningRequest } from '../../../certs/x509/signing-request.ts';
import { GrpcClient } from '../../../src/grpc/grpc-client.ts';
import type { Log } from '../../../src/model/log.ts';

export const TRUST_DOMAIN = 'cluster.local';
/** Runs on node-b alone. */
export const WEB: string = `spiffe://${TRUST_DOMAIN}/ns/shop/sa/web`;
/** Runs on node-c alone. */
export const DATABASE: string = `spiffe://${TRUST_DOMAIN}/ns/shop/sa/database`;
/** Nobody is given longer, where a test waits for something. */
export const PATIENCE_MS = 10_000;

/** A client's key and certificate. */
export interface Credentials {
  readonly key: string;
  readonly cert: string;
}

/** An authority with its issuance service on loopback, and whoever calls it. */
export class IssuanceWorld implements AsyncDisposable {
  readonly directory: string;
  /** Lines of the server's log: message and fields. */
  readonly logged: string[] = [];
  readonly placed: Set<string> = new Set([`node-b ${WEB}`, `node-c ${DATABASE}`]);
  readonly #stack = new AsyncDisposableStack();
  authority!: Authority;
  nodes!: NodeRegister;
  server!: IssuanceServer;
  readonly counts: IssuanceCounts = new IssuanceCounts();
  clock: Clock = systemClock;

  private constructor(beside: IssuanceWorld | null) {
    this.directory = beside?.directory ?? mkdtempSync(join(tmpdir(), 'weft-issuance-'));
    if (beside === null) this.#stack.defer(() => rmSync(this.directory, { recursive: true }));
    this.#stack.defer(() => this.stopServer());
  }

  /** @param beside another process on the same authority's directory */
  static async start(options: Partial<IssuanceOptions> = {}, beside: IssuanceWorld | null = null): Promise<IssuanceWorld> {
    const world = new IssuanceWorld(beside);
    world.clock = options.clock ?? systemClock;
    await world.startServer(options);
    return world;
  }

  readonly log: Log = {
    info: (fields, message) => void this.logged.push(`${message} ${JSON.stringify(fields)}`),
    warn: (fields, message) => void this.logged.push(`${message} ${JSON.stringify(fields)}`),
    error: (fields, message) => void this.logged.push(`${message} ${JSON.stringify(fields)}`),
  };

  /** Again after stopServer(), on the same directory and port: what a restart is. */
  async startServer(options: Partial<IssuanceOptions> = {}): Promise<void> {
    const directory = join(this.directory, 'ca');
    this.authority = await Authority.open({ directory, trustDomain: TRUST_DOMAIN, nodeName: 'node-a', clock: this.clock });
    this.nodes = new NodeRegister(join(directory, 'joined'));
    this.server = await IssuanceServer.start({
      authority: this.authority,
      nodes: this.nodes,
      counts: this.counts,
      placements: { runsOn: (node, identity) => this.placed.has(`${node} ${identity}`) },
      listen: { host: '::', port: 0 },
      dns: ['ca.test'],
      log: this.log,
      clock: this.clock,
      ...options,
    });
  }

  async stopServer(): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    await this.authority[Symbol.asyncDispose]();
  }

  /** A file with a new token for a node. */
  async tokenFile(
    node: string,
    options: { reusable?: boolean; namespaces?: readonly string[]; ttlSeconds?: number } = {},
  ): Promise<string> {
    return this.writeToken(await this.authority.tokens.create({ node, ttlSeconds: 600, ...options }));
  }

  writeToken(token: string): string {
    const path = join(this.directory, `token-${Math.random()}`);
    writeFileSync(path, `${token}\n`, { mode: 0o600 });
    return path;
  }

  /** A node's provider. Its state is kept under its name: a second one is the node after a restart. */
  async node(nodeName: string, options: Partial<RemoteProviderOptions> = {}): Promise<RemoteProvider> {
    const provider = await RemoteProvider.open({
      server: { host: '127.0.0.1', port: this.server.port },
      trustDomain: TRUST_DOMAIN,
      nodeName,
      stateDirectory: join(this.directory, nodeName),
      tokenFile: null,
      log: this.log,
      ...options,
    });
    this.#stack.use(provider);
    return provider;
  }

  /** Key and certificate for any identity, from the authority itself. */
  async credentials(identity: string, ttlSeconds = 3600): Promise<Credentials> {
    const { csr, privateKey } = await createSigningRequest(identity);
    const { certificateChain } = await this.authority.issue(csr, { identity, ttlSeconds });
    return { key: toPem('PRIVATE KEY', privateKey), cert: certificateChain };
  }

  /** A TLS connection to the service, not checked. */
  dial(options: ConnectionOptions & { readonly localAddress?: string } = {}, host = '127.0.0.1'): Promise<TLSSocket> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host, port: this.server.port, ALPNProtocols: ['h2'], rejectUnauthorized: false, ...options });
      this.#stack.defer(() => void socket.destroy());
      socket.on('error', reject);
      socket.once('secureConnect', () => resolve(socket));
    });
  }

  /** A gRPC client of the service. */
  client(credentials: Credentials | null = null, host = '127.0.0.1'): GrpcClient {
    const client = new GrpcClient({ connect: () => this.dial(credentials ?? {}, host), authority: 'ca.test', scheme: 'https' });
    return this.#stack.use(client);
  }

  /** Asks for a certificate: the answer's chain, PEM. */
  async certify(
    client: GrpcClient,
    options: { csr?: string; impersonate?: string | null; token?: string; seconds?: number } = {},
  ): Promise<readonly string[]> {
    const { impersonate = null, token, seconds = 3600 } = options;
    const csr = options.csr ?? toPem('CERTIFICATE REQUEST', (await createSigningRequest('spiffe://elsewhere.test/ns/evil/sa/admin')).csr);
    const metadata = impersonate === null ? null : { fields: new Map([[IMPERSONATED_IDENTITY, { stringValue: impersonate }]]) };
    const answer = await client.unary(
      CREATE_CERTIFICATE,
      { csr, validityDuration: BigInt(seconds), metadata },
      { timeoutMs: PATIENCE_MS, ...(token === undefined ? {} : { metadata: { authorization: `Bearer ${token}` } }) },
    );
    return answer.certChain;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** Waits until it is so. */
export async function until(what: string, done: () => boolean, timeoutMs: number = PATIENCE_MS): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!done()) {
    if (performance.now() > deadline) throw new Error(`it never was so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
