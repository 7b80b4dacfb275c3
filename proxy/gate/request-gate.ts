import type { ConnectionAttributes, ConnectionPolicy, Decision } from '../../src/model/policy.ts';
import type { GateAnswer, RequestGate, RequestHead } from '../../src/model/request-gate.ts';
import { GATE_FAILED, plainAnswer } from './gate-answers.ts';
import { RequestFacts } from './request-facts.ts';

/** A gate that asks policy alone: no token is read, no header changed, and nothing recorded. Allocates nothing for a request. */
export class PolicyGate implements RequestGate {
  readonly #policy: () => ConnectionPolicy;
  readonly #remoteAddress: string;
  readonly #facts = new RequestFacts();

  constructor(policy: () => ConnectionPolicy, connection: Pick<ConnectionAttributes, 'sourceAddress'>) {
    this.#policy = policy;
    this.#remoteAddress = connection.sourceAddress;
  }

  ask(head: RequestHead): GateAnswer {
    this.#facts.set(head, this.#remoteAddress, null);
    let decision: Decision;
    try {
      decision = this.#policy().request(this.#facts);
    } catch {
      decision = GATE_FAILED;
    }
    this.#facts.clear();
    return plainAnswer(decision);
  }
}
