import { COLON, CR, FOLD_NAME, HEX_VALUE, IS_FIELD_VALUE, IS_TOKEN, LF, SEMICOLON } from './bytes.ts';
import type { Http1Limits } from './limits.ts';
import type { RefusalReason } from './refusal.ts';
import { CHUNKED_BODY } from './request-head.ts';
import { UNTIL_CLOSE } from './response-head.ts';
import { isForbiddenTrailer } from './trailer-names.ts';

/** Result of `advance` for a body that breaks its framing. */
export const MALFORMED = -1;

/**
 * Where in a body the next byte belongs. Transitions, each on the byte read:
 * size -> sizeLineFeed -> data -> dataReturn -> dataLineFeed -> size …; after a size of 0:
 * sizeLineFeed -> trailerStart -> trailerName -> trailerValue -> trailerLineFeed -> trailerStart … -> endLineFeed -> done.
 * A `;` after the size: extensionStart -> extensionName (-> valueStart -> value, or quoted <-> escaped -> quotedEnd) -> sizeLineFeed, or
 * extensionStart again. Fixed lengths and bodies until close know only fixed, untilClose and done.
 */
const State = {
  done: 0,
  fixed: 1,
  untilClose: 2,
  size: 3,
  sizeLineFeed: 4,
  data: 5,
  dataReturn: 6,
  dataLineFeed: 7,
  extensionStart: 8,
  extensionName: 9,
  valueStart: 10,
  value: 11,
  quoted: 12,
  escaped: 13,
  quotedEnd: 14,
  trailerStart: 15,
  trailerName: 16,
  trailerValue: 17,
  trailerLineFeed: 18,
  endLineFeed: 19,
} as const;

type State = (typeof State)[keyof typeof State];

/** 2^52 - 1: thirteen hexadecimal digits, still exact as a number. */
const MAX_SIZE_DIGITS = 13;
const SPACE = 0x20;
const QUOTE = 0x22;
const EQUALS = 0x3d;
const BACKSLASH = 0x5c;
const DELETE = 0x7f;
const LONGEST_NAME = 32;

/**
 * Follows the framing of message bodies: RFC 9112 sections 6 and 7. It says where a body ends and whether it is well-formed; the bytes
 * themselves pass by untouched. Invariant: `done` is true exactly between the last byte of one body and the next `start`.
 */
export class BodyFraming {
  readonly #limits: Http1Limits;
  #state: State = State.done;
  /** Of a fixed body or of the current chunk. */
  #remaining = 0;
  #sizeDigits = 0;
  #extensionBytes = 0;
  #extensionTotalBytes = 0;
  #trailerBytes = 0;
  #trailerFields = 0;
  #nameLength = 0;
  /** The current trailer's name, folded, as far as it can matter. Made when the first trailer comes. */
  #name: Uint8Array | null = null;
  /** Why `advance` said MALFORMED. */
  refusal: RefusalReason = 'bad-chunk-size';

  constructor(limits: Http1Limits) {
    this.#limits = limits;
  }

  /** The next byte belongs to a new body of `length` bytes, CHUNKED_BODY or UNTIL_CLOSE. */
  start(length: number): void {
    if (length === CHUNKED_BODY) {
      this.#state = State.size;
      this.#sizeDigits = 0;
      this.#remaining = 0;
      this.#extensionBytes = 0;
      this.#extensionTotalBytes = 0;
      this.#trailerBytes = 0;
      this.#trailerFields = 0;
    } else if (length === UNTIL_CLOSE) {
      this.#state = State.untilClose;
    } else {
      this.#remaining = length;
      this.#state = length === 0 ? State.done : State.fixed;
    }
  }

  /** The body is complete. */
  get done(): boolean {
    return this.#state === State.done;
  }

  /** The body ends when its sender closes. */
  get untilClose(): boolean {
    return this.#state === State.untilClose;
  }

  /**
   * Takes the bytes of [start, end) that belong to the body.
   * @returns the offset after them, or MALFORMED with `refusal` set
   */
  advance(bytes: Buffer, start: number, end: number): number {
    switch (this.#state) {
      case State.done:
        return start;
      case State.untilClose:
        return end;
      case State.fixed: {
        const available = end - start;
        if (available < this.#remaining) {
          this.#remaining -= available;
          return end;
        }
        this.#state = State.done;
        return start + this.#remaining;
      }
      default:
        return this.#advanceChunked(bytes, start, end);
    }
  }

  #malformed(reason: RefusalReason): number {
    this.refusal = reason;
    return MALFORMED;
  }

  #advanceChunked(bytes: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end) {
      if (this.#state === State.data) {
        const available = end - at;
        if (available < this.#remaining) {
          this.#remaining -= available;
          return end;
        }
        at += this.#remaining;
        this.#remaining = 0;
        this.#state = State.dataReturn;
        continue;
      }
      const byte = bytes[at] as number;
      at++;
      switch (this.#state) {
        case State.size: {
          const digit = HEX_VALUE[byte] as number;
          if (digit < 16) {
            if (++this.#sizeDigits > MAX_SIZE_DIGITS) return this.#malformed('bad-chunk-size');
            this.#remaining = this.#remaining * 16 + digit;
          } else if (this.#sizeDigits === 0) {
            return this.#malformed('bad-chunk-size');
          } else if (byte === CR) {
            this.#state = State.sizeLineFeed;
          } else if (byte === SEMICOLON) {
            this.#extensionBytes = 0;
            this.#state = State.extensionStart;
          } else {
            return this.#malformed('bad-chunk-size');
          }
          break;
        }
        case State.sizeLineFeed:
          if (byte !== LF) return this.#malformed('bad-chunk-size');
          this.#state = this.#remaining === 0 ? State.trailerStart : State.data;
          break;
        case State.dataReturn:
          if (byte !== CR) return this.#malformed('bad-chunk-data');
          this.#state = State.dataLineFeed;
          break;
        case State.dataLineFeed:
          if (byte !== LF) return this.#malformed('bad-chunk-data');
          this.#sizeDigits = 0;
          this.#state = State.size;
          break;
        default:
          if (!(this.#state < State.trailerStart ? this.#extensionByte(byte) : this.#trailerByte(byte))) return MALFORMED;
          if (this.#state === State.done) return at;
      }
    }
    return at;
  }

  /** One byte of a chunk extension, RFC 9112 section 7.1.1 without the optional whitespace. False: malformed, `refusal` set. */
  #extensionByte(byte: number): boolean {
    if (++this.#extensionBytes > this.#limits.chunkExtensionBytes || ++this.#extensionTotalBytes > this.#limits.chunkExtensionTotalBytes) {
      this.refusal = 'chunk-extension-too-long';
      return false;
    }
    this.refusal = 'bad-chunk-extension';
    switch (this.#state) {
      case State.extensionStart:
        this.#state = State.extensionName;
        return IS_TOKEN[byte] === 1;
      case State.valueStart:
        this.#state = byte === QUOTE ? State.quoted : State.value;
        return byte === QUOTE || IS_TOKEN[byte] === 1;
      case State.quoted:
        if (byte === QUOTE) this.#state = State.quotedEnd;
        else if (byte === BACKSLASH) this.#state = State.escaped;
        return byte >= SPACE && byte < DELETE;
      case State.escaped:
        this.#state = State.quoted;
        return byte >= SPACE && byte < DELETE;
      default:
        // A name, a value, or what follows a quoted value.
        if (byte === CR) this.#state = State.sizeLineFeed;
        else if (byte === SEMICOLON) this.#state = State.extensionStart;
        else if (byte === EQUALS && this.#state === State.extensionName) this.#state = State.valueStart;
        else return this.#state !== State.quotedEnd && IS_TOKEN[byte] === 1;
        return true;
    }
  }

  /** One byte after the last chunk. False: malformed, `refusal` set. */
  #trailerByte(byte: number): boolean {
    if (++this.#trailerBytes > this.#limits.trailerBytes) {
      this.refusal = 'trailer-too-large';
      return false;
    }
    this.refusal = 'bad-trailer';
    switch (this.#state) {
      case State.trailerStart:
        if (byte === CR) {
          this.#state = State.endLineFeed;
          return true;
        }
        if (IS_TOKEN[byte] === 0) return false;
        if (++this.#trailerFields > this.#limits.fields) return false;
        this.#nameLength = 0;
        this.#keepNameByte(byte);
        this.#state = State.trailerName;
        return true;
      case State.trailerName:
        if (byte === COLON) {
          if (this.#isForbiddenName()) return false;
          this.#state = State.trailerValue;
          return true;
        }
        if (IS_TOKEN[byte] === 0) return false;
        this.#keepNameByte(byte);
        return true;
      case State.trailerValue:
        if (byte === CR) this.#state = State.trailerLineFeed;
        else if (IS_FIELD_VALUE[byte] === 0) return false;
        return true;
      case State.trailerLineFeed:
        if (byte !== LF) return false;
        this.#state = State.trailerStart;
        return true;
      case State.endLineFeed:
        if (byte !== LF) return false;
        this.#state = State.done;
        return true;
      default:
        return false;
    }
  }

  #keepNameByte(byte: number): void {
    this.#name ??= new Uint8Array(LONGEST_NAME);
    if (this.#nameLength < LONGEST_NAME) this.#name[this.#nameLength] = FOLD_NAME[byte] as number;
    this.#nameLength++;
  }

  #isForbiddenName(): boolean {
    if (this.#name === null) return false;
    const name = String.fromCharCode(...this.#name.subarray(0, Math.min(this.#nameLength, LONGEST_NAME)));
    return isForbiddenTrailer(name);
  }
}
