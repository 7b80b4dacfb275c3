import { WeftError, type WeftErrorDetail } from '../model/errors.ts';

/** Raised for messages that cannot be read or written, and for misuse of this room. Codes: WEFT_GRPC_*. */
export class GrpcError extends WeftError {
  override readonly name: string = 'GrpcError';
}

/** Status codes of gRPC (grpc/doc/statuscodes.md). */
export const GRPC_STATUS = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export type GrpcStatus = (typeof GRPC_STATUS)[keyof typeof GRPC_STATUS];

const STATUS_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(GRPC_STATUS).map(([name, status]) => [status, name]));

/** The name of a status, such as `PERMISSION_DENIED`. */
export function grpcStatusName(status: GrpcStatus): string {
  return STATUS_NAMES.get(status) as string;
}

/** The status of a number from the wire: UNKNOWN for one that gRPC does not have. */
export function grpcStatusOf(number: number): GrpcStatus {
  return STATUS_NAMES.has(number) ? (number as GrpcStatus) : GRPC_STATUS.UNKNOWN;
}

export interface GrpcStatusDetail extends WeftErrorDetail {
  /** An encoded google.rpc.Status, which travels as `grpc-status-details-bin`. */
  readonly details?: Uint8Array;
}

/**
 * A call that ended with another status than OK. A handler throws it to choose the answer: `message` and `details` then go to the client,
 * cause and nextStep do not. A client throws it with what the server said.
 */
export class GrpcStatusError extends GrpcError {
  override readonly name = 'GrpcStatusError';
  readonly status: GrpcStatus;
  readonly details: Uint8Array | null;

  constructor(status: Exclude<GrpcStatus, 0>, message: string, detail: GrpcStatusDetail = {}) {
    super('WEFT_GRPC_STATUS', message, detail);
    this.status = status;
    this.details = detail.details ?? null;
  }

  override describe(): string {
    const { code, message, nextStep } = this;
    return `${code}: ${grpcStatusName(this.status)}: ${message}${nextStep === null ? '' : ` (${nextStep})`}`;
  }
}
