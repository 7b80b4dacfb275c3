import type { webcrypto } from 'node:crypto';

/** A public key that signs JWT-SVIDs of a trust domain (SPIFFE_Trust_Domain_and_Bundle.md section 4.2.3). */
export interface JwtAuthority {
  /** `kid`. Never empty. */
  readonly keyId: string;
  /** RFC 7517, public members only. */
  readonly jwk: Readonly<webcrypto.JsonWebKey>;
}

/** The bundle of one trust domain (SPIFFE_Trust_Domain_and_Bundle.md): what its SVIDs are verified with. */
export interface SpiffeBundle {
  readonly trustDomain: string;
  /** DER. Empty: the trust domain revoked every X.509-SVID. */
  readonly x509Authorities: readonly Uint8Array[];
  /** Empty: no JWT-SVID of the trust domain is valid. */
  readonly jwtAuthorities: readonly JwtAuthority[];
  /** `spiffe_sequence`: grows with each change of the content. Null where the publisher gives none. */
  readonly sequence: bigint | null;
  /** `spiffe_refresh_hint`: how often consumers should look, in seconds. Null: the default of the consumer. */
  readonly refreshHintSeconds: number | null;
}

/**
 * Everything a node must know of its own trust domain, as its authority says it. Always the full state: what is not in it is gone.
 * Invariant: the sequence grows whenever any of the rest changes.
 */
export interface TrustState {
  readonly sequence: bigint;
  /** Of the node's own trust domain; its `sequence` is that of this state. */
  readonly bundle: SpiffeBundle;
  /**
   * CA keys whose certificates are still good for verification, and whose SVIDs are to be replaced now. Each is the lower-case hexadecimal
   * SHA-256 of a SubjectPublicKeyInfo.
   */
  readonly taintedKeys: readonly string[];
  /** CA keys, in the same form, that sign nothing any more: no chain through them is valid, open connections through them end. */
  readonly revokedKeys: readonly string[];
}
