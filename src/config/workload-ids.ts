import { ConfigError } from './config-error.ts';

const MAX_ID = 0xffff_ffff;
/** Names remembered. Far above what one mesh has at a time; it bounds what years of pods with random names leave behind. */
const MAX_NAMES = 200_000;

/**
 * Numbers for workloads, as the kernel attests them: never 0, 32 bits, one number per `namespace/name` for the agent's life, and no
 * number for two names ever. A workload that goes away and comes back under its name has its old number, unless MAX_NAMES others were
 * asked for in between.
 */
export class WorkloadIds {
  /** In the order they were last asked for. */
  readonly #ids = new Map<string, number>();
  #last: number;

  /** @param last the highest number in use already: numbers start above it */
  constructor(last = 0) {
    this.#last = last;
  }

  /**
   * The number of a workload.
   * @throws ConfigError WEFT_CONFIG_WORKLOAD_IDS after 4,294,967,295 names
   */
  idOf(namespace: string, name: string): number {
    const key = `${namespace}/${name}`;
    const known = this.#ids.get(key);
    if (known !== undefined) {
      this.#ids.delete(key);
      this.#ids.set(key, known);
      return known;
    }
    if (this.#last >= MAX_ID) {
      throw new ConfigError('WEFT_CONFIG_WORKLOAD_IDS', 'no workload numbers are left', { nextStep: 'restart the agent' });
    }
    this.#last += 1;
    this.#ids.set(key, this.#last);
    if (this.#ids.size > MAX_NAMES) this.#forgetOldest();
    return this.#last;
  }

  #forgetOldest(): void {
    const oldest = this.#ids.keys().next();
    if (oldest.done !== true) this.#ids.delete(oldest.value);
  }
}
