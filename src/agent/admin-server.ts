import { mkdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import {
  ADMIN_SOCKET_NAME,
  type CountersAnswer,
  type ErrorAnswer,
  type HostWorkloadAnswer,
  type HostWorkloadRequest,
  type ReadyAnswer,
  type StateAnswer,
  type SvidsAnswer,
} from '../model/admin-api.ts';
import { WeftError } from '../model/errors.ts';
import type { MeshSnapshot } from '../model/snapshot.ts';
import type { ConnectionInfo } from '../model/worker-messages.ts';
import { AgentError } from './agent-error.ts';
import type { Logger } from './log.ts';
import { METRICS_CONTENT_TYPE } from './metrics.ts';
import { clearStaleSocket } from './unix-socket.ts';

/** What the admin endpoint shows; the agent implements it. */
export interface AdminSource {
  ready(): ReadyAnswer;
  state(): StateAnswer;
  snapshot(): MeshSnapshot;
  connections(): Promise<readonly ConnectionInfo[]>;
  svids(): SvidsAnswer;
  counters(): CountersAnswer;
  metrics(): Promise<string>;
  addHostWorkload(request: HostWorkloadRequest): Promise<HostWorkloadAnswer>;
  removeHostWorkload(namespace: string, name: string): Promise<void>;
}

const MAX_BODY_BYTES = 64 * 1024;
const NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
/** Answers to errors whose status is not 400. */
const STATUS_OF: ReadonlyMap<string, number> = new Map([
  ['WEFT_AGENT_WORKLOAD_EXISTS', 409],
  ['WEFT_AGENT_WORKLOAD', 404],
]);

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly type: string;
}

/** The admin endpoint on its unix socket (root only), and Prometheus' metrics over TCP if asked for. */
export class AdminServer implements AsyncDisposable {
  readonly #source: AdminSource;
  readonly #log: Logger;
  readonly #socketPath: string;
  readonly #servers: Server[] = [];

  private constructor(source: AdminSource, log: Logger, socketPath: string) {
    this.#source = source;
    this.#log = log;
    this.#socketPath = socketPath;
  }

  /**
   * @throws AgentError WEFT_AGENT_RUNNING when another agent answers on the socket
   * @throws AgentError WEFT_AGENT_LISTEN
   */
  static async listen(
    source: AdminSource,
    options: {
      readonly runDirectory: string;
      readonly metrics: { readonly host: string; readonly port: number } | null;
      readonly log: Logger;
    },
  ): Promise<AdminServer> {
    // Others may pass to the Workload API's directory below it, and list nothing.
    mkdirSync(options.runDirectory, { recursive: true, mode: 0o711 });
    const path = join(options.runDirectory, ADMIN_SOCKET_NAME);
    await clearSocket(path);
    const admin = new AdminServer(source, options.log, path);
    // The socket is born private: between bind and chmod anybody could connect.
    const mask = process.umask(0o177);
    const served = admin.#serve({ path }, (request) => admin.#route(request));
    process.umask(mask);
    await served;
    try {
      if (options.metrics !== null) await admin.#serve(options.metrics, (request) => admin.#routeMetrics(request));
    } catch (error) {
      await admin[Symbol.asyncDispose]();
      throw error;
    }
    return admin;
  }

  async #serve(
    where: { path: string } | { host: string; port: number },
    route: (request: IncomingMessage) => Promise<Answer>,
  ): Promise<void> {
    const server = createServer({ requestTimeout: 30_000, headersTimeout: 10_000 }, (request, response) => {
      route(request).then(
        (answer) => send(response, answer),
        (error: unknown) => send(response, failure(error, this.#log)),
      );
    });
    server.maxConnections = 128;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) =>
        reject(
          new AgentError('WEFT_AGENT_LISTEN', `cannot listen on ${JSON.stringify(where)}`, { cause, nextStep: 'choose another address' }),
        ),
      );
      server.listen(where, resolve);
    });
    // Running out of descriptors must not end the agent; the next accept tries again.
    server.on('error', (error) => this.#log.error({ err: error }, 'the admin endpoint cannot accept'));
    this.#servers.push(server);
  }

  async #routeMetrics(request: IncomingMessage): Promise<Answer> {
    const pathname = pathOf(request);
    if (request.method === 'GET' && pathname === '/metrics')
      return { status: 200, body: await this.#source.metrics(), type: METRICS_CONTENT_TYPE };
    return notFound(pathname);
  }

  async #route(request: IncomingMessage): Promise<Answer> {
    const pathname = pathOf(request);
    const source = this.#source;
    if (request.method === 'GET') {
      switch (pathname) {
        case '/ready': {
          const ready = source.ready();
          return json(ready.ready ? 200 : 503, ready);
        }
        case '/v1/state':
          return json(200, source.state());
        case '/v1/snapshot':
          return json(200, source.snapshot());
        case '/v1/connections':
          return json(200, { connections: await source.connections() });
        case '/v1/svids':
          return json(200, source.svids());
        case '/v1/counters':
          return json(200, source.counters());
        case '/metrics':
          return this.#routeMetrics(request);
      }
    }
    if (request.method === 'POST' && pathname === '/v1/workloads')
      return json(201, await source.addHostWorkload(hostWorkloadRequest(await readBody(request))));
    const workload = /^\/v1\/workloads\/([^/]+)\/([^/]+)$/.exec(pathname);
    if (request.method === 'DELETE' && workload !== null) {
      await source.removeHostWorkload(workload[1] as string, workload[2] as string);
      return { status: 204, body: '', type: 'application/json' };
    }
    return notFound(pathname);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.#servers.map((server) => {
        server.closeAllConnections();
        return new Promise<void>((resolve) => server.close(() => resolve()));
      }),
    );
    rmSync(this.#socketPath, { force: true });
  }
}

/** Without the query. Not parsed as a URL, which throws for some (`//`): whoever can scrape metrics could fill the log. */
function pathOf(request: IncomingMessage): string {
  return (request.url ?? '/').split('?', 1)[0] as string;
}

/** Removes the socket of an agent that is no more; one that answers is left alone. */
async function clearSocket(path: string): Promise<void> {
  if (await clearStaleSocket(path)) return;
  throw new AgentError('WEFT_AGENT_RUNNING', `an agent answers on ${path} already`, {
    nextStep: 'stop it first, or give this one its own --run-dir, --bpf-dir and --cgroup-root',
  });
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new AgentError('WEFT_AGENT_REQUEST', 'the request body is too large');
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (cause) {
    throw new AgentError('WEFT_AGENT_REQUEST', 'the request body is not JSON', { cause });
  }
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && NAME.test(value);
}

function hostWorkloadRequest(body: unknown): HostWorkloadRequest {
  const { namespace, serviceAccount, name = null, cgroup } = (body ?? {}) as Record<string, unknown>;
  if (!isName(namespace) || !isName(serviceAccount) || (name !== null && !isName(name))) {
    throw new AgentError('WEFT_AGENT_REQUEST', 'namespace, serviceAccount and name must be Kubernetes names', {
      nextStep: 'use lower-case letters, digits, - and .',
    });
  }
  if (typeof cgroup !== 'string' || !cgroup.startsWith('/') || cgroup.includes('\0')) {
    throw new AgentError('WEFT_AGENT_REQUEST', 'cgroup must be an absolute path');
  }
  return { namespace, serviceAccount, name, cgroup };
}

function json(status: number, value: unknown): Answer {
  return { status, body: `${JSON.stringify(value)}\n`, type: 'application/json' };
}

function notFound(path: string): Answer {
  const body: ErrorAnswer = { code: 'WEFT_AGENT_REQUEST', message: `there is nothing at ${path}`, nextStep: null };
  return json(404, body);
}

function failure(error: unknown, log: Logger): Answer {
  if (error instanceof WeftError) {
    const body: ErrorAnswer = { code: error.code, message: error.message, nextStep: error.nextStep };
    return json(STATUS_OF.get(error.code) ?? 400, body);
  }
  log.error({ err: error }, 'the admin endpoint failed');
  const body: ErrorAnswer = { code: 'WEFT_AGENT_INTERNAL', message: 'the agent failed to answer', nextStep: 'see the agent log' };
  return json(500, body);
}

function send(response: ServerResponse, answer: Answer): void {
  response.writeHead(answer.status, { 'content-type': answer.type });
  response.end(answer.body);
}
