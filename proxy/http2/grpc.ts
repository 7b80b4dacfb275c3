/** What an intermediary must know of the gRPC mapping to HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md). */

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
