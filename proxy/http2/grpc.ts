/** What an intermediary must know of the gRPC mapping to HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md). */

/** The status codes that Weft itself answers with (grpc/doc/statuscodes.md). */
export const GrpcStatus = {
  unknown: 2,
  permissionDenied: 7,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

const CONTENT_TYPE = 'application/grpc';

/** True for a request's content-type that makes it gRPC: `application/grpc` and what begins so (`+proto`, `-web`, parameters). */
export function isGrpcContentType(contentType: string): boolean {
  if (!contentType.startsWith(CONTENT_TYPE)) {
    // Media types are case-insensitive (RFC 9110 section 8.3.1); nobody writes this one with capitals.
    return contentType.length >= CONTENT_TYPE.length && contentType.slice(0, CONTENT_TYPE.length).toLowerCase() === CONTENT_TYPE;
  }
  return true;
}

/** The content-type of a refusal: gRPC-Web clients want theirs back. */
export function grpcAnswerType(contentType: string): string {
  const type = contentType.toLowerCase();
  if (!type.startsWith(`${CONTENT_TYPE}-web`)) return CONTENT_TYPE;
  const end = type.indexOf(';');
  return end === -1 ? type : type.slice(0, end);
}

/** What a gRPC client makes of an HTTP status (grpc/doc/http-grpc-status-mapping.md). */
export function grpcStatusOf(httpStatus: number): number {
  switch (httpStatus) {
    case 400:
    case 431:
      return GrpcStatus.internal;
    case 401:
      return GrpcStatus.unauthenticated;
    case 403:
      return GrpcStatus.permissionDenied;
    case 404:
    case 405:
      return GrpcStatus.unimplemented;
    case 429:
    case 502:
    case 503:
    case 504:
      return GrpcStatus.unavailable;
    default:
      return GrpcStatus.unknown;
  }
}

/** The status in a `grpc-status` field, or null when it is none. */
export function parseGrpcStatus(value: string | null): number | null {
  if (value === null || value.length === 0 || value.length > 3) return null;
  let status = 0;
  for (let i = 0; i < value.length; i++) {
    const digit = value.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9) return null;
    status = status * 10 + digit;
  }
  return status;
}

/** Longer messages are cut: they are for people. */
const MAX_MESSAGE_BYTES = 1024;

/** A `grpc-message`: UTF-8, percent-encoded but for visible ASCII and the space, and without `%` itself. */
export function encodeGrpcMessage(text: string): string {
  const bytes = Buffer.from(text, 'utf8').subarray(0, MAX_MESSAGE_BYTES);
  let encoded = '';
  for (const byte of bytes) {
    if (byte >= 0x20 && byte <= 0x7e && byte !== 0x25) encoded += String.fromCharCode(byte);
    else encoded += `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  // A field value has no white space at its ends.
  return encoded.replace(/^ +| +$/g, (spaces) => '%20'.repeat(spaces.length));
}
