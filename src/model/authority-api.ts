/**
 * What the certificate authority answers, as JSON over HTTP on a unix socket that only root may open. Whoever holds the authority opens it:
 * `weft ca serve`, or the agent of a host that has its own.
 *   GET  /v1/authority                        AuthorityStatusAnswer
 *   GET  /v1/authority/certificates           CertificatesAnswer
 *   POST /v1/authority/prepare                MaterialRequest -> SlotAnswer
 *   POST /v1/authority/rotate                 MaterialRequest -> AuthorityStatusAnswer; it goes on by itself
 *   POST /v1/authority/slots/ID/activate      ActivateRequest -> AuthorityStatusAnswer
 *   POST /v1/authority/slots/ID/taint, …/revoke -> AuthorityStatusAnswer
 *   GET  /v1/authority/tokens                 TokensAnswer
 *   POST /v1/authority/tokens                 TokenRequest -> 201 TokenAnswer
 *   DELETE /v1/authority/tokens/ID            204
 *   GET  /metrics                             Prometheus' text format
 *   DELETE /v1/authority/nodes/NAME           204: refused until it joins again, and not waited for
 * Times are ISO 8601 texts. Errors are ErrorAnswer.
 */
export const AUTHORITY_SOCKET_NAME = 'ca.sock';

/** `prepared`: in the bundle, signs nothing yet. `active`: signs. `old`: in the bundle for what it has signed. */
export type SlotState = 'prepared' | 'active' | 'old';

export interface SlotAnswer {
  readonly id: string;
  readonly state: SlotState;
  /** Its SVIDs are being replaced. */
  readonly tainted: boolean;
  readonly subject: string;
  /** Lower-case hexadecimal SHA-256 of its SubjectPublicKeyInfo. */
  readonly keyId: string;
  readonly notAfter: string;
  /** No SVID that it has signed is valid for longer; null: it has signed none. */
  readonly issuedUntil: string | null;
}

export const ROTATION_PHASES = ['none', 'publishing', 'retiring'] as const;

export interface RotationAnswer {
  /** `publishing`: the new root is in the bundle, nodes are waited for. `retiring`: the new one signs, the old one's SVIDs are waited for. */
  readonly phase: 'publishing' | 'retiring';
  readonly slot: string;
  readonly since: string;
  /** Nodes that have not acknowledged the bundle with the new root. */
  readonly waitingFor: readonly string[];
  /**
   * It waits no longer than this: `publishing`, for nodes that are not heard of any more; `retiring`, for the last SVID of the old root to
   * expire. Null: it goes on by itself, at once or before the active root expires.
   */
  readonly waitingUntil: string | null;
}

export interface NodeAnswer {
  readonly name: string;
  /** It is refused until it joins again. */
  readonly evicted: boolean;
  /** Null: not since the authority started. */
  readonly lastSeen: string | null;
  /** The sequence of the trust state that it verifies with; null: none yet. */
  readonly acknowledged: string | null;
  /** Rotations wait for it until then at most: that long its SVIDs may be in use. Null: it was evicted, and nothing waits for it. */
  readonly liveUntil: string | null;
  /** How far its clock is ahead of the authority's. */
  readonly clockSkewSeconds: number | null;
}

/** Why something that was asked for is refused. `failed`: not through the caller's fault. */
export const REFUSAL_REASONS = ['unauthenticated', 'not_allowed', 'rate_limited', 'malformed', 'failed'] as const;
export type RefusalReason = (typeof REFUSAL_REASONS)[number];

/** Since the process has held the authority. */
export interface AuthorityCounts {
  readonly issued: { readonly x509: number; readonly jwt: number };
  readonly joins: number;
  readonly refused: Readonly<Record<RefusalReason, number>>;
}

export interface AuthorityStatusAnswer {
  readonly trustDomain: string;
  /** Of the trust state now; a decimal number of up to 64 bits. */
  readonly sequence: string;
  readonly slots: readonly SlotAnswer[];
  readonly rotation: RotationAnswer | null;
  readonly nodes: readonly NodeAnswer[];
  readonly counts: AuthorityCounts;
  /** What an operator should look at. */
  readonly warnings: readonly string[];
}

/** A certificate authority of the operator's own. */
export interface Material {
  /** PEM: the signing certificate, then those above it up to the root. */
  readonly certificate: string;
  /** PEM. */
  readonly key: string;
  /** Null: the key is not encrypted. */
  readonly passphrase: string | null;
}

export interface MaterialRequest {
  /** Null: the authority makes a key and a root of its own. */
  readonly material: Material | null;
}

export interface ActivateRequest {
  /** Also while nodes do not have its root yet. */
  readonly force: boolean;
}

export interface CertificatesAnswer {
  /** PEM: the roots that verifiers need. */
  readonly roots: string;
}

export interface TokenRequest {
  readonly node: string;
  readonly ttlSeconds: number;
  /** May be used more than once: for a ztunnel, which has no other credential. */
  readonly reusable: boolean;
  /** Namespaces in which `weft run` on that node may start workloads. */
  readonly allowedNamespaces: readonly string[];
}

export interface TokenAnswer {
  readonly token: string;
  readonly expiresAt: string;
}

export interface TokenInfo {
  readonly id: string;
  readonly node: string;
  readonly reusable: boolean;
  readonly expiresAt: string;
}

export interface TokensAnswer {
  readonly tokens: readonly TokenInfo[];
}

/** The authority as its socket shows it. */
export interface AuthoritySource {
  status(): Promise<AuthorityStatusAnswer>;
  certificates(): CertificatesAnswer;
  prepare(material: Material | null): Promise<SlotAnswer>;
  rotate(material: Material | null): Promise<void>;
  /** Forced: also while nodes do not have its root yet. */
  activate(slot: string, force: boolean): Promise<void>;
  taint(slot: string): Promise<void>;
  revoke(slot: string): Promise<void>;
  tokens(): Promise<readonly TokenInfo[]>;
  createToken(request: TokenRequest): Promise<TokenAnswer>;
  revokeToken(id: string): Promise<void>;
  evictNode(name: string): Promise<void>;
}
