/**
 * The decision table: which entries (operations of rules) an HTTP request's method, path and host match, found in one walk over their
 * bytes. The format is made to be run by the kernel too: plain arrays, no pointers, every loop bounded by the length of the input.
 *
 * A walk has three parts: method, path, host; each is followed by the separator, a symbol of its own that no byte stands for, so that
 * nothing in a path can be taken for the end of it. States are numbered by what they are:
 *
 * - `[0, sinks)`: the answer is known, whatever follows. The state's number is the result.
 * - `[sinks, sinks + leaves)`: only one text can match here. `leafHeads` has four words for each: where the text begins in `leafBytes`, its
 *   length, the state if the input goes on with it, and the state if not. Leaves may share a text, if they read in one direction.
 * - all others: rows of `next`, one column for each class of bytes (`classMap`); column 0 is the separator.
 *
 * Leaf texts are literal bytes, and operators (LEAF_*), which are smaller than any literal. If the last one is LEAF_CONTINUE, the walk goes on
 * in this part, after the text, in the state for a match. Every other state that a leaf leads to is the one after this part, its separator
 * taken; without LEAF_CONTINUE the text must match to the end of the part. After LEAF_REST_* and LEAF_ALL only a literal follows: no leaf
 * needs to go back.
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
/** The end of a text after which the part goes on; before it are only literals. */
export const LEAF_CONTINUE = 5;
/** Literals below this cannot be told from operators. */
export const FIRST_LITERAL = 8;

const SLASH = 0x2f;
const LEAF_WORDS = 4;

/** How a leaf is compared, decoded once: most are one literal, which the engine compares faster than a loop over bytes. */
const NOT_DECODED = 0;
const LITERAL_TO_END = 1;
const LITERAL_THEN_ALL = 2;
const LITERAL_THEN_CONTINUE = 3;
const WITH_OPERATORS = 4;

/** Runs a decision table: the twin of the kernel's interpreter. */
export class DecisionTable {
  readonly data: DecisionTableData;
  /** One byte for each character that narrow operators take. */
  readonly #pathCharacters: Uint8Array;
  /** The number of each leaf's text: many share one. */
  readonly #textOfLeaf: Uint16Array;
  readonly #textKinds: number[];
  readonly #texts: string[];

  constructor(data: DecisionTableData, pathCharacters: Uint8Array) {
    this.data = data;
    this.#pathCharacters = pathCharacters;
    this.#textOfLeaf = new Uint16Array(data.leaves);
    const byPlace = new Map<number, number>();
    for (let leaf = 0; leaf < data.leaves; leaf++) {
      const place = data.leafHeads[leaf * LEAF_WORDS] as number;
      const known = byPlace.get(place) ?? byPlace.size;
      byPlace.set(place, known);
      this.#textOfLeaf[leaf] = known;
    }
    this.#textKinds = Array.from(byPlace, () => NOT_DECODED);
    this.#texts = Array.from(byPlace, () => '');
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
    return [classMap, next, leafHeads, leafBytes, resultOffsets, results].reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /** The state after one part and its separator, or a sink. */
  #part(text: string, from: number, backward: boolean): number {
    const { sinks, leaves, classes, classMap, otherClass, next, leafHeads } = this.data;
    const firstRow = sinks + leaves;
    const length = text.length;
    let state = from;
    let i = 0;
    for (;;) {
      if (state >= firstRow) {
        const row = (state - firstRow) * classes;
        if (i === length) return next[row + SEPARATOR_CLASS] as number;
        const code = text.charCodeAt(backward ? length - 1 - i : i);
        state = next[row + (code < 256 ? (classMap[code] as number) : otherClass)] as number;
        i++;
        continue;
      }
      if (state < sinks) return state;
      const leaf = state - sinks;
      const number = this.#textOfLeaf[leaf] as number;
      const kind = (this.#textKinds[number] as number) || this.#decode(leaf, backward);
      if (kind === WITH_OPERATORS) return this.#operators(text, i, leaf, backward);
      const literal = this.#texts[number] as string;
      if (!(backward ? text.endsWith(literal, length - i) : text.startsWith(literal, i))) return leafHeads[leaf * LEAF_WORDS + 3] as number;
      i += literal.length;
      state = leafHeads[leaf * LEAF_WORDS + 2] as number;
      if (kind === LITERAL_THEN_CONTINUE) continue;
      return kind === LITERAL_THEN_ALL || i === length ? state : (leafHeads[leaf * LEAF_WORDS + 3] as number);
    }
  }

  /** A text is met in one direction only, and is turned into that. */
  #decode(leaf: number, backward: boolean): number {
    const { leafHeads, leafBytes } = this.data;
    const number = this.#textOfLeaf[leaf] as number;
    const begin = leafHeads[leaf * LEAF_WORDS] as number;
    const bytes = leafBytes.subarray(begin, begin + (leafHeads[leaf * LEAF_WORDS + 1] as number));
    const last = bytes.at(-1);
    let kind = LITERAL_TO_END;
    if (last === LEAF_ALL) kind = LITERAL_THEN_ALL;
    else if (last === LEAF_CONTINUE) kind = LITERAL_THEN_CONTINUE;
    const literal = kind === LITERAL_TO_END ? bytes : bytes.subarray(0, -1);
    if (literal.some((byte) => byte < FIRST_LITERAL)) kind = WITH_OPERATORS;
    else this.#texts[number] = Buffer.from(backward ? literal.toReversed() : literal).latin1Slice();
    this.#textKinds[number] = kind;
    return kind;
  }

  #operators(text: string, from: number, leaf: number, backward: boolean): number {
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
