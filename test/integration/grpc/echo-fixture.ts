import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packAny, RPC_STATUS } from '../../../src/grpc/any.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../../src/grpc/grpc-error.ts';
import { GrpcClient, type GrpcClientOptions } from '../../../src/grpc/grpc-client.ts';
import { GrpcServer, type GrpcServerOptions } from '../../../src/grpc/grpc-server.ts';
import { encodeMessage, type MessageType, messageType } from '../../../src/grpc/message.ts';
import type { MethodDefinition, ServiceDefinition } from '../../../src/grpc/service.ts';

export interface Echo {
  readonly text: string;
  readonly count: number;
}

export const ECHO: MessageType<Echo> = messageType('test.Echo', {
  text: { number: 1, kind: 'string' },
  count: { number: 2, kind: 'int32' },
});

const method = (name: string, kind: MethodDefinition<Echo, Echo>['kind']): MethodDefinition<Echo, Echo> => ({
  path: `/test.EchoService/${name}`,
  kind,
  request: ECHO,
  response: ECHO,
});

export const SAY: MethodDefinition<Echo, Echo> = method('Say', 'unary');
export const REPEAT: MethodDefinition<Echo, Echo> = method('Repeat', 'server-stream');
export const WATCH: MethodDefinition<Echo, Echo> = method('Watch', 'server-stream');
export const TALK: MethodDefinition<Echo, Echo> = method('Talk', 'bidi');
export const FAIL: MethodDefinition<Echo, Echo> = method('Fail', 'unary');
export const HANG: MethodDefinition<Echo, Echo> = method('Hang', 'unary');
export const METADATA: MethodDefinition<Echo, Echo> = method('Metadata', 'unary');
/** Not served. */
export const NOTHING: MethodDefinition<Echo, Echo> = method('Nothing', 'unary');
export const ECHO_SERVICE: ServiceDefinition = {
  name: 'test.EchoService',
  file: 'test/echo.proto',
  methods: [SAY, REPEAT, WATCH, TALK, FAIL, HANG, METADATA],
};

/** What the handlers saw. */
export interface Seen {
  readonly errors: unknown[];
  /** Why the calls of Watch and Hang ended. */
  readonly ends: GrpcStatusError[];
  readonly peers: string[];
  watching: number;
}

export function echoServer(options: GrpcServerOptions<string> = {}): { readonly server: GrpcServer<string>; readonly seen: Seen } {
  const seen: Seen = { errors: [], ends: [], peers: [], watching: 0 };
  const untilAborted = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      const end = (): void => {
        seen.ends.push(signal.reason as GrpcStatusError);
        resolve();
      };
      if (signal.aborted) end();
      else signal.addEventListener('abort', end, { once: true });
    });
  const server = new GrpcServer<string>({ onError: (error) => seen.errors.push(error), ...options })
    .add(SAY, async (request, { peer }) => {
      seen.peers.push(peer);
      return request;
    })
    .addServerStream(REPEAT, async ({ text, count }, _call, send) => {
      for (let i = 1; i <= count; i++) await send({ text, count: i });
    })
    .addServerStream(WATCH, async (request, { signal }, send) => {
      seen.watching++;
      await send(request);
      await untilAborted(signal);
      seen.watching--;
    })
    .addBidi(TALK, async (requests, _call, send) => {
      for await (const request of requests) await send(request);
    })
    .add(FAIL, async ({ text, count }) => {
      if (text === 'bug') throw new TypeError('the secret is 42');
      throw new GrpcStatusError(GRPC_STATUS.NOT_FOUND, text, {
        details: encodeMessage(RPC_STATUS, { code: 5, message: text, details: [packAny(ECHO, { text: 'detail', count })] }),
        nextStep: 'never sent',
      });
    })
    .add(HANG, async (request, { signal }) => {
      await untilAborted(signal);
      return request;
    })
    .add(METADATA, async ({ text }, { metadata }) => ({
      text: text.endsWith('-bin')
        ? metadata
            .bytes(text)
            .map((bytes) => Buffer.from(bytes).toString('hex'))
            .join('|')
        : metadata.all(text).join('|'),
      count: 0,
    }));
  return { server, seen };
}

/** Where a server listens: a path, or a port of a loopback address. */
export type Address = { readonly path: string } | { readonly host: string; readonly port: number };

export interface EchoWorld extends AsyncDisposable {
  readonly server: GrpcServer<string>;
  readonly seen: Seen;
  readonly address: Address;
  /** Connections that were made to the listener. */
  readonly dials: number;
  client(options?: Partial<GrpcClientOptions>): GrpcClient;
  dial(): Promise<Socket>;
}

/** An echo server on a unix socket in a directory of its own, or on a loopback address. */
export async function echoWorld(options: GrpcServerOptions<string> = {}, host: string | null = null): Promise<EchoWorld> {
  const { server, seen } = echoServer(options);
  const directory = await mkdtemp(join(tmpdir(), 'weft-grpc-'));
  let dials = 0;
  const listener: Server = createServer((socket) => {
    dials++;
    server.accept(socket, 'somebody');
  });
  if (host === null) listener.listen(join(directory, 'socket'));
  else listener.listen(0, host);
  await once(listener, 'listening');
  const address: Address = host === null ? { path: join(directory, 'socket') } : { host, port: (listener.address() as AddressInfo).port };
  const clients: GrpcClient[] = [];
  const sockets: Socket[] = [];
  const dial = async (): Promise<Socket> => {
    const socket = connect(address as { path: string });
    socket.on('error', () => {});
    sockets.push(socket);
    await once(socket, 'connect');
    return socket;
  };
  return {
    server,
    seen,
    address,
    get dials(): number {
      return dials;
    },
    client(more = {}): GrpcClient {
      const client = new GrpcClient({ connect: dial, authority: 'localhost', ...more });
      clients.push(client);
      return client;
    },
    dial,
    async [Symbol.asyncDispose](): Promise<void> {
      await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()));
      for (const socket of sockets) socket.destroy();
      await server[Symbol.asyncDispose]();
      listener.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Everything that an iteration gives. */
export async function collect<Value>(values: AsyncIterable<Value>): Promise<Value[]> {
  const all: Value[] = [];
  for await (const value of values) all.push(value);
  return all;
}

/** The status that a call ends with. */
export async function statusOf(call: Promise<unknown>): Promise<GrpcStatusError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof GrpcStatusError) return error;
    throw error;
  }
  throw new Error('the call succeeded');
}

/** Waits until something is so, for five seconds at most. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const giveUp = performance.now() + 5_000;
  while (!condition()) {
    if (performance.now() > giveUp) throw new Error(`it never came: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
