import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser } from 'yaml';
import type { Alias, Document, Pair, Scalar, YAMLError, YAMLMap, YAMLSeq } from 'yaml';
import type { ConfigProblemCode, FieldPath } from './config-problem.ts';
import { fieldText, quote } from './config-problem.ts';
import { MAX_ALIASED_VALUES, MAX_DOCUMENT_LENGTH, MAX_DOCUMENT_TOKENS, MAX_FILE_TOKENS, MAX_NESTING } from './limits.ts';
import type { ProblemList } from './problem-list.ts';

/** A place in a file. Both count from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** One document of a YAML stream as plain data, which can still say where each value was written. */
export interface YamlDocument {
  /** Objects, arrays, strings, numbers, booleans and null. An aliased value is one shared object. */
  readonly value: unknown;
  /**
   * Where a path is written: a plain value at the value, everything else at its key. What is not there is placed at the nearest thing around it.
   * @param atKey the key in any case
   */
  locate(path: FieldPath, atKey?: boolean): Position;
}

/** Tokens between two chances for the caller to do something else. */
const TOKENS_PER_STEP = 2048;

/** What YAML lets in and no configuration has: control characters, and a carriage return that is no line end (which readers disagree on). */
// oxlint-disable-next-line no-control-regex
const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]|\r(?!\n)/;
const DOCUMENT_MARK = /^(?:---|\.\.\.)(?=[ \t\r\n]|$)/gm;
const DECIMAL = /^(?:0|-?[1-9][0-9]{0,15})$/;

const FIX_YAML = 'correct the YAML; `kubectl apply --dry-run=client -f FILE` or a YAML linter shows the same place';
const SPLIT = 'split it into several files';

/**
 * Reads a stream of YAML 1.2 documents, strictly: duplicate keys, cyclic or exploding aliases, tags, null characters, numbers that
 * YAML versions disagree on (`010`, `0o17`, `1e3`) and everything over limits.ts are refused. Problems go to `problems`; a document with a problem
 * is not yielded. Null is yielded now and then as a pause point, so that a caller may take a large file in small steps.
 *
 * Memory holds one document's tokens at a time.
 */
export function* readYaml(text: string, problems: ProblemList): Generator<YamlDocument | null, void> {
  const lines = new LineCounter();
  lines.addNewLine(0);
  const fail = (code: ConfigProblemCode, offset: number, message: string, nextStep: string): void => {
    const { line, col } = lines.linePos(offset);
    problems.add(code, line, col, '', message, nextStep);
  };

  const forbidden = text.search(FORBIDDEN);
  if (forbidden !== -1 || !text.isWellFormed()) {
    const at = forbidden === -1 ? 0 : forbidden;
    const before = text.slice(0, at).split('\n');
    const what = forbidden === -1 ? 'half a UTF-16 surrogate pair' : `the character U+${hex(text.charCodeAt(at))}`;
    problems.add(
      'WEFT_CONFIG_ENCODING',
      before.length,
      (before.at(-1)?.length ?? 0) + 1,
      '',
      `${what} is not text`,
      'write the file as UTF-8 text',
    );
    return;
  }
  const tooLong = findLongDocument(text);
  if (tooLong !== null) {
    const line = text.slice(0, tooLong).split('\n').length;
    problems.add('WEFT_CONFIG_TOO_LARGE', line, 1, '', `the document is larger than ${MAX_DOCUMENT_LENGTH} characters`, SPLIT);
    return;
  }

  // Duplicate keys are found below in linear time: the library compares every pair of keys.
  const composer = new Composer({
    version: '1.2',
    schema: 'core',
    uniqueKeys: false,
    stringKeys: true,
    resolveKnownTags: false,
    prettyErrors: false,
    logLevel: 'silent',
    lineCounter: lines,
  });
  const parser = new Parser(lines.addNewLine);
  let fileTokens = 0;
  let documentTokens = 0;
  let offset = 0;
  for (const lexeme of new Lexer().lex(text)) {
    for (const token of parser.next(lexeme)) {
      if (token.type === 'document') documentTokens = 0;
      for (const document of composer.next(token)) {
        yield* convert(document, lines, problems);
      }
    }
    offset += lexeme.length;
    fileTokens += 1;
    documentTokens += 1;
    if (parser.stack.length > MAX_NESTING + 2) {
      fail(
        'WEFT_CONFIG_TOO_LARGE',
        offset,
        `nested deeper than ${MAX_NESTING} levels`,
        'no kind needs it: correct the indentation or brackets',
      );
      return;
    }
    if (documentTokens > MAX_DOCUMENT_TOKENS || fileTokens > MAX_FILE_TOKENS) {
      const [what, limit] = documentTokens > MAX_DOCUMENT_TOKENS ? ['document', MAX_DOCUMENT_TOKENS] : ['file', MAX_FILE_TOKENS];
      fail('WEFT_CONFIG_TOO_LARGE', offset, `the ${what} has more than ${limit} tokens`, SPLIT);
      return;
    }
    if (fileTokens % TOKENS_PER_STEP === 0) yield null;
  }
  for (const token of parser.end()) {
    for (const document of composer.next(token)) yield* convert(document, lines, problems);
  }
  // Even without a document there may be something to report, such as a lone directive.
  for (const document of composer.end(true, text.length)) yield* convert(document, lines, problems);
}

function hex(code: number): string {
  return code.toString(16).toUpperCase().padStart(4, '0');
}

/**
 * The offset of the first document over MAX_DOCUMENT_LENGTH, or null. YAML 1.2.2 section 9.1.2: a line that starts with a document marker ends the
 * document wherever it stands, so this needs no parser.
 */
function findLongDocument(text: string): number | null {
  if (text.length <= MAX_DOCUMENT_LENGTH) return null;
  let start = 0;
  for (const mark of text.matchAll(DOCUMENT_MARK)) {
    if (mark.index - start > MAX_DOCUMENT_LENGTH) return start;
    start = mark.index;
  }
  return text.length - start > MAX_DOCUMENT_LENGTH ? start : null;
}

function* convert(document: Document.Parsed, lines: LineCounter, problems: ProblemList): Generator<YamlDocument, void> {
  const before = problems.count;
  for (const error of [...document.errors, ...document.warnings]) reportYamlError(error, lines, problems);
  const { version } = document.directives.yaml;
  if (version !== '1.2') {
    const { line, col } = lines.linePos(document.range[0]);
    problems.add('WEFT_CONFIG_YAML', line, col, '', `YAML ${version} reads values differently`, 'remove the %YAML line');
  }
  // An empty document is one that kubectl skips too: a `---` at the end of a file, or a file of comments.
  if (problems.count > before || document.contents === null || isEmptyScalar(document.contents)) return;
  const conversion = new Conversion(lines, problems);
  const value = conversion.value(document.contents, 1, []);
  if (problems.count > before) return;
  const { contents } = document;
  yield { value, locate: (path, atKey) => conversion.locate(contents, path, atKey) };
}

function isEmptyScalar(node: unknown): boolean {
  return isScalar(node) && node.value === null && (node.source ?? '') === '' && node.anchor === undefined;
}

function reportYamlError(error: YAMLError, lines: LineCounter, problems: ProblemList): void {
  const { line, col } = lines.linePos(error.pos[0]);
  const code =
    error.code === 'RESOURCE_EXHAUSTION' ? 'WEFT_CONFIG_TOO_LARGE' : error.code === 'BAD_ALIAS' ? 'WEFT_CONFIG_ALIAS' : 'WEFT_CONFIG_YAML';
  problems.add(code, line, col, '', firstLine(error.message), FIX_YAML);
}

function firstLine(message: string): string {
  const line = message.split('\n', 1)[0] ?? '';
  return line.length > 200 ? `${line.slice(0, 200)}…` : line;
}

interface Anchor {
  /** Null while the anchored node itself is being read: an alias to it is a cycle. */
  result: { readonly value: unknown; readonly values: number; readonly height: number } | null;
  readonly node: unknown;
}

/** Turns one document's nodes into plain data. Recursion is bounded by MAX_NESTING, which the token loop and the alias rule hold. */
class Conversion {
  readonly #lines: LineCounter;
  readonly #problems: ProblemList;
  readonly #anchors = new Map<string, Anchor>();
  readonly #targets = new Map<Alias, unknown>();
  /** Values read so far, aliased ones counted each time. */
  #values = 0;
  #aliased = 0;
  #deepest = 0;

  constructor(lines: LineCounter, problems: ProblemList) {
    this.#lines = lines;
    this.#problems = problems;
  }

  /** The plain value of a node. `path` is used for messages only, and changed and restored on the way. */
  value(node: unknown, depth: number, path: (string | number)[]): unknown {
    if (isAlias(node)) return this.#alias(node, depth, path);
    const name = isMap(node) || isSeq(node) || isScalar(node) ? node.anchor : undefined;
    if (name === undefined) return this.#plain(node, depth, path);
    const anchor: Anchor = { result: null, node };
    this.#anchors.set(name, anchor);
    const before = this.#values;
    const outerDeepest = this.#deepest;
    this.#deepest = depth;
    const value = this.#plain(node, depth, path);
    anchor.result = { value, values: this.#values - before, height: this.#deepest - depth };
    this.#deepest = Math.max(outerDeepest, this.#deepest);
    return value;
  }

  #plain(node: unknown, depth: number, path: (string | number)[]): unknown {
    this.#values += 1;
    if (depth > this.#deepest) this.#deepest = depth;
    if (isMap(node)) return this.#map(node, depth, path);
    if (isSeq(node)) return this.#sequence(node, depth, path);
    if (isScalar(node)) return this.#scalar(node, path);
    return null;
  }

  #map(map: YAMLMap, depth: number, path: (string | number)[]): Record<string, unknown> {
    const result: Record<string, unknown> = {};
    const seen = new Map<string, Pair>();
    for (const pair of map.items) {
      const key = keyOf(pair);
      path.push(key);
      const first = seen.get(key);
      if (first !== undefined) {
        const line = this.#at(offsetOf(first.key)).line;
        this.#fail(
          'WEFT_CONFIG_DUPLICATE_KEY',
          pair.key,
          path,
          `the key ${quote(key)} is already on line ${line}`,
          'remove one of the two',
        );
      } else if (key === '__proto__') {
        this.#fail('WEFT_CONFIG_UNKNOWN_FIELD', pair.key, path, 'the key "__proto__" is not allowed', 'remove it');
      } else {
        seen.set(key, pair);
        result[key] = this.value(pair.value, depth + 1, path);
      }
      path.pop();
    }
    return result;
  }

  #sequence(sequence: YAMLSeq, depth: number, path: (string | number)[]): unknown[] {
    const result: unknown[] = [];
    for (const [index, item] of sequence.items.entries()) {
      path.push(index);
      result.push(this.value(item, depth + 1, path));
      path.pop();
    }
    return result;
  }

  #scalar(scalar: Scalar, path: readonly (string | number)[]): unknown {
    const { value } = scalar;
    if (typeof value === 'number' && !DECIMAL.test(scalar.source ?? '')) {
      const message = `the number ${quote(scalar.source ?? '')} is read differently by different YAML readers`;
      this.#fail('WEFT_CONFIG_INVALID_VALUE', scalar, path, message, 'write a plain decimal number, or put text in quotes');
    }
    return value;
  }

  #alias(alias: Alias, depth: number, path: readonly (string | number)[]): unknown {
    const anchor = this.#anchors.get(alias.source);
    const name = quote(`*${alias.source}`);
    if (anchor === undefined) {
      this.#fail(
        'WEFT_CONFIG_ALIAS',
        alias,
        path,
        `the alias ${name} has no anchor before it`,
        'define the anchor, or write the value out',
      );
      return null;
    }
    if (anchor.result === null) {
      this.#fail('WEFT_CONFIG_ALIAS', alias, path, `the alias ${name} contains itself`, 'write the value out');
      return null;
    }
    this.#targets.set(alias, anchor.node);
    this.#values += anchor.result.values;
    this.#aliased += anchor.result.values;
    if (this.#aliased > MAX_ALIASED_VALUES) {
      const message = `the document's aliases stand for more than ${MAX_ALIASED_VALUES} values`;
      if (this.#aliased - anchor.result.values <= MAX_ALIASED_VALUES)
        this.#fail('WEFT_CONFIG_ALIAS', alias, path, message, 'write the values out');
      return null;
    }
    const reach = depth + anchor.result.height;
    if (reach > this.#deepest) this.#deepest = reach;
    if (reach > MAX_NESTING) {
      this.#fail('WEFT_CONFIG_TOO_LARGE', alias, path, `nested deeper than ${MAX_NESTING} levels through aliases`, 'write the value out');
      return null;
    }
    return anchor.result.value;
  }

  locate(root: unknown, path: FieldPath, atKey = false): Position {
    let node = root;
    let offset = offsetOf(root);
    for (const [depth, segment] of path.entries()) {
      while (isAlias(node)) node = this.#targets.get(node);
      if (isMap(node)) {
        const pair = node.items.find((item) => keyOf(item) === segment);
        if (pair === undefined) break;
        node = pair.value;
        // A list or mapping starts on a later line than its key; a plain value is the thing to point at.
        const keep = atKey && depth === path.length - 1;
        offset = offsetOf(isScalar(node) && !keep ? node : pair.key);
      } else if (isSeq(node) && typeof segment === 'number' && segment < node.items.length) {
        node = node.items[segment];
        offset = offsetOf(node);
      } else break;
    }
    return this.#at(offset);
  }

  #at(offset: number): Position {
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }

  #fail(code: ConfigProblemCode, node: unknown, path: FieldPath, message: string, nextStep: string): void {
    const { line, column } = this.#at(offsetOf(node));
    this.#problems.add(code, line, column, fieldText(path), message, nextStep);
  }
}

function keyOf(pair: Pair): string {
  return isScalar(pair.key) ? String(pair.key.value) : '';
}

function offsetOf(node: unknown): number {
  if (isMap(node) || isSeq(node) || isScalar(node) || isAlias(node)) return node.range?.[0] ?? 0;
  return 0;
}
