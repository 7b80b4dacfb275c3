import { GRPC_STATUS, GrpcStatusError, grpcStatusName } from '../../src/grpc/grpc-error.ts';
import { errorText } from '../../src/model/errors.ts';
import { CertsError } from '../errors.ts';
import { spiffeReason } from './error-reason.ts';

/**
 * SPIRE sent what no SPIFFE server may send, or what this agent cannot use.
 * @returns CertsError WEFT_CERTS_SPIRE_MESSAGE
 */
export function badMessage(what: string, cause?: unknown): CertsError {
  return new CertsError('WEFT_CERTS_SPIRE_MESSAGE', `SPIRE sent a message that cannot be used: ${what}`, {
    nextStep: 'check that the trust domain of SPIRE is that of --trust-domain, and the versions of SPIRE',
    cause,
  });
}

/**
 * SPIRE has no SVID for an identity (now).
 * @returns CertsError WEFT_CERTS_SPIRE_NO_SVID
 */
export function noSvid(identity: string, why: string): CertsError {
  return new CertsError('WEFT_CERTS_SPIRE_NO_SVID', `SPIRE has no SVID for ${identity}: ${why}`, {
    nextStep: 'create a registration entry for it (docs/spire.md), or look at the log of the SPIRE agent',
  });
}

/**
 * An identity had an SVID, and SPIRE took it back. It is not to be used any more, although it has not expired.
 * @returns CertsError WEFT_CERTS_SPIRE_WITHDRAWN
 */
export function withdrawn(identity: string): CertsError {
  return new CertsError('WEFT_CERTS_SPIRE_WITHDRAWN', `SPIRE took back the SVID of ${identity}`, {
    nextStep: 'create its registration entry again if it was deleted by mistake (docs/spire.md)',
  });
}

const REASONS: ReadonlyMap<string, string> = new Map([
  ['WORKLOAD_REFERENCE_INVALID', 'SPIRE does not take references to processes; allow WorkloadPIDReference for this broker'],
  ['WORKLOAD_NOT_FOUND', 'SPIRE sees no such process; its agent must share the process ids of this host'],
  ['WORKLOAD_NOT_ENTITLED', 'no registration entry fits the workload'],
]);

/** Why a call to SPIRE failed, as one line for status and log. */
export function callProblem(error: unknown): string {
  if (!(error instanceof GrpcStatusError)) return errorText(error);
  const reason = spiffeReason(error.details);
  const known = reason === null ? undefined : REASONS.get(reason);
  if (known !== undefined) return `${known} (${reason}: ${error.message})`;
  if (error.status === GRPC_STATUS.PERMISSION_DENIED) return `SPIRE has no identity for the caller (PERMISSION_DENIED: ${error.message})`;
  // Only on our side there is a cause: no connection, for example.
  if (error.cause !== undefined) return `${error.message}: ${errorText(error.cause)}`;
  return `SPIRE answered ${grpcStatusName(error.status)}: ${error.message}`;
}
