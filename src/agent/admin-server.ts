import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { type Answer, json, noContent, notFound } from '../admin/answer.ts';
import type { Endpoint } from '../admin/endpoint.ts';
import { JsonServer } from '../admin/json-server.ts';
import { metricsAnswer } from '../admin/metrics-answer.ts';
import { isName } from '../admin/names.ts';
import { pathOf, readJson } from '../admin/request.ts';
import {
  ADMIN_SOCKET_NAME,
  type BundlesAnswer,
  type CountersAnswer,
  type HostWorkloadAnswer,
  type HostWorkloadRequest,
  type ReadyAnswer,
  type StateAnswer,
  type SvidsAnswer,
} from '../model/admin-api.ts';
import type { MetricFamily } from '../model/metrics.ts';
import type { MeshSnapshot } from '../model/snapshot.ts';
import type { ConnectionInfo } from '../model/worker-messages.ts';
import { AgentError } from './agent-error.ts';
import type { Logger } from '../log/log.ts';

/** What the admin endpoint shows; the agent implements it. */
export interface AdminSource {
  ready(): ReadyAnswer;
  state(): StateAnswer;
  snapshot(): MeshSnapshot;
  connections(): Promise<readonly ConnectionInfo[]>;
  svids(): SvidsAnswer;
  bundles(): BundlesAnswer;
  counters(): CountersAnswer;
  metrics(): Promise<readonly MetricFamily[]>;
  addHostWorkload(request: HostWorkloadRequest): Promise<HostWorkloadAnswer>;
  removeHostWorkload(namespace: string, name: string): Promise<void>;
}

const AGENT: Endpoint = {
  name: 'an agent',
  codes: {
    running: 'WEFT_AGENT_RUNNING',
    listen: 'WEFT_AGENT_LISTEN',
    request: 'WEFT_AGENT_REQUEST',
    internal: 'WEFT_AGENT_INTERNAL',
  },
  whenRunning: 'stop it first, or give this one its own --run-dir, --bpf-dir and --cgroup-root',
  statusOf: new Map([
    ['WEFT_AGENT_WORKLOAD_EXISTS', 409],
    ['WEFT_AGENT_WORKLOAD', 404],
  ]),
};

/** The admin endpoint on its unix socket (root only), and Prometheus' metrics over TCP if asked for. */
export class AdminServer implements AsyncDisposable {
  readonly #source: AdminSource;
  readonly #servers = new AsyncDisposableStack();

  private constructor(source: AdminSource) {
    this.#source = source;
  }

  /**
   * @throws AdminError WEFT_AGENT_RUNNING when another agent answers on the socket
   * @throws AdminError WEFT_AGENT_LISTEN
   */
  static async listen(
    source: AdminSource,
    options: {
      readonly runDirectory: string;
      readonly metrics: { readonly host: string; readonly port: number } | null;
      readonly log: Logger;
    },
  ): Promise<AdminServer> {
    const admin = new AdminServer(source);
    const { runDirectory, metrics, log } = options;
    try {
      const path = join(runDirectory, ADMIN_SOCKET_NAME);
      admin.#servers.use(await JsonServer.listen(AGENT, { path }, (request) => admin.#route(request), log));
      if (metrics !== null) admin.#servers.use(await JsonServer.listen(AGENT, metrics, (request) => admin.#routeMetrics(request), log));
    } catch (error) {
      await admin[Symbol.asyncDispose]();
      throw error;
    }
    return admin;
  }

  async #routeMetrics(request: IncomingMessage): Promise<Answer> {
    const pathname = pathOf(request);
    if (request.method === 'GET' && pathname === '/metrics') return metricsAnswer(await this.#source.metrics());
    return notFound(AGENT, pathname);
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
        case '/v1/bundles':
          return json(200, source.bundles());
        case '/v1/counters':
          return json(200, source.counters());
        case '/metrics':
          return this.#routeMetrics(request);
      }
    }
    if (request.method === 'POST' && pathname === '/v1/workloads')
      return json(201, await source.addHostWorkload(hostWorkloadRequest(await readJson(AGENT, request))));
    const workload = /^\/v1\/workloads\/([^/]+)\/([^/]+)$/.exec(pathname);
    if (request.method === 'DELETE' && workload !== null) {
      await source.removeHostWorkload(workload[1] as string, workload[2] as string);
      return noContent();
    }
    return notFound(AGENT, pathname);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#servers.disposeAsync();
  }
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
