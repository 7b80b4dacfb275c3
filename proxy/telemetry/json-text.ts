const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const HEX = '0123456789abcdef';

/**
 * A JSON string literal with its quotes, in ASCII alone: whatever bytes a client sent, the line stays one line, is valid JSON and has as
 * many bytes as characters. Control characters, DEL and everything above it are written as `\u00xx`.
 * @param maxLength where to cut the literal, in characters without the quotes; an escape is never cut in two
 */
export function jsonText(text: string, maxLength: number): string {
  const end = Math.min(text.length, maxLength);
  for (let i = 0; i < end; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code >= 0x7f || code === QUOTE || code === BACKSLASH) return escapeFrom(text, i, maxLength);
  }
  return end === text.length ? `"${text}"` : `"${text.slice(0, end)}"`;
}

function escapeFrom(text: string, from: number, maxLength: number): string {
  let out = text.slice(0, from);
  for (let i = from; i < text.length; i++) {
    const code = text.charCodeAt(i);
    let next: string;
    if (code === QUOTE) next = '\\"';
    else if (code === BACKSLASH) next = '\\\\';
    else if (code >= 0x20 && code < 0x7f) next = text.charAt(i);
    else next = `\\u${HEX[code >>> 12]}${HEX[(code >>> 8) & 15]}${HEX[(code >>> 4) & 15]}${HEX[code & 15]}`;
    if (out.length + next.length > maxLength) break;
    out += next;
  }
  return `"${out}"`;
}
