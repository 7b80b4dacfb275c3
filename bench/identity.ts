import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import http2 from 'node:http2';
import net, { type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls, { type SecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { Authority } from '../certs/authority/authority.ts';
import { certifiedKey } from '../certs/svid/certified-key.ts';
import { SvidVerifier } from '../certs/svid/peer-verifier.ts';
import { SvidManager } from '../certs/svid/svid-manager.ts';
import { withPemKey } from '../certs/svid/private-key.ts';
import { SvidTlsContexts, TLS_SUITES } from '../certs/svid/tls-contexts.ts';
import { certificatesToPem } from '../certs/x509/pem.ts';
import { Handshake, type HandshakeOwner } from '../proxy/tunnel/handshake.ts';
import { peerChain } from '../src/model/peer-certificates.ts';
import { type ResumableSession, SessionStore, type TunnelSessions } from '../proxy/tunnel/session-store.ts';
import { TunnelClient, tunnelTlsOptions } from '../proxy/tunnel/tunnel-client.ts';
import { TunnelServer } from '../proxy/tunnel/tunnel-server.ts';
import { IdentityDistribution } from '../src/agent/identity-distribution.ts';
import type { PeerVerifier } from '../src/model/data-plane.ts';
import { median } from './report.ts';

const TRUST_DOMAIN = 'bench.example';
const CLIENT = `spiffe://${TRUST_DOMAIN}/ns/bench/sa/client`;
const SERVER = `spiffe://${TRUST_DOMAIN}/ns/bench/sa/server`;
const BATCH = 200;
const CONCURRENCY = 4;

/** One way to make handshakes; medians over the rounds. */
export interface HandshakeFigure {
  readonly name: string;
  readonly per_second: number;
  readonly p50_us: number;
  readonly p99_us: number;
  /** Both ends together. */
  readonly cpu_us: number;
  /** The contender without Weft that it is compared with. */
  readonly beside: string;
  /** Handshakes per second over those of `beside` in the same round; median of the rounds. */
  readonly ratio: number;
  /** CPU time of `beside` over its own, likewise: below 1 it costs more. */
  readonly cpu_ratio: number;
}

export interface IssueFigure {
  readonly svids: number;
  readonly per_second: number;
  /** The event loop of a worker that relays at the same time: its longest stall, and that of an equal time without issuing. */
  readonly worker_stall_max_ms: number;
  readonly worker_stall_max_idle_ms: number;
  readonly worker_stall_p99_ms: number;
  readonly worker_echoes_per_second: number;
}

/** What `npm run bench -- --scenario identity` prints. */
export interface IdentityReport {
  readonly scenario: 'identity';
  readonly handshakes: readonly HandshakeFigure[];
  readonly issue: IssueFigure;
}

export interface IdentityOptions {
  readonly rounds: number;
  readonly svids: number;
  readonly progress: (line: string) => void;
}

/** Full and resumed mTLS handshakes beside bare node:tls, and SVIDs issued beside a busy worker. */
export async function measureIdentity(options: IdentityOptions): Promise<IdentityReport> {
  const home = await mkdtemp(join(tmpdir(), 'weft-bench-identity-'));
  try {
    const authority = await Authority.open({ directory: home, trustDomain: TRUST_DOMAIN, nodeName: 'bench' });
    const handshakes = await measureHandshakes(authority, options);
    const issue = await measureIssue(authority, options);
    return { scenario: 'identity', handshakes, issue };
  } finally {
    await rm(home, { recursive: true });
  }
}

function managerOf(authority: Authority, concurrency?: number): SvidManager {
  const manager = new SvidManager({
    obtain: (wanted, ttl) =>
      certifiedKey(
        wanted,
        ttl,
        async ({ csr, identity, ttlSeconds }) => (await authority.issue(csr, { identity, ttlSeconds })).certificateChain,
      ),
    ...(concurrency === undefined ? {} : { concurrency }),
  });
  manager.setBundles(authority.trust(), []);
  return manager;
}

/** Makes one handshake and ends the connection; resolves when both ends have verified each other. */
interface Contender {
  readonly name: string;
  /** The contender without Weft that it is compared with. */
  readonly beside: string;
  shake(): Promise<void>;
  close(): void;
}

interface Round {
  readonly perSecond: number;
  readonly cpu: number;
  readonly latencies: readonly number[];
}

async function measureHandshakes(authority: Authority, { rounds, progress }: IdentityOptions): Promise<HandshakeFigure[]> {
  using manager = managerOf(authority);
  for (const identity of [CLIENT, SERVER]) {
    manager.ensure(identity);
    await manager.wait(identity, 5000);
  }
  using contexts = new SvidTlsContexts(manager);
  const contenders = [
    await bare(manager, false),
    await handshake('weft', contexts, new SvidVerifier(manager), false),
    await handshake('weft, peers unknown', contexts, new SvidVerifier(manager, { cacheSize: 0 }), false),
    await bare(manager, true),
    await handshake('weft, resumed', contexts, new SvidVerifier(manager), true),
    await nodeTunnel(manager, false),
    await tunnel('weft, tunnel', contexts, new SvidVerifier(manager), 'full'),
    await tunnel('weft, tunnel pooled', contexts, new SvidVerifier(manager), 'pooled'),
    await nodeTunnel(manager, true),
    await tunnel('weft, tunnel resumed', contexts, new SvidVerifier(manager), 'resumed'),
  ];
  const results = new Map<string, Round[]>(contenders.map(({ name }) => [name, []]));
  for (const contender of contenders) await batch(contender);
  for (let round = 0; round < rounds; round++) {
    progress(`handshakes, round ${round + 1} of ${rounds}`);
    // Each goes first in turn: what comes later in a round finds another machine.
    for (let i = 0; i < contenders.length; i++) {
      const contender = contenders[(i + round) % contenders.length] as Contender;
      results.get(contender.name)?.push(await batch(contender));
    }
  }
  for (const contender of contenders) contender.close();
  return contenders.map(({ name, beside }) => {
    const own = results.get(name) as Round[];
    const base = results.get(beside) as Round[];
    const latencies = own.flatMap((round) => round.latencies).toSorted((a, b) => a - b);
    return {
      name,
      beside,
      per_second: Math.round(median(own.map((round) => round.perSecond))),
      p50_us: Math.round(latencies[latencies.length >> 1] as number),
      p99_us: Math.round(latencies[Math.floor(latencies.length * 0.99)] as number),
      cpu_us: Math.round(median(own.map((round) => round.cpu))),
      ratio: Number(median(own.map((round, i) => round.perSecond / (base[i] as Round).perSecond)).toFixed(3)),
      cpu_ratio: Number(median(own.map((round, i) => (base[i] as Round).cpu / round.cpu)).toFixed(3)),
    };
  });
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

async function batch(contender: Contender): Promise<Round> {
  const latencies: number[] = [];
  // None pays for what the one before it left behind.
  await new Promise((resolve) => setTimeout(resolve, 20));
  collectGarbage();
  const cpu = process.cpuUsage();
  const started = performance.now();
  let left = BATCH;
  const lane = async (): Promise<void> => {
    while (left-- > 0) {
      const from = performance.now();
      await contender.shake();
      latencies.push((performance.now() - from) * 1000);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, lane));
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return { perSecond: BATCH / seconds, cpu: (user + system) / BATCH, latencies };
}

function contextOf(contexts: SvidTlsContexts, identity: string): SecureContext {
  const context = contexts.context(identity);
  if (context === null) throw new Error(`no SVID for ${identity}`);
  return context;
}

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** The same certificates and settings with the roots that OpenSSL is to check with. `use` may not keep the key. */
function withBareOptions<T>(manager: SvidManager, identity: string, use: (options: SecureContextOptions) => T): T {
  const svid = manager.current(identity);
  const bundle = manager.bundle(TRUST_DOMAIN);
  if (svid === null || bundle === null) throw new Error(`no SVID for ${identity}`);
  return withPemKey(svid.privateKey, (key) =>
    use({
      key,
      cert: svid.certificateChain,
      ca: certificatesToPem(bundle.roots),
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: TLS_SUITES,
      sessionIdContext: 'bench',
    }),
  );
}

const bareContext = (manager: SvidManager, identity: string): SecureContext =>
  withBareOptions(manager, identity, (options) => tls.createSecureContext(options));

/** Node's own client and server, OpenSSL's check of the chain on both sides. */
async function bare(manager: SvidManager, resume: boolean): Promise<Contender> {
  const name = resume ? 'node:tls, resumed' : 'node:tls';
  const secured: ((socket: TLSSocket) => void)[] = [];
  const [near, context] = [CLIENT, SERVER].map((identity) => bareContext(manager, identity)) as [SecureContext, SecureContext];
  const server = net.createServer((socket) => {
    const secure = new tls.TLSSocket(socket, {
      isServer: true,
      secureContext: context,
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: ['h2'],
    });
    secure.on('error', () => {});
    secure.once('secure', () => secured.shift()?.(secure));
    secure.resume();
  });
  const port = await listen(server);
  // A stateless ticket may be shown as often as one likes.
  let session: Buffer | undefined;
  return {
    name,
    beside: name,
    async shake() {
      const server = Promise.withResolvers<TLSSocket>();
      secured.push(server.resolve);
      const socket = tls.connect({
        host: '127.0.0.1',
        port,
        secureContext: near,
        ALPNProtocols: ['h2'],
        minVersion: 'TLSv1.3',
        checkServerIdentity: () => undefined,
        ...(session === undefined ? {} : { session }),
      });
      const resumes = session !== undefined;
      const ticket = resume && !resumes ? once(socket, 'session') : null;
      socket.resume();
      const [far] = await Promise.all([server.promise, once(socket, 'secureConnect')]);
      if (!socket.authorized) throw new Error(`not authorised: ${socket.authorizationError}`);
      if (resumes && !socket.isSessionReused()) throw new Error('not resumed');
      if (ticket !== null) [session] = (await ticket) as [Buffer];
      socket.destroy();
      far.destroy();
    },
    close: () => server.close(),
  };
}

/** The handshake of a tunnel by itself: its accepting end, its options for the dialling end, and both ends' check of the chain from the DER. */
async function handshake(name: string, contexts: SvidTlsContexts, verifier: PeerVerifier, resume: boolean): Promise<Contender> {
  const secured: ((socket: TLSSocket) => void)[] = [];
  const owner: HandshakeOwner = {
    context: () => contexts.context(SERVER),
    wait: () => contexts.wait(SERVER, 1000),
    onStarted() {},
    onFailed: (_, reason, error) => console.error(reason, error),
    onSecure: (_, secure) => {
      const shown = peerChain(secure);
      verifier.verify(secure.isSessionReused() ? verifier.complete(shown[0] as Uint8Array) : shown);
      secured.shift()?.(secure);
    },
  };
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
    new Handshake(socket, owner, 10_000).start(null),
  );
  const port = await listen(server);
  let kept: ResumableSession | null = null;
  return {
    name,
    beside: resume ? 'node:tls, resumed' : 'node:tls',
    async shake() {
      const verified = Promise.withResolvers<TLSSocket>();
      secured.push(verified.resolve);
      const offered = kept;
      let ticket: Promise<unknown[]> | null = null;
      const dialled = Promise.withResolvers<TLSSocket>();
      const socket = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true }, () => {
        const secure = tls.connect(tunnelTlsOptions(socket, contextOf(contexts, CLIENT), offered?.session));
        if (resume && offered === null) ticket = once(secure, 'session');
        secure.once('secureConnect', () => dialled.resolve(secure));
      });
      const [far, secure] = await Promise.all([verified.promise, dialled.promise]);
      if (secure.isSessionReused() !== (offered !== null)) throw new Error('not resumed');
      const chain = offered?.peerChain ?? peerChain(secure);
      if (verifier.verify(chain).text !== SERVER) throw new Error('another peer');
      if (ticket !== null) {
        secure.resume();
        kept = { session: ((await ticket) as [Buffer])[0], peerChain: chain };
      }
      secure.destroy();
      far.destroy();
    },
    close: () => server.close(),
  };
}

/** The same session every time. Its second handshake is the first that resumes. */
class OneSession implements TunnelSessions {
  #kept: ResumableSession | null = null;

  take(): ResumableSession | null {
    return this.#kept;
  }

  keep(session: ResumableSession): void {
    this.#kept ??= session;
  }

  forget(): void {
    throw new Error('not resumed');
  }
}

/**
 * A tunnel's client and server, from dialling to the answer to a CONNECT: with full handshakes, with resumed ones, or with both in turn as
 * a pool has them, which uses each session once.
 */
async function tunnel(
  name: string,
  contexts: SvidTlsContexts,
  verifier: PeerVerifier,
  handshakes: 'full' | 'resumed' | 'pooled',
): Promise<Contender> {
  const far = new TunnelServer({ contexts, identity: SERVER, verifier, onConnect: (_, responder) => responder.accept() });
  const accepted: Socket[] = [];
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    accepted.push(socket);
    far.accept(socket);
  });
  const port = await listen(server);
  const context = contextOf(contexts, CLIENT);
  const sessions =
    handshakes === 'full' ? null : handshakes === 'resumed' ? new OneSession() : new SessionStore(verifier).of('bench', context);
  return {
    name,
    beside: handshakes === 'resumed' ? 'node:http2, resumed' : 'node:http2',
    async shake() {
      const near = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true });
      const client = new TunnelClient({
        dialer: { dial: () => near },
        verifier,
        context,
        ...(sessions === null ? {} : { sessions }),
        sourceWorkloadId: 1,
        destinationAddress: '127.0.0.1',
        port,
        expectedIdentities: [SERVER],
      });
      await client.open('10.0.0.1:80');
      if (client.isResumed !== client.offeredSession) throw new Error('not resumed');
      // As abruptly as the other contender: what is measured is how it begins.
      near.destroy();
      accepted.shift()?.destroy();
    },
    close() {
      server.close();
      far.dispose();
    },
  };
}

/** The same with what Node has: node:http2 on the handshake of `bare`. */
async function nodeTunnel(manager: SvidManager, resume: boolean): Promise<Contender> {
  const name = resume ? 'node:http2, resumed' : 'node:http2';
  const near = bareContext(manager, CLIENT);
  const server = withBareOptions(manager, SERVER, (options) =>
    http2.createSecureServer({ ...options, requestCert: true, rejectUnauthorized: true }),
  );
  const accepted: http2.ServerHttp2Session[] = [];
  server.on('session', (session) => {
    session.on('error', () => {});
    accepted.push(session);
  });
  server.on('stream', (stream: http2.ServerHttp2Stream) => {
    stream.on('error', () => {});
    stream.respond({ ':status': 200 });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  let session: Buffer | undefined;
  return {
    name,
    beside: name,
    async shake() {
      const resumes = session !== undefined;
      const socket = tls.connect({
        host: '127.0.0.1',
        port,
        secureContext: near,
        ALPNProtocols: ['h2'],
        minVersion: 'TLSv1.3',
        checkServerIdentity: () => undefined,
        ...(session === undefined ? {} : { session }),
      });
      const ticket = resume && !resumes ? once(socket, 'session') : null;
      await once(socket, 'secureConnect');
      if (!socket.authorized || socket.isSessionReused() !== resumes) throw new Error('not authorised, or not resumed');
      const client = http2.connect(`https://127.0.0.1:${port}`, { createConnection: () => socket });
      client.on('error', () => {});
      const stream = client.request({ ':method': 'CONNECT', ':authority': '10.0.0.1:80' });
      stream.on('error', () => {});
      await once(stream, 'response');
      if (ticket !== null) [session] = (await ticket) as [Buffer];
      client.destroy();
      accepted.shift()?.destroy();
    },
    close: () => server.close(),
  };
}

async function measureIssue(authority: Authority, { svids, progress }: IdentityOptions): Promise<IssueFigure> {
  progress(`issuing ${svids} SVIDs`);
  const worker = new Worker(new URL('./identity-worker.ts', import.meta.url));
  await once(worker, 'message');
  const answers = new Map<number, () => void>();
  const report = Promise.withResolvers<{ max_ms: number; p99_ms: number; echoes: number }>();
  let reported = report;
  worker.on('message', (message) => {
    if (message.type === 'done') {
      answers.get(message.request)?.();
      answers.delete(message.request);
    } else reported.resolve(message);
  });
  const measured = (): Promise<{ max_ms: number; p99_ms: number; echoes: number }> => {
    reported = Promise.withResolvers();
    worker.postMessage({ type: 'report' });
    return reported.promise;
  };
  using manager = managerOf(authority);
  let request = 0;
  using distribution = new IdentityDistribution({
    source: manager,
    workers: {
      size: 1,
      request: (_, body) =>
        new Promise<void>((resolve) => {
          answers.set(++request, resolve);
          worker.postMessage({ ...body, request });
        }),
    },
    onAcknowledged: (version) => manager.wipe(version),
  });
  distribution.started(0);
  const identity = (n: number): string => `spiffe://${TRUST_DOMAIN}/ns/bench/sa/workload-${n}`;
  // What the machine does by itself, and then what it does while SVIDs are issued.
  await new Promise((resolve) => setTimeout(resolve, 500));
  worker.postMessage({ type: 'reset' });
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const idle = await measured();
  worker.postMessage({ type: 'reset' });
  const started = performance.now();
  for (let n = 0; n < svids; n++) manager.ensure(identity(n));
  await Promise.all(Array.from({ length: svids }, (_, n) => manager.wait(identity(n), 120_000)));
  const seconds = (performance.now() - started) / 1000;
  const busy = await measured();
  await worker.terminate();
  return {
    svids,
    per_second: Math.round(svids / seconds),
    worker_stall_max_ms: Number(busy.max_ms.toFixed(1)),
    worker_stall_max_idle_ms: Number(idle.max_ms.toFixed(1)),
    worker_stall_p99_ms: Number(busy.p99_ms.toFixed(1)),
    worker_echoes_per_second: Math.round(busy.echoes / seconds),
  };
}

/** The report for people. */
export function identityTable({ handshakes, issue }: IdentityReport): string {
  const lines = handshakes.map(({ name, beside, per_second, ratio, cpu_ratio, p50_us, p99_us, cpu_us }) =>
    `${name.padEnd(22)}${String(per_second).padStart(9)}${String(p50_us).padStart(10)}${String(p99_us).padStart(10)}${String(cpu_us).padStart(10)}  ${
      name === beside ? '' : `${ratio.toFixed(2).padStart(5)}${cpu_ratio.toFixed(2).padStart(7)}  of ${beside}`
    }`.trimEnd(),
  );
  return [
    `${''.padEnd(22)}${'a second'.padStart(9)}${'p50 us'.padStart(10)}${'p99 us'.padStart(10)}${'CPU us'.padStart(10)}   rate    CPU`,
    ...lines,
    '',
    `${issue.svids} SVIDs: ${issue.per_second} a second; a relaying worker's loop stood ${issue.worker_stall_max_ms} ms at most (p99 ${issue.worker_stall_p99_ms} ms; without issuing ${issue.worker_stall_max_idle_ms} ms)`,
  ].join('\n');
}
