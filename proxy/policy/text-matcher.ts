import { PolicyError } from './policy-error.ts';

/** Orders strings by their UTF-16 code units read backwards, so that strings with one ending are neighbours. */
function compareFromEnd(a: string, b: string): number {
  let i = a.length - 1;
  let j = b.length - 1;
  while (i >= 0 && j >= 0) {
    const difference = a.charCodeAt(i) - b.charCodeAt(j);
    if (difference !== 0) return difference;
    i--;
    j--;
  }
  return i - j;
}

function compareFromStart(a: string, b: string): number {
  if (a < b) return -1;
  return a > b ? 1 : 0;
}

/** Sorts, and leaves out what a shorter value already covers: afterwards no value is a prefix (or suffix) of another. */
function sortedCover(
  values: readonly string[],
  compare: (a: string, b: string) => number,
  covers: (a: string, b: string) => boolean,
): string[] {
  const cover: string[] = [];
  for (const value of values.toSorted(compare)) {
    const last = cover.at(-1);
    if (last === undefined || !covers(last, value)) cover.push(value);
  }
  return cover;
}

/**
 * The last value that is not greater than `text`, or null. In a cover the values with a common prefix of `text` are one at most, and all
 * strings that start with it are neighbours, so this is the only value that can be a prefix of `text`.
 */
function floor(sorted: readonly string[], text: string, compare: (a: string, b: string) => number): string | null {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compare(sorted[middle] as string, text) <= 0) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? null : (sorted[low - 1] as string);
}

/**
 * The values of one policy field, as a set that is asked in time independent of its size (exact) or logarithmic in it (prefix, suffix).
 * Forms (Istio): `abc` equals, `abc*` starts with, `*abc` ends with, `*` present and not empty. Only a first or last `*` is special,
 * and a first one wins: `*a*` is "ends with `a*`". The empty text stands for a missing attribute and matches nothing.
 */
export class TextMatcher {
  readonly #any: boolean;
  readonly #exact: ReadonlySet<string>;
  readonly #prefixes: readonly string[];
  readonly #suffixes: readonly string[];

  /**
   * @param values as the author wrote them; `field` is for messages
   * @throws PolicyError WEFT_POLICY_VALUE for an empty list, or a value that is empty or not text
   */
  constructor(field: string, values: readonly string[], caseInsensitive = false) {
    checkValues(field, values);
    const exact = new Set<string>();
    const prefixes: string[] = [];
    const suffixes: string[] = [];
    let any = false;
    for (const written of values) {
      const value = caseInsensitive ? written.toLowerCase() : written;
      if (value === '*') any = true;
      else if (value.startsWith('*')) suffixes.push(value.slice(1));
      else if (value.endsWith('*')) prefixes.push(value.slice(0, -1));
      else exact.add(value);
    }
    this.#any = any;
    this.#exact = exact;
    this.#prefixes = sortedCover(prefixes, compareFromStart, (a, b) => b.startsWith(a));
    this.#suffixes = sortedCover(suffixes, compareFromEnd, (a, b) => b.endsWith(a));
  }

  /** True if any value matches. Allocates nothing. */
  matches(text: string): boolean {
    if (text.length === 0) return false;
    if (this.#any || this.#exact.has(text)) return true;
    if (this.#prefixes.length > 0) {
      const prefix = floor(this.#prefixes, text, compareFromStart);
      if (prefix !== null && text.startsWith(prefix)) return true;
    }
    if (this.#suffixes.length > 0) {
      const suffix = floor(this.#suffixes, text, compareFromEnd);
      if (suffix !== null && text.endsWith(suffix)) return true;
    }
    return false;
  }

  /** The values to find by equality. */
  get exact(): ReadonlySet<string> {
    return this.#exact;
  }

  /** True if nothing but equality with one of `exact` can match: such a field can be found through an index. */
  get isExactOnly(): boolean {
    return !this.#any && this.#prefixes.length === 0 && this.#suffixes.length === 0;
  }
}

/**
 * What every list of values must be: not empty, and its values not empty texts.
 * @throws PolicyError WEFT_POLICY_VALUE
 */
export function checkValues(field: string, values: readonly string[]): void {
  if (!Array.isArray(values) || values.length === 0) {
    throw new PolicyError('WEFT_POLICY_VALUE', `${field} has no values`, { nextStep: `give ${field} at least one value, or leave it out` });
  }
  for (const value of values) {
    if (typeof value !== 'string' || value === '') {
      throw new PolicyError('WEFT_POLICY_VALUE', `${field} has an empty value`, { nextStep: `write "*" for any value of ${field}` });
    }
  }
}
