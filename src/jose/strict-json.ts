/** JSON text that is malformed, ambiguous or too deep. */
export class StrictJsonError extends Error {
  override readonly name = 'StrictJsonError';
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const INTEGER = /^-?\d+$/;
/** More than any 64-bit integer has. Longer ones would make reading them as a bigint slow. */
const MAX_INTEGER_DIGITS = 32;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

export interface StrictJsonOptions {
  /**
   * What an integer (digits alone, no fraction or exponent) becomes. `number`, the default, rounds what is beyond 2^53; `bigint` keeps every
   * digit, and refuses integers of more than 32 digits.
   */
  readonly integers?: 'number' | 'bigint';
}

/**
 * Parses JSON (RFC 8259) where two readers must not differ: a member name that comes twice in one object is refused, whatever escapes it is
 * written with, and so is text nested deeper than `maxDepth`. Objects have no prototype: no name finds what its author did not write.
 * @throws StrictJsonError
 */
export function parseStrictJson(text: string, maxDepth: number, options: StrictJsonOptions = {}): unknown {
  const reader = new Reader(text, maxDepth, options);
  const value = reader.value(0);
  reader.end();
  return value;
}

class Reader {
  readonly #text: string;
  readonly #maxDepth: number;
  readonly #bigIntegers: boolean;
  #at = 0;

  constructor(text: string, maxDepth: number, { integers = 'number' }: StrictJsonOptions) {
    this.#text = text;
    this.#maxDepth = maxDepth;
    this.#bigIntegers = integers === 'bigint';
  }

  end(): void {
    this.#space();
    if (this.#at !== this.#text.length) throw this.#wrong('text after the value');
  }

  value(depth: number): unknown {
    this.#space();
    switch (this.#text[this.#at]) {
      case '{':
        return this.#object(depth + 1);
      case '[':
        return this.#array(depth + 1);
      case '"':
        return this.#string();
      case 't':
        return this.#word('true', true);
      case 'f':
        return this.#word('false', false);
      case 'n':
        return this.#word('null', null);
      default:
        return this.#number();
    }
  }

  #wrong(what: string): StrictJsonError {
    return new StrictJsonError(`${what} at ${this.#at}`);
  }

  #space(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at++;
    }
  }

  #word<Value>(word: string, value: Value): Value {
    if (!this.#text.startsWith(word, this.#at)) throw this.#wrong('no value');
    this.#at += word.length;
    return value;
  }

  #number(): number | bigint {
    NUMBER.lastIndex = this.#at;
    const literal = NUMBER.exec(this.#text)?.[0];
    if (literal === undefined) throw this.#wrong('no value');
    const isBig = this.#bigIntegers && INTEGER.test(literal);
    if (isBig && literal.length > MAX_INTEGER_DIGITS) throw this.#wrong('an integer of too many digits');
    this.#at = NUMBER.lastIndex;
    return isBig ? BigInt(literal) : Number(literal);
  }

  #string(): string {
    const start = this.#at;
    let at = start + 1;
    let plain = true;
    for (;;) {
      const code = this.#text.charCodeAt(at);
      if (code === QUOTE) break;
      // NaN is the end of the text.
      if (!(code >= 0x20)) throw this.#wrong('an unfinished string');
      if (code === BACKSLASH) {
        plain = false;
        at++;
      }
      at++;
    }
    this.#at = at + 1;
    if (plain) return this.#text.slice(start + 1, at);
    try {
      return JSON.parse(this.#text.slice(start, at + 1)) as string;
    } catch {
      throw this.#wrong('a bad escape');
    }
  }

  #enter(depth: number): void {
    if (depth > this.#maxDepth) throw this.#wrong('nested too deep');
    this.#at++;
    this.#space();
  }

  /** After a member or element: true when another follows. */
  #more(close: string): boolean {
    this.#space();
    const found = this.#text[this.#at++];
    if (found === ',') return true;
    if (found === close) return false;
    throw this.#wrong(`neither a comma nor ${close}`);
  }

  #object(depth: number): Readonly<Record<string, unknown>> {
    this.#enter(depth);
    const object = Object.create(null) as Record<string, unknown>;
    if (this.#text[this.#at] === '}') {
      this.#at++;
      return object;
    }
    do {
      this.#space();
      if (this.#text[this.#at] !== '"') throw this.#wrong('no member name');
      const name = this.#string();
      if (name in object) throw this.#wrong('a member name that is there twice');
      this.#space();
      if (this.#text[this.#at++] !== ':') throw this.#wrong('no colon');
      object[name] = this.value(depth);
    } while (this.#more('}'));
    return object;
  }

  #array(depth: number): unknown[] {
    this.#enter(depth);
    const array: unknown[] = [];
    if (this.#text[this.#at] === ']') {
      this.#at++;
      return array;
    }
    do array.push(this.value(depth));
    while (this.#more(']'));
    return array;
  }
}
