import type { ConfigProblem } from '../config/config-problem.ts';
import { formatProblem } from '../config/format-problem.ts';
import type { Logger } from '../log/log.ts';

/** Lines for one change: a file may have a hundred problems, and a directory thousands of files. All of them are in /v1/state. */
const MAX_LINES = 20;

/** Logs and counts configuration that was refused: each problem when it comes, not again with every later change. */
export class ConfigProblemLog {
  readonly #log: Logger;
  readonly #counts = new Map<string, number>();
  #lines: readonly string[] = [];

  constructor(log: Logger) {
    this.#log = log;
  }

  /** What is wrong now, as lines for people. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** How many problems there have been, by code. */
  get counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }

  /** Takes all problems that there are now. */
  report(problems: readonly ConfigProblem[]): void {
    const before = new Set(this.#lines);
    this.#lines = problems.map((problem) => formatProblem(problem));
    const added = problems.filter((_, index) => !before.has(this.#lines[index] as string));
    for (const { code } of added) this.#counts.set(code, (this.#counts.get(code) ?? 0) + 1);
    for (const { code, file, line, field, message } of added.slice(0, MAX_LINES)) {
      this.#log.error({ code, file, line, field }, `configuration refused: ${message}`);
    }
    if (added.length > MAX_LINES) this.#log.error({ more: added.length - MAX_LINES }, 'more configuration was refused: see `weft status`');
    if (problems.length === 0 && before.size > 0) this.#log.warn('the configuration is in order again');
  }
}
