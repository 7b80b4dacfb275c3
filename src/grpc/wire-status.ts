import { GRPC_STATUS, GrpcStatusError, type GrpcStatus, grpcStatusName, grpcStatusOf } from './grpc-error.ts';
import { decodeBinary, encodeBinary } from './metadata.ts';

/** How the end of a call is written in HTTP/2 fields (grpc/doc/PROTOCOL-HTTP2.md, "Responses"). */

/** Longer texts are cut: they are for people. */
const MAX_MESSAGE_BYTES = 1024;
/** Longer details are left out: a client must still get the status, and its header list is limited. */
const MAX_DETAILS_BYTES = 4096;
const STATUS = /^[0-9]{1,3}$/;

/** The fields that end a call: OK for null. */
export function statusFields(error: GrpcStatusError | null): Record<string, string> {
  if (error === null) return { 'grpc-status': String(GRPC_STATUS.OK) };
  const fields: Record<string, string> = { 'grpc-status': String(error.status) };
  if (error.message !== '') fields['grpc-message'] = encodeGrpcMessage(error.message);
  if (error.details !== null && error.details.length <= MAX_DETAILS_BYTES) fields['grpc-status-details-bin'] = encodeBinary(error.details);
  return fields;
}

type Fields = Readonly<Record<string, string | string[] | number | undefined>>;

/** How a call ended by these fields: null for OK, an error for another status, undefined when they do not say. */
export function readStatusFields(fields: Fields): GrpcStatusError | null | undefined {
  const status = fields['grpc-status'];
  if (status === undefined) return undefined;
  const known: GrpcStatus = typeof status === 'string' && STATUS.test(status) ? grpcStatusOf(Number(status)) : GRPC_STATUS.UNKNOWN;
  if (known === GRPC_STATUS.OK) return null;
  const message = fields['grpc-message'];
  const details = fields['grpc-status-details-bin'];
  const bytes = typeof details === 'string' ? decodeBinary(details) : null;
  return new GrpcStatusError(
    known,
    typeof message === 'string' ? decodeGrpcMessage(message) : grpcStatusName(known),
    bytes === null ? {} : { details: bytes },
  );
}

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

/** The text of a `grpc-message`; what is not encoded as it should be stays as it is (the protocol asks for no more). */
export function decodeGrpcMessage(encoded: string): string {
  const bytes = Buffer.from(
    encoded.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  );
  return bytes.toString('utf8').slice(0, MAX_MESSAGE_BYTES);
}

/** What a gRPC client makes of an HTTP status that is not 200 (grpc/doc/http-grpc-status-mapping.md). */
export function grpcStatusOfHttp(httpStatus: number): Exclude<GrpcStatus, 0> {
  switch (httpStatus) {
    case 400:
    case 431:
      return GRPC_STATUS.INTERNAL;
    case 401:
      return GRPC_STATUS.UNAUTHENTICATED;
    case 403:
      return GRPC_STATUS.PERMISSION_DENIED;
    case 404:
    case 405:
      return GRPC_STATUS.UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
      return GRPC_STATUS.UNAVAILABLE;
    default:
      return GRPC_STATUS.UNKNOWN;
  }
}
