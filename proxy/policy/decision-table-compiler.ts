import {
  DecisionTable,
  ENTRY_CONDITIONAL,
  FIRST_LITERAL,
  LEAF_ALL,
  LEAF_CONTINUE,
  LEAF_REST_NARROW,
  LEAF_SEGMENT_NARROW,
  LEAF_SEGMENT_WIDE,
  LEAF_SOME,
} from './decision-table.ts';
import type { OperationPatterns } from './operation-matcher.ts';
import { isPathCharacter } from './path-template.ts';
import { PolicyError } from './policy-error.ts';
import type { TextPattern } from './text-pattern.ts';

/** What a table finds: an operation's patterns. An entry without patterns matches every request. */
export interface TableEntry {
  readonly patterns: OperationPatterns | null;
  /** True if more than method, path and host has to be asked. */
  readonly conditional: boolean;
}

export interface DecisionTableOptions {
  readonly generation: number;
  /** Read the path from its end: for entries whose paths are suffixes. */
  readonly pathReversed?: boolean;
  /** States in all; at most 65,536, and by default that. */
  readonly maxStates?: number;
  /** Steps of the compiler; keeps one compilation to a part of a second. */
  readonly maxWork?: number;
}

const MAX_STATES = 65_536;
const MAX_ROW_CELLS = 4_194_304;
const MAX_WORK = 8_000_000;

/** Shorter texts before patterns part are walked row by row. */
const MIN_RUN = 2;

const SLASH = 0x2f;
/** A symbol that no pattern names, that is no path character and no slash. */
const OTHER = -1;

const PATH_CHARACTERS = Uint8Array.from({ length: 256 }, (_, code) => (isPathCharacter(code) ? 1 : 0));

function tooLarge(what: string): PolicyError {
  return new PolicyError('WEFT_POLICY_TABLE', `the rules do not fit in a decision table: ${what}`, {
    nextStep: 'nothing is decided differently; to decide faster, use fewer combinations of prefix, suffix and template paths',
  });
}

/** Reads the bytes that a node loops on. */
type Loop = 'none' | 'all' | 'segment-wide' | 'segment-narrow' | 'rest-narrow';

function loopTakes(loop: Loop, symbol: number): boolean {
  if (loop === 'none') return false;
  if (loop === 'all') return true;
  if (loop === 'segment-wide') return symbol !== SLASH;
  if (symbol === SLASH) return loop === 'rest-narrow';
  return symbol !== OTHER && PATH_CHARACTERS[symbol] === 1;
}

/** One operator of a pattern: how it loops, whether it takes nothing too, and its byte in leaves. */
interface Operator {
  readonly loop: Loop;
  readonly optional: boolean;
  readonly leafByte: number;
}

const NO_OPERATORS: readonly (readonly [Operator, Node])[] = [];
const NO_ACCEPTS: readonly number[] = [];

const ALL: Operator = { loop: 'all', optional: true, leafByte: LEAF_ALL };
const SOME: Operator = { loop: 'all', optional: false, leafByte: LEAF_SOME };
const SEGMENT_WIDE: Operator = { loop: 'segment-wide', optional: false, leafByte: LEAF_SEGMENT_WIDE };
const SEGMENT_NARROW: Operator = { loop: 'segment-narrow', optional: false, leafByte: LEAF_SEGMENT_NARROW };
const REST_NARROW: Operator = { loop: 'rest-narrow', optional: true, leafByte: LEAF_REST_NARROW };

/** A node of the trie of patterns of one part: patterns that begin alike share their nodes. Most have one child: it needs no map. */
class Node {
  readonly id: number;
  readonly loop: Loop;
  /** The literal of the only child, or -1. */
  firstCode = -1;
  firstChild: Node | null = null;
  /** All children by literal, where there are several. */
  literals: Map<number, Node> | null = null;
  operators: readonly (readonly [Operator, Node])[] = NO_OPERATORS;
  /** Patterns that end here. */
  accepts: readonly number[] = NO_ACCEPTS;

  constructor(id: number, loop: Loop) {
    this.id = id;
    this.loop = loop;
  }

  get literalCount(): number {
    if (this.literals !== null) return this.literals.size;
    return this.firstChild === null ? 0 : 1;
  }

  get isEnd(): boolean {
    return this.firstChild === null && this.operators.length === 0;
  }

  child(code: number): Node | undefined {
    if (this.literals !== null) return this.literals.get(code);
    return this.firstCode === code && this.firstChild !== null ? this.firstChild : undefined;
  }

  addChild(code: number, child: Node): void {
    if (this.firstChild === null) {
      this.firstCode = code;
      this.firstChild = child;
      return;
    }
    this.literals ??= new Map([[this.firstCode, this.firstChild]]);
    this.literals.set(code, child);
  }

  addCodesTo(codes: Set<number>): void {
    if (this.literals !== null) {
      for (const code of this.literals.keys()) codes.add(code);
    } else if (this.firstChild !== null) codes.add(this.firstCode);
  }
}

function patternItems(pattern: TextPattern): (string | Operator)[] {
  if (pattern.kind === 'any') return [SOME];
  if (pattern.kind === 'exact') return [pattern.text];
  if (pattern.kind === 'prefix') return [pattern.text, ALL];
  if (pattern.kind === 'suffix') return [ALL, pattern.text];
  const { items, wide } = pattern.template;
  return items.map((item) => {
    if (typeof item === 'string') return item;
    if (item.operator === 'segment') return wide ? SEGMENT_WIDE : SEGMENT_NARROW;
    return wide ? ALL : REST_NARROW;
  });
}

/** The patterns of one part of the walk, of the entries that are still possible there. */
interface Context {
  readonly part: 0 | 1 | 2;
  readonly id: number;
  readonly root: readonly Node[];
  /** Numbers of the entries that are still possible, in order. */
  readonly alive: readonly number[];
  /** Entries by the pattern that makes them match, and those that need none. */
  readonly byPattern: readonly (readonly number[])[];
  readonly free: readonly number[];
  /** For each entry that has some: patterns that exclude it. */
  readonly excluded: ReadonlyMap<number, readonly number[]>;
}

/** States while compiling: kind and number. Renumbered at the end. */
type State = { readonly kind: 'sink' | 'leaf' | 'row'; readonly index: number };

interface Leaf {
  /** Read from the end of its part. */
  readonly backward: boolean;
  readonly text: readonly number[];
  readonly hit: State;
  readonly miss: State;
}

interface Row {
  readonly context: Context;
  readonly nodes: readonly Node[];
  readonly cells: State[];
}

const PARTS = [
  ['methods', 'notMethods'],
  ['paths', 'notPaths'],
  ['hosts', 'notHosts'],
] as const;
const NO_PATTERNS: readonly TextPattern[] = [];

class Compiler {
  readonly #entries: readonly TableEntry[];
  readonly #options: DecisionTableOptions;
  readonly #maxStates: number;
  #work: number;
  #nodes = 0;
  readonly #contexts = new Map<string, Context>();
  readonly #sinks = new Map<string, State>();
  readonly #sinkLists: (readonly number[])[] = [];
  readonly #leaves: Leaf[] = [];
  readonly #rows: Row[] = [];
  readonly #states = new Map<string, State>();
  readonly #classMap = new Uint8Array(256);
  /** For each class but the separator's a symbol that stands for it. */
  readonly #symbols: number[] = [];
  /** Per entry, the last part in which it asks anything; -1: none. */
  readonly #lastPart: Int8Array;

  constructor(entries: readonly TableEntry[], options: DecisionTableOptions) {
    this.#entries = entries;
    this.#options = options;
    this.#maxStates = Math.min(options.maxStates ?? MAX_STATES, MAX_STATES);
    this.#work = options.maxWork ?? MAX_WORK;
    this.#lastPart = Int8Array.from(entries, ({ patterns }) => {
      if (patterns === null) return -1;
      return PARTS.findLastIndex(([positive, negative]) => patterns[positive] !== null || patterns[negative] !== null);
    });
  }

  compile(): DecisionTable {
    this.#makeClasses();
    const start = this.#enter(
      0,
      this.#decisiveCut(
        Array.from(this.#entries, (_, i) => i),
        -1,
      ),
    );
    // Rows are made while they are filled.
    for (let i = 0; i < this.#rows.length; i++) this.#fillRow(this.#rows[i] as Row);
    return this.#assemble(start);
  }

  #spend(steps: number): void {
    this.#work -= steps;
    if (this.#work < 0) throw tooLarge('they combine in too many ways');
  }

  /** Bytes that some pattern names get a class each; the others share three. */
  #makeClasses(): void {
    const named = new Set<number>();
    for (const { patterns } of this.#entries) {
      if (patterns === null) continue;
      for (const pattern of Object.values(patterns).flatMap((list) => list ?? NO_PATTERNS)) {
        for (const item of patternItems(pattern)) {
          if (typeof item !== 'string') continue;
          this.#spend(item.length);
          for (let i = 0; i < item.length; i++) {
            const code = item.charCodeAt(i);
            if (code < FIRST_LITERAL || code > 255) throw tooLarge('a value has a character that is no byte of text');
            named.add(code);
          }
        }
      }
    }
    const shared = new Map<string, number>();
    const classOf = (key: string, symbol: number): number => {
      let known = shared.get(key);
      if (known === undefined) {
        known = this.#symbols.push(symbol);
        shared.set(key, known);
      }
      return known;
    };
    classOf('other', OTHER);
    for (let byte = 0; byte < 256; byte++) {
      let key = 'other';
      if (named.has(byte) || byte === SLASH) key = String(byte);
      else if (PATH_CHARACTERS[byte] === 1) key = 'path';
      this.#classMap[byte] = classOf(key, byte);
    }
    // 'other' was made first, and stands for what is no byte as well.
    if (this.#symbols.length > 255) throw tooLarge('their values use too many different bytes');
  }

  /** Entries up to the first that nothing can take the request away from: it has no conditions after `part`. */
  #decisiveCut(entries: readonly number[], part: number): readonly number[] {
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as number;
      if ((this.#lastPart[entry] as number) <= part && !(this.#entries[entry] as TableEntry).conditional) return entries.slice(0, i + 1);
    }
    return entries;
  }

  /** The state before a part, for the entries that are possible there. */
  #enter(part: number, alive: readonly number[]): State {
    let asks = false;
    for (const entry of alive) asks ||= (this.#lastPart[entry] as number) >= part;
    const key = alive.join();
    this.#spend(alive.length + 1);
    if (!asks || part === 3) {
      let sink = this.#sinks.get(key);
      if (sink === undefined) {
        sink = { kind: 'sink', index: this.#sinkLists.push(alive) - 1 };
        this.#sinks.set(key, sink);
        this.#checkSize();
      }
      return sink;
    }
    const contextKey = `${part}:${key}`;
    let context = this.#contexts.get(contextKey);
    if (context === undefined) {
      context = this.#makeContext(part as 0 | 1 | 2, alive);
      this.#contexts.set(contextKey, context);
    }
    return this.#stateOf(context, context.root);
  }

  #makeContext(part: 0 | 1 | 2, alive: readonly number[]): Context {
    const [positive, negative] = PARTS[part];
    const root = this.#newNode('none');
    const patternIds = new Map<Node, number>();
    const byPattern: number[][] = [];
    const add = (pattern: TextPattern): number => {
      const node = this.#addPattern(root, pattern, part === 1 && this.#options.pathReversed === true);
      let id = patternIds.get(node);
      if (id === undefined) {
        id = byPattern.push([]) - 1;
        patternIds.set(node, id);
        node.accepts = [...node.accepts, id];
      }
      return id;
    };
    const free: number[] = [];
    const excluded = new Map<number, readonly number[]>();
    for (const entry of alive) {
      const patterns = (this.#entries[entry] as TableEntry).patterns;
      const asked = patterns === null ? null : patterns[positive];
      if (asked === null) free.push(entry);
      else {
        for (const id of new Set(asked.map(add))) (byPattern[id] as number[]).push(entry);
      }
      const not = patterns === null ? null : patterns[negative];
      if (not !== null) excluded.set(entry, not.map(add));
    }
    return { part, id: this.#contexts.size, root: this.#closure([root]), alive, byPattern, free, excluded };
  }

  #newNode(loop: Loop): Node {
    this.#spend(4);
    return new Node(this.#nodes++, loop);
  }

  #addPattern(root: Node, pattern: TextPattern, reversed: boolean): Node {
    let items = patternItems(pattern);
    if (reversed) items = items.toReversed().map((item) => (typeof item === 'string' ? [...item].toReversed().join('') : item));
    let node = root;
    for (const item of items) {
      if (typeof item === 'string') {
        for (let i = 0; i < item.length; i++) {
          const code = item.charCodeAt(i);
          let child = node.child(code);
          if (child === undefined) {
            child = this.#newNode('none');
            node.addChild(code, child);
          }
          node = child;
        }
        continue;
      }
      let child = node.operators.find(([operator]) => operator === item)?.[1];
      if (child === undefined) {
        child = this.#newNode(item.loop);
        node.operators = [...node.operators, [item, child]];
      }
      node = child;
    }
    return node;
  }

  /** With every node that is reached without reading anything; sorted, without repetition. */
  #closure(nodes: readonly Node[]): readonly Node[] {
    this.#spend(nodes.length);
    if (nodes.length === 0 || (nodes.length === 1 && (nodes[0] as Node).operators.length === 0)) return nodes;
    const set = new Set<Node>(nodes);
    for (const node of set) {
      for (const [operator, child] of node.operators) {
        if (operator.optional) set.add(child);
      }
    }
    this.#spend(set.size);
    return set.size < 2 ? [...set] : [...set].toSorted((a, b) => a.id - b.id);
  }

  #step(nodes: readonly Node[], symbol: number): readonly Node[] {
    const reached: Node[] = [];
    for (const node of nodes) {
      if (loopTakes(node.loop, symbol)) reached.push(node);
      const child = node.child(symbol);
      if (child !== undefined) reached.push(child);
      for (const [operator, after] of node.operators) {
        if (!operator.optional && loopTakes(operator.loop, symbol)) reached.push(after);
      }
    }
    this.#spend(nodes.length);
    return this.#closure(reached);
  }

  /** The state after the separator: what is left of the entries goes on to the next part. */
  #afterSeparator(context: Context, nodes: readonly Node[]): State {
    const matched = new Set<number>();
    for (const node of nodes) {
      for (const id of node.accepts) matched.add(id);
    }
    let candidates = context.free;
    if (matched.size > 0) {
      const all = new Set(context.free);
      for (const id of matched) {
        for (const entry of context.byPattern[id] as readonly number[]) all.add(entry);
      }
      candidates = all.size === context.free.length ? context.free : [...all].toSorted((a, b) => a - b);
    }
    this.#spend(candidates.length + 1);
    const left =
      context.excluded.size === 0 || matched.size === 0
        ? candidates
        : candidates.filter((entry) => !context.excluded.get(entry)?.some((id) => matched.has(id)));
    return this.#enter(context.part + 1, this.#decisiveCut(left, context.part));
  }

  #stateOf(context: Context, nodes: readonly Node[]): State {
    let key = `${context.id}`;
    for (const node of nodes) key += `,${node.id}`;
    let state = this.#states.get(key);
    if (state === undefined) {
      state = this.#makeState(context, nodes);
      this.#states.set(key, state);
    }
    return state;
  }

  #makeState(context: Context, nodes: readonly Node[]): State {
    const backward = context.part === 1 && this.#options.pathReversed === true;
    if (nodes.every((node) => node.loop === 'all' && node.isEnd)) {
      // Nothing that follows in this part makes a difference.
      const after = this.#afterSeparator(context, nodes);
      return after.kind === 'sink' ? after : this.#addLeaf({ backward, text: [LEAF_ALL], hit: after, miss: after });
    }
    const chain = this.#chain(nodes);
    if (chain !== null) {
      const { text, end } = chain;
      const miss = this.#afterSeparator(context, []);
      if (end.isEnd) return this.#addLeaf({ backward, text, hit: this.#afterSeparator(context, [end]), miss });
      return this.#addLeaf({ backward, text: [...text, LEAF_CONTINUE], hit: this.#stateOf(context, this.#closure([end])), miss });
    }
    const row: Row = { context, nodes, cells: [] };
    const state: State = { kind: 'row', index: this.#rows.push(row) - 1 };
    this.#checkSize();
    return state;
  }

  #addLeaf(leaf: Leaf): State {
    const state: State = { kind: 'leaf', index: this.#leaves.push(leaf) - 1 };
    this.#checkSize();
    return state;
  }

  #checkSize(): void {
    if (this.#rows.length + this.#leaves.length + this.#sinkLists.length > this.#maxStates) throw tooLarge('too many states');
    if (this.#rows.length * (this.#symbols.length + 1) > MAX_ROW_CELLS) throw tooLarge('too many states');
  }

  /** The text that all patterns which are left go on with: to the end of the only one, or to where they part. Null if it is no leaf's text. */
  #chain(nodes: readonly Node[]): { readonly text: number[]; readonly end: Node } | null {
    let node = nodes[0] as Node;
    if (node.loop !== 'none') return null;
    if (nodes.length > 1) {
      // A node and what follows it without reading anything are one place in one pattern.
      const [only] = node.operators;
      const alone = nodes.length === 2 && node.literalCount === 0 && node.operators.length === 1;
      if (!alone || only?.[1] !== nodes[1]) return null;
    }
    const text: number[] = [];
    /** Where the patterns part, if they do before the end: a place after literals alone. */
    let parting: Node | null = null;
    let partingLength = 0;
    let operators = false;
    let literalsOnly = false;
    while (!node.isEnd) {
      if (!operators && text.length >= MIN_RUN) {
        parting = node;
        partingLength = text.length;
      }
      if (node.accepts.length > 0 || node.literalCount + node.operators.length > 1) break;
      if (node.firstChild !== null) {
        text.push(node.firstCode);
        node = node.firstChild;
        continue;
      }
      const [operator] = node.operators;
      // A leaf never goes back: what an operator takes must end by itself, or with the text.
      if (operator === undefined || literalsOnly) break;
      operators = true;
      literalsOnly = operator[0].loop === 'all' || operator[0].loop === 'rest-narrow';
      text.push(operator[0].leafByte);
      node = operator[1];
    }
    if (node.isEnd) return text.length === 0 ? null : { text, end: node };
    return parting === null ? null : { text: text.slice(0, partingLength), end: parting };
  }

  #fillRow(row: Row): void {
    const { context, nodes, cells } = row;
    cells.push(this.#afterSeparator(context, nodes));
    this.#spend(this.#symbols.length);
    // Most symbols are named by no node: those go where their kind goes.
    const named = new Set<number>();
    let hasOperators = false;
    for (const node of nodes) {
      node.addCodesTo(named);
      hasOperators ||= node.operators.length > 0 || (node.loop !== 'none' && node.loop !== 'all');
    }
    let path: State | null = null;
    let slash: State | null = null;
    let other: State | null = null;
    for (const symbol of this.#symbols) {
      if (named.has(symbol)) cells.push(this.#stateOf(context, this.#step(nodes, symbol)));
      else if (hasOperators && symbol === SLASH) cells.push((slash ??= this.#stateOf(context, this.#step(nodes, symbol))));
      else if (hasOperators && symbol !== OTHER && PATH_CHARACTERS[symbol] === 1) {
        cells.push((path ??= this.#stateOf(context, this.#step(nodes, symbol))));
      } else cells.push((other ??= this.#stateOf(context, this.#step(nodes, OTHER))));
    }
  }

  #assemble(start: State): DecisionTable {
    const sinks = this.#sinkLists.length;
    const leaves = this.#leaves.length;
    const classes = this.#symbols.length + 1;
    const base = { sink: 0, leaf: sinks, row: sinks + leaves } as const;
    const number = ({ kind, index }: State): number => base[kind] + index;
    const next = new Uint16Array(this.#rows.length * classes);
    for (const [i, { cells }] of this.#rows.entries()) {
      for (let c = 0; c < classes; c++) next[i * classes + c] = number(cells[c] as State);
    }
    const leafHeads = new Uint32Array(leaves * 4);
    // Thousands of rules often end alike: a text is kept once.
    const leafBytes: number[] = [];
    const offsets = new Map<string, number>();
    for (const [i, { backward, text, hit, miss }] of this.#leaves.entries()) {
      const key = `${backward}${text.join()}`;
      let offset = offsets.get(key);
      if (offset === undefined) {
        offset = leafBytes.length;
        offsets.set(key, offset);
        for (const byte of text) leafBytes.push(byte);
      }
      leafHeads.set([offset, text.length, number(hit), number(miss)], i * 4);
    }
    const resultOffsets = new Uint32Array(sinks + 1);
    const results: number[] = [];
    for (const [i, list] of this.#sinkLists.entries()) {
      for (const entry of list) results.push(((this.#entries[entry] as TableEntry).conditional ? ENTRY_CONDITIONAL : 0) + entry);
      resultOffsets[i + 1] = results.length;
    }
    const data = {
      generation: this.#options.generation,
      pathReversed: this.#options.pathReversed === true,
      start: number(start),
      sinks,
      leaves,
      classes,
      classMap: this.#classMap,
      otherClass: 1,
      next,
      leafHeads,
      leafBytes: Uint8Array.from(leafBytes),
      resultOffsets,
      results: Uint32Array.from(results),
    };
    return new DecisionTable(data, PATH_CHARACTERS);
  }
}

/**
 * Compiles entries, in the order in which they decide, to a decision table.
 * @throws PolicyError WEFT_POLICY_TABLE when the table would be larger than the bounds: then another matcher must be used
 */
export function compileDecisionTable(entries: readonly TableEntry[], options: DecisionTableOptions): DecisionTable {
  return new Compiler(entries, options).compile();
}
