/**
 * The decision table: which entries (operations of rules) an HTTP request's method, path and host match, found in one walk over their
 * bytes. The format is made to be run by the kernel too: plain arrays, no pointers, every loop bounded by the length of the input.
 *
 * A walk has three parts: method, path, host; each is followed by the separator, a symbol of its own that no byte stands for, so that
 * nothing in a path can be taken for the end of it. States are numbered by what they are:
 *
 * - `[0, sinks)`: the answer is known, whatever follows. The state's number is the result.
 * - `[sinks, sinks + leaves)`: what is left of this part is compared with one text. `leafHeads` has four words for each: where its text
 *   begins in `leafBytes`, its length, the state after this part (its separator taken) if all matches, and the one if not.
 * - all others: rows of `next`, one column for each class of bytes (`classMap`); column 0 is the separator.
 *
 * Leaf texts are literal bytes, and operators (LEAF_*), which are smaller than any literal. After LEAF_REST_* and LEAF_ALL only a literal
 * follows: no leaf needs to go back.
 *
 * Result r is `results[resultOffsets[r]] …` up to `resultOffsets[r + 1]`: entries in order, with ENTRY_CONDITIONAL set where the entry
 * asks more than method, path and host. The list ends at the first entry without that bit: it decides. The kernel may let a request
 * pass only if the first entry of its result is one without the bit and allows; it asks the proxy for all else, for input with bytes
 * over 0x7f, and when the generation is not the current one.
 */
export interface DecisionTableData {
  /** Of the policies it was made from. */
  readonly generation: number;
  /** True if the path is read from its last byte to its first (a table of suffixes); texts of path leaves are then reversed. */
  readonly pathReversed: boolean;
  readonly start: number;
  readonly sinks: number;
  readonly leaves: number;
  /** Columns of a row. */
  readonly classes: number;
  /** 256 entries. */
  readonly classMap: Uint8Array;
  /** The class of characters that are no byte, in JavaScript strings. */
  readonly otherClass: number;
  readonly next: Uint16Array;
  readonly leafHeads: Uint32Array;
  readonly leafBytes: Uint8Array;
  readonly resultOffsets: Uint32Array;
  readonly results: Uint32Array;
}

/** Set in `results` for an entry that has more conditions. */
export const ENTRY_CONDITIONAL = 0x8000_0000;

/** The separator's column. */
export const SEPARATOR_CLASS = 0;

/** Operators of leaf texts. ALL: anything, also nothing. SOME: anything but nothing. SEGMENT: no slash, not empty. REST: path characters and slashes, also none. */
export const LEAF_ALL = 0;
export const LEAF_SOME = 1;
export const LEAF_SEGMENT_WIDE = 2;
export const LEAF_SEGMENT_NARROW = 3;
export const LEAF_REST_NARROW = 4;
/** Literals below this cannot be told from operators. */
export const FIRST_LITERAL = 8;

const SLASH = 0x2f;
const LEAF_WORDS = 4;

/** Runs a decision table: the twin of the kernel's interpreter. */
export class DecisionTable {
  readonly data: DecisionTableData;
  /** One byte for each character that narrow operators take. */
  readonly #pathCharacters: Uint8Array;

  constructor(data: DecisionTableData, pathCharacters: Uint8Array) {
    this.data = data;
    this.#pathCharacters = pathCharacters;
  }

  /** The result for a request. The host is lower-cased. Takes time linear in the length of its arguments and allocates nothing. */
  run(method: string, path: string, host: string): number {
    const { sinks, start, pathReversed } = this.data;
    let state = start;
    if (state >= sinks) state = this.#part(method, state, false);
    if (state >= sinks) state = this.#part(path, state, pathReversed);
    if (state >= sinks) state = this.#part(host, state, false);
    return state;
  }

  /** The memory of the arrays. */
  get bytes(): number {
    const { classMap, next, leafHeads, leafBytes, resultOffsets, results } = this.data;
    return (
      classMap.byteLength + next.byteLength + leafHeads.byteLength + leafBytes.byteLength + resultOffsets.byteLength + results.byteLength
    );
  }

  /** The state after one part and its separator, or a sink. */
  #part(text: string, from: number, backward: boolean): number {
    const { sinks, leaves, classes, classMap, otherClass, next } = this.data;
    const firstRow = sinks + leaves;
    const length = text.length;
    let state = from;
    for (let i = 0; i < length; i++) {
      if (state < firstRow) return state < sinks ? state : this.#leaf(text, i, state - sinks, backward);
      const code = text.charCodeAt(backward ? length - 1 - i : i);
      state = next[(state - firstRow) * classes + (code < 256 ? (classMap[code] as number) : otherClass)] as number;
    }
    if (state < firstRow) return state < sinks ? state : this.#leaf(text, length, state - sinks, backward);
    return next[(state - firstRow) * classes + SEPARATOR_CLASS] as number;
  }

  #leaf(text: string, from: number, leaf: number, backward: boolean): number {
    const { leafHeads, leafBytes } = this.data;
    const head = leaf * LEAF_WORDS;
    const begin = leafHeads[head] as number;
    const end = begin + (leafHeads[head + 1] as number);
    const miss = leafHeads[head + 3] as number;
    const length = text.length;
    let i = from;
    for (let at = begin; at < end; at++) {
      const byte = leafBytes[at] as number;
      if (byte >= FIRST_LITERAL) {
        if (i === length || text.charCodeAt(backward ? length - 1 - i : i) !== byte) return miss;
        i++;
        continue;
      }
      if (byte === LEAF_SEGMENT_WIDE || byte === LEAF_SEGMENT_NARROW) {
        const first = i;
        while (i < length && this.#inSegment(text.charCodeAt(backward ? length - 1 - i : i), byte)) i++;
        if (i === first) return miss;
        continue;
      }
      if (byte === LEAF_SOME && i === length) return miss;
      // What the operator takes ends where the literal after it begins.
      const last = length - (end - at - 1);
      if (i > last) return miss;
      if (byte === LEAF_REST_NARROW) {
        for (; i < last; i++) {
          const code = text.charCodeAt(backward ? length - 1 - i : i);
          if (code !== SLASH && !this.#inSegment(code, LEAF_SEGMENT_NARROW)) return miss;
        }
      }
      i = last;
    }
    return i === length ? (leafHeads[head + 2] as number) : miss;
  }

  #inSegment(code: number, operator: number): boolean {
    if (operator === LEAF_SEGMENT_WIDE) return code !== SLASH;
    return code < 256 && this.#pathCharacters[code] === 1;
  }
}
