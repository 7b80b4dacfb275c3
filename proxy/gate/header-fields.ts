import type { HeaderChange } from '../../src/model/request-gate.ts';

/** Fields that are the codec's own: framing, routing and hop-by-hop. Nobody behind the gate may set or remove them. */
const RESERVED: ReadonlySet<string> = new Set([
  'host',
  'connection',
  'content-length',
  'expect',
  'http2-settings',
  'keep-alive',
  'max-forwards',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/** The characters of a field name (RFC 9110 section 5.6.2), lower case only. */
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const MAX_NAME_LENGTH = 256;

/** What applications make of a lower-case name that take `_` for `-`, as CGI and its successors do. */
export function foldedName(name: string): string {
  return name.replaceAll('_', '-');
}

/** Removal is by the reading of sloppy servers too, to which `x_forwarded_for` is x-forwarded-for. */
export function isRemoved(name: string, change: HeaderChange): boolean {
  const { remove } = change;
  if (remove.length === 0) return false;
  const folded = foldedName(name);
  for (let i = 0; i < remove.length; i++) {
    const removed = remove[i] as string;
    if (removed === name || removed === folded || (removed.includes('_') && foldedName(removed) === folded)) return true;
  }
  return false;
}

/** True for a lower-case name that may be set or removed for somebody else's sake. */
export function isChangeable(name: string): boolean {
  return name.length <= MAX_NAME_LENGTH && NAME.test(name) && !RESERVED.has(foldedName(name));
}

/** True for text that is one field's value, each character being one byte. */
export function isFieldValue(value: string): boolean {
  return VALUE.test(value);
}

/** Text as its UTF-8 bytes, one character each, which is how codecs write values; null when it holds what a value may not. */
export function fieldValueOf(text: string): string | null {
  const bytes = Buffer.from(text, 'utf8').latin1Slice();
  return isFieldValue(bytes) ? bytes : null;
}
