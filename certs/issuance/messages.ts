import { type MessageType, messageType } from '../../src/grpc/message.ts';
import type { MethodDefinition, ServiceDefinition } from '../../src/grpc/service.ts';

/**
 * `istio.v1.auth.IstioCertificateService` (Istio's security/v1alpha1/ca.proto), as Istio's agents and ztunnel speak it, and
 * `weft.identity.v1.Authority`, which is our own: what a node needs besides certificates.
 */

/** google.protobuf.Value, of which only strings are read: every other kind is a `stringValue` that is absent. */
export interface MetadataValue {
  readonly stringValue: string | null;
}

/** google.protobuf.Struct. */
export interface Metadata {
  readonly fields: ReadonlyMap<string, MetadataValue>;
}

export interface CertificateRequest {
  /** PKCS#10, PEM. */
  readonly csr: string;
  /** Seconds. 0: the server's default. */
  readonly validityDuration: bigint;
  /** Null: none. `ImpersonatedIdentity` asks for the identity of a workload of the caller's node. */
  readonly metadata: Metadata | null;
}

export interface CertificateResponse {
  /** PEM, one certificate each: leaf, intermediates, root. */
  readonly certChain: readonly string[];
}

export type FetchRootsRequest = Readonly<Record<never, never>>;

/** The roots of the trust domain. They are public; a node that joins compares them with its token before it believes them. */
export interface FetchRootsResponse {
  /** DER. */
  readonly x509Authorities: readonly Uint8Array[];
}

/** Says what the node has, and is alive. The first one opens the stream. */
export interface WatchRequest {
  /** Every thread of the node verifies with the trust state of this sequence; null: with none yet. */
  readonly acknowledgedSequence: bigint | null;
  /** The node's clock, in milliseconds since the epoch. */
  readonly sentAt: bigint;
}

/** A public key for JWT-SVIDs: RFC 7517 JSON, its `kid` among it. */
export interface JwtAuthorityMessage {
  readonly keyId: string;
  readonly jwk: string;
}

/** The full TrustState (certs/bundle/trust-state.ts), with the server's time. Sent at once, after each change, and now and then between. */
export interface WatchResponse {
  /** The server's clock, in milliseconds since the epoch. */
  readonly sentAt: bigint;
  readonly trustDomain: string;
  readonly sequence: bigint;
  /** DER. */
  readonly x509Authorities: readonly Uint8Array[];
  readonly jwtAuthorities: readonly JwtAuthorityMessage[];
  /** Seconds; null: none given. */
  readonly refreshHint: bigint | null;
  readonly taintedKeys: readonly string[];
  readonly revokedKeys: readonly string[];
}

export interface MintJwtSvidRequest {
  /** SPIFFE ID of a workload of the caller's node. */
  readonly identity: string;
  readonly audience: readonly string[];
}

export interface MintJwtSvidResponse {
  readonly token: string;
  /** Milliseconds since the epoch, both. */
  readonly issuedAt: bigint;
  readonly expiresAt: bigint;
}

const STRUCT_FILE = 'google/protobuf/struct.proto';
const METADATA_VALUE: MessageType<MetadataValue> = messageType<MetadataValue>(
  'google.protobuf.Value',
  { stringValue: { number: 3, kind: 'string', oneof: 'kind' } },
  STRUCT_FILE,
);
const METADATA: MessageType<Metadata> = messageType<Metadata>(
  'google.protobuf.Struct',
  { fields: { number: 1, kind: METADATA_VALUE, map: true } },
  STRUCT_FILE,
);
const CERTIFICATE_REQUEST: MessageType<CertificateRequest> = messageType<CertificateRequest>('istio.v1.auth.IstioCertificateRequest', {
  csr: { number: 1, kind: 'string' },
  validityDuration: { number: 3, kind: 'int64' },
  metadata: { number: 4, kind: METADATA },
});
const CERTIFICATE_RESPONSE: MessageType<CertificateResponse> = messageType<CertificateResponse>('istio.v1.auth.IstioCertificateResponse', {
  certChain: { number: 1, kind: 'string', repeated: true },
});
const FETCH_ROOTS_REQUEST: MessageType<FetchRootsRequest> = messageType<FetchRootsRequest>('weft.identity.v1.FetchRootsRequest', {});
const FETCH_ROOTS_RESPONSE: MessageType<FetchRootsResponse> = messageType<FetchRootsResponse>('weft.identity.v1.FetchRootsResponse', {
  x509Authorities: { number: 1, kind: 'bytes', repeated: true },
});
const WATCH_REQUEST: MessageType<WatchRequest> = messageType<WatchRequest>('weft.identity.v1.WatchRequest', {
  acknowledgedSequence: { number: 1, kind: 'uint64', optional: true },
  sentAt: { number: 2, kind: 'int64' },
});
const JWT_AUTHORITY: MessageType<JwtAuthorityMessage> = messageType<JwtAuthorityMessage>('weft.identity.v1.JwtAuthority', {
  keyId: { number: 1, kind: 'string' },
  jwk: { number: 2, kind: 'string' },
});
const WATCH_RESPONSE: MessageType<WatchResponse> = messageType<WatchResponse>('weft.identity.v1.WatchResponse', {
  sentAt: { number: 1, kind: 'int64' },
  trustDomain: { number: 2, kind: 'string' },
  sequence: { number: 3, kind: 'uint64' },
  x509Authorities: { number: 4, kind: 'bytes', repeated: true },
  jwtAuthorities: { number: 5, kind: JWT_AUTHORITY, repeated: true },
  refreshHint: { number: 6, kind: 'int64', optional: true },
  taintedKeys: { number: 7, kind: 'string', repeated: true },
  revokedKeys: { number: 8, kind: 'string', repeated: true },
});
const MINT_REQUEST: MessageType<MintJwtSvidRequest> = messageType<MintJwtSvidRequest>('weft.identity.v1.MintJwtSvidRequest', {
  identity: { number: 1, kind: 'string' },
  audience: { number: 2, kind: 'string', repeated: true },
});
const MINT_RESPONSE: MessageType<MintJwtSvidResponse> = messageType<MintJwtSvidResponse>('weft.identity.v1.MintJwtSvidResponse', {
  token: { number: 1, kind: 'string' },
  issuedAt: { number: 2, kind: 'int64' },
  expiresAt: { number: 3, kind: 'int64' },
});

export const CREATE_CERTIFICATE: MethodDefinition<CertificateRequest, CertificateResponse> = {
  path: '/istio.v1.auth.IstioCertificateService/CreateCertificate',
  request: CERTIFICATE_REQUEST,
  response: CERTIFICATE_RESPONSE,
  kind: 'unary',
};
export const FETCH_ROOTS: MethodDefinition<FetchRootsRequest, FetchRootsResponse> = {
  path: '/weft.identity.v1.Authority/FetchRoots',
  request: FETCH_ROOTS_REQUEST,
  response: FETCH_ROOTS_RESPONSE,
  kind: 'unary',
};
export const WATCH: MethodDefinition<WatchRequest, WatchResponse> = {
  path: '/weft.identity.v1.Authority/Watch',
  request: WATCH_REQUEST,
  response: WATCH_RESPONSE,
  kind: 'bidi',
};
export const MINT_JWT_SVID: MethodDefinition<MintJwtSvidRequest, MintJwtSvidResponse> = {
  path: '/weft.identity.v1.Authority/MintJwtSvid',
  request: MINT_REQUEST,
  response: MINT_RESPONSE,
  kind: 'unary',
};

/** For server reflection. */
export const ISSUANCE_SERVICES: readonly ServiceDefinition[] = [
  { name: 'istio.v1.auth.IstioCertificateService', file: 'security/v1alpha1/ca.proto', methods: [CREATE_CERTIFICATE] },
  { name: 'weft.identity.v1.Authority', file: 'weft/identity/v1/authority.proto', methods: [FETCH_ROOTS, WATCH, MINT_JWT_SVID] },
];

/** The metadata key with which a node asks for a workload's identity. */
export const IMPERSONATED_IDENTITY = 'ImpersonatedIdentity';
