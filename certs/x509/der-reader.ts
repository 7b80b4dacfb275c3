/** What is wrong with some DER. Internal to this room: callers turn it into an error with a code. */
export class DerError extends Error {
  override readonly name = 'DerError';
}

/** Universal tags of ITU-T X.690 as they appear on the wire (class and constructed bits included). */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  objectIdentifier: 0x06,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
} as const;

/**
 * Reads DER (ITU-T X.690 section 10) front to back without copying. What BER allows and DER forbids is refused: indefinite or padded
 * lengths, BOOLEAN other than 00 and FF, padded integers, multi-byte tags. Every method throws DerError.
 */
export class DerReader {
  readonly bytes: Uint8Array;
  #position: number;
  readonly #end: number;

  constructor(bytes: Uint8Array, start = 0, end: number = bytes.length) {
    this.bytes = bytes;
    this.#position = start;
    this.#end = end;
  }

  get position(): number {
    return this.#position;
  }

  get atEnd(): boolean {
    return this.#position === this.#end;
  }

  /** The tag of the next element, or -1 at the end. */
  peekTag(): number {
    return this.#position < this.#end ? (this.bytes[this.#position] as number) : -1;
  }

  /** Enters the next element, which must have this tag, and moves past it. */
  enter(tag: number, what: string): DerReader {
    const { bytes } = this;
    let at = this.#position;
    if (this.#end - at < 2) throw new DerError(`${what} is cut short`);
    if (bytes[at] !== tag) throw new DerError(`${what} has tag 0x${(bytes[at] as number).toString(16)}, not 0x${tag.toString(16)}`);
    let length = bytes[at + 1] as number;
    at += 2;
    if (length >= 0x80) {
      const count = length - 0x80;
      // Three length bytes are 16 MiB: more than any certificate this room reads.
      if (count === 0 || count > 3) throw new DerError(`${what} has an indefinite or huge length`);
      if (this.#end - at < count) throw new DerError(`${what} is cut short`);
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + (bytes[at + i] as number);
      at += count;
      if (length < 0x80 || length < 256 ** (count - 1)) throw new DerError(`${what} has a padded length`);
    }
    if (length > this.#end - at) throw new DerError(`${what} is cut short`);
    this.#position = at + length;
    return new DerReader(bytes, at, at + length);
  }

  /** Refuses bytes after the last element that was expected. */
  finish(what: string): void {
    if (!this.atEnd) throw new DerError(`${what} has bytes after its end`);
  }

  /** The unread content, not copied. */
  rest(): Uint8Array {
    return this.bytes.subarray(this.#position, this.#end);
  }

  boolean(what: string): boolean {
    const content = this.enter(TAG.boolean, what).rest();
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) throw new DerError(`${what} is not a DER boolean`);
    return content[0] === 0xff;
  }

  /** An INTEGER's two's complement bytes, checked to be minimal. */
  integerBytes(what: string): Uint8Array {
    const content = this.enter(TAG.integer, what).rest();
    const [first, second] = content;
    if (first === undefined) throw new DerError(`${what} is an empty integer`);
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80)))
      throw new DerError(`${what} is a padded integer`);
    return content;
  }

  /** A small INTEGER, 0 to 2^31-1. */
  smallInteger(what: string): number {
    const content = this.integerBytes(what);
    if (content.length > 4 || (content[0] as number) >= 0x80) throw new DerError(`${what} is negative or too large`);
    let value = 0;
    for (const byte of content) value = value * 256 + byte;
    return value;
  }

  /** An OBJECT IDENTIFIER in dotted text. */
  objectIdentifier(what: string): string {
    const content = this.enter(TAG.objectIdentifier, what).rest();
    if (content.length === 0 || content.length > 64) throw new DerError(`${what} is not an object identifier`);
    const arcs: number[] = [];
    let arc = 0;
    let first = true;
    for (const byte of content) {
      if (first && byte === 0x80) throw new DerError(`${what} is a padded object identifier`);
      arc = arc * 128 + (byte & 0x7f);
      if (arc > Number.MAX_SAFE_INTEGER / 128) throw new DerError(`${what} has a huge arc`);
      first = byte < 0x80;
      if (!first) continue;
      if (arcs.length === 0) {
        const root = arc < 40 ? 0 : arc < 80 ? 1 : 2;
        arcs.push(root, arc - root * 40);
      } else arcs.push(arc);
      arc = 0;
    }
    if (!first) throw new DerError(`${what} is cut short`);
    return arcs.join('.');
  }

  /** A BIT STRING's bytes. Unused bits must be zero. */
  bitString(what: string): Uint8Array {
    const content = this.enter(TAG.bitString, what).rest();
    const unused = content[0];
    if (unused === undefined || unused > 7 || (unused > 0 && content.length === 1)) throw new DerError(`${what} is not a bit string`);
    if (unused > 0 && ((content.at(-1) as number) & ((1 << unused) - 1)) !== 0) throw new DerError(`${what} has unused bits set`);
    return content.subarray(1);
  }

  /** A Time of RFC 5280 section 4.1.2.5, in milliseconds since the epoch: seconds present, in UTC, no fraction. */
  time(what: string): number {
    const tag = this.peekTag();
    if (tag !== TAG.utcTime && tag !== TAG.generalizedTime) throw new DerError(`${what} is not a time`);
    const content = this.enter(tag, what).rest();
    const digits = tag === TAG.utcTime ? 12 : 14;
    if (content.length !== digits + 1 || content[digits] !== 0x5a) throw new DerError(`${what} is not in the form of RFC 5280`);
    const pair = (at: number): number => {
      const tens = (content[at] as number) - 0x30;
      const ones = (content[at + 1] as number) - 0x30;
      if (tens < 0 || tens > 9 || ones < 0 || ones > 9) throw new DerError(`${what} is not in the form of RFC 5280`);
      return tens * 10 + ones;
    };
    let at = 2;
    let year = pair(0);
    if (tag === TAG.generalizedTime) {
      year = year * 100 + pair(2);
      if (year < 2050 && year >= 1950) throw new DerError(`${what} before 2050 must be a UTCTime`);
      at = 4;
    } else year += year < 50 ? 2000 : 1900;
    const [month, day, hour, minute, second] = [pair(at), pair(at + 2), pair(at + 4), pair(at + 6), pair(at + 8)] as const;
    const date = new Date(0);
    date.setUTCFullYear(year, month - 1, day);
    date.setUTCHours(hour, minute, second, 0);
    // Date carries over (31 February becomes 3 March): only a real date comes back as it went in.
    const same = date.getUTCMonth() === month - 1 && date.getUTCDate() === day && date.getUTCHours() === hour;
    if (!same || date.getUTCMinutes() !== minute || date.getUTCSeconds() !== second) throw new DerError(`${what} is not a date`);
    return date.getTime();
  }
}
