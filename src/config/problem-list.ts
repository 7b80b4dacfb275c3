import type { ConfigProblem, ConfigProblemCode } from './config-problem.ts';
import { MAX_PROBLEMS_PER_FILE } from './limits.ts';

/** The problems of one file, in the order they were found, cut at MAX_PROBLEMS_PER_FILE with a last line that counts the rest. */
export class ProblemList {
  readonly file: string;
  readonly #problems: ConfigProblem[] = [];
  #count = 0;
  #fatal = 0;
  #fatalShown = 0;

  constructor(file: string) {
    this.file = file;
  }

  /** All problems so far, the uncounted ones too. */
  get count(): number {
    return this.#count;
  }

  /** Those that cost a whole resource: without a consequence of their own. */
  get fatal(): number {
    return this.#fatal;
  }

  /** @param consequence see ConfigProblem; null when the resource is refused */
  add(
    code: ConfigProblemCode,
    line: number,
    column: number,
    field: string,
    message: string,
    nextStep: string,
    consequence: string | null = null,
  ): void {
    this.#count += 1;
    if (consequence === null) this.#fatal += 1;
    if (this.#count > MAX_PROBLEMS_PER_FILE) return;
    if (consequence === null) this.#fatalShown += 1;
    const rest = consequence === null ? {} : { consequence };
    this.#problems.push({ file: this.file, line, column, field, message, nextStep, code, ...rest });
  }

  /** The list as it is reported. */
  finish(): ConfigProblem[] {
    const hidden = this.#count - MAX_PROBLEMS_PER_FILE;
    if (hidden <= 0) return this.#problems;
    const rest: ConfigProblem = {
      file: this.file,
      line: 0,
      column: 0,
      field: '',
      message: `${hidden} more problems are not shown`,
      nextStep: 'fix the problems above first',
      code: 'WEFT_CONFIG_TOO_LARGE',
      ...(this.#fatal === this.#fatalShown ? { consequence: 'their rules are not in force as written either' } : {}),
    };
    return [...this.#problems, rest];
  }
}
