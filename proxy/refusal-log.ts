import { Budget } from '../src/transport/http2/budget.ts';

/** Writes one line of the agent's log. */
export type LogLine = (level: 'info' | 'warn' | 'error', message: string, fields: Readonly<Record<string, unknown>>) => void;

/** What and who: the same from the same peer is one subject. */
export interface LoggedRefusal {
  /** A short fixed word, the label of a counter. */
  readonly reason: string;
  /** The error code underneath, if there is one. */
  readonly code?: string | null;
  /** Of the peer that was refused; or the number of the local workload, or whom a caller of this host counts against. */
  readonly remoteAddress?: string;
  readonly workloadId?: number;
  readonly account?: string;
}

/** One subject is logged at most this often; its next line tells how many were left out. */
const REPEAT_MS = 10_000;
/** Lines of all subjects together: at once, and a second. */
const LINES_AT_ONCE = 50;
const LINES_A_SECOND = 5;
/** Subjects remembered; the one logged first is forgotten first. */
const MAX_SUBJECTS = 1024;

interface Subject {
  nextAt: number;
  repeated: number;
}

/**
 * The log of what was refused before it had a connection record. Whoever floods us does not flood the log: every refusal is counted
 * elsewhere, and here each subject has one line now and then.
 */
export class RefusalLog {
  readonly #log: LogLine;
  readonly #clock: () => number;
  readonly #subjects = new Map<string, Subject>();
  readonly #budget = new Budget(LINES_AT_ONCE, LINES_A_SECOND);

  /** @param clock milliseconds */
  constructor(log: LogLine, clock: () => number = Date.now) {
    this.#log = log;
    this.#clock = clock;
  }

  /** Logs a refusal, or only remembers that it was one of many. */
  add(level: 'info' | 'warn', message: string, refusal: LoggedRefusal & Readonly<Record<string, unknown>>): void {
    const now = this.#clock();
    const key = `${refusal.reason} ${refusal.code ?? ''} ${refusal.remoteAddress ?? refusal.workloadId ?? refusal.account}`;
    const subject = this.#subjects.get(key);
    if ((subject !== undefined && now < subject.nextAt) || !this.#budget.take()) {
      if (subject !== undefined) subject.repeated++;
      return;
    }
    const repeated = subject?.repeated ?? 0;
    this.#subjects.delete(key);
    this.#subjects.set(key, { nextAt: now + REPEAT_MS, repeated: 0 });
    if (this.#subjects.size > MAX_SUBJECTS) this.#subjects.delete(this.#subjects.keys().next().value as string);
    this.#log(level, message, repeated === 0 ? refusal : { ...refusal, repeated });
  }
}
