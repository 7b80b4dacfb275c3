import type { ClientCall } from './client-call.ts';
import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';
import { MAX_TIMEOUT_MS } from './timeout.ts';

/** The ends that a caller has set for a call: signals and a time. Owner of the timer and of the listeners, until it is disposed. */
export class CallEnding implements Disposable {
  readonly #signals: readonly AbortSignal[];
  readonly #timer: NodeJS.Timeout | null;
  readonly #ended: PromiseWithResolvers<never> = Promise.withResolvers();
  #reason: GrpcStatusError | null = null;
  #call: ClientCall | null = null;

  constructor(signals: readonly AbortSignal[], timeoutMs: number | null) {
    this.#signals = signals;
    // Nobody may be waiting for it.
    this.#ended.promise.catch(() => {});
    const expire = (): void => this.#end(new GrpcStatusError(GRPC_STATUS.DEADLINE_EXCEEDED, 'the deadline passed'));
    this.#timer = timeoutMs === null ? null : setTimeout(expire, Math.min(timeoutMs, MAX_TIMEOUT_MS));
    for (const signal of signals) {
      if (signal.aborted) this.#abort();
      else signal.addEventListener('abort', this.#abort, { once: true });
    }
  }

  readonly #abort = (): void => {
    const cause = this.#signals.find(({ aborted }) => aborted)?.reason as unknown;
    this.#end(cause instanceof GrpcStatusError ? cause : new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the caller cancelled it', { cause }));
  };

  #end(reason: GrpcStatusError): void {
    this.#reason ??= reason;
    this.#ended.reject(this.#reason);
    this.#call?.cancel(this.#reason);
  }

  /** What is waited for, unless the end comes before. @throws GrpcStatusError CANCELLED or DEADLINE_EXCEEDED */
  race<Value>(waitedFor: Promise<Value>): Promise<Value> {
    return Promise.race([this.#ended.promise, waitedFor]);
  }

  /** The end cancels this call, also when it came already. */
  attach(call: ClientCall): void {
    this.#call = call;
    if (this.#reason !== null) call.cancel(this.#reason);
  }

  [Symbol.dispose](): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const signal of this.#signals) signal.removeEventListener('abort', this.#abort);
  }
}
