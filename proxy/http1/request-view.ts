import type { RequestHead as GatedHead } from '../../src/model/request-gate.ts';
import { COLON, LF, SPACE, TAB } from './bytes.ts';
import { rewriteHead } from './rewrite-head.ts';

const NO_VALUES: readonly string[] = Object.freeze([]);
const NO_BYTES = Buffer.alloc(0);
/** Offsets kept for each field: the name's start, the name's end, the line's end without CRLF. */
const OFFSETS = 3;
const FIRST_FIELDS = 16;

/**
 * The head of the request in hand, as the gate sees it: exactly the fields that are forwarded, read from their bytes when asked for.
 * One for each session, pointed at each head in turn; a head whose headers nobody asks for costs nothing but that.
 */
export class RequestView implements GatedHead {
  method = '';
  path = '';
  host = '';
  readonly scheme = 'http';
  hasTrustHeaders = false;
  #query = '';
  #bytes: Buffer = NO_BYTES;
  #start = 0;
  #fieldsStart = 0;
  #end = 0;
  /** Where the fields are, found out by the first question about them. Kept from head to head. */
  #offsets: Uint32Array | null = null;
  /** Number of fields in #offsets; -1: not looked yet. */
  #count = -1;

  /**
   * Points the view at a head that was parsed. The bytes must stay as they are until the next call.
   * @param end offset after the empty line
   * @param query with its question mark, or empty
   */
  point(bytes: Buffer, start: number, fieldsStart: number, end: number, query: string): void {
    this.#bytes = bytes;
    this.#start = start;
    this.#fieldsStart = fieldsStart;
    this.#end = end;
    this.#query = query;
    this.#count = -1;
  }

  /** Lets go of the bytes. */
  clear(): void {
    this.point(NO_BYTES, 0, 0, 0, '');
  }

  /** The head's bytes, in a buffer of their own. */
  copy(): Buffer {
    return Buffer.from(this.#bytes.subarray(this.#start, this.#end));
  }

  /** Lets go of all bytes but the head's. */
  compact(): void {
    this.point(this.copy(), 0, this.#fieldsStart - this.#start, this.#end - this.#start, this.#query);
  }

  /** The head with other fields: see `rewriteHead`. */
  rewritten(dropped: ReadonlySet<string>, added: string): Buffer {
    const line = this.#bytes.latin1Slice(this.#start, this.#fieldsStart);
    return rewriteHead(line, this.#bytes, this.#fieldsStart, this.#end, dropped, added);
  }

  get query(): string {
    return this.#query.slice(1);
  }

  header(name: string): readonly string[] {
    const count = this.#index();
    const offsets = this.#offsets as Uint32Array;
    let values: string[] | null = null;
    for (let i = 0; i < count; i++) {
      const nameStart = offsets[i * OFFSETS] as number;
      const nameEnd = offsets[i * OFFSETS + 1] as number;
      if (nameEnd - nameStart !== name.length || !this.#isName(nameStart, name)) continue;
      values ??= [];
      values.push(this.#value(nameEnd + 1, offsets[i * OFFSETS + 2] as number));
    }
    return values ?? NO_VALUES;
  }

  *headers(): Generator<readonly [name: string, value: string]> {
    const count = this.#index();
    const offsets = this.#offsets as Uint32Array;
    for (let i = 0; i < count; i++) {
      const nameEnd = offsets[i * OFFSETS + 1] as number;
      const name = this.#bytes.latin1Slice(offsets[i * OFFSETS], nameEnd).toLowerCase();
      yield [name, this.#value(nameEnd + 1, offsets[i * OFFSETS + 2] as number)];
    }
  }

  /** Finds the fields. The head is valid: every line has a name, a colon and CRLF. */
  #index(): number {
    if (this.#count !== -1) return this.#count;
    const bytes = this.#bytes;
    const emptyLine = this.#end - 2;
    let offsets = (this.#offsets ??= new Uint32Array(FIRST_FIELDS * OFFSETS));
    let count = 0;
    for (let at = this.#fieldsStart; at < emptyLine; count++) {
      if (offsets.length === count * OFFSETS) {
        const grown = new Uint32Array(offsets.length * 2);
        grown.set(offsets);
        this.#offsets = offsets = grown;
      }
      offsets[count * OFFSETS] = at;
      while (bytes[at] !== COLON) at++;
      offsets[count * OFFSETS + 1] = at;
      while (bytes[at] !== LF) at++;
      offsets[count * OFFSETS + 2] = at - 1;
      at++;
    }
    this.#count = count;
    return count;
  }

  /** True when the name at `start` is `name` (lower-case and of the same length), the case of its letters aside. */
  #isName(start: number, name: string): boolean {
    const bytes = this.#bytes;
    for (let i = 0; i < name.length; i++) {
      const byte = bytes[start + i] as number;
      if ((byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte) !== name.charCodeAt(i)) return false;
    }
    return true;
  }

  /** The text between the offsets without the spaces and tabs around it. */
  #value(from: number, to: number): string {
    const bytes = this.#bytes;
    let start = from;
    let end = to;
    while (start < end && (bytes[start] === SPACE || bytes[start] === TAB)) start++;
    while (end > start && (bytes[end - 1] === SPACE || bytes[end - 1] === TAB)) end--;
    return bytes.latin1Slice(start, end);
  }
}
