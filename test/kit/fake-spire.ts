import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer as createTlsServer } from 'node:tls';
import { Authority } from '../../certs/authority/authority.ts';
import { BROKER_FETCH_JWT_SVID, SUBSCRIBE_TO_X509_SVID, WORKLOAD_PID_REFERENCE } from '../../certs/spire/broker-messages.ts';
import {
  FETCH_JWT_BUNDLES,
  FETCH_JWT_SVID,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  type JwtBundlesResponse,
  type JwtSvidResponse,
  type X509BundlesResponse,
  type X509Svid,
  type X509SvidResponse,
} from '../../certs/workload-api/messages.ts';
import { certificatesFromPem, certificatesToPem, toPem } from '../../certs/x509/pem.ts';
import { createSigningRequest } from '../../certs/x509/signing-request.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import { type Call, GrpcServer, type Send } from '../../src/grpc/grpc-server.ts';
import { decodeMessage } from '../../src/grpc/message.ts';

/** What a stream answers: a message, or the end of the call. */
type State<Message> = { readonly message: Message } | { readonly error: GrpcStatusError };

/** A full state that streams push with each change. */
class Topic<Message> {
  #state: State<Message>;
  readonly #wake = new Set<() => void>();

  constructor(state: State<Message>) {
    this.#state = state;
  }

  set(state: State<Message>): void {
    this.#state = state;
    for (const wake of this.#wake) wake();
  }

  async stream(call: Call<unknown>, send: Send<Message>): Promise<void> {
    let sent: State<Message> | null = null;
    while (!call.signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const state = this.#state;
      if (state !== sent) {
        if ('error' in state) throw state.error;
        await send(structuredClone(state.message));
        sent = state;
        continue;
      }
      this.#wake.add(resolve);
      call.signal.addEventListener('abort', () => resolve(), { once: true });
      await promise;
      this.#wake.delete(resolve);
    }
  }
}

export const NO_IDENTITY: State<never> = { error: new GrpcStatusError(GRPC_STATUS.PERMISSION_DENIED, 'no identity issued') };

/** A SPIRE agent as its clients see it: the Workload API for one caller, and the Broker API. It checks what a SPIFFE server must check. */
export class FakeSpire implements AsyncDisposable {
  readonly directory: string;
  readonly socketPath: string;
  readonly brokerPath: string;
  readonly trustDomain: string;
  readonly x509Svids: Topic<X509SvidResponse> = new Topic(NO_IDENTITY);
  readonly x509Bundles: Topic<X509BundlesResponse> = new Topic(NO_IDENTITY);
  readonly jwtBundles: Topic<JwtBundlesResponse> = new Topic(NO_IDENTITY);
  /** By pid. */
  readonly workloads: Map<number, Topic<X509SvidResponse>> = new Map();
  /** Pids of subscriptions, in order. */
  readonly subscribed: number[] = [];
  jwtSvids: JwtSvidResponse = { svids: [] };
  /** As which the Broker API is served. */
  brokerIdentity = 'spiffe://mesh.test/spire/agent/join_token/1';
  /** Swallows every byte and answers nothing. */
  silent = false;
  connections = 0;
  #authority: Authority;
  #grpc: GrpcServer<null> = this.#makeGrpc();
  #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  private constructor(directory: string, authority: Authority, trustDomain: string) {
    this.directory = directory;
    this.socketPath = join(directory, 'api.sock');
    this.brokerPath = join(directory, 'broker.sock');
    this.#authority = authority;
    this.trustDomain = trustDomain;
  }

  static async start(trustDomain = 'mesh.test'): Promise<FakeSpire> {
    const directory = mkdtempSync(join(tmpdir(), 'weft-spire-'));
    const spire = new FakeSpire(directory, await newAuthority(directory, trustDomain), trustDomain);
    await spire.listen();
    return spire;
  }

  get roots(): Uint8Array {
    return Buffer.concat(this.#authority.trust().bundle.x509Authorities);
  }

  /** A new signing key, as after a rotation of SPIRE's CA. */
  async replaceAuthority(): Promise<void> {
    await this.#authority[Symbol.asyncDispose]();
    this.#authority = await newAuthority(this.directory, this.trustDomain);
  }

  async svid(identity: string, { hint = '', ttlSeconds = 3600 }: { hint?: string; ttlSeconds?: number } = {}): Promise<X509Svid> {
    const { csr, privateKey } = await createSigningRequest(identity);
    const { certificateChain } = await this.#authority.issue(csr, { identity, ttlSeconds });
    return {
      spiffeId: identity,
      x509Svid: Buffer.concat(certificatesFromPem(certificateChain)),
      x509SvidKey: privateKey,
      bundle: this.roots,
      hint,
    };
  }

  pushSvids(...svids: X509Svid[]): void {
    this.x509Svids.set({ message: { svids, crl: [], federatedBundles: new Map() } });
  }

  pushBundles(federated: ReadonlyMap<string, Uint8Array> = new Map()): void {
    this.x509Bundles.set({ message: { crl: [], bundles: new Map([[`spiffe://${this.trustDomain}`, this.roots], ...federated]) } });
  }

  pushJwtBundle(keys: readonly object[]): void {
    this.jwtBundles.set({ message: { bundles: new Map([[`spiffe://${this.trustDomain}`, Buffer.from(JSON.stringify({ keys }))]]) } });
  }

  pushWorkload(pid: number, ...svids: X509Svid[]): void {
    this.workload(pid).set({ message: { svids, crl: [], federatedBundles: new Map() } });
  }

  workload(pid: number): Topic<X509SvidResponse> {
    let topic = this.workloads.get(pid);
    if (topic === undefined) this.workloads.set(pid, (topic = new Topic<X509SvidResponse>(NO_IDENTITY)));
    return topic;
  }

  async listen(): Promise<void> {
    this.#grpc = this.#makeGrpc();
    this.#servers = [createServer((socket) => this.#accept(socket, false)), createServer((socket) => this.#accept(socket, true))];
    await Promise.all(
      [this.socketPath, this.brokerPath].map((path, at) => new Promise<void>((resolve) => this.#servers[at]?.listen(path, resolve))),
    );
  }

  /** As when the SPIRE agent dies. */
  async crash(): Promise<void> {
    for (const server of this.#servers) server.close();
    for (const socket of this.#sockets) socket.destroy();
    await this.#grpc[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.crash();
    await this.#authority[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true });
  }

  #accept(socket: Socket, isBroker: boolean): void {
    this.connections++;
    this.#sockets.add(socket);
    socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket));
    if (this.silent) {
      socket.resume();
      return;
    }
    if (isBroker) void this.#acceptBroker(socket);
    else this.#grpc.accept(socket, null);
  }

  async #acceptBroker(socket: Socket): Promise<void> {
    const server = await this.svid(this.brokerIdentity);
    createTlsServer({
      key: toPem('PRIVATE KEY', server.x509SvidKey),
      cert: toPem('CERTIFICATE', server.x509Svid),
      ca: certificatesToPem(this.#authority.trust().bundle.x509Authorities),
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: ['h2'],
    })
      .on('secureConnection', (tls) => {
        const broker = `URI:spiffe://${this.trustDomain}/weft/node-a`;
        if (tls.getPeerX509Certificate()?.subjectAltName === broker) this.#grpc.accept(tls, null);
        else tls.destroy();
      })
      .emit('connection', socket);
  }

  #makeGrpc(): GrpcServer<null> {
    return new GrpcServer<null>()
      .addServerStream(FETCH_X509_SVID, (_, call, send) =>
        this.#guarded(call, 'workload.spiffe.io', () => this.x509Svids.stream(call, send)),
      )
      .addServerStream(FETCH_X509_BUNDLES, (_, call, send) =>
        this.#guarded(call, 'workload.spiffe.io', () => this.x509Bundles.stream(call, send)),
      )
      .addServerStream(FETCH_JWT_BUNDLES, (_, call, send) =>
        this.#guarded(call, 'workload.spiffe.io', () => this.jwtBundles.stream(call, send)),
      )
      .add(FETCH_JWT_SVID, (_, call) => this.#guarded(call, 'workload.spiffe.io', () => Promise.resolve(this.jwtSvids)))
      .add(BROKER_FETCH_JWT_SVID, (_, call) => this.#guarded(call, 'broker.spiffe.io', () => Promise.resolve(this.jwtSvids)))
      .addServerStream(SUBSCRIBE_TO_X509_SVID, ({ reference }, call, send) =>
        this.#guarded(call, 'broker.spiffe.io', () => {
          if (reference?.reference?.typeUrl !== 'type.googleapis.com/spiffe.broker.WorkloadPIDReference') {
            throw new GrpcStatusError(GRPC_STATUS.INVALID_ARGUMENT, 'unknown reference');
          }
          const { pid } = decodeMessage(WORKLOAD_PID_REFERENCE, reference.reference.value);
          this.subscribed.push(pid);
          return this.workload(pid).stream(call, send);
        }),
      );
  }

  async #guarded<Result>(call: Call<unknown>, header: string, run: () => Promise<Result>): Promise<Result> {
    const values = call.metadata.all(header);
    if (values.length !== 1 || values[0] !== 'true') throw new GrpcStatusError(GRPC_STATUS.INVALID_ARGUMENT, 'security header missing');
    return run();
  }
}

/** It keeps its state in the directory. */
function newAuthority(directory: string, trustDomain: string): Promise<Authority> {
  return Authority.open({ directory: mkdtempSync(join(directory, 'ca-')), trustDomain, nodeName: 'spire' });
}
