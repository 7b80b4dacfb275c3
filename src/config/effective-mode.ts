import type { Mode, MutualTlsMode, NamespaceResource, PeerAuthenticationResource, WorkloadResource } from '../model/resources.ts';
import { SelectorIndex } from './selector-index.ts';

/** A workload's mode and what made it. */
export interface EffectiveMode {
  readonly mode: Mode;
  /** Ports whose mode differs from `mode`, ascending. */
  readonly portModes: readonly (readonly [port: number, mode: Mode])[];
  /** `PeerAuthentication ns/name`, `Namespace name`, `Workload ns/name` or `default`. */
  readonly source: string;
}

/** The wider, the lower: a more specific statement wins. */
const LEVEL = { mesh: 0, namespace: 1, workload: 2 } as const;

interface Label {
  readonly mode: Mode;
  readonly level: number;
  readonly source: string;
}

/**
 * Decides modes. Labels bring a workload into the mesh, PeerAuthentication says what it then accepts:
 *
 * 1. **In or out.** The mode label of the Workload, else that of its Namespace, else `off`. A workload that is `off` is left alone, and no
 *    PeerAuthentication changes that.
 * 2. **PeerAuthentication**, as Istio reads it: port, then workload (with a selector), then namespace, then mesh (in the root namespace). UNSET asks the
 *    next wider level. On one level the oldest counts (creationTimestamp; none counts as youngest), then the first by name; the others are
 *    not looked at. One with a selector in the root namespace counts for nothing.
 * 3. **Between the two.** STRICT anywhere makes a permissive label strict. PERMISSIVE (or DISABLE, which is read as PERMISSIVE: captured workloads cannot
 *    refuse mTLS) loosens a `strict` label only from the label's own level or a more specific one: a mesh-wide PERMISSIVE loosens no
 *    label, a namespace's loosens the label of the Namespace, a selector's or a port's loosens any.
 */
export class ModeResolver {
  readonly #namespaces = new Map<string, NamespaceResource>();
  readonly #mesh: PeerAuthenticationResource | null;
  readonly #byNamespace = new Map<string, PeerAuthenticationResource>();
  readonly #bySelector = new Map<string, SelectorIndex<PeerAuthenticationResource>>();

  constructor(namespaces: readonly NamespaceResource[], authentications: readonly PeerAuthenticationResource[], rootNamespace: string) {
    for (const namespace of namespaces) this.#namespaces.set(namespace.metadata.name, namespace);
    for (const authentication of authentications) {
      const { namespace } = authentication.metadata;
      const { selector } = authentication.spec;
      if (selector === null) this.#byNamespace.set(namespace, older(this.#byNamespace.get(namespace), authentication));
      else if (namespace !== rootNamespace) {
        const index = this.#bySelector.get(namespace) ?? new SelectorIndex();
        index.add(selector, authentication);
        this.#bySelector.set(namespace, index);
      }
    }
    this.#mesh = this.#byNamespace.get(rootNamespace) ?? null;
    // It is the mesh's, for workloads of the root namespace too.
    this.#byNamespace.delete(rootNamespace);
  }

  resolve(workload: WorkloadResource): EffectiveMode {
    const label = this.#label(workload);
    if (label.mode === 'off') return { mode: 'off', portModes: [], source: label.source };
    const { namespace, labels } = workload.metadata;
    let bySelector: PeerAuthenticationResource | undefined;
    for (const found of this.#bySelector.get(namespace)?.find(labels) ?? []) bySelector = older(bySelector, found);

    let result: { mode: Mode; source: string } = label;
    const candidates = [
      [LEVEL.workload, bySelector],
      [LEVEL.namespace, this.#byNamespace.get(namespace)],
      [LEVEL.mesh, this.#mesh],
    ] as const;
    for (const [level, authentication] of candidates) {
      if (authentication === null || authentication === undefined || authentication.spec.mode === 'UNSET') continue;
      const mode = toMode(authentication.spec.mode);
      if (mode === 'strict' || label.mode === 'permissive' || level >= label.level) result = { mode, source: nameOf(authentication) };
      break;
    }
    const portModes: [number, Mode][] = [];
    for (const [port, written] of bySelector?.spec.portLevel ?? []) {
      if (written !== 'UNSET' && toMode(written) !== result.mode) portModes.push([port, toMode(written)]);
    }
    portModes.sort(([left], [right]) => left - right);
    return { mode: result.mode, portModes, source: result.source };
  }

  #label(workload: WorkloadResource): Label {
    const { namespace, name } = workload.metadata;
    if (workload.spec.mode !== null) return { mode: workload.spec.mode, level: LEVEL.workload, source: `Workload ${namespace}/${name}` };
    const mode = this.#namespaces.get(namespace)?.mode ?? null;
    if (mode !== null) return { mode, level: LEVEL.namespace, source: `Namespace ${namespace}` };
    return { mode: 'off', level: LEVEL.mesh, source: 'default' };
  }
}

function toMode(mode: Exclude<MutualTlsMode, 'UNSET'>): Mode {
  return mode === 'STRICT' ? 'strict' : 'permissive';
}

function nameOf(authentication: PeerAuthenticationResource): string {
  return `PeerAuthentication ${authentication.metadata.namespace}/${authentication.metadata.name}`;
}

function older(known: PeerAuthenticationResource | undefined, other: PeerAuthenticationResource): PeerAuthenticationResource {
  if (known === undefined) return other;
  const difference = ageOf(known) - ageOf(other);
  if (difference !== 0 && !Number.isNaN(difference)) return difference < 0 ? known : other;
  return known.metadata.name <= other.metadata.name ? known : other;
}

function ageOf({ metadata }: PeerAuthenticationResource): number {
  return metadata.creationTimestamp === '' ? Number.MAX_SAFE_INTEGER : Date.parse(metadata.creationTimestamp);
}
