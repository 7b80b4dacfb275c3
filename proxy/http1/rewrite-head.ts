import { COLON, FOLD_NAME, LF } from './bytes.ts';
import type { FieldSection } from './field-section.ts';

/** A field name as sloppy servers read it: in lower case, `_` as `-`. Two names that fold alike reach a CGI-like application as one. */
export function foldedName(bytes: Buffer, start: number, end: number): string {
  let name = '';
  for (let at = start; at < end; at++) name += String.fromCharCode(FOLD_NAME[bytes[at] as number] as number);
  return name;
}

/** One bit for each length of a name, by its lowest five bits: most fields have no length that is looked for. */
function lengthsOf(names: ReadonlySet<string>): number {
  let lengths = 0;
  for (const name of names) lengths |= 1 << (name.length & 31);
  return lengths;
}

/**
 * A copy of a head that was parsed before, with another first line and other fields. What is kept is kept byte for byte, in order.
 * @param firstLine with its line end
 * @param fieldsStart offset of the first field line
 * @param end offset after the empty line
 * @param dropped folded names of fields to leave out; null: none
 * @param added field lines to put at the end, each with its line end; one code unit per byte
 */
export function rewriteHead(
  firstLine: string,
  bytes: Buffer,
  fieldsStart: number,
  end: number,
  dropped: ReadonlySet<string> | null,
  added: string,
): Buffer {
  const emptyLine = end - 2;
  let text = firstLine;
  let keptFrom = fieldsStart;
  let at = dropped === null || dropped.size === 0 ? emptyLine : fieldsStart;
  const lengths = dropped === null ? 0 : lengthsOf(dropped);
  while (at < emptyLine) {
    const nameEnd = bytes.indexOf(COLON, at);
    const next = bytes.indexOf(LF, nameEnd) + 1;
    if ((lengths & (1 << ((nameEnd - at) & 31))) !== 0 && dropped?.has(foldedName(bytes, at, nameEnd))) {
      text += bytes.latin1Slice(keptFrom, at);
      keptFrom = next;
    }
    at = next;
  }
  return Buffer.from(`${text}${bytes.latin1Slice(keptFrom, emptyLine)}${added}\r\n`, 'latin1');
}

/** Dropped from every head that has to be rewritten for its hop-by-hop fields. */
const HOP_FIELDS: readonly string[] = [
  'connection',
  'te',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-authentication-info',
];

/**
 * `rewriteHead` without what was for this hop only: RFC 9110 section 7.6.1.
 *
 * The mesh's hop is transparent: one client connection is one server connection, both end together, and every byte of framing is passed on.
 * So what says how long the connection lives stays true and is kept: `Connection: close` and `keep-alive`, and Keep-Alive; and so does
 * Trailer, since trailers are forwarded. Everything else goes: fields that Connection names, Proxy-Connection, Proxy-Authenticate,
 * Proxy-Authorization and Proxy-Authentication-Info, TE except `trailers` (a transfer coding could not be framed), and Upgrade unless
 * this hop can follow it. A head in which none of that occurs is never rewritten.
 * @param keepsUpgrade Upgrade is kept, and Connection names it if it did
 */
export function rewriteForNextHop(
  firstLine: string,
  bytes: Buffer,
  fieldsStart: number,
  end: number,
  section: FieldSection,
  keepsUpgrade: boolean,
): Buffer {
  const dropped = new Set(HOP_FIELDS);
  for (const name of section.connectionNames ?? []) dropped.add(name.replaceAll('_', '-'));
  if (!keepsUpgrade) dropped.add('upgrade');
  const options: string[] = [];
  if (section.connectionClose) options.push('close');
  if (section.connectionKeepAlive) options.push('keep-alive');
  if (keepsUpgrade && section.connectionUpgrade) options.push('upgrade');
  if (section.teTrailers) options.push('te');
  const connection = options.length === 0 ? '' : `connection: ${options.join(', ')}\r\n`;
  return rewriteHead(firstLine, bytes, fieldsStart, end, dropped, `${connection}${section.teTrailers ? 'te: trailers\r\n' : ''}`);
}
