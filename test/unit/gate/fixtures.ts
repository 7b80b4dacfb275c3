import { ChangedHead } from '../../../proxy/gate/changed-head.ts';
import { workloadIdentity } from '../../../src/model/identity.ts';
import type {
  ConnectionAttributes,
  ConnectionPolicy,
  CustomMatch,
  Decision,
  RequestAttributes,
  ShadowDecision,
} from '../../../src/model/policy.ts';
import type { GateAnswer, RequestHead } from '../../../src/model/request-gate.ts';
import { DEFAULT_MESH_SETTINGS, type ExtensionProvider, type JwtRule } from '../../../src/model/resources.ts';
import type { Authorisation, ExternalAuthorisers } from '../../../proxy/external-authorisation/external-authorisers.ts';
import { WorkloadGate, type WorkloadGateOptions } from '../../../proxy/gate/workload-gate.ts';

export const ALLOWED: Decision = { verdict: 'allow', policy: 'shop/web', rule: 0, reason: 'matched an ALLOW rule' };
export const DENIED: Decision = { verdict: 'deny', policy: 'shop/web', rule: null, reason: 'no ALLOW rule matched' };

/** A client with mTLS at 10.1.2.3. */
export const CONNECTION: ConnectionAttributes = {
  sourceIdentity: workloadIdentity('cluster.local', 'shop', 'web'),
  sourceAddress: '10.1.2.3',
  destinationAddress: '10.9.9.9',
  destinationPort: 8080,
};

interface HeadParts {
  readonly method?: string;
  readonly path?: string;
  readonly query?: string;
  readonly hasTrustHeaders?: boolean;
}

/** A request's head, as a codec without hints shows it. */
export function head(headers: readonly (readonly [string, string])[] = [], parts: HeadParts = {}): RequestHead {
  return {
    method: 'GET',
    path: '/items',
    query: '',
    host: 'items.shop',
    scheme: 'http',
    header: (name) => headers.filter(([each]) => each === name).map(([, value]) => value),
    headers: () => headers,
    ...parts,
  };
}

interface PolicyParts {
  readonly scope?: ConnectionPolicy['scope'];
  readonly decide?: (attributes: RequestAttributes) => Decision;
  readonly shadow?: (attributes: RequestAttributes) => readonly ShadowDecision[];
  readonly custom?: (attributes: RequestAttributes) => CustomMatch | null;
}

export function policy({ scope = 'request', decide = () => ALLOWED, shadow, custom }: PolicyParts = {}): ConnectionPolicy {
  return {
    scope,
    tcp: ALLOWED,
    request: decide,
    hasShadow: shadow !== undefined,
    shadow: shadow ?? (() => []),
    hasCustom: custom !== undefined,
    custom: custom ?? (() => null),
  };
}

export function gate(options: Partial<WorkloadGateOptions> = {}): WorkloadGate {
  const allowing = policy();
  return new WorkloadGate({
    policy: () => allowing,
    connection: CONNECTION,
    authentications: [],
    settings: DEFAULT_MESH_SETTINGS,
    tokens: null,
    authorisers: null,
    ...options,
  });
}

export function jwtRule(change: Partial<JwtRule> = {}): JwtRule {
  return {
    issuer: 'https://issuer.example',
    audiences: [],
    jwks: null,
    jwksUri: null,
    fromHeaders: [],
    fromParams: [],
    fromCookies: [],
    forwardOriginalToken: false,
    outputPayloadToHeader: null,
    outputClaimToHeaders: [],
    ...change,
  };
}

export function provider(change: Partial<ExtensionProvider> = {}): ExtensionProvider {
  return {
    name: 'authz',
    protocol: 'http',
    service: '127.0.0.1',
    port: 9000,
    timeoutMs: 500,
    failOpen: false,
    pathPrefix: '',
    includeRequestHeaders: [],
    headersToUpstream: [],
    headersToDownstream: [],
    ...change,
  };
}

/** Authorisers that answer with what they are given. */
export function authorisers(answer: Partial<Authorisation> | (() => Promise<Authorisation>)): ExternalAuthorisers & { asked: number } {
  const made = {
    asked: 0,
    check: async () => {
      made.asked++;
      if (typeof answer === 'function') return answer();
      return { allow: true, failed: false, reason: 'said so', change: null, refusal: null, ...answer };
    },
  };
  return made;
}

/** The headers that the application gets. */
export function forwarded(request: RequestHead, answer: GateAnswer): (readonly [string, string])[] {
  return answer.change === null ? [...request.headers()] : [...new ChangedHead(request, answer.change).headers()];
}
