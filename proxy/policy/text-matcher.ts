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

/** Orders strings by their UTF-16 code units. */
export function compareFromStart(a: string, b: string): number {
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
 * Index of the last value that is not greater than `text`, or -1. All strings that start with a given one are neighbours in the order, so
 * every value that `text` starts with also starts the value found, or is it. In a cover that leaves one candidate.
 */
export function floor(sorted: readonly string[], text: string, compare: (a: string, b: string) => number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compare(sorted[middle] as string, text) <= 0) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Up to this many values are tried one after the other: it is faster than hashing a text that was just cut from the wire. */
const FEW = 4;

/**
 * The values of one policy field, as a set that is asked in time independent of its size (exact) or logarithmic in it (prefix, suffix).
 * Forms (Istio): `abc` equals, `abc*` starts with, `*abc` ends with, `*` present and not empty. Only a first or last `*` is special,
 * and a first one wins: `*a*` is "ends with `a*`". The empty text stands for a missing attribute and matches nothing.
 */
export class TextMatcher {
  readonly #any: boolean;
  readonly #fewExact: readonly string[];
  readonly #manyExact: ReadonlySet<string> | null;
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
    this.#fewExact = exact.size <= FEW ? [...exact] : [];
    this.#manyExact = exact.size <= FEW ? null : exact;
    this.#prefixes = sortedCover(prefixes, compareFromStart, (a, b) => b.startsWith(a));
    this.#suffixes = sortedCover(suffixes, compareFromEnd, (a, b) => b.endsWith(a));
  }

  /** True if any value matches. Allocates nothing. */
  matches(text: string): boolean {
    if (text.length === 0) return false;
    if (this.#any) return true;
    const few = this.#fewExact;
    for (let i = 0; i < few.length; i++) {
      if (few[i] === text) return true;
    }
    if (this.#manyExact?.has(text)) return true;
    return this.#matchesPrefix(text) || this.#matchesSuffix(text);
  }

  #matchesPrefix(text: string): boolean {
    const prefixes = this.#prefixes;
    if (prefixes.length > FEW) {
      const at = floor(prefixes, text, compareFromStart);
      return at !== -1 && text.startsWith(prefixes[at] as string);
    }
    for (let i = 0; i < prefixes.length; i++) {
      if (text.startsWith(prefixes[i] as string)) return true;
    }
    return false;
  }

  #matchesSuffix(text: string): boolean {
    const suffixes = this.#suffixes;
    if (suffixes.length > FEW) {
      const at = floor(suffixes, text, compareFromEnd);
      return at !== -1 && text.endsWith(suffixes[at] as string);
    }
    for (let i = 0; i < suffixes.length; i++) {
      if (text.endsWith(suffixes[i] as string)) return true;
    }
    return false;
  }

  /** What must be equal to, or start, a text that matches; null if a text may match in another way. For an index. */
  get beginnings(): { readonly exact: Iterable<string>; readonly prefixes: readonly string[] } | null {
    if (this.#any || this.#suffixes.length > 0) return null;
    return { exact: this.#manyExact ?? this.#fewExact, prefixes: this.#prefixes };
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
