import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ADMIN_SOCKET_NAME } from '../../../src/model/admin-api.ts';

/** What a fake agent answers to `METHOD /path`: a status and a body (JSON, or text as it is). */
export type Answers = Record<string, (body: unknown) => Answer | Promise<Answer>>;

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** An admin endpoint with canned answers, in a run directory of its own. */
export class FakeAgent implements AsyncDisposable {
  readonly runDirectory: string;
  /** `METHOD /path` of each request, in order. */
  readonly requests: string[] = [];
  /** Bodies of the requests that had one. */
  readonly bodies: unknown[] = [];
  readonly answers: Answers;
  readonly #socketName: string;
  #server = createServer();

  private constructor(answers: Answers, socketName: string) {
    this.answers = answers;
    this.#socketName = socketName;
    this.runDirectory = mkdtempSync(join(tmpdir(), 'weft-cli-'));
  }

  /** @param socketName of another endpoint than the agent's: an authority's */
  static async start(answers: Answers, socketName: string = ADMIN_SOCKET_NAME): Promise<FakeAgent> {
    const agent = new FakeAgent(answers, socketName);
    await agent.listen();
    return agent;
  }

  /** Listens, again after stop(): what a restarted agent does. */
  async listen(): Promise<void> {
    this.#server = createServer((request, response) => void this.#answer(request, response));
    await new Promise<void>((resolve) => this.#server.listen(join(this.runDirectory, this.#socketName), resolve));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const body: unknown = text === '' ? null : JSON.parse(text);
    const key = `${request.method} ${request.url}`;
    this.requests.push(key);
    if (body !== null) this.bodies.push(body);
    const answer = (await this.answers[key]?.(body)) ?? {
      status: 404,
      body: { code: 'WEFT_AGENT_REQUEST', message: `nothing at ${key}`, nextStep: null },
    };
    response.statusCode = answer.status;
    response.end(typeof answer.body === 'string' ? answer.body : answer.body === null ? '' : JSON.stringify(answer.body));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.runDirectory, { recursive: true, force: true });
  }
}

/** The answers of an agent that enrols what it is asked to. */
export function enrollingAnswers(): Answers {
  return {
    'GET /ready': () => ({ status: 200, body: { ready: true, waitingFor: [] } }),
    'POST /v1/workloads': () => ({
      status: 201,
      body: {
        name: 'cart-1',
        namespace: 'shop',
        identity: 'spiffe://cluster.local/ns/shop/sa/cart',
        mode: 'permissive',
        workloadApiSocket: null,
      },
    }),
    'DELETE /v1/workloads/shop/cart-1': () => ({ status: 204, body: null }),
  };
}
