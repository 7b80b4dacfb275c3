import { GRPC_STATUS, grpcStatusName, GrpcStatusError } from '../../src/grpc/grpc-error.ts';

/** Why a Workload API did not give what it was asked for, in terms of SPIFFE_Workload_Endpoint.md section 6. */
export interface WorkloadApiFailure {
  /** `denied`: no identity for this process. `unavailable`: not now, or nobody is there. `refused`: the request itself. */
  readonly kind: 'denied' | 'unavailable' | 'refused';
  /** With the name of the status. */
  readonly message: string;
}

/** What a failed call means; null for anything else that was thrown. */
export function workloadApiFailure(error: unknown): WorkloadApiFailure | null {
  if (!(error instanceof GrpcStatusError)) return null;
  const message = `${grpcStatusName(error.status)}: ${error.message}`;
  switch (error.status) {
    case GRPC_STATUS.PERMISSION_DENIED:
      return { kind: 'denied', message };
    case GRPC_STATUS.UNAVAILABLE:
    case GRPC_STATUS.DEADLINE_EXCEEDED:
      return { kind: 'unavailable', message };
    default:
      return { kind: 'refused', message };
  }
}
