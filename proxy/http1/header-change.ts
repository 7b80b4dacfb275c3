import type { HeaderChange } from '../../src/model/request-gate.ts';
import { IS_FIELD_VALUE, IS_TOKEN } from './bytes.ts';

/** Fields that frame a message, route it or belong to one hop: only the codec writes them. */
const CODEC_FIELDS: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'expect',
  'host',
  'http2-settings',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/** More than any gate has reason to add. */
const MAX_FIELDS = 100;
const MAX_ADDED_CHARACTERS = 32_768;

/** True for a lower-case field name (RFC 9110 section 5.6.2) that is not the codec's own, written with `-` or `_`. */
export function isFreeFieldName(name: string): boolean {
  if (name.length === 0) return false;
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code > 0x7f || IS_TOKEN[code] === 0 || (code >= 0x41 && code <= 0x5a)) return false;
  }
  return !CODEC_FIELDS.has(name) && !CODEC_FIELDS.has(name.replaceAll('_', '-'));
}

/** True for a field value without control characters, one code unit per byte: RFC 9110 section 5.5. */
export function isFieldValue(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code > 0xff || IS_FIELD_VALUE[code] === 0) return false;
  }
  return true;
}

/**
 * What is wrong with a change that a gate asks for; null when nothing is. Gates check what they make; the codec does not rely on it, and
 * refuses the request rather than send a bad head.
 */
export function headerChangeProblem({ remove, set }: HeaderChange): string | null {
  if (remove.length > MAX_FIELDS || set.length > MAX_FIELDS) return `more than ${MAX_FIELDS} fields`;
  for (const name of remove) if (!isFreeFieldName(name)) return `${JSON.stringify(name)} may not be removed`;
  let added = 0;
  for (const [name, value] of set) {
    if (!isFreeFieldName(name)) return `${JSON.stringify(name)} may not be set`;
    if (!isFieldValue(value)) return `the value of ${name} has a character that no header may have`;
    added += name.length + value.length + 4;
  }
  return added > MAX_ADDED_CHARACTERS ? `more than ${MAX_ADDED_CHARACTERS} characters added` : null;
}
