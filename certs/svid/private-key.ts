import { createPrivateKey, type KeyObject } from 'node:crypto';

/** PKCS#8 begins with a SEQUENCE (RFC 5958 section 2), so a key that begins with a zero has been wiped. */
const WIPED = 0;
const BEGIN = '-----BEGIN PRIVATE KEY-----\n';
const END = '-----END PRIVATE KEY-----\n';
const BASE64 = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 'latin1');
const PADDING = 0x3d;
const NEWLINE = 0x0a;
/** Bytes of a key in one line of 64 characters (RFC 7468 section 2). */
const BYTES_PER_LINE = 48;

/**
 * Moves a key to memory that all threads share, so that there is one copy of it to wipe.
 * @param der PKCS#8; it is wiped, unless it is in shared memory already and comes back as it is
 */
export function shareKey(der: Uint8Array): Uint8Array {
  if (der.buffer instanceof SharedArrayBuffer) return der;
  const shared = new Uint8Array(new SharedArrayBuffer(der.length));
  shared.set(der);
  wipeKey(der);
  return shared;
}

/** Overwrites a key with zeros. In shared memory all threads lose it at once. */
export function wipeKey(der: Uint8Array): void {
  der.fill(WIPED);
}

export function isWiped(der: Uint8Array): boolean {
  return der[0] === WIPED || der.length === 0;
}

/** The key as node:crypto holds it: outside of JavaScript's memory, and freed with the object. */
export function keyObject(der: Uint8Array): KeyObject {
  // OpenSSL gets a copy that no other thread changes while it reads.
  const copy = Buffer.from(der);
  try {
    return createPrivateKey({ key: copy, format: 'der', type: 'pkcs8' });
  } finally {
    wipeKey(copy);
  }
}

/**
 * Lends the key as PEM, the one form that node:tls takes, and wipes that when `use` returns. Written byte by byte: a string in between
 * could not be wiped.
 */
export function withPemKey<T>(der: Uint8Array, use: (pem: Buffer) => T): T {
  const pem = encode(der);
  try {
    return use(pem);
  } finally {
    wipeKey(pem);
  }
}

function encode(der: Uint8Array): Buffer {
  const lines = Math.ceil(der.length / BYTES_PER_LINE);
  const pem = Buffer.alloc(BEGIN.length + 4 * Math.ceil(der.length / 3) + lines + END.length);
  let at = pem.write(BEGIN, 'latin1');
  for (let from = 0; from < der.length; from += 3) {
    const left = der.length - from;
    const bits = ((der[from] as number) << 16) | ((der[from + 1] ?? 0) << 8) | (der[from + 2] ?? 0);
    pem[at++] = BASE64[bits >> 18] as number;
    pem[at++] = BASE64[(bits >> 12) & 63] as number;
    pem[at++] = left > 1 ? (BASE64[(bits >> 6) & 63] as number) : PADDING;
    pem[at++] = left > 2 ? (BASE64[bits & 63] as number) : PADDING;
    if (left <= 3 || (from + 3) % BYTES_PER_LINE === 0) pem[at++] = NEWLINE;
  }
  pem.write(END, at, 'latin1');
  return pem;
}
