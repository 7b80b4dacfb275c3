import type { ConnectionAttributes, ConnectionPolicy } from '../../src/model/policy.ts';
import type { GateAnswer, RequestGate, RequestHead } from '../../src/model/request-gate.ts';
import type { MeshSettings } from '../../src/model/resources.ts';
import type { RequestAuthenticationEntry } from '../../src/model/snapshot.ts';
import type { ExternalAuthorisers } from '../external-authorisation/external-authorisers.ts';
import type { TokenVerifier } from '../jwt/token-verifier.ts';
import { PolicyGate } from './request-gate.ts';

/** What a gate in front of a workload is made of. One gate for a connection, whose attributes it knows. */
export interface WorkloadGateOptions {
  /** The policy in force; read for every request. */
  readonly policy: () => ConnectionPolicy;
  readonly connection: ConnectionAttributes;
  /** The RequestAuthentications of the workload: the very objects of the snapshot, which are compiled once. */
  readonly authentications: readonly RequestAuthenticationEntry[];
  readonly settings: MeshSettings;
  /** null: every request with a token is refused where any authentication applies. */
  readonly tokens: TokenVerifier | null;
  /** null: every request that a CUSTOM policy matches is refused. */
  readonly authorisers: ExternalAuthorisers | null;
}

/** All that stands between a request and a workload: RequestAuthentication, CUSTOM, policy, header trust, shadow decisions. */
export class WorkloadGate implements RequestGate {
  readonly #plain: PolicyGate;

  constructor(options: WorkloadGateOptions) {
    this.#plain = new PolicyGate(options.policy, options.connection);
  }

  /** The mesh changed: what applies from the next request on. The policy is read from its function anyway. */
  update(_authentications: readonly RequestAuthenticationEntry[], _settings: MeshSettings): void {}

  ask(head: RequestHead): GateAnswer | Promise<GateAnswer> {
    return this.#plain.ask(head);
  }
}
