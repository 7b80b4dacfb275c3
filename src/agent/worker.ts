import { connect } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { KernelOriginalDestinations } from '../../bpf/kernel-original-destinations.ts';
import { openConnectionMaps } from '../../bpf/connection-maps.ts';
import { OwnSockets } from '../../bpf/own-sockets.ts';
import { duplicateFd, type OwnedFd } from '../../bpf/place-descriptors.ts';
import { WorkloadDialer } from '../../bpf/workload-dialer.ts';
import { IdentityMirror } from '../../certs/svid/identity-mirror.ts';
import { SvidVerifier } from '../../certs/svid/peer-verifier.ts';
import { SvidTlsContexts } from '../../certs/svid/tls-contexts.ts';
import { DataPlane } from '../../proxy/data-plane.ts';
import { MeshAuthorisers } from '../../proxy/external-authorisation/mesh-authorisers.ts';
import { JwksMirror } from '../../proxy/jwt/jwks-mirror.ts';
import { JwtVerifier } from '../../proxy/jwt/jwt-verifier.ts';
import { AccessLog } from '../../proxy/telemetry/access-log.ts';
import { COUNTERS } from '../../proxy/telemetry/counter-table.ts';
import { Telemetry } from '../../proxy/telemetry/connection-record.ts';
import { CounterBlock } from '../../proxy/telemetry/counters.ts';
import { TrafficMetrics } from '../../proxy/telemetry/traffic-metrics.ts';
import { errorText } from '../model/errors.ts';
import type { FromWorker, ToWorker, WorkerStart } from '../model/worker-messages.ts';

/** A proxy thread: the composition root of one worker. */
const start = workerData as WorkerStart;
const port = parentPort;
if (port === null) throw new Error('worker.ts is the entry of a worker thread');
const tell = (message: FromWorker): void => port.postMessage(message);

/** What this thread knows of each local workload's place. Its own duplicate of the namespace, so that main may close its one. */
const places = new Map<number, { readonly namespace: OwnedFd | null; readonly cookie: bigint }>();

const maps = openConnectionMaps(start.maps);
const own = new OwnSockets(maps.ownSockets);
const counters = CounterBlock.attach(start.counters);
const accessLog = start.accessLogFd === null ? null : new AccessLog(start.accessLogFd, { counters });
const traffic = new TrafficMetrics(undefined, () => counters.add(COUNTERS.trafficOverflow.first, 1));
const jwks = new JwksMirror({ request: (uri) => tell({ type: 'need-jwks', uri }) });
const identities = new IdentityMirror({ request: (identity) => tell({ type: 'need-identity', identity }) });
const authorisers = new MeshAuthorisers({ dial: (host, port) => connect({ host, port, noDelay: true }) });
const dataPlane = new DataPlane({
  worker: start.index,
  snapshot: start.snapshot,
  dialer: new WorkloadDialer(own, (workloadId) => {
    const place = places.get(workloadId);
    return place === undefined ? undefined : (place.namespace?.fd ?? null);
  }),
  originalDestinations: new KernelOriginalDestinations(maps.originalDestinations, (workloadId) => places.get(workloadId)?.cookie),
  contexts: new SvidTlsContexts(identities, { ticketSecret: start.ticketSecret }),
  verifier: new SvidVerifier(identities),
  telemetry: new Telemetry(counters, traffic, accessLog),
  deniedByHeader: start.deniedByHeader,
  checks: { tokens: new JwtVerifier({ keys: jwks }), authorisers },
  log: (level, message, fields) => tell({ type: 'log', level, message, fields }),
});

let bundleVersion = identities.bundleVersion;
identities.onChange(() => {
  if (identities.bundleVersion === bundleVersion) return;
  bundleVersion = identities.bundleVersion;
  dataPlane.bundlesChanged();
});

function forgetPlace(workloadId: number): void {
  places.get(workloadId)?.namespace?.close();
  places.delete(workloadId);
}

async function answer(message: Extract<ToWorker, { request: number }>): Promise<unknown> {
  switch (message.type) {
    case 'snapshot':
      dataPlane.apply(message.snapshot);
      authorisers.retain(message.snapshot.settings.extensionProviders);
      return null;
    case 'identities':
      identities.apply(message.update);
      return null;
    case 'listen':
      forgetPlace(message.workloadId);
      places.set(message.workloadId, {
        namespace: message.networkNamespace === null ? null : duplicateFd(message.networkNamespace, 'network namespace'),
        cookie: message.networkNamespaceCookie,
      });
      dataPlane.listen(message);
      return null;
    case 'unlisten':
      dataPlane.unlisten(message.workloadId, message.gone);
      forgetPlace(message.workloadId);
      return null;
    case 'connections':
      return dataPlane.connections();
    case 'traffic':
      return traffic.snapshot();
    case 'drain':
      await dataPlane.drain(message.deadlineMs);
      await accessLog?.close();
      return null;
  }
}

port.on('message', (message: ToWorker) => {
  if (message.type === 'jwks') {
    jwks.apply(message.update);
    return;
  }
  const { request } = message;
  answer(message).then(
    (value) => tell({ type: 'done', request, value }),
    (error: unknown) => tell({ type: 'failed', request, message: errorText(error) }),
  );
});
tell({ type: 'ready' });
