/**
 * The messages and the service of SPIFFE's workloadapi.proto (github.com/spiffe/spiffe, standards/workloadapi.proto). The file has no
 * package: paths are `/SpiffeWorkloadAPI/<method>`. What the fields must hold is in SPIFFE_Workload_API.md.
 */
import { type MessageType, messageType } from '../../src/grpc/message.ts';
import type { MethodDefinition, ServiceDefinition } from '../../src/grpc/service.ts';
import { STRUCT, type Struct } from '../../src/grpc/struct.ts';

/** A request without fields. */
export type EmptyRequest = Record<never, never>;

/** One X.509-SVID of the caller. */
export interface X509Svid {
  readonly spiffeId: string;
  /** DER certificates one after the other, leaf first. */
  readonly x509Svid: Uint8Array;
  /** PKCS#8, DER, unencrypted. */
  readonly x509SvidKey: Uint8Array;
  /** Roots of the SVID's own trust domain, DER certificates one after the other. */
  readonly bundle: Uint8Array;
  /** What the SVID is for; unique within a response unless empty. */
  readonly hint: string;
}

export interface X509SvidResponse {
  /** The first is the default identity. */
  readonly svids: readonly X509Svid[];
  /** Revocation lists, DER. */
  readonly crl: readonly Uint8Array[];
  /** `spiffe://<trust domain>` to roots, DER certificates one after the other. */
  readonly federatedBundles: ReadonlyMap<string, Uint8Array>;
}

export interface X509BundlesResponse {
  readonly crl: readonly Uint8Array[];
  /** `spiffe://<trust domain>` to roots, DER certificates one after the other; the caller's own trust domain is among them. */
  readonly bundles: ReadonlyMap<string, Uint8Array>;
}

export interface JwtSvidRequest {
  readonly audience: readonly string[];
  /** Empty: all identities of the caller. */
  readonly spiffeId: string;
}

/** One JWT-SVID of the caller. */
export interface JwtSvidEntry {
  readonly spiffeId: string;
  /** JWS in compact form. A bearer token: never logged. */
  readonly svid: string;
  readonly hint: string;
}

export interface JwtSvidResponse {
  readonly svids: readonly JwtSvidEntry[];
}

export interface JwtBundlesResponse {
  /** `spiffe://<trust domain>` to its bundle as a JWK Set. */
  readonly bundles: ReadonlyMap<string, Uint8Array>;
}

export interface ValidateJwtSvidRequest {
  readonly audience: string;
  readonly svid: string;
}

export interface ValidateJwtSvidResponse {
  readonly spiffeId: string;
  readonly claims: Struct | null;
}

export interface WitSvidRequest {
  readonly spiffeId: string;
}

/** One workload identity token with its key. */
export interface WitSvid {
  readonly spiffeId: string;
  readonly witSvid: string;
  /** JWK. */
  readonly witSvidKey: string;
  readonly hint: string;
}

export interface WitSvidResponse {
  readonly svids: readonly WitSvid[];
}

export interface WitBundlesResponse {
  /** `spiffe://<trust domain>` to its bundle as a JWK Set. */
  readonly bundles: ReadonlyMap<string, string>;
}

const X509_SVID_REQUEST: MessageType<EmptyRequest> = messageType('X509SVIDRequest', {});
const X509_BUNDLES_REQUEST: MessageType<EmptyRequest> = messageType('X509BundlesRequest', {});
const JWT_BUNDLES_REQUEST: MessageType<EmptyRequest> = messageType('JWTBundlesRequest', {});
const WIT_BUNDLES_REQUEST: MessageType<EmptyRequest> = messageType('WITBundlesRequest', {});

export const X509_SVID: MessageType<X509Svid> = messageType('X509SVID', {
  spiffeId: { number: 1, kind: 'string' },
  x509Svid: { number: 2, kind: 'bytes' },
  x509SvidKey: { number: 3, kind: 'bytes' },
  bundle: { number: 4, kind: 'bytes' },
  hint: { number: 5, kind: 'string' },
});

const X509_SVID_RESPONSE: MessageType<X509SvidResponse> = messageType('X509SVIDResponse', {
  svids: { number: 1, kind: X509_SVID, repeated: true },
  crl: { number: 2, kind: 'bytes', repeated: true },
  federatedBundles: { number: 3, kind: 'bytes', map: true },
});

const X509_BUNDLES_RESPONSE: MessageType<X509BundlesResponse> = messageType('X509BundlesResponse', {
  crl: { number: 1, kind: 'bytes', repeated: true },
  bundles: { number: 2, kind: 'bytes', map: true },
});

const JWT_SVID_REQUEST: MessageType<JwtSvidRequest> = messageType('JWTSVIDRequest', {
  audience: { number: 1, kind: 'string', repeated: true },
  spiffeId: { number: 2, kind: 'string' },
});

export const JWT_SVID: MessageType<JwtSvidEntry> = messageType('JWTSVID', {
  spiffeId: { number: 1, kind: 'string' },
  svid: { number: 2, kind: 'string' },
  hint: { number: 3, kind: 'string' },
});

const JWT_SVID_RESPONSE: MessageType<JwtSvidResponse> = messageType('JWTSVIDResponse', {
  svids: { number: 1, kind: JWT_SVID, repeated: true },
});

const JWT_BUNDLES_RESPONSE: MessageType<JwtBundlesResponse> = messageType('JWTBundlesResponse', {
  bundles: { number: 1, kind: 'bytes', map: true },
});

const VALIDATE_JWT_SVID_REQUEST: MessageType<ValidateJwtSvidRequest> = messageType('ValidateJWTSVIDRequest', {
  audience: { number: 1, kind: 'string' },
  svid: { number: 2, kind: 'string' },
});

const VALIDATE_JWT_SVID_RESPONSE: MessageType<ValidateJwtSvidResponse> = messageType('ValidateJWTSVIDResponse', {
  spiffeId: { number: 1, kind: 'string' },
  claims: { number: 2, kind: STRUCT },
});

const WIT_SVID_REQUEST: MessageType<WitSvidRequest> = messageType('WITSVIDRequest', { spiffeId: { number: 1, kind: 'string' } });

const WIT_SVID: MessageType<WitSvid> = messageType('WITSVID', {
  spiffeId: { number: 1, kind: 'string' },
  witSvid: { number: 2, kind: 'string' },
  witSvidKey: { number: 3, kind: 'string' },
  hint: { number: 4, kind: 'string' },
});

const WIT_SVID_RESPONSE: MessageType<WitSvidResponse> = messageType('WITSVIDResponse', {
  svids: { number: 1, kind: WIT_SVID, repeated: true },
});

const WIT_BUNDLES_RESPONSE: MessageType<WitBundlesResponse> = messageType('WITBundlesResponse', {
  bundles: { number: 1, kind: 'string', map: true },
});

/** X.509-SVIDs of the caller, the bundle of their trust domain and those it federates with: full state, pushed with each change. */
export const FETCH_X509_SVID: MethodDefinition<EmptyRequest, X509SvidResponse> = {
  path: '/SpiffeWorkloadAPI/FetchX509SVID',
  request: X509_SVID_REQUEST,
  response: X509_SVID_RESPONSE,
  kind: 'server-stream',
};

/** Roots of every trust domain the caller may meet: full state, pushed with each change. */
export const FETCH_X509_BUNDLES: MethodDefinition<EmptyRequest, X509BundlesResponse> = {
  path: '/SpiffeWorkloadAPI/FetchX509Bundles',
  request: X509_BUNDLES_REQUEST,
  response: X509_BUNDLES_RESPONSE,
  kind: 'server-stream',
};

/** A JWT-SVID of each identity of the caller, or of the one that is named, for an audience. */
export const FETCH_JWT_SVID: MethodDefinition<JwtSvidRequest, JwtSvidResponse> = {
  path: '/SpiffeWorkloadAPI/FetchJWTSVID',
  request: JWT_SVID_REQUEST,
  response: JWT_SVID_RESPONSE,
  kind: 'unary',
};

/** Key sets of every trust domain the caller may meet: full state, pushed with each change. */
export const FETCH_JWT_BUNDLES: MethodDefinition<EmptyRequest, JwtBundlesResponse> = {
  path: '/SpiffeWorkloadAPI/FetchJWTBundles',
  request: JWT_BUNDLES_REQUEST,
  response: JWT_BUNDLES_RESPONSE,
  kind: 'server-stream',
};

/** Whose a JWT-SVID is, and what it claims, if it is valid for the audience. */
export const VALIDATE_JWT_SVID: MethodDefinition<ValidateJwtSvidRequest, ValidateJwtSvidResponse> = {
  path: '/SpiffeWorkloadAPI/ValidateJWTSVID',
  request: VALIDATE_JWT_SVID_REQUEST,
  response: VALIDATE_JWT_SVID_RESPONSE,
  kind: 'unary',
};

/** Workload identity tokens (incubating): known by name, and answered with Unimplemented. */
export const FETCH_WIT_SVID: MethodDefinition<WitSvidRequest, WitSvidResponse> = {
  path: '/SpiffeWorkloadAPI/FetchWITSVID',
  request: WIT_SVID_REQUEST,
  response: WIT_SVID_RESPONSE,
  kind: 'server-stream',
};

/** See FETCH_WIT_SVID. */
export const FETCH_WIT_BUNDLES: MethodDefinition<EmptyRequest, WitBundlesResponse> = {
  path: '/SpiffeWorkloadAPI/FetchWITBundles',
  request: WIT_BUNDLES_REQUEST,
  response: WIT_BUNDLES_RESPONSE,
  kind: 'server-stream',
};

export const WORKLOAD_API_SERVICE: ServiceDefinition = {
  name: 'SpiffeWorkloadAPI',
  file: 'workloadapi.proto',
  methods: [FETCH_X509_SVID, FETCH_X509_BUNDLES, FETCH_JWT_SVID, FETCH_JWT_BUNDLES, VALIDATE_JWT_SVID, FETCH_WIT_SVID, FETCH_WIT_BUNDLES],
};

/** Every request carries this metadata with exactly the value `true` (SPIFFE_Workload_Endpoint.md section 6.2): a browser cannot. */
export const SECURITY_HEADER = 'workload.spiffe.io';
