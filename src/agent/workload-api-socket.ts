import { chmodSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { SpiffeBundle } from '../../certs/bundle/trust-state.ts';
import { systemClock } from '../../certs/clock.ts';
import type { IdentityProvider } from '../../certs/identity-provider.ts';
import { TokenBuckets } from '../../certs/issuance/token-buckets.ts';
import { WorkloadApi, type WorkloadApiSource } from '../../certs/workload-api/workload-api.ts';
import { RefusalLog } from '../../proxy/refusal-log.ts';
import { GrpcServer } from '../grpc/grpc-server.ts';
import { errorText } from '../model/errors.ts';
import { AgentError } from './agent-error.ts';
import type { LocalPlaces } from './local-places.ts';
import type { Logger } from '../log/log.ts';
import { clearStaleSocket } from '../admin/unix-socket.ts';
import { type AttestedCaller, WorkloadAttestor } from './workload-attestor.ts';

/** Everybody may connect: who they are is attested, and decides what they get. */
const SOCKET_MODE = 0o666;
const DIRECTORY_MODE = 0o755;
/**
 * Streams may be many, connections cost a descriptor each (and one for the process behind it). Requests are small, and everybody may connect: what
 * one workload can make the agent hold is 16 MiB (128 KiB for each connection).
 */
const LIMITS = {
  maxSessions: 2_048,
  maxSessionsPerPeer: 128,
  maxStreamsPerSession: 100,
  maxMessageBytes: 256 * 1024,
  maxHeldBytes: 128 * 1024,
};

/**
 * New connections of one workload, and of all processes together that are part of none. One that is served takes a fifth of a millisecond of the
 * agent's main thread (the HTTP/2 session most of it), one that is refused a quarter of that.
 */
const CONNECTIONS_PER_WORKLOAD = { perSecond: 20, burst: 256 };

/** Why a connection was closed before a call: connects too often, has too many open, is not attested. */
export const WORKLOAD_API_REFUSALS = ['rate_limited', 'too_many', 'not_attested'] as const;
export type WorkloadApiRefusal = (typeof WORKLOAD_API_REFUSALS)[number];

export interface WorkloadApiSocketOptions {
  /** Absolute. */
  readonly path: string;
  readonly source: WorkloadApiSource;
  /** Who is enrolled. */
  readonly registry: { localPlaces(): LocalPlaces; onChange(listener: () => void): () => void };
  /** Where all of cgroup v2 is mounted. */
  readonly cgroupMount: string;
  readonly log: Logger;
}

/** The Workload API on its socket. Disposing of it ends every stream with Unavailable and removes the socket. */
export interface RunningWorkloadApi extends AsyncDisposable {
  readonly path: string;
  readonly openStreams: number;
  readonly connections: number;
  /** Connections that were closed before a call, since the start. */
  readonly refused: Readonly<Record<WorkloadApiRefusal, number>>;
}

/**
 * Serves the SPIFFE Workload API on a unix socket that everybody may open, in a directory of its own that can be mounted into pods.
 * @throws AgentError WEFT_AGENT_LISTEN
 * @throws AgentError WEFT_AGENT_RUNNING when somebody serves on the path
 */
export async function startWorkloadApi(options: WorkloadApiSocketOptions): Promise<RunningWorkloadApi> {
  const { path, log, registry } = options;
  await using started = new AsyncDisposableStack();
  const grpc = started.use(
    new GrpcServer<AttestedCaller>({
      limits: LIMITS,
      peerKey: (caller) => caller.account,
      onError: (error, method) => log.error({ err: error, method }, 'the Workload API failed to answer'),
    }),
  );
  // Read once for all callers, until it changes; and forgotten before the service hears of the same change.
  let places: LocalPlaces | null = null;
  started.defer(registry.onChange(() => (places = null)));
  const api = started.use(new WorkloadApi({ source: options.source }));
  api.serve(grpc);
  const attestor = new WorkloadAttestor({ places: () => (places ??= registry.localPlaces()), cgroupMount: options.cgroupMount });

  mkdirSync(dirname(path), { recursive: true, mode: DIRECTORY_MODE });
  if (!(await clearStaleSocket(path))) {
    throw new AgentError('WEFT_AGENT_RUNNING', `somebody serves on ${path} already`, {
      nextStep: 'stop it, or name another --workload-api',
    });
  }
  const connections = new TokenBuckets(CONNECTIONS_PER_WORKLOAD, systemClock);
  const refused = { rate_limited: 0, too_many: 0, not_attested: 0 };
  const refusals = new RefusalLog((level, message, fields) => log[level](fields, message));
  // Only closed: a client that never saw SETTINGS takes it for Unavailable and waits before it tries again, and one that got GOAWAY would not wait.
  const refuse = (socket: Socket, reason: WorkloadApiRefusal, details: { readonly account?: string; readonly error?: string }): void => {
    socket.destroy();
    refused[reason]++;
    refusals.add('info', 'a connection to the Workload API was refused', { reason, ...details });
  };
  // One connection for each turn of the event loop (libuv): however many wait, the agent's other work goes on between them.
  const server = createServer((socket) => {
    // Whatever happens to a connection is its own end.
    socket.on('error', () => {});
    let account: string;
    let caller: AttestedCaller;
    try {
      account = attestor.accountOf(socket);
      if (!connections.take(account)) return refuse(socket, 'rate_limited', { account });
      caller = attestor.attest(socket);
    } catch (error) {
      return refuse(socket, 'not_attested', { error: errorText(error) });
    }
    socket.once('close', () => caller[Symbol.dispose]());
    // Also where another process holds the descriptor still: the identity is that of who connected.
    caller.exited.addEventListener('abort', () => socket.destroy());
    if (!grpc.accept(socket, caller)) refuse(socket, 'too_many', { account });
  });
  await listen(server, path);
  started.defer(async () => {
    rmSync(path, { force: true });
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  const owned = started.move();
  return {
    path,
    get openStreams() {
      return api.openStreams;
    },
    get connections() {
      return grpc.sessions;
    },
    refused,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function listen(server: Server, path: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new AgentError('WEFT_AGENT_LISTEN', `cannot listen on ${path}`, { cause, nextStep: 'name another path with --workload-api' })),
    );
    server.listen(path, resolve);
  });
  server.on('error', () => {});
  chmodSync(path, SOCKET_MODE);
}

/** What the agent has for the Workload API: SVIDs of one, bundles and tokens of the other. */
export interface WorkloadApiParts {
  readonly svids: Pick<WorkloadApiSource, 'current' | 'wait'>;
  readonly provider: Pick<IdentityProvider, 'trust' | 'federatedBundles' | 'jwtSvid'>;
  readonly federation: { bundles(): readonly SpiffeBundle[] };
  /** Of SVIDs, of the provider, of the federation, of enrolments. */
  readonly changes: readonly { onChange(listener: () => void): () => void }[];
}

/** The source of the Workload API, put together. */
export function workloadApiSource({ svids, provider, federation, changes }: WorkloadApiParts): WorkloadApiSource {
  return {
    current: (identity) => svids.current(identity),
    wait: (identity, timeoutMs) => svids.wait(identity, timeoutMs),
    bundle: () => provider.trust()?.bundle ?? null,
    federatedBundles: () => [...provider.federatedBundles(), ...federation.bundles()],
    jwtSvid: (identity, audience) => provider.jwtSvid(identity, audience),
    onChange(listener) {
      const unsubscribe = changes.map((each) => each.onChange(listener));
      return () => {
        for (const stop of unsubscribe) stop();
      };
    },
  };
}

/** Lets everybody pass through the run directory to the socket below it, and list nothing: admin.sock in it stays root's. */
export function openToPass(runDirectory: string): void {
  const mode = statSync(runDirectory).mode & 0o777;
  if (mode === 0o700) chmodSync(runDirectory, 0o711);
}
