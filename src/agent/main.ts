import { randomBytes } from 'node:crypto';
import { openSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { KernelHooks } from '../../bpf/kernel-hooks.ts';
import { openListeners, openWorkerListeners } from '../../bpf/listeners.ts';
import { OwnSockets } from '../../bpf/own-sockets.ts';
import { currentNetworkNamespaceCookie, findCgroup2 } from '../../bpf/place-descriptors.ts';
import { openBundleEndpoint } from '../../certs/bundle/open-bundle-endpoint.ts';
import type { SpiffeBundle, TrustState } from '../../certs/bundle/trust-state.ts';
import { SvidManager } from '../../certs/svid/svid-manager.ts';
import { JwksStore, jwksUris } from '../../proxy/jwt/jwks-store.ts';
import { RefusalLog } from '../../proxy/refusal-log.ts';
import { COUNTER_FAMILIES } from '../../proxy/telemetry/counter-table.ts';
import { CounterBlock, familySamples, sumBlocks } from '../../proxy/telemetry/counters.ts';
import type { TrafficSnapshot } from '../../proxy/telemetry/traffic-metrics.ts';
import { ConfigDirectory } from '../config/config-directory.ts';
import { ConfiguredPlacements } from '../config/placements.ts';
import { createLog } from '../log/log.ts';
import type { CountersAnswer, ReadyAnswer, StateAnswer, SvidsAnswer } from '../model/admin-api.ts';
import { errorText } from '../model/errors.ts';
import type { MetricFamily } from '../model/metrics.ts';
import type { Mode } from '../model/resources.ts';
import type { ConnectionInfo, ListenerPorts } from '../model/worker-messages.ts';
import { AdminServer, type AdminSource } from './admin-server.ts';
import type { AgentOptions } from './agent-options.ts';
import { bundlesAnswer } from './bundles-answer.ts';
import { ConfigProblemLog } from './config-problem-log.ts';
import { startFederation } from './federation.ts';
import { IdentityDistribution } from './identity-distribution.ts';
import { openIdentityProvider } from './identity-provider.ts';
import { createJwksFetcher } from './jwks-fetcher.ts';

import {
  bundleRefreshFailures,
  bundleSequences,
  clockSkew,
  configurationProblems,
  kernelEvents,
  svidExpiry,
  svidRequests,
  workerMetrics,
  workloadApiRefusals,
} from './metrics.ts';
import { Registry } from './registry.ts';
import { TrustFollower } from './trust-follower.ts';
import { WorkerPool } from './worker-pool.ts';
import { HostProcesses } from './workload-processes.ts';
import { openToPass, type RunningWorkloadApi, startWorkloadApi, workloadApiSource } from './workload-api-socket.ts';

/** The agent's own namespace has one set of listeners, under this number, for all workloads that are cgroups. */
const HOST_WORKLOAD_ID = 0;
/** How long an enrolment waits for the workload's first SVID. */
const SVID_WAIT_MS = 5_000;

/** A running node agent. */
export interface Agent extends AsyncDisposable {
  /** Lets connections finish (bounded), then stops. What the kernel captures stays captured: see KernelHooks. */
  drain(): Promise<void>;
}

/**
 * Starts the agent of one node: the process's table of contents. Resolves when the workers run; enrolment goes on from there (see /ready).
 * @throws WeftError what keeps it from starting, with the next step
 */
export async function startAgent(options: AgentOptions): Promise<Agent> {
  const startedAt = new Date().toISOString();
  await using started = new AsyncDisposableStack();
  const log = createLog(options.logLevel);
  let draining = false;
  let registry: Registry;

  // Admin first among what others see: it tells a second agent to stay away before that touches the kernel.
  const source: { current: AdminSource | null } = { current: null };
  started.use(await AdminServer.listen(deferred(source), { runDirectory: options.runDirectory, metrics: options.metrics, log }));

  // Identity: where it comes from, and SVIDs for who runs here.
  const placements = new ConfiguredPlacements(options.trustDomain);
  const cgroupMount = findCgroup2() ?? options.cgroupRoot;
  const processes = new HostProcesses({ places: () => registry.localPlaces('enrolling'), cgroupMount });
  const opened = await openIdentityProvider(options, { placements, processes, log, owner: started });
  const { provider } = opened;
  const svids = started.use(
    new SvidManager({ ttlSeconds: options.svidTtlSeconds, obtain: (wanted, ttl) => provider.x509Svid(wanted, ttl) }),
  );

  // Federation: bundles of other trust domains. None until the configuration asks for some.
  const ownTrust = (): TrustState | null => provider.trust();
  const ownBundle = (): SpiffeBundle | null => ownTrust()?.bundle ?? null;
  const federation = started.use(startFederation({ stateDirectory: options.stateDirectory, ownTrust, log }));
  const trust = started.use(new TrustFollower({ provider, federation, svids, log }));
  if (options.bundleEndpoint !== null) {
    started.use(
      await openBundleEndpoint({
        settings: options.bundleEndpoint,
        source: { bundle: ownBundle },
        svids,
        onError: (error) => log.warn({ err: error }, 'the bundle endpoint has a problem'),
      }),
    );
  }

  // Keys of token issuers: fetched here, once for all workers.
  const jwks = started.use(
    new JwksStore({
      fetchJwks: createJwksFetcher(),
      onFailure: (uri, error) => log.warn({ uri, err: error }, 'the keys of a token issuer could not be fetched; trying again'),
    }),
  );

  // Kernel: hooks, and the sockets that they know as ours.
  const { bpfDirectory, cgroupRoot, maxConnections } = options;
  const hooks = started.use(KernelHooks.attach({ bpfDirectory, cgroupRoot, ...(maxConnections === null ? {} : { maxConnections }) }));
  const own = new OwnSockets(hooks.ownSockets);
  // Bounded: a pod that dials in a loop must not fill the log. Counters have them all.
  const kernelRefusals = new RefusalLog((level, message, fields) => log[level](fields, message));
  hooks.onEvent((event) => kernelRefusals.add('warn', 'the kernel refused a connection', { ...event }));

  // Proxy: worker threads.
  const blocks = Array.from({ length: options.workers }, () => CounterBlock.create());
  const accessLogFd = openAccessLog(options.accessLog);
  const ticketSecret = randomBytes(32);
  const workers = started.use(
    new WorkerPool({
      count: options.workers,
      log,
      start: (index) => ({
        index,
        counters: (blocks[index] as CounterBlock).shared,
        snapshot: registry.snapshot,
        maps: { originalDestinations: hooks.originalDestinations.fd, ownSockets: hooks.ownSockets.fd },
        accessLogFd,
        ticketSecret,
        deniedByHeader: options.deniedByHeader,
      }),
      onReady: (index) => {
        distribution.started(index);
        workers.send(index, { type: 'jwks', update: jwks.snapshot() });
        if (hostListens) void rejoin(index);
      },
      onNeedIdentity: (identity) =>
        void svids.wait(identity, SVID_WAIT_MS).then(
          () => distribution.sendAll(),
          () => {},
        ),
      onNeedJwks: (uri) => void jwks.refresh(uri),
    }),
  );
  // Keys that no thread uses any more are wiped.
  const distribution = started.use(
    new IdentityDistribution({
      source: svids,
      workers,
      onAcknowledged: (version) => {
        svids.wipe(version);
        trust.workersHave(version);
      },
    }),
  );
  started.defer(jwks.onChange((update) => workers.broadcast({ type: 'jwks', update })));

  // Mesh: who is in it, and who of them is here.
  let identities: ReadonlySet<string> = new Set();
  let hostPorts: ListenerPorts = { outbound: 0, inbound: 0, tunnel: 0 };
  let hostListens = false;
  registry = started.use(
    new Registry({
      hooks,
      workers,
      own,
      log,
      cgroupRoot,
      nodeName: options.nodeName,
      trustDomain: options.trustDomain,
      rootNamespace: options.rootNamespace,
      hostWorkloadsFile: join(options.stateDirectory, 'host-workloads.json'),
      hostPorts: () => hostPorts,
      identityReady: async (identity) => {
        await svids.wait(identity, SVID_WAIT_MS);
        distribution.sendAll();
      },
      setIdentities: (wanted) => {
        for (const identity of wanted) svids.ensure(identity);
        for (const identity of identities) if (!wanted.has(identity)) svids.forget(identity);
        identities = wanted;
      },
      publish: async (snapshot) => {
        jwks.setUris(jwksUris(snapshot.authentications));
        federation.setRelationships(registry.federatedTrustDomains);
        await workers.requestAll({ type: 'snapshot', snapshot });
      },
    }),
  );

  async function listenOnHost(): Promise<void> {
    const opened = openListeners(null, workers.size, own);
    hostPorts = opened.ports;
    await Promise.all(
      opened.workers.map((listeners, index) =>
        hostListen(
          index,
          listeners.outbound.map((fd) => fd.disown()),
        ),
      ),
    );
    hostListens = true;
  }
  function hostListen(index: number, outbound: readonly number[]): Promise<unknown> {
    return workers.request(index, {
      type: 'listen',
      workloadId: HOST_WORKLOAD_ID,
      identity: '',
      ports: hostPorts,
      outbound,
      inbound: [],
      tunnel: [],
      networkNamespace: null,
      networkNamespaceCookie: currentNetworkNamespaceCookie(),
    });
  }
  async function rejoin(index: number): Promise<void> {
    try {
      await hostListen(
        index,
        openWorkerListeners(null, hostPorts, own).outbound.map((fd) => fd.disown()),
      );
      await registry.workerRestarted(index);
    } catch (error) {
      log.error({ worker: index, err: error }, 'the new worker has not got all listeners');
    }
  }

  await workers.start();
  await listenOnHost();

  // Workload API: what workloads get of their own identity.
  let workloadApi: RunningWorkloadApi | null = null;
  if (options.workloadApiSocket !== null) {
    openToPass(options.runDirectory);
    workloadApi = started.use(
      await startWorkloadApi({
        path: options.workloadApiSocket,
        source: workloadApiSource({ svids, provider, federation, changes: [svids, registry, provider, federation] }),
        registry,
        cgroupMount,
        log,
      }),
    );
  }

  // Configuration: from here on the node follows it.
  const problems = new ConfigProblemLog(log);
  let configured = false;
  const config = started.use(
    await ConfigDirectory.open(options.configDirectory, {
      lastGoodDirectory: join(options.stateDirectory, 'last-good'),
      onKeepError: (error) => log.warn({ err: error }, 'the last good configuration is not kept for the next start'),
      onChange: (resources, found) => {
        problems.report(found);
        configured = true;
        placements.update(resources);
        registry
          .setResources(resources, found.length === 0)
          .catch((error: unknown) => log.error({ err: error }, 'the configuration could not be applied'));
      },
    }),
  );

  function ready(): ReadyAnswer {
    const waitingFor: string[] = [];
    if (!configured) waitingFor.push('configuration');
    if (!registry.settled) waitingFor.push('enrolments');
    if (draining) waitingFor.push('draining');
    return { ready: waitingFor.length === 0, waitingFor };
  }

  function state(): StateAnswer {
    const { snapshot } = registry;
    const namespaces = new Map<string, { mode: Mode; workloads: number }>();
    for (const resource of config.resources) {
      if (resource.kind === 'Namespace') namespaces.set(resource.metadata.name, { mode: resource.mode ?? 'off', workloads: 0 });
    }
    for (const { namespace } of snapshot.workloads) {
      const known = namespaces.get(namespace) ?? { mode: 'off' as const, workloads: 0 };
      namespaces.set(namespace, { ...known, workloads: known.workloads + 1 });
    }
    const local = snapshot.workloads.filter((workload) => workload.local).length;
    return {
      version: VERSION,
      node: options.nodeName,
      trustDomain: options.trustDomain,
      pid: process.pid,
      startedAt,
      workers: workers.size,
      snapshotVersion: snapshot.version,
      namespaces: [...namespaces].map(([name, { mode, workloads }]) => ({ name, mode, workloads })),
      workloads: { local, remote: snapshot.workloads.length - local },
      services: snapshot.services.length,
      policies: snapshot.policies.map(({ name }) => name),
      enrolments: registry.enrolments(),
      problems: [...problems.lines, ...registry.warnings, ...providerProblem()],
    };
  }

  function providerProblem(): string[] {
    const { from, problem } = provider.status();
    return problem === null ? [] : [`identities from ${from}: ${problem}`];
  }

  function svidsAnswer(): SvidsAnswer {
    return {
      svids: svids.status().map(({ identity, state, notAfter, nextRequest, lastFailure }) => ({
        identity,
        state,
        notAfter: notAfter === null ? null : new Date(notAfter).toISOString(),
        renewsAt: nextRequest === null ? null : new Date(nextRequest).toISOString(),
        error: lastFailure,
      })),
      bundles: svids.bundles().map(({ trustDomain, sequence, roots }) => ({ trustDomain, sequence, roots: roots.length })),
    };
  }

  function counters(): CountersAnswer {
    const sums = sumBlocks(blocks);
    const proxy: Record<string, number> = {};
    for (const family of COUNTER_FAMILIES) {
      if (family.kind === 'histogram') continue;
      for (const { labels, slot } of familySamples(family)) {
        const text = Object.entries(labels).map(([name, value]) => `${name}="${value}"`);
        if (sums[slot] !== 0) proxy[`${family.name}{${text.join(',')}}`] = sums[slot] as number;
      }
    }
    return {
      kernel: hooks.counters(),
      kernelEntries: hooks.connectionEntries(),
      proxy,
      configurationProblems: Object.fromEntries(problems.counts),
      openFileDescriptors: readdirSync('/proc/self/fd').length,
      rssBytes: process.memoryUsage.rss(),
    };
  }

  function knownBundles(): { trustDomain: string; sequence: bigint }[] {
    return [ownBundle(), ...provider.federatedBundles(), ...federation.bundles()].flatMap((bundle) =>
      bundle === null || bundle.sequence === null ? [] : [{ trustDomain: bundle.trustDomain, sequence: bundle.sequence }],
    );
  }

  async function metrics(): Promise<readonly MetricFamily[]> {
    const traffic = (await workers.requestAll({ type: 'traffic' })) as TrafficSnapshot[][];
    const expiring = svids.status().flatMap(({ identity, notAfter }) => (notAfter === null ? [] : [{ identity, notAfter }]));
    return [
      ...workerMetrics(blocks, traffic),
      kernelEvents(new Map(Object.entries(hooks.counters()))),
      svidExpiry(expiring, Date.now()),
      ...svidRequests(svids.counters),
      workloadApiRefusals(workloadApi?.refused ?? {}),
      bundleSequences(knownBundles()),
      clockSkew(provider.status().clockSkewSeconds),
      bundleRefreshFailures(federation.status()),
      configurationProblems(problems.counts),
      ...(await opened.metrics()),
    ];
  }

  source.current = {
    ready,
    state,
    snapshot: () => registry.snapshot,
    svids: svidsAnswer,
    bundles: () =>
      bundlesAnswer({
        trustDomain: options.trustDomain,
        own: ownBundle(),
        provided: provider.federatedBundles(),
        federation: federation.status(),
      }),
    counters,
    metrics,
    connections: async () => ((await workers.requestAll({ type: 'connections' })) as ConnectionInfo[][]).flat(),
    addHostWorkload: async (request) => ({ ...(await registry.addHostWorkload(request)), workloadApiSocket: options.workloadApiSocket }),
    removeHostWorkload: (namespace, name) => registry.removeHostWorkload(namespace, name),
  };
  log.info({ node: options.nodeName, trustDomain: options.trustDomain, workers: workers.size, left: hooks.left.length }, 'the agent runs');

  const owned = started.move();
  return {
    async drain() {
      if (draining) return;
      draining = true;
      log.info({ deadlineMs: options.drainTimeoutMs }, 'draining');
      try {
        await workers.drain(options.drainTimeoutMs);
      } catch (error) {
        log.error({ err: error }, `the drain was cut short: ${errorText(error)}`);
      }
      await owned.disposeAsync();
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const VERSION: string = (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version;

function openAccessLog(where: AgentOptions['accessLog']): number | null {
  if (where.kind === 'off') return null;
  // Append, so that rotation by copy-and-truncate works; 0640: it names who calls whom.
  return where.kind === 'stdout' ? 1 : openSync(where.path, 'a', 0o640);
}

/** An AdminSource that answers 'not ready' until the agent has one. */
function deferred(source: { current: AdminSource | null }): AdminSource {
  return new Proxy({} as AdminSource, {
    get: (_, name: keyof AdminSource) => {
      if (source.current !== null) return source.current[name].bind(source.current);
      if (name === 'ready') return () => ({ ready: false, waitingFor: ['start'] });
      return () => {
        throw new Error('the agent is starting');
      };
    },
  });
}
