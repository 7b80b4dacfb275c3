import type { SpiffeId } from './identity.ts';

/** What decided, and how it is named to the user. */
export interface Decision {
  readonly verdict: 'allow' | 'deny';
  /** `namespace/name` of the policy that decided; null when none did (no policy applies, or no ALLOW matched: see reason). */
  readonly policy: string | null;
  /** Index of the rule within the policy, or null. */
  readonly rule: number | null;
  /** A short fixed phrase: 'no policy applies', 'matched an ALLOW rule', 'matched a DENY rule', 'no ALLOW rule matched', … */
  readonly reason: string;
}

/** What policy may ask about a connection. Fixed for its life. */
export interface ConnectionAttributes {
  /** Proven by mTLS or by the kernel; null for plaintext peers. */
  readonly sourceIdentity: SpiffeId | null;
  /** Canonical text, never IPv4-mapped. The TCP peer, not a header. */
  readonly sourceAddress: string;
  readonly destinationAddress: string;
  /** SPIFFE ID text of the workload that is asked; absent where it makes no difference. */
  readonly destinationIdentity?: string;
  /** The workload's own port. */
  readonly destinationPort: number;
  /** Server name of a TLS ClientHello that is passed through; null when it has none or is no TLS; absent before anybody looked. */
  readonly serverName?: string | null;
}

/** A verified JWT. */
export interface JwtIdentity {
  readonly issuer: string;
  readonly subject: string | null;
  /** `<issuer>/<subject>`, Istio's request.auth.principal. */
  readonly principal: string;
  readonly audiences: readonly string[];
  /** `azp`. */
  readonly presenter: string | null;
  readonly claims: Readonly<Record<string, unknown>>;
}

/** What policy may ask about an HTTP request. */
export interface RequestAttributes {
  /** As sent; methods are case-sensitive (RFC 9110 section 9.1). */
  readonly method: string;
  /** Normalised path without query: what is matched is what is forwarded. */
  readonly path: string;
  /** Host as sent, lower-cased; the port is not stripped. */
  readonly host: string;
  /** The values of a header, one for each time it was sent, in order; never joined. Name in lower case. */
  readonly header: (name: string) => readonly string[];
  /** The address that a trusted X-Forwarded-For names, and else the direct peer's. Canonical text. */
  readonly remoteAddress: string;
  /** null without a token. An invalid one never gets this far. */
  readonly jwt: JwtIdentity | null;
}

/** What a dry-run or AUDIT policy would have done. */
export interface ShadowDecision {
  readonly policy: string;
  readonly rule: number | null;
  /** 'deny': the request would have been refused. 'audit': an AUDIT rule matched. */
  readonly effect: 'deny' | 'audit';
  readonly reason: string;
}

/** A CUSTOM rule matched: the provider is to be asked before the other actions are looked at. */
export interface CustomMatch {
  readonly policy: string;
  readonly rule: number;
  readonly provider: string;
  readonly dryRun: boolean;
}

/** A workload's policies with everything that the connection alone decides already decided. */
export interface ConnectionPolicy {
  /** 'allow' or 'deny' when no HTTP request on this connection can change it; 'request' when each request decides. */
  readonly scope: 'allow' | 'deny' | 'request';
  /** The decision if the connection carries something that is not HTTP (Istio's TCP semantics). */
  readonly tcp: Decision;
  /** The decision for one HTTP request, CUSTOM aside. Allocates nothing. */
  request(attributes: RequestAttributes): Decision;
  /** False when no dry-run or AUDIT policy applies: then `shadow` need not be called. */
  readonly hasShadow: boolean;
  /** What dry-run and AUDIT policies would have done. */
  shadow(attributes: RequestAttributes): readonly ShadowDecision[];
  /** False when no CUSTOM policy applies. */
  readonly hasCustom: boolean;
  /** The first CUSTOM rule that matches, or null. */
  custom(attributes: RequestAttributes): CustomMatch | null;
}

/** All policies that apply to one workload, compiled. Immutable. */
export interface WorkloadPolicy {
  bind(connection: ConnectionAttributes): ConnectionPolicy;
}
