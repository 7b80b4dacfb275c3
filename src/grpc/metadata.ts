import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';

/** Metadata to send: names in lower case; bytes for names that end in `-bin`, text of visible ASCII for others. */
export type MetadataEntries = Readonly<Record<string, string | Uint8Array>>;

const BINARY_SUFFIX = '-bin';
const NAME = /^[0-9a-z_.-]+$/;
const TEXT = /^[\x20-\x7e]*$/;
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** What a peer sent along with a call (grpc/doc/PROTOCOL-HTTP2.md, "Custom-Metadata"). Names are in lower case. */
export class Metadata {
  /** Names and values by turns. */
  readonly #fields: readonly string[];
  /** As HTTP/2 counts a header list: 32 bytes for each field beside its text (RFC 9113 section 6.5.2). */
  readonly size: number;

  constructor(rawHeaders: readonly string[]) {
    this.#fields = rawHeaders;
    let size = rawHeaders.length * 16;
    for (const text of rawHeaders) size += text.length;
    this.size = size;
  }

  /** The value of a field that is there exactly once; null when it is not there, or several times. */
  get(name: string): string | null {
    const values = this.all(name);
    return values.length === 1 ? (values[0] as string) : null;
  }

  /** All values of a field, in order. */
  all(name: string): readonly string[] {
    const values: string[] = [];
    for (let i = 0; i + 1 < this.#fields.length; i += 2) if (this.#fields[i] === name) values.push(this.#fields[i + 1] as string);
    return values;
  }

  /**
   * All values of a field of bytes; a `-bin` field may hold several, with commas.
   * @throws GrpcStatusError INTERNAL when one is not base64
   */
  bytes(name: string): readonly Uint8Array[] {
    return this.all(name)
      .flatMap((value) => value.split(','))
      .map((value) => {
        const bytes = decodeBinary(value.trim());
        if (bytes === null) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, `metadata ${name} is not base64`);
        return bytes;
      });
  }
}

/**
 * Fields of HTTP/2 for metadata to send.
 * @throws GrpcStatusError INTERNAL for names and values that metadata cannot have
 */
export function metadataFields(entries: MetadataEntries): Record<string, string> {
  const fields: Record<string, string> = {};
  for (const [name, value] of Object.entries(entries)) {
    const isBinary = name.endsWith(BINARY_SUFFIX);
    const fits = NAME.test(name) && !name.startsWith('grpc-') && isBinary === (typeof value !== 'string');
    if (!fits || (typeof value === 'string' && !TEXT.test(value))) {
      throw new GrpcStatusError(GRPC_STATUS.INTERNAL, `metadata cannot have ${JSON.stringify(name)} with this value`);
    }
    fields[name] = typeof value === 'string' ? value : encodeBinary(value);
  }
  return fields;
}

/** Base64 without padding, which every peer must take. */
export function encodeBinary(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64').replace(/=+$/, '');
}

/** The bytes of base64, padded or not; null for anything else. */
export function decodeBinary(text: string): Uint8Array | null {
  return BASE64.test(text) ? new Uint8Array(Buffer.from(text, 'base64')) : null;
}
