/** Byte values and classes of HTTP/1.1 syntax, as tables: one load per byte, no regular expressions. */

export const TAB = 0x09;
export const LF = 0x0a;
export const CR = 0x0d;
export const SPACE = 0x20;
export const COLON = 0x3a;
export const SEMICOLON = 0x3b;
export const ASTERISK = 0x2a;
export const SLASH = 0x2f;

function table(member: (byte: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, byte) => (member(byte) ? 1 : 0));
}

function among(characters: string): (byte: number) => boolean {
  return (byte) => characters.includes(String.fromCharCode(byte));
}

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
const isUpper = (byte: number): boolean => byte >= 0x41 && byte <= 0x5a;
const isLower = (byte: number): boolean => byte >= 0x61 && byte <= 0x7a;
const isAlphanumeric = (byte: number): boolean => isDigit(byte) || isUpper(byte) || isLower(byte);

/** tchar: RFC 9110 section 5.6.2. */
export const IS_TOKEN: Uint8Array = table((byte) => isAlphanumeric(byte) || among("!#$%&'*+-.^_`|~")(byte));

/**
 * What a method may be made of: token characters without lower-case letters. Methods are case-sensitive and none with a lower-case
 * letter is registered; a server that takes `delete` for DELETE would get past a policy that names DELETE.
 */
export const IS_METHOD: Uint8Array = table((byte) => IS_TOKEN[byte] === 1 && !isLower(byte));

/** field-content: visible ASCII, SP, HTAB and obs-text (RFC 9110 section 5.5). Never CR, LF, NUL or another control character. */
export const IS_FIELD_VALUE: Uint8Array = table((byte) => byte === TAB || (byte >= SPACE && byte !== 0x7f));

/** Visible ASCII: the widest set a request target may use. What of it is refused or rewritten is up to normalisation. */
export const IS_TARGET: Uint8Array = table((byte) => byte > SPACE && byte < 0x7f);

/** The characters of host names, addresses and ports that Weft takes: the real ones, not all of RFC 3986's reg-name. */
export const IS_HOST: Uint8Array = table((byte) => isAlphanumeric(byte) || among('-._:[]')(byte));

/** Value of a hexadecimal digit; 255 for anything else. */
export const HEX_VALUE: Uint8Array = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (isDigit(byte)) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : 255;
});

/** ASCII letters lower-cased and `_` read as `-`: the reading of a sloppy server. All other bytes as they are. */
export const FOLD_NAME: Uint8Array = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (isUpper(byte)) return byte | 0x20;
  return byte === 0x5f ? 0x2d : byte;
});
