import type { CountersAnswer } from '../../src/model/admin-api.ts';
import type { LabAgent } from './lab/index.ts';

/** What an agent has counted since a moment. */
export class CounterWatch {
  readonly #agent: LabAgent;
  readonly #before: CountersAnswer;

  private constructor(agent: LabAgent, before: CountersAnswer) {
    this.#agent = agent;
    this.#before = before;
  }

  static async start(agent: LabAgent): Promise<CounterWatch> {
    return new CounterWatch(agent, await agent.json<CountersAnswer>('/v1/counters'));
  }

  /** By how much a counter of the proxy has grown: `family{label="value",…}`. */
  async grown(name: string): Promise<number> {
    const now = await this.#agent.json<CountersAnswer>('/v1/counters');
    return (now.proxy[name] ?? 0) - (this.#before.proxy[name] ?? 0);
  }

  /** Waits until a counter has grown by so much. @throws Error with everything that has grown, when it has not in time */
  async reached(name: string, by = 1, timeoutMs = 5_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while ((await this.grown(name)) < by) {
      if (Date.now() > deadline) throw new Error(`${name} has not grown by ${by}; what has:\n${await this.#all()}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async #all(): Promise<string> {
    const now = await this.#agent.json<CountersAnswer>('/v1/counters');
    return Object.entries(now.proxy)
      .map(([name, value]) => [name, value - (this.#before.proxy[name] ?? 0)] as const)
      .filter(([, by]) => by !== 0)
      .map(([name, by]) => `${name} ${by}`)
      .join('\n');
  }
}

/** `weft_connections_refused_total` of arriving connections. */
export function refusedCounter(path: 'tunnel' | 'plaintext' | 'local', reason: string): string {
  return `weft_connections_refused_total{side="inbound",path="${path}",reason="${reason}"}`;
}

export function handshakeCounter(result: string, side: 'inbound' | 'outbound' = 'inbound'): string {
  return `weft_handshakes_total{side="${side}",result="${result}"}`;
}

export function malformedCounter(reason: string): string {
  return `weft_malformed_total{side="inbound",reason="${reason}"}`;
}

export function httpRefusalCounter(reason: string): string {
  return `weft_http_refusals_total{side="inbound",reason="${reason}"}`;
}
