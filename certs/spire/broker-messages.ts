/**
 * The messages and the service of SPIFFE's brokerapi.proto (github.com/spiffe/spiffe, standards/brokerapi.proto; incubating): identities of
 * referenced workloads, for a broker that acts on their behalf. What the fields must hold is in SPIFFE_Broker_API.md.
 */
import { ANY, type Any, packAny } from '../../src/grpc/any.ts';
import { type MessageType, messageType } from '../../src/grpc/message.ts';
import type { MethodDefinition } from '../../src/grpc/service.ts';
import { JWT_SVID, type JwtSvidResponse, X509_SVID, type X509SvidResponse } from '../workload-api/messages.ts';

/** A process of this node. */
export interface WorkloadPidReference {
  /** Positive. Of the workload itself, not of a sandbox around it. */
  readonly pid: number;
}

export interface WorkloadReference {
  readonly reference: Any | null;
}

export interface SubscribeToX509SvidRequest {
  readonly reference: WorkloadReference | null;
}

export interface BrokerJwtSvidRequest {
  readonly reference: WorkloadReference | null;
  readonly audience: readonly string[];
  /** Empty: all identities of the workload. */
  readonly spiffeId: string;
}

export const WORKLOAD_PID_REFERENCE: MessageType<WorkloadPidReference> = messageType('spiffe.broker.WorkloadPIDReference', {
  pid: { number: 1, kind: 'int32' },
});

const WORKLOAD_REFERENCE: MessageType<WorkloadReference> = messageType('spiffe.broker.WorkloadReference', {
  reference: { number: 1, kind: ANY },
});

const SUBSCRIBE_TO_X509_SVID_REQUEST: MessageType<SubscribeToX509SvidRequest> = messageType('spiffe.broker.SubscribeToX509SVIDRequest', {
  reference: { number: 1, kind: WORKLOAD_REFERENCE },
});

const SUBSCRIBE_TO_X509_SVID_RESPONSE: MessageType<X509SvidResponse> = messageType('spiffe.broker.SubscribeToX509SVIDResponse', {
  svids: { number: 1, kind: X509_SVID, repeated: true },
  crl: { number: 2, kind: 'bytes', repeated: true },
  federatedBundles: { number: 3, kind: 'bytes', map: true },
});

const FETCH_JWT_SVID_REQUEST: MessageType<BrokerJwtSvidRequest> = messageType('spiffe.broker.FetchJWTSVIDRequest', {
  reference: { number: 1, kind: WORKLOAD_REFERENCE },
  audience: { number: 2, kind: 'string', repeated: true },
  spiffeId: { number: 3, kind: 'string' },
});

const FETCH_JWT_SVID_RESPONSE: MessageType<JwtSvidResponse> = messageType('spiffe.broker.FetchJWTSVIDResponse', {
  svids: { number: 1, kind: JWT_SVID, repeated: true },
});

/** X.509-SVIDs of a referenced workload: full state, pushed with each change. */
export const SUBSCRIBE_TO_X509_SVID: MethodDefinition<SubscribeToX509SvidRequest, X509SvidResponse> = {
  path: '/spiffe.broker.API/SubscribeToX509SVID',
  request: SUBSCRIBE_TO_X509_SVID_REQUEST,
  response: SUBSCRIBE_TO_X509_SVID_RESPONSE,
  kind: 'server-stream',
};

/** JWT-SVIDs of a referenced workload. */
export const BROKER_FETCH_JWT_SVID: MethodDefinition<BrokerJwtSvidRequest, JwtSvidResponse> = {
  path: '/spiffe.broker.API/FetchJWTSVID',
  request: FETCH_JWT_SVID_REQUEST,
  response: FETCH_JWT_SVID_RESPONSE,
  kind: 'unary',
};

/** Every request carries this metadata with exactly the value `true` (SPIFFE_Broker_Endpoint.md): a forged web request cannot. */
export const BROKER_SECURITY_HEADER = 'broker.spiffe.io';

/** Refers to a workload by one of its processes (SPIFFE_Broker_API.md section 3.1.3). Means nothing on another node. */
export function pidReference(pid: number): WorkloadReference {
  return { reference: packAny(WORKLOAD_PID_REFERENCE, { pid }) };
}
