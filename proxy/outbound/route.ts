import { isIpv6 } from '../../src/model/address.ts';
import type { OriginalDestination } from '../../src/model/data-plane.ts';
import type { WorkloadEntry } from '../../src/model/snapshot.ts';
import type { MeshView } from '../mesh-view.ts';

/**
 * Where a captured connection goes.
 * passthrough: dialled as it was, from the client's namespace. local: handed to the inbound half on this node.
 * tunnel: to the endpoint's node, over mTLS. none: a Service without endpoints.
 */
export type Route =
  | {
      readonly kind: 'passthrough';
      readonly address: string;
      readonly port: number;
      readonly server: WorkloadEntry | null;
      readonly service: string | null;
    }
  | {
      readonly kind: 'local' | 'tunnel';
      readonly address: string;
      readonly port: number;
      readonly server: WorkloadEntry;
      readonly service: string | null;
    }
  | { readonly kind: 'none'; readonly service: string };

/** Chooses between endpoints: the next one each time. One per worker. */
export class RoundRobin {
  #next = 0;

  /** Undefined when there is none to choose from. */
  pick<Item>(items: readonly Item[]): Item | undefined {
    this.#next = (this.#next + 1) >>> 0;
    return items[this.#next % items.length];
  }
}

/** Resolves a destination by the mesh: Service to endpoint, endpoint to the way there. */
export function route(view: MeshView, destination: OriginalDestination, balance: RoundRobin): Route {
  const { address, port } = destination;
  const target = view.serviceAt(address, port);
  if (target !== undefined) {
    const service = `${target.service.namespace}/${target.service.name}`;
    const server = balance.pick(target.endpoints);
    if (server === undefined) return { kind: 'none', service };
    return toWorkload(server, addressFor(server, address), target.targetPort, service);
  }
  const server = view.workloadAt(address);
  if (server !== undefined) return toWorkload(server, address, port, view.serviceOf(server));
  return { kind: 'passthrough', address, port, server: null, service: null };
}

/** The endpoint's address in the family that the client dialled, since the client's pod may have no other. Endpoints of a ServiceTarget have one. */
function addressFor(endpoint: WorkloadEntry, dialled: string): string {
  return endpoint.addresses.find((address) => isIpv6(address) === isIpv6(dialled)) ?? (endpoint.addresses[0] as string);
}

function toWorkload(server: WorkloadEntry, address: string, port: number, service: string | null): Route {
  if (server.mode === 'off' || !server.enrolled) return { kind: 'passthrough', address, port, server, service };
  return { kind: server.local ? 'local' : 'tunnel', address, port, server, service };
}
