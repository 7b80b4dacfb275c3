import { TAG } from './der-reader.ts';

/** DER (ITU-T X.690 section 10) of one element. Every function of this file makes a new one from the content of it. */
export type Der = Uint8Array;

/** Universal tags beyond those that are read. */
const UTF8_STRING_TAG = 0x0c;
const SET_TAG = 0x31;

/** RFC 5280 section 4.1.2.5: years from here on are written with four digits. */
const FIRST_GENERALIZED_YEAR = 2050;

/** An element with this tag around the parts. */
export function element(tag: number, ...parts: readonly Uint8Array[]): Der {
  let length = 0;
  for (const part of parts) length += part.length;
  const lengthBytes = length < 0x80 ? 0 : length < 0x100 ? 1 : length < 0x1_0000 ? 2 : 3;
  if (length >= 0x100_0000) throw new RangeError('more than 16 MiB of DER');
  const der = new Uint8Array(2 + lengthBytes + length);
  der[0] = tag;
  der[1] = lengthBytes === 0 ? length : 0x80 + lengthBytes;
  for (let i = 0; i < lengthBytes; i++) der[2 + i] = (length >> (8 * (lengthBytes - 1 - i))) & 0xff;
  let at = 2 + lengthBytes;
  for (const part of parts) {
    der.set(part, at);
    at += part.length;
  }
  return der;
}

export function sequence(...parts: readonly Uint8Array[]): Der {
  return element(TAG.sequence, ...parts);
}

/** A SET OF. DER wants the parts in the order of their bytes; with one part, as here mostly, there is none. */
export function setOf(...parts: readonly Uint8Array[]): Der {
  return element(SET_TAG, ...parts.toSorted((a, b) => Buffer.compare(a, b)));
}

/** `[number] EXPLICIT`: a constructed element of the context class. */
export function explicit(number: number, ...parts: readonly Uint8Array[]): Der {
  return element(0xa0 + number, ...parts);
}

/** `[number] IMPLICIT` of a primitive type. */
export function implicit(number: number, content: Uint8Array): Der {
  return element(0x80 + number, content);
}

/** A non-negative INTEGER from its big-endian bytes. */
export function unsignedInteger(bytes: Uint8Array): Der {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const digits = bytes.length === 0 ? Uint8Array.of(0) : bytes.subarray(start);
  return (digits[0] as number) >= 0x80 ? element(TAG.integer, Uint8Array.of(0), digits) : element(TAG.integer, digits);
}

/** A non-negative INTEGER below 2^31. */
export function smallInteger(value: number): Der {
  return unsignedInteger(Uint8Array.of((value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff));
}

/** TRUE. FALSE is a default wherever this room writes a BOOLEAN, and DER leaves defaults out. */
export function booleanTrue(): Der {
  return element(TAG.boolean, Uint8Array.of(0xff));
}

export function nullValue(): Der {
  return element(TAG.null);
}

export function octetString(content: Uint8Array): Der {
  return element(TAG.octetString, content);
}

/** A BIT STRING; the last `unusedBits` of the last byte are zero and do not count. */
export function bitString(content: Uint8Array, unusedBits = 0): Der {
  return element(TAG.bitString, Uint8Array.of(unusedBits), content);
}

export function utf8String(text: string): Der {
  return element(UTF8_STRING_TAG, Buffer.from(text, 'utf8'));
}

/** An OBJECT IDENTIFIER from its dotted text. */
export function objectIdentifier(dotted: string): Der {
  const [first = 0, second = 0, ...others] = dotted.split('.').map(Number);
  const bytes: number[] = [];
  for (const arc of [first * 40 + second, ...others]) {
    const groups = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) groups.unshift((left % 128) + 128);
    bytes.push(...groups);
  }
  return element(TAG.objectIdentifier, Uint8Array.from(bytes));
}

/** A Time of RFC 5280 section 4.1.2.5. `at`: milliseconds since the epoch; the fraction of a second is dropped. */
export function time(at: number): Der {
  const date = new Date(at);
  const year = date.getUTCFullYear();
  const digits = date.toISOString().replace(/[-:T]/g, '').slice(0, 14);
  if (year >= FIRST_GENERALIZED_YEAR || year < 1950) return element(TAG.generalizedTime, Buffer.from(`${digits}Z`, 'latin1'));
  return element(TAG.utcTime, Buffer.from(`${digits.slice(2)}Z`, 'latin1'));
}
