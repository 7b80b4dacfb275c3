import { parseStrictJson, StrictJsonError } from './strict-json.ts';

/** Longer tokens are refused unread: requests carry them in a head, and this is more than one usually holds. */
export const MAX_TOKEN_LENGTH: number = 16 * 1024;
const MAX_JSON_DEPTH = 16;
const MAX_KEY_ID_LENGTH = 1024;

/** A JWT in compact form (RFC 7515 section 7.1), taken apart; nothing about it is verified. */
export interface CompactToken {
  readonly algorithm: string;
  readonly keyId: string | null;
  /** The whole protected header, `alg` and `kid` among it. */
  readonly header: Readonly<Record<string, unknown>>;
  readonly payload: Readonly<Record<string, unknown>>;
  /** As it is in the token. */
  readonly encodedPayload: string;
  readonly signingInput: string;
  readonly signature: Buffer;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Takes a token apart, strictly: base64url in its one spelling, UTF-8, JSON objects without repeated names. Members of the header that would
 * change what the token means (`crit`, `b64`, and whatever an extension names there: RFC 7515 section 4.1.11, RFC 7797) are refused; those that
 * bring a key with them are never looked at.
 */
export function parseCompactToken(token: string): CompactToken | 'malformed' | 'too-large' | 'critical-header' {
  if (token.length > MAX_TOKEN_LENGTH) return 'too-large';
  const headerEnd = token.indexOf('.');
  const payloadEnd = token.indexOf('.', headerEnd + 1);
  if (headerEnd <= 0 || payloadEnd === -1 || token.indexOf('.', payloadEnd + 1) !== -1) return 'malformed';
  const encodedPayload = token.slice(headerEnd + 1, payloadEnd);
  const header = jsonObject(token.slice(0, headerEnd));
  const payload = jsonObject(encodedPayload);
  const signature = decodeBase64Url(token.slice(payloadEnd + 1));
  if (header === null || payload === null || signature === null || signature.length === 0) return 'malformed';
  const { alg, kid } = header;
  if (typeof alg !== 'string') return 'malformed';
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > MAX_KEY_ID_LENGTH)) return 'malformed';
  if ('crit' in header || 'b64' in header) return 'critical-header';
  return { algorithm: alg, keyId: kid ?? null, header, payload, encodedPayload, signingInput: token.slice(0, payloadEnd), signature };
}

function jsonObject(encoded: string): Readonly<Record<string, unknown>> | null {
  const bytes = decodeBase64Url(encoded);
  if (bytes === null) return null;
  let value: unknown;
  try {
    value = parseStrictJson(utf8.decode(bytes), MAX_JSON_DEPTH);
  } catch (error) {
    if (error instanceof StrictJsonError || error instanceof TypeError) return null;
    throw error;
  }
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Readonly<Record<string, unknown>>) : null;
}

/** base64url without padding, or null. Node's decoder skips what it does not know; only the one spelling comes back the same. */
export function decodeBase64Url(text: string): Buffer | null {
  const bytes = Buffer.from(text, 'base64url');
  return bytes.toString('base64url') === text ? bytes : null;
}
