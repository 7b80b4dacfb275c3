import { FrameType } from '../../src/transport/http2/frame.ts';

/** More settings than anybody sends at once. */
const MAX_SETTINGS_BYTES = 6 * 100;

/**
 * True if the first bytes of a server are, as far as they go, those of HTTP/2: a SETTINGS frame (RFC 9113 section 3.4), which it may send
 * before its client has said a word. No server of another protocol that speaks first is known to begin so.
 */
export function looksLikeServerPreface(bytes: Buffer): boolean {
  const { length } = bytes;
  if (length > 0 && bytes[0] !== 0) return false;
  if (length >= 3) {
    const payload = bytes.readUIntBE(0, 3);
    if (payload % 6 !== 0 || payload > MAX_SETTINGS_BYTES) return false;
  }
  if (length > 3 && bytes[3] !== FrameType.settings) return false;
  for (let i = 4; i < 9 && i < length; i++) if (bytes[i] !== 0) return false;
  return length > 0;
}
