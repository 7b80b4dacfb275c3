import { ErrorCode, Http2Error } from './errors.ts';

/**
 * HPACK, RFC 7541. The decoder knows everything the standard has and refuses what it forbids. The encoder uses the static table and literals
 * only: no state to keep in step with the peer, nothing about one caller's headers can be guessed through another's (RFC 7541 section 7.1).
 */

/** Name, value, name, value…: bytes as latin1 text, in wire order. Flat, because a proxy walks it once and keeps none of it. */
export type HeaderList = string[];

/** RFC 7541 Appendix A, index 1 to 61. */
const STATIC_TABLE: readonly (readonly [name: string, value: string])[] = [
  [':authority', ''],
  [':method', 'GET'],
  [':method', 'POST'],
  [':path', '/'],
  [':path', '/index.html'],
  [':scheme', 'http'],
  [':scheme', 'https'],
  [':status', '200'],
  [':status', '204'],
  [':status', '206'],
  [':status', '304'],
  [':status', '400'],
  [':status', '404'],
  [':status', '500'],
  ['accept-charset', ''],
  ['accept-encoding', 'gzip, deflate'],
  ['accept-language', ''],
  ['accept-ranges', ''],
  ['accept', ''],
  ['access-control-allow-origin', ''],
  ['age', ''],
  ['allow', ''],
  ['authorization', ''],
  ['cache-control', ''],
  ['content-disposition', ''],
  ['content-encoding', ''],
  ['content-language', ''],
  ['content-length', ''],
  ['content-location', ''],
  ['content-range', ''],
  ['content-type', ''],
  ['cookie', ''],
  ['date', ''],
  ['etag', ''],
  ['expect', ''],
  ['expires', ''],
  ['from', ''],
  ['host', ''],
  ['if-match', ''],
  ['if-modified-since', ''],
  ['if-none-match', ''],
  ['if-range', ''],
  ['if-unmodified-since', ''],
  ['last-modified', ''],
  ['link', ''],
  ['location', ''],
  ['max-forwards', ''],
  ['proxy-authenticate', ''],
  ['proxy-authorization', ''],
  ['range', ''],
  ['referer', ''],
  ['refresh', ''],
  ['retry-after', ''],
  ['server', ''],
  ['set-cookie', ''],
  ['strict-transport-security', ''],
  ['transfer-encoding', ''],
  ['user-agent', ''],
  ['vary', ''],
  ['via', ''],
  ['www-authenticate', ''],
];
const STATIC_ENTRIES = STATIC_TABLE.length;
/** RFC 7541 section 4.1: what an entry costs beside its text. */
const ENTRY_OVERHEAD = 32;

/**
 * RFC 7541 Appendix B as code lengths, symbol 0 to 256 (EOS). The code is canonical: the lengths define it.
 * Each row has 16 symbols.
 */
const CODE_LENGTHS: readonly number[] = [
  [13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28],
  [28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28],
  [6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6],
  [5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10],
  [13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7],
  [7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6],
  [15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5],
  [6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28],
  [20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23],
  [24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24],
  [22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23],
  [21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23],
  [26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25],
  [19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27],
  [20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23],
  [26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26],
  [30],
].flat();
const EOS = 256;

/*
 * The Huffman decoder is an automaton over half bytes: one state per inner node of the code tree, 16 moves each.
 * A move packs: next state (bits 16 and up), symbol (bits 8-15), has-symbol (bit 0), error (bit 1).
 * No code is shorter than five bits, so a half byte completes at most one symbol.
 */
const HAS_SYMBOL = 1;
const DEAD = 2;
const { moves: HUFFMAN_MOVES, padding: MAY_END } = buildHuffman();

function buildHuffman(): { moves: Int32Array; padding: Uint8Array } {
  // Children of inner nodes; a leaf for symbol s is stored as -1 - s, "not there" as 0 (the root is nobody's child).
  const children: [number, number][] = [[0, 0]];
  const order = CODE_LENGTHS.map((length, symbol) => ({ length, symbol })).toSorted((a, b) => a.length - b.length || a.symbol - b.symbol);
  let code = 0;
  let previous = 0;
  for (const { length, symbol } of order) {
    code = previous === 0 ? 0 : (code + 1) * 2 ** (length - previous);
    previous = length;
    let node = 0;
    for (let bit = length - 1; bit >= 0; bit--) {
      const branch = children[node] as [number, number];
      const side = (code >>> bit) & 1;
      if (bit === 0) {
        branch[side] = -1 - symbol;
      } else {
        if (branch[side] === 0) branch[side] = children.push([0, 0]) - 1;
        node = branch[side] as number;
      }
    }
  }
  const moves = new Int32Array(children.length * 16);
  for (let start = 0; start < children.length; start++) {
    for (let half = 0; half < 16; half++) {
      let node = start;
      let move = 0;
      for (let bit = 3; bit >= 0; bit--) {
        const child = (children[node] as [number, number])[(half >>> bit) & 1] as number;
        if (child >= 0) {
          node = child;
          continue;
        }
        const symbol = -1 - child;
        node = 0;
        // A string that contains EOS is an error (RFC 7541 section 5.2).
        move = symbol === EOS ? DEAD : (symbol << 8) | HAS_SYMBOL;
        if (symbol === EOS) break;
      }
      moves[start * 16 + half] = (node << 16) | move;
    }
  }
  // Padding is up to seven ones: the beginning of EOS (RFC 7541 section 5.2).
  const padding = new Uint8Array(children.length);
  let node = 0;
  for (let depth = 0; depth <= 7; depth++) {
    padding[node] = 1;
    node = (children[node] as [number, number])[1] as number;
  }
  return { moves, padding };
}

function compressionError(message: string): Http2Error {
  return new Http2Error('WEFT_HTTP2_COMPRESSION', ErrorCode.compressionError, `bad HPACK block: ${message}`, {
    nextStep: 'check what the peer is: its header compression does not follow RFC 7541',
  });
}

let huffmanScratch = Buffer.allocUnsafeSlow(4096);

/**
 * Decodes a Huffman-coded string literal.
 * @throws Http2Error WEFT_HTTP2_COMPRESSION on EOS, or padding that is too long or not all ones
 */
export function decodeHuffman(from: Buffer, start: number, end: number): string {
  // Five bits is the shortest code.
  const most = Math.ceil(((end - start) * 8) / 5);
  if (huffmanScratch.length < most) huffmanScratch = Buffer.allocUnsafeSlow(most * 2);
  const to = huffmanScratch;
  let state = 0;
  let length = 0;
  for (let at = start; at < end; at++) {
    const byte = from[at] as number;
    let move = HUFFMAN_MOVES[state * 16 + (byte >>> 4)] as number;
    if ((move & HAS_SYMBOL) !== 0) to[length++] = move >>> 8;
    else if ((move & DEAD) !== 0) throw compressionError('the EOS symbol inside a string');
    move = HUFFMAN_MOVES[(move >>> 16) * 16 + (byte & 15)] as number;
    if ((move & HAS_SYMBOL) !== 0) to[length++] = move >>> 8;
    else if ((move & DEAD) !== 0) throw compressionError('the EOS symbol inside a string');
    state = move >>> 16;
  }
  if (MAY_END[state] === 0) throw compressionError('wrong Huffman padding');
  return to.toString('latin1', 0, length);
}

export interface HpackLimits {
  /** SETTINGS_HEADER_TABLE_SIZE as we advertise it, in bytes of RFC 7541 section 4.1. */
  readonly tableSize: number;
  /** SETTINGS_MAX_HEADER_LIST_SIZE: names, values and 32 for each field. */
  readonly listSize: number;
  /** The most fields of one block. */
  readonly listCount: number;
}

/**
 * The decoding half of a connection's compression state. Any error leaves it useless: the connection must end.
 * Memory: at most `tableSize` bytes of text, and one list within the limits.
 */
export class HpackDecoder {
  readonly #limits: HpackLimits;
  /** A ring of names and values; the newest entry is at #head. */
  #names: string[] = [];
  #values: string[] = [];
  #head = 0;
  #count = 0;
  #bytes = 0;
  #capacity: number;
  #at = 0;
  #end = 0;
  #block: Buffer = Buffer.alloc(0);

  constructor(limits: HpackLimits) {
    this.#limits = limits;
    this.#capacity = limits.tableSize;
    // 32 bytes of overhead bound the number of entries.
    const slots = Math.max(1, Math.ceil(limits.tableSize / ENTRY_OVERHEAD));
    this.#names = Array.from({ length: slots }, () => '');
    this.#values = Array.from({ length: slots }, () => '');
  }

  /** Bytes in the dynamic table (RFC 7541 section 4.1). */
  get tableBytes(): number {
    return this.#bytes;
  }

  /**
   * Decodes one complete header block and appends to `list`. Over a limit it goes on, to keep the table in step with the peer,
   * but keeps no more fields.
   * @returns false if the list exceeded a limit and is incomplete
   * @throws Http2Error WEFT_HTTP2_COMPRESSION
   */
  decode(block: Buffer, list: HeaderList): boolean {
    this.#block = block;
    this.#at = 0;
    this.#end = block.length;
    let size = 0;
    let count = 0;
    let fields = false;
    let within = true;
    while (this.#at < this.#end) {
      const first = block[this.#at] as number;
      let name: string;
      let value: string;
      if ((first & 0x80) !== 0) {
        const index = this.#integer(7);
        name = this.#name(index);
        value = this.#value(index);
      } else if ((first & 0xe0) === 0x20) {
        if (fields) throw compressionError('a table size update after a field');
        this.#resize(this.#integer(5));
        continue;
      } else {
        const indexed = (first & 0x40) !== 0;
        const index = this.#integer(indexed ? 6 : 4);
        name = index === 0 ? this.#string() : this.#name(index);
        value = this.#string();
        if (indexed) this.#insert(name, value);
      }
      fields = true;
      size += name.length + value.length + ENTRY_OVERHEAD;
      if (size > this.#limits.listSize || ++count > this.#limits.listCount) within = false;
      else list.push(name, value);
    }
    return within;
  }

  #integer(prefixBits: number): number {
    const block = this.#block;
    const mask = (1 << prefixBits) - 1;
    let value = (block[this.#at++] as number) & mask;
    if (value < mask) return value;
    // Four continuation bytes reach 2^28: more is either absurd or padded with zeros.
    for (let shift = 0; shift <= 21; shift += 7) {
      if (this.#at >= this.#end) throw compressionError('cut inside an integer');
      const byte = block[this.#at++] as number;
      value += (byte & 0x7f) << shift;
      if ((byte & 0x80) === 0) return value;
    }
    throw compressionError('an integer of more than five bytes');
  }

  #string(): string {
    if (this.#at >= this.#end) throw compressionError('cut before a string');
    const huffman = ((this.#block[this.#at] as number) & 0x80) !== 0;
    const length = this.#integer(7);
    const start = this.#at;
    if (length > this.#end - start) throw compressionError('a string longer than the block');
    this.#at += length;
    return huffman ? decodeHuffman(this.#block, start, start + length) : this.#block.toString('latin1', start, start + length);
  }

  /** The ring slot of a dynamic entry. */
  #slot(index: number): number {
    const back = index - STATIC_ENTRIES - 1;
    if (back >= this.#count) throw compressionError(`index ${index} is not in the table`);
    const slots = this.#names.length;
    return (this.#head - back + slots) % slots;
  }

  #name(index: number): string {
    if (index === 0) throw compressionError('index 0');
    return index <= STATIC_ENTRIES ? (STATIC_TABLE[index - 1] as readonly [string, string])[0] : (this.#names[this.#slot(index)] as string);
  }

  #value(index: number): string {
    return index <= STATIC_ENTRIES
      ? (STATIC_TABLE[index - 1] as readonly [string, string])[1]
      : (this.#values[this.#slot(index)] as string);
  }

  #resize(capacity: number): void {
    if (capacity > this.#limits.tableSize) throw compressionError(`a table of ${capacity} bytes, more than was offered`);
    this.#capacity = capacity;
    this.#evict(capacity);
  }

  #evict(target: number): void {
    const slots = this.#names.length;
    while (this.#bytes > target) {
      const oldest = (this.#head - this.#count + 1 + slots) % slots;
      this.#bytes -= (this.#names[oldest] as string).length + (this.#values[oldest] as string).length + ENTRY_OVERHEAD;
      this.#names[oldest] = '';
      this.#values[oldest] = '';
      this.#count--;
    }
  }

  #insert(name: string, value: string): void {
    const size = name.length + value.length + ENTRY_OVERHEAD;
    // RFC 7541 section 4.4: an entry larger than the table empties it and is not an error.
    if (size > this.#capacity) {
      this.#evict(0);
      return;
    }
    this.#evict(this.#capacity - size);
    this.#head = (this.#head + 1) % this.#names.length;
    this.#names[this.#head] = name;
    this.#values[this.#head] = value;
    this.#count++;
    this.#bytes += size;
  }
}

interface StaticName {
  readonly index: number;
  /** Value to index, for the names that have values in the table. */
  readonly values: ReadonlyMap<string, number>;
}

const STATIC_NAMES: ReadonlyMap<string, StaticName> = (() => {
  const names = new Map<string, { index: number; values: Map<string, number> }>();
  for (const [position, [name, value]] of STATIC_TABLE.entries()) {
    let entry = names.get(name);
    if (entry === undefined) {
      entry = { index: position + 1, values: new Map() };
      names.set(name, entry);
    }
    if (value !== '') entry.values.set(value, position + 1);
  }
  return names;
})();

/** Sent as "never indexed", so that no later hop puts them into a table either (RFC 7541 section 7.1.3). */
const SENSITIVE: ReadonlySet<string> = new Set(['authorization', 'proxy-authorization', 'cookie', 'set-cookie', 'x-api-key']);

/** Turns header lists into blocks. Values must be latin1 text; they go out as they are, without Huffman coding. */
export class HpackEncoder {
  #buffer: Buffer = Buffer.alloc(0);
  #sizeUpdatePending = true;

  /** The peer sent SETTINGS_HEADER_TABLE_SIZE: the next block confirms that our table is empty (RFC 7541 section 4.2). */
  tableSizeChanged(): void {
    this.#sizeUpdatePending = true;
  }

  /** Encodes one list. The result is valid until the next call on any encoder of this thread. */
  encode(list: readonly string[]): Buffer {
    let most = 1;
    for (let i = 0; i < list.length; i++) most += (list[i] as string).length + 6;
    if (encodeScratch.length < most) encodeScratch = Buffer.allocUnsafeSlow(most * 2);
    this.#buffer = encodeScratch;
    let at = 0;
    if (this.#sizeUpdatePending) {
      this.#sizeUpdatePending = false;
      this.#buffer[at++] = 0x20;
    }
    for (let i = 0; i + 1 < list.length; i += 2) at = this.#field(list[i] as string, list[i + 1] as string, at);
    return this.#buffer.subarray(0, at);
  }

  #field(name: string, value: string, at: number): number {
    const known = STATIC_NAMES.get(name);
    const exact = known?.values.get(value);
    if (exact !== undefined) {
      this.#buffer[at] = 0x80 | exact;
      return at + 1;
    }
    const representation = SENSITIVE.has(name) ? 0x10 : 0x00;
    let next = at;
    if (known === undefined) {
      this.#buffer[next++] = representation;
      next = this.#text(name, next);
    } else {
      next = this.#integer(known.index, 4, representation, next);
    }
    return this.#text(value, next);
  }

  #text(text: string, at: number): number {
    const start = this.#integer(text.length, 7, 0, at);
    return start + this.#buffer.write(text, start, 'latin1');
  }

  #integer(value: number, prefixBits: number, high: number, at: number): number {
    const buffer = this.#buffer;
    const mask = (1 << prefixBits) - 1;
    if (value < mask) {
      buffer[at] = high | value;
      return at + 1;
    }
    buffer[at] = high | mask;
    let rest = value - mask;
    let next = at + 1;
    while (rest >= 0x80) {
      buffer[next++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    buffer[next] = rest;
    return next + 1;
  }
}

let encodeScratch = Buffer.allocUnsafeSlow(4096);
