import { Worker } from 'node:worker_threads';
import type { FromWorker, ToWorker, WorkerStart } from '../model/worker-messages.ts';
import type { Logger } from '../log/log.ts';
import { AgentError } from './agent-error.ts';

const ENTRY = new URL('./worker.ts', import.meta.url);
const REQUEST_TIMEOUT_MS = 15_000;
/** A worker that fails again and again is not restarted faster than this. */
const RESTART_PAUSE_MS = 500;

type Request = Extract<ToWorker, { request: number }>;
/** A request without its number, which the pool gives. */
export type RequestBody = Request extends infer R ? (R extends Request ? Omit<R, 'request'> : never) : never;

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** One proxy thread and the requests that wait for it. Owned by the pool. */
class Slot {
  readonly index: number;
  worker: Worker | null = null;
  ready: Promise<void> = Promise.resolve();
  readonly waiting: Map<number, Waiting> = new Map();
  #next = 1;

  constructor(index: number) {
    this.index = index;
  }

  request(body: RequestBody, timeoutMs: number): Promise<unknown> {
    const { worker } = this;
    if (worker === null) return Promise.reject(new AgentError('WEFT_AGENT_WORKER', `worker ${this.index} is not running`));
    const request = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(request);
        reject(new AgentError('WEFT_AGENT_WORKER', `worker ${this.index} did not answer ${body.type} within ${timeoutMs} ms`));
      }, timeoutMs);
      this.waiting.set(request, { resolve, reject, timer });
      worker.postMessage({ ...body, request });
    });
  }

  answer(request: number, settle: (waiting: Waiting) => void): void {
    const waiting = this.waiting.get(request);
    if (waiting === undefined) return;
    this.waiting.delete(request);
    clearTimeout(waiting.timer);
    settle(waiting);
  }
}

export interface WorkerPoolOptions {
  readonly count: number;
  /** The start data of worker `index`, as it is at that moment (also for one that is restarted). */
  readonly start: (index: number) => WorkerStart;
  /** A worker is running and listens to messages: give it identities and listeners. Also called after a restart. */
  readonly onReady: (index: number) => void;
  readonly onNeedIdentity: (identity: string) => void;
  readonly onNeedJwks: (uri: string) => void;
  readonly log: Logger;
  /** What a worker runs; for tests. */
  readonly entry?: URL;
}

/** The proxy's threads. A worker that dies is replaced; its connections are lost, the others' are not. */
export class WorkerPool implements AsyncDisposable {
  readonly #options: WorkerPoolOptions;
  readonly #slots: readonly Slot[];
  #stopping = false;

  constructor(options: WorkerPoolOptions) {
    this.#options = options;
    this.#slots = Array.from({ length: options.count }, (_, index) => new Slot(index));
  }

  get size(): number {
    return this.#slots.length;
  }

  /** Resolves when every worker runs. */
  async start(): Promise<void> {
    await Promise.all(this.#slots.map((slot) => this.#spawn(slot)));
  }

  #spawn(slot: Slot): Promise<void> {
    const worker = new Worker(this.#options.entry ?? ENTRY, {
      workerData: this.#options.start(slot.index),
      name: `weft-proxy-${slot.index}`,
    });
    slot.worker = worker;
    slot.ready = new Promise((resolve, reject) => {
      worker.once('error', reject);
      worker.once('exit', (code) => reject(new AgentError('WEFT_AGENT_WORKER', `worker ${slot.index} ended (code ${code})`)));
      worker.on('message', (message: FromWorker) => {
        if (message.type === 'ready') {
          resolve();
          this.#options.onReady(slot.index);
        } else this.#handle(slot, message);
      });
    });
    worker.on('error', (error) => this.#options.log.error({ worker: slot.index, err: error }, 'a proxy worker failed'));
    worker.on('exit', (code) => this.#exited(slot, code));
    return slot.ready;
  }

  #handle(slot: Slot, message: FromWorker): void {
    switch (message.type) {
      case 'done':
        slot.answer(message.request, (waiting) => waiting.resolve(message.value));
        break;
      case 'failed':
        slot.answer(message.request, (waiting) => waiting.reject(new AgentError('WEFT_AGENT_WORKER', message.message)));
        break;
      case 'need-identity':
        this.#options.onNeedIdentity(message.identity);
        break;
      case 'need-jwks':
        this.#options.onNeedJwks(message.uri);
        break;
      case 'log':
        this.#options.log[message.level]({ worker: slot.index, ...message.fields }, message.message);
        break;
    }
  }

  #exited(slot: Slot, code: number): void {
    slot.worker = null;
    for (const request of slot.waiting.keys()) {
      slot.answer(request, (waiting) => waiting.reject(new AgentError('WEFT_AGENT_WORKER', `worker ${slot.index} ended (code ${code})`)));
    }
    if (this.#stopping) return;
    this.#options.log.error({ worker: slot.index, code }, 'a proxy worker ended; starting another');
    this.#respawnLater(slot);
  }

  #respawnLater(slot: Slot): void {
    setTimeout(() => {
      if (this.#stopping) return;
      try {
        // What ends it from here on is its 'exit', and handled there.
        this.#spawn(slot).catch(() => {});
      } catch (error) {
        this.#options.log.error({ worker: slot.index, err: error }, 'a proxy worker could not be started; trying again');
        this.#respawnLater(slot);
      }
    }, RESTART_PAUSE_MS);
  }

  /** Tells every running worker. */
  broadcast(message: Exclude<ToWorker, Request>): void {
    for (const slot of this.#slots) slot.worker?.postMessage(message);
  }

  /** Tells one worker. */
  send(index: number, message: Exclude<ToWorker, Request>): void {
    this.#slots[index]?.worker?.postMessage(message);
  }

  /** False while a worker that died is being replaced. */
  isRunning(index: number): boolean {
    const worker = this.#slots[index]?.worker;
    return worker !== null && worker !== undefined;
  }

  /** Asks one worker and waits for its answer. */
  request(index: number, body: RequestBody, timeoutMs: number = REQUEST_TIMEOUT_MS): Promise<unknown> {
    const slot = this.#slots[index];
    if (slot === undefined) return Promise.reject(new AgentError('WEFT_AGENT_WORKER', `there is no worker ${index}`));
    return slot.request(body, timeoutMs);
  }

  /** Asks every running worker; those that fail are left out of the answer, and logged. */
  async requestAll(body: RequestBody, timeoutMs: number = REQUEST_TIMEOUT_MS): Promise<unknown[]> {
    const running = this.#slots.filter((slot) => slot.worker !== null);
    const results = await Promise.allSettled(running.map((slot) => slot.request(body, timeoutMs)));
    return results.flatMap((result, index) => {
      if (result.status === 'fulfilled') return [result.value];
      this.#options.log.error(
        { worker: running[index]?.index, request: body.type, err: result.reason },
        'a proxy worker failed to do what it was asked',
      );
      return [];
    });
  }

  /** Lets every worker finish its connections until the deadline, then ends them. */
  async drain(deadlineMs: number): Promise<void> {
    this.#stopping = true;
    await this.requestAll({ type: 'drain', deadlineMs }, deadlineMs + REQUEST_TIMEOUT_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#slots.map((slot) => slot.worker?.terminate()));
  }
}
