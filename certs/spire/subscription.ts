import { GRPC_STATUS, GrpcStatusError } from '../../src/grpc/grpc-error.ts';
import { errorText } from '../../src/model/errors.ts';
import type { Clock } from '../clock.ts';
import { callProblem } from './spire-error.ts';

/**
 * connecting: the call is made, no message yet. open: the last message is the state. backoff: the call ended, another comes. ended: final.
 * Allowed moves: see MOVES.
 */
export type SubscriptionState = 'connecting' | 'open' | 'backoff' | 'ended';

export interface SubscriptionOptions<Message> {
  /** Makes the call. Ends it when the signal fires. */
  readonly open: (signal: AbortSignal) => AsyncIterable<Message>;
  /** Takes a message, which is the full state. Throws when it cannot be used: then the former state holds. */
  readonly onMessage: (message: Message) => void;
  /** The server says, and goes on saying, that there is nothing for this caller (any more): the state is empty. */
  readonly onDenied: () => void;
  /** After the problem changed. */
  readonly onProblem: () => void;
  /** How long the server may be silent after a message before the call is made anew, in ms; null: for ever. Default: for ever. */
  readonly longestSilenceMs?: () => number | null;
  readonly clock: Clock;
  /** 0 to 1, for jitter. */
  readonly random: () => number;
}

const MOVES: Readonly<Record<SubscriptionState, readonly SubscriptionState[]>> = {
  connecting: ['open', 'backoff', 'ended'],
  open: ['backoff', 'ended'],
  backoff: ['connecting', 'ended'],
  ended: [],
};

/** The server must answer at once (SPIFFE_Workload_API.md section 4.3). */
const FIRST_MESSAGE_MS = 30_000;
const BACKOFF_START_MS = 250;
const BACKOFF_CAP_MS = 30_000;
/** For answers that another try does not change, such as Unimplemented: until SPIRE is replaced. */
const REFUSED_MS = 5 * 60_000;
/** A call that lasted this long was a good one: the next failure is the first of a row. */
const GOOD_CALL_MS = 10_000;

/**
 * PermissionDenied says that there is no identity: what was received before is void (SPIFFE_Workload_API.md section 5.2.1). It may be said in
 * passing: the agent of SPIRE 1.15.2 takes the SVIDs of a tainted authority out of its cache before it has new ones, and answers from the
 * cache when anything else changes meanwhile (lru_cache.go, processTaintedSVIDs and notify). A call made anew then waits for the new ones.
 * So a denial counts once calls are still denied this long after the first. How long is our choice: no document says.
 */
const DENIAL_GRACE_MS = 3_000;
const REFUSALS: ReadonlySet<number> = new Set([GRPC_STATUS.INVALID_ARGUMENT, GRPC_STATUS.UNIMPLEMENTED]);

/**
 * Keeps one stream of full-state messages going: makes the call, and makes it again with backoff and jitter whenever it ends.
 * Invariant: at most one call is under way, and its signal fires before another is made or the subscription has ended.
 */
export class Subscription<Message> implements Disposable {
  readonly #options: SubscriptionOptions<Message>;
  #state: SubscriptionState = 'backoff';
  #problem: string | null = null;
  #failures = 0;
  /** When the server began to deny that there is anything, in milliseconds since the epoch. */
  #deniedSince: number | null = null;
  #call: AbortController | null = null;
  /** Of the state it is in: the limit of a silence, or the wait until the next call. */
  #cancelTimer: () => void = () => {};

  constructor(options: SubscriptionOptions<Message>) {
    this.#options = options;
    this.#connect();
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  /** Null while the last message is usable, and the call goes on. */
  get problem(): string | null {
    return this.#problem;
  }

  [Symbol.dispose](): void {
    if (this.#state === 'ended') return;
    this.#move('ended');
    this.#call?.abort();
  }

  /** The only place where the state changes. */
  #move(to: SubscriptionState): void {
    if (!MOVES[this.#state].includes(to)) throw new Error(`a subscription cannot go from ${this.#state} to ${to}`);
    this.#cancelTimer();
    this.#cancelTimer = () => {};
    this.#state = to;
  }

  #connect(): void {
    this.#move('connecting');
    const call = new AbortController();
    this.#call = call;
    this.#limitSilence(FIRST_MESSAGE_MS);
    const startedAt = this.#options.clock.now();
    const ended = (error: unknown): void => {
      // After the end, or after the silence limit gave the call up: what it still says is late.
      if (this.#call !== call) return;
      this.#lost(error, this.#options.clock.now() - startedAt);
    };
    this.#read(call).then(() => ended(null), ended);
  }

  async #read(call: AbortController): Promise<void> {
    for await (const message of this.#options.open(call.signal)) {
      if (this.#call !== call || this.#state === 'ended') return;
      this.#take(message);
    }
  }

  #take(message: Message): void {
    if (this.#state === 'connecting') this.#move('open');
    this.#deniedSince = null;
    let problem: string | null = null;
    try {
      this.#options.onMessage(message);
    } catch (error) {
      problem = errorText(error);
    }
    this.#limitSilence(this.#options.longestSilenceMs?.() ?? null);
    this.#setProblem(problem);
  }

  #limitSilence(ms: number | null): void {
    this.#cancelTimer();
    this.#cancelTimer =
      ms === null ? () => {} : this.#options.clock.after(ms, () => this.#lost(new Error(`SPIRE said nothing for ${ms} ms`), 0));
  }

  #lost(error: unknown, lastedMs: number): void {
    if (this.#state === 'ended') return;
    this.#call?.abort();
    this.#call = null;
    this.#move('backoff');
    this.#failures = lastedMs >= GOOD_CALL_MS ? 1 : this.#failures + 1;
    const status = error instanceof GrpcStatusError ? error.status : null;
    this.#noteDenial(status);
    const refused = status !== null && REFUSALS.has(status);
    const delay = refused ? REFUSED_MS : Math.min(BACKOFF_START_MS * 2 ** (this.#failures - 1), BACKOFF_CAP_MS);
    this.#cancelTimer = this.#options.clock.after(delay * (1 - this.#options.random() / 2), () => this.#connect());
    // A server that ends a call in peace restarts, or spreads its load: worth a word only if the next call fails too.
    if (error !== null || this.#failures > 1) this.#setProblem(error === null ? 'SPIRE ends every call at once' : callProblem(error));
  }

  #noteDenial(status: number | null): void {
    // The workload itself is gone (SPIFFE_Broker_API.md section 4.9).
    if (status === GRPC_STATUS.NOT_FOUND) this.#options.onDenied();
    if (status !== GRPC_STATUS.PERMISSION_DENIED) return;
    const now = this.#options.clock.now();
    this.#deniedSince ??= now;
    if (now - this.#deniedSince >= DENIAL_GRACE_MS) this.#options.onDenied();
  }

  #setProblem(problem: string | null): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    this.#options.onProblem();
  }
}
