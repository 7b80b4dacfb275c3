import { MeshView } from '../../../proxy/mesh-view.ts';
import { Telemetry } from '../../../proxy/telemetry/connection-record.ts';
import { COUNTERS, type ConnectionPath, counterSlot, type Refusal, type Side } from '../../../proxy/telemetry/counter-table.ts';
import { CounterBlock, sumBlocks } from '../../../proxy/telemetry/counters.ts';
import { TrafficMetrics } from '../../../proxy/telemetry/traffic-metrics.ts';
import { DEFAULT_MESH_SETTINGS } from '../../../src/model/resources.ts';
import type { MeshSnapshot, PolicyEntry, ServiceEntry, WorkloadEntry } from '../../../src/model/snapshot.ts';

/** A workload of the namespace `shop` with what a test says of it; its address follows from its id. */
export function workloadEntry(id: number, name: string, wish: Partial<WorkloadEntry> = {}): WorkloadEntry {
  return {
    id,
    name,
    namespace: 'shop',
    serviceAccount: name,
    identity: `spiffe://cluster.local/ns/shop/sa/${name}`,
    node: 'node-a',
    local: true,
    labels: {},
    addresses: [`10.0.0.${id}`],
    mode: 'strict',
    portModes: [],
    modeSource: 'Namespace shop',
    enrolled: true,
    policies: [],
    authentications: [],
    ...wish,
  };
}

export function serviceEntry(name: string, wish: Partial<ServiceEntry> = {}): ServiceEntry {
  return {
    name,
    namespace: 'shop',
    addresses: ['10.96.0.1'],
    ports: [{ port: 80, targetPort: 8080, protocol: 'auto' }],
    endpoints: [],
    ...wish,
  };
}

export function snapshotOf(
  workloads: readonly WorkloadEntry[],
  services: readonly ServiceEntry[] = [],
  policies: readonly PolicyEntry[] = [],
): MeshSnapshot {
  return {
    version: 1,
    trustDomain: 'cluster.local',
    nodeName: 'node-a',
    workloads,
    services,
    policies,
    authentications: [],
    settings: DEFAULT_MESH_SETTINGS,
  };
}

export function viewOf(...parts: Parameters<typeof snapshotOf>): MeshView {
  return new MeshView(snapshotOf(...parts));
}

/** An ALLOW policy with one rule. */
export function allow(name: string, rule: Partial<PolicyEntry['rules'][number]> = {}): PolicyEntry {
  return { name, action: 'ALLOW', rules: [{ from: [], to: [], when: [], ...rule }], provider: null, dryRun: false };
}

/** A worker's telemetry whose counters a test can read. */
export class CountedTelemetry {
  readonly #counters: CounterBlock = CounterBlock.create();
  readonly telemetry: Telemetry = new Telemetry(this.#counters, new TrafficMetrics(), null);

  refused(side: Side, path: ConnectionPath, reason: Refusal): number {
    return this.#read(counterSlot(COUNTERS.connectionsRefused, side, path, reason));
  }

  active(side: Side, path: ConnectionPath): number {
    return this.#read(counterSlot(COUNTERS.connectionsActive, side, path));
  }

  fallbacks(): number {
    return this.#read(COUNTERS.tunnelFallbacks.first);
  }

  #read(slot: number): number {
    return Number(sumBlocks([this.#counters])[slot] ?? 0);
  }
}
