/**
 * What a regular expression that must match a whole text says in the words of an AuthorizationPolicy, where it can be said: literals, `prefix.*`,
 * `.*suffix`, `[^/]+` for a path segment, and alternatives of these. Everything else is refused, with why.
 */

/** Values of which one must match, and values of which none may. */
export interface PatternGroup {
  readonly values: readonly string[];
  readonly notValues: readonly string[];
}

export type RegexMeaning =
  | { readonly kind: 'any' }
  | {
      readonly kind: 'groups';
      readonly groups: readonly PatternGroup[];
      /** A dot of the expression was read as a dot: fewer texts match. */
      readonly literalDot: boolean;
      /** Paths that the expression takes without a query only. */
      readonly withoutQuery: readonly string[];
    }
  | { readonly kind: 'refused'; readonly why: string };

/** What is compared. A path is compared with its query in Cilium, and without it here. */
export type RegexSubject = 'path' | 'path-with-query' | 'text';

type Token = string | 'ANY' | 'SOME' | 'SEGMENT';
type Sequence = readonly Token[];

const MAX_ALTERNATIVES = 64;
const MAX_LENGTH = 1024;
const TEMPLATE_LITERAL = /^[a-zA-Z0-9\-._~%!$&'()+,;:@=]*$/;

class Refusal extends Error {}

/** A parser of the part of extended regular expressions (and RE2) that can be said otherwise. */
class Parser {
  readonly #text: string;
  #at = 0;
  /** Groups that are open. */
  #depth = 0;
  literalDot = false;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Sequence[] {
    const found = this.#alternatives();
    if (this.#at < this.#text.length) throw new Refusal(`it has a ${this.#text[this.#at]} without its pair`);
    return found;
  }

  #alternatives(): Sequence[] {
    let found = this.#sequence();
    while (this.#text[this.#at] === '|') {
      this.#at += 1;
      found = limited([...found, ...this.#sequence()]);
    }
    return found;
  }

  #sequence(): Sequence[] {
    let found: Sequence[] = [[]];
    while (this.#at < this.#text.length && this.#text[this.#at] !== '|' && this.#text[this.#at] !== ')') {
      const next = this.#item();
      found = limited(found.flatMap((before) => next.map((after) => before.concat(after))));
    }
    return found;
  }

  #item(): Sequence[] {
    const character = this.#take();
    switch (character) {
      case '^':
        if (!this.#isOutermost(this.#text[this.#at - 2], this.#text.slice(0, this.#at - 1), /^(?:\((?:\?:)?)*$/))
          throw new Refusal('it has a ^ inside');
        return [[]];
      case '$':
        if (!this.#isOutermost(this.#text[this.#at], this.#text.slice(this.#at), /^\)*$/)) throw new Refusal('it has a $ inside');
        return [[]];
      case '(':
        return this.#group();
      case '[':
        return [[this.#class()]];
      case '.':
        return [[this.#dot()]];
      case '\\': {
        const escaped = this.#take();
        if (escaped === '' || /[A-Za-z0-9]/.test(escaped)) throw new Refusal(`it has \\${escaped}`);
        return [[this.#literal(escaped)]];
      }
      case '*':
      case '+':
      case '?':
      case '{':
        throw new Refusal(`it has a ${character} that repeats more than .* and .+`);
      default:
        return [[this.#literal(character)]];
    }
  }

  /**
   * True where an anchor says nothing, since the whole text is matched anyway: at an end of the expression or of one of its outermost alternatives,
   * or with nothing but parentheses between. Within a group that something precedes or follows, it would make the group match nothing.
   */
  #isOutermost(neighbour: string | undefined, outside: string, onlyParentheses: RegExp): boolean {
    return (this.#depth === 0 && (neighbour === undefined || neighbour === '|')) || onlyParentheses.test(outside);
  }

  #group(): Sequence[] {
    this.#depth++;
    if (this.#text[this.#at] === '?') {
      if (this.#text[this.#at + 1] !== ':') throw new Refusal('it has a (?…) group');
      this.#at += 2;
    }
    const inner = this.#alternatives();
    if (this.#take() !== ')') throw new Refusal('it has a ( without its pair');
    this.#depth--;
    if (this.#text[this.#at] === '?') {
      this.#at += 1;
      this.#refuseRepeat();
      return limited([[], ...inner]);
    }
    this.#refuseRepeat();
    return inner;
  }

  #class(): Token {
    if (!this.#text.startsWith('^/]+', this.#at)) throw new Refusal('it has a [class] that is not [^/]+');
    this.#at += 4;
    this.#refuseRepeat();
    return 'SEGMENT';
  }

  #dot(): Token {
    const quantifier = this.#text[this.#at];
    if (quantifier === '*' || quantifier === '+') {
      this.#at += 1;
      this.#refuseRepeat();
      return quantifier === '*' ? 'ANY' : 'SOME';
    }
    this.literalDot = true;
    return this.#literal('.');
  }

  #literal(character: string): string {
    this.#refuseRepeat();
    return character;
  }

  #refuseRepeat(): void {
    const next = this.#text[this.#at];
    if (next !== undefined && '*+?{'.includes(next)) throw new Refusal(`it has a ${next} that repeats more than .* and .+`);
  }

  #take(): string {
    const character = this.#text[this.#at] ?? '';
    this.#at += character.length;
    return character;
  }
}

function limited(found: Sequence[]): Sequence[] {
  if (found.length > MAX_ALTERNATIVES) throw new Refusal(`it has more than ${MAX_ALTERNATIVES} alternatives`);
  return found;
}

/** Reads an expression that must match the whole text. */
export function regexMeaning(expression: string, subject: RegexSubject): RegexMeaning {
  if (expression.length > MAX_LENGTH) return { kind: 'refused', why: 'it is too long' };
  try {
    const parser = new Parser(expression);
    return meaning(parser.parse(), subject, parser);
  } catch (error) {
    if (error instanceof Refusal) return { kind: 'refused', why: error.message };
    throw error;
  }
}

function meaning(alternatives: readonly Sequence[], subject: RegexSubject, { literalDot }: Parser): RegexMeaning {
  const together = new Set<string>();
  const alone: PatternGroup[] = [];
  const anyQuery = new Set<string>();
  const noQuery = new Set<string>();
  for (const sequence of alternatives) {
    const mark = subject === 'path-with-query' ? sequence.indexOf('?') : -1;
    const path = mark === -1 ? sequence : sequence.slice(0, mark);
    const query = mark === -1 ? null : sequence.slice(mark + 1);
    if (query !== null && !(query.length === 1 && query[0] === 'ANY'))
      throw new Refusal('it asks for a query, and policies compare paths without it');
    if (path.length === 1 && path[0] === 'ANY') return { kind: 'any' };
    const group = groupOf(path, subject);
    if (group.notValues.length > 0) alone.push(group);
    else for (const value of group.values) together.add(value);
    for (const value of group.values) {
      if (query !== null) anyQuery.add(value);
      else if (!endsOpen(path)) noQuery.add(value);
    }
  }
  const groups = together.size === 0 ? alone : [{ values: [...together], notValues: [] }, ...alone];
  const withoutQuery = subject === 'path-with-query' ? [...noQuery].filter((value) => !anyQuery.has(value)) : [];
  return { kind: 'groups', groups, literalDot, withoutQuery };
}

function endsOpen(sequence: Sequence): boolean {
  const last = sequence.at(-1);
  return last === 'ANY' || last === 'SOME' || last === 'SEGMENT';
}

function isLiteral(token: Token): boolean {
  return token !== 'ANY' && token !== 'SOME' && token !== 'SEGMENT';
}

function groupOf(sequence: Sequence, subject: RegexSubject): PatternGroup {
  const isPath = subject !== 'text';
  if (sequence.length === 0) throw new Refusal('it matches an empty text, which no value does');
  if (sequence.includes('SEGMENT')) {
    if (!isPath) throw new Refusal('it has a [class]');
    return { values: [templateOf(sequence)], notValues: [] };
  }
  const [first, last] = [sequence[0] as Token, sequence.at(-1) as Token];
  const open = sequence.filter((token) => !isLiteral(token)).length;
  if (open === 0) return { values: [literalText(sequence, isPath)], notValues: [] };
  if (open > 1) throw new Refusal('it has more than one .*');
  if (sequence.length === 1) return { values: ['*'], notValues: [] };
  if (!isLiteral(last)) {
    const text = literalText(sequence.slice(0, -1), isPath);
    return { values: [`${text}*`], notValues: last === 'SOME' ? [text] : [] };
  }
  if (!isLiteral(first)) {
    const text = literalText(sequence.slice(1), false, isPath);
    return { values: [`*${text}`], notValues: first === 'SOME' ? [text] : [] };
  }
  throw new Refusal('it has a .* in the middle');
}

function literalText(tokens: Sequence, startsPath: boolean, isPath = startsPath): string {
  const text = tokens.join('');
  const wrong = valueRefusal(text, isPath);
  if (wrong !== null) throw new Refusal(wrong);
  if (startsPath && !text.startsWith('/')) throw new Refusal('it does not start with /, so it matches no path');
  return text;
}

/** Why a literal text cannot be a value, as the end of a sentence; null when it can. */
export function valueRefusal(text: string, isPath: boolean): string | null {
  if (text === '') return 'it is empty';
  if (text.includes('*')) return 'it has a *, which a policy reads as a wildcard';
  return isPath && /[{}]/.test(text) ? 'it has braces, which a policy reads as a path template' : null;
}

/** `/users/[^/]+/.*` as `/users/{*}/{**}`. */
function templateOf(sequence: Sequence): string {
  const text = sequence.map((token) => (isLiteral(token) ? token : `\u0000${token}\u0000`)).join('');
  const segments = text.split('/');
  if (segments[0] !== '') throw new Refusal('it does not start with /, so it matches no path');
  return segments
    .map((segment, index) => {
      if (segment === '\u0000SEGMENT\u0000') return '{*}';
      if (segment === '\u0000ANY\u0000' && index === segments.length - 1) return '{**}';
      if (segment.includes('\u0000')) throw new Refusal('[^/]+ and .* must stand alone between two slashes to become a path template');
      if (!TEMPLATE_LITERAL.test(segment)) throw new Refusal('it has characters that a path template cannot have');
      return segment;
    })
    .join('/');
}
