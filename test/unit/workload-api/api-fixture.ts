import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SpiffeBundle } from '../../../certs/bundle/trust-state.ts';
import type { JwtSvid } from '../../../certs/identity-provider.ts';
import type { Caller } from '../../../certs/workload-api/caller.ts';
import { WorkloadApi, type WorkloadApiOptions, type WorkloadApiSource } from '../../../certs/workload-api/workload-api.ts';
import { toPem } from '../../../certs/x509/pem.ts';
import { GrpcServer } from '../../../src/grpc/grpc-server.ts';
import { decodeMessage, encodeMessage } from '../../../src/grpc/message.ts';
import type { MethodDefinition } from '../../../src/grpc/service.ts';
import type { SvidMaterial } from '../../../src/model/data-plane.ts';

/** A caller that is what the test says. */
export class FakeCaller implements Caller {
  readonly exit: AbortController = new AbortController();
  readonly account: string;
  id: string | null;

  constructor(id: string | null, account: string = id ?? 'nobody') {
    this.id = id;
    this.account = account;
  }

  identity(): string | null {
    return this.id;
  }

  get exited(): AbortSignal {
    return this.exit.signal;
  }
}

export function fakeSvid(identity: string, serial: string): SvidMaterial {
  return {
    identity,
    certificateChain: toPem('CERTIFICATE', Buffer.from(serial)),
    privateKey: Buffer.from(`key ${serial}`),
    notAfter: Number.MAX_SAFE_INTEGER,
  };
}

/** What a test hands out. */
export class FakeSource implements WorkloadApiSource {
  readonly svids: Map<string, SvidMaterial> = new Map();
  own: SpiffeBundle | null = {
    trustDomain: 'a.test',
    x509Authorities: [Buffer.from('root')],
    jwtAuthorities: [],
    sequence: 1n,
    refreshHintSeconds: null,
  };
  federated: SpiffeBundle[] = [];
  issue: (identity: string, audience: readonly string[]) => Promise<JwtSvid> = async () => {
    throw new Error('no key');
  };
  readonly #listeners = new Set<() => void>();

  current(identity: string): SvidMaterial | null {
    return this.svids.get(identity) ?? null;
  }
  async wait(identity: string): Promise<SvidMaterial> {
    const svid = this.current(identity);
    if (svid === null) throw new Error('none in time');
    return svid;
  }
  bundle(): SpiffeBundle | null {
    return this.own;
  }
  federatedBundles(): readonly SpiffeBundle[] {
    return this.federated;
  }
  jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    return this.issue(identity, audience);
  }
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
  changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** One call of a raw client. */
export class RawCall<Response> {
  readonly stream: ClientHttp2Stream;
  readonly messages: Response[] = [];
  /** `grpc-status`, once it ended. */
  readonly status: Promise<number>;
  readonly #seen = Promise.withResolvers<void>();

  constructor(stream: ClientHttp2Stream, decode: (bytes: Uint8Array) => Response) {
    this.stream = stream;
    let bytes: Buffer = Buffer.alloc(0);
    stream.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
        const end = 5 + bytes.readUInt32BE(1);
        this.messages.push(decode(bytes.subarray(5, end)));
        bytes = bytes.subarray(end);
        this.#seen.resolve();
      }
    });
    this.status = new Promise((resolve, reject) => {
      const found = (headers: IncomingHttpHeaders): void => {
        if (headers['grpc-status'] !== undefined) resolve(Number(headers['grpc-status']));
      };
      stream.on('response', found);
      stream.on('trailers', found);
      stream.on('error', reject);
      stream.on('close', () => resolve(-1));
    });
    this.status.catch(() => {});
  }

  /** Resolves with the first message. */
  async first(): Promise<Response> {
    await Promise.race([this.#seen.promise, this.status]);
    const [message] = this.messages;
    if (message === undefined) throw new Error(`ended with ${await this.status}`);
    return message;
  }

  async count(wanted: number): Promise<readonly Response[]> {
    while (this.messages.length < wanted) await once(this.stream, 'data', { signal: AbortSignal.timeout(5_000) });
    return this.messages;
  }
}

/** A WorkloadApi on a unix socket, for callers that the test names one after the other. */
export class ApiFixture implements AsyncDisposable {
  readonly source: FakeSource = new FakeSource();
  readonly api: WorkloadApi;
  readonly grpc: GrpcServer<Caller> = new GrpcServer<Caller>({ limits: { maxSessions: 4096, maxSessionsPerPeer: 4096 } });
  readonly #directory = mkdtempSync(join(tmpdir(), 'weft-api-'));
  readonly #server: Server;
  readonly #sessions: ClientHttp2Session[] = [];
  readonly #callers: Caller[] = [];

  constructor(options: Partial<WorkloadApiOptions> = {}) {
    this.api = new WorkloadApi({ source: this.source, ...options });
    this.api.serve(this.grpc);
    this.#server = createServer((socket) => {
      socket.on('error', () => {});
      this.grpc.accept(socket, this.#callers.shift() as Caller);
    });
  }

  async connect(caller: Caller): Promise<ClientHttp2Session> {
    const path = join(this.#directory, 'socket');
    if (!this.#server.listening) await new Promise<void>((resolve) => this.#server.listen(path, resolve));
    this.#callers.push(caller);
    const session = connectHttp2('http://localhost', { createConnection: () => connect(path) });
    session.on('error', () => {});
    this.#sessions.push(session);
    await once(session, 'remoteSettings');
    return session;
  }

  call<Request, Response>(
    session: ClientHttp2Session,
    method: MethodDefinition<Request, Response>,
    request: Request,
    metadata: Readonly<Record<string, string | string[]>> = { 'workload.spiffe.io': 'true' },
  ): RawCall<Response> {
    const stream = session.request({
      ':method': 'POST',
      ':path': method.path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...metadata,
    });
    const body = encodeMessage(method.request, request);
    const frame = Buffer.alloc(5 + body.length);
    frame.writeUInt32BE(body.length, 1);
    frame.set(body, 5);
    stream.end(frame);
    return new RawCall(stream, (bytes) => decodeMessage(method.response, bytes));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions) session.destroy();
    this.api[Symbol.dispose]();
    await this.grpc[Symbol.asyncDispose]();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
