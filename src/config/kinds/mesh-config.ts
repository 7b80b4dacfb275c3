import type { ExtensionProvider, MeshConfigResource, PathNormalisation } from '../../model/resources.ts';
import type { FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';
import { canonicalIp } from '../ip-address.ts';
import { readDuration } from '../read-duration.ts';
import type { Draft } from './draft.ts';

interface WrittenProvider {
  readonly service: string;
  readonly port: number;
  readonly timeout?: string;
  readonly failOpen?: boolean;
  readonly pathPrefix?: string;
  readonly includeRequestHeadersInCheck?: readonly string[];
  readonly includeHeadersInCheck?: readonly string[];
  readonly headersToUpstreamOnAllow?: readonly string[];
  readonly headersToDownstreamOnDeny?: readonly string[];
}

interface MeshConfigSpec {
  readonly trustDomainAliases?: readonly string[];
  readonly pathNormalization?: { readonly normalization?: PathNormalisation | 'DEFAULT' };
  readonly numTrustedProxies?: number;
  readonly extensionProviders?: readonly {
    readonly name: string;
    readonly envoyExtAuthzHttp?: WrittenProvider;
    readonly envoyExtAuthzGrpc?: WrittenProvider;
  }[];
}

/** How long an external authoriser may take to answer where its provider does not say. */
const DEFAULT_TIMEOUT_MS = 5_000;
const MAX_TIMEOUT_MS = 600_000;
const HOST_NAME = /^[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*\.?$/;

/** weft.dev/v1 MeshConfig to the model. */
export function toMeshConfig(draft: Draft): MeshConfigResource {
  const spec = draft.spec as MeshConfigSpec;
  const normalisation = spec.pathNormalization?.normalization ?? 'BASE';
  const names = new Set<string>();
  const extensionProviders = (spec.extensionProviders ?? []).map((provider, index) => {
    const path = ['spec', 'extensionProviders', index];
    if (names.has(provider.name)) {
      draft.fail([...path, 'name'], `another provider is named ${quote(provider.name)} already`, 'give each provider a name of its own');
    }
    names.add(provider.name);
    return toProvider(draft, provider, path);
  });
  return {
    kind: 'MeshConfig',
    metadata: draft.metadata,
    location: draft.location,
    spec: {
      trustDomainAliases: [...new Set(spec.trustDomainAliases)],
      // Istio's DEFAULT is BASE.
      pathNormalisation: normalisation === 'DEFAULT' ? 'BASE' : normalisation,
      trustedForwardedHops: spec.numTrustedProxies ?? 0,
      extensionProviders,
    },
  };
}

function toProvider(draft: Draft, written: NonNullable<MeshConfigSpec['extensionProviders']>[number], at: FieldPath): ExtensionProvider {
  const { name, envoyExtAuthzHttp: http, envoyExtAuthzGrpc: grpc } = written;
  const protocol = http === undefined ? 'grpc' : 'http';
  const field = http === undefined ? 'envoyExtAuthzGrpc' : 'envoyExtAuthzHttp';
  const settings = http ?? grpc ?? { service: '', port: 0 };
  if ((http === undefined) === (grpc === undefined)) {
    draft.fail(at, `${quote(name)} needs exactly one of envoyExtAuthzHttp and envoyExtAuthzGrpc`, 'say how the provider is asked');
  }
  const timeoutMs = settings.timeout === undefined ? DEFAULT_TIMEOUT_MS : readDuration(settings.timeout);
  if (timeoutMs === null || timeoutMs < 1 || timeoutMs > MAX_TIMEOUT_MS) {
    draft.fail([...at, field, 'timeout'], `${quote(settings.timeout)} is not a time from 1ms to 600s`, 'write it as 0.5s, 500ms or 1m');
  }
  return {
    name,
    protocol,
    service: http === undefined && grpc === undefined ? '' : serviceOf(draft, settings.service, [...at, field, 'service']),
    port: settings.port,
    timeoutMs: timeoutMs ?? DEFAULT_TIMEOUT_MS,
    failOpen: settings.failOpen ?? false,
    pathPrefix: settings.pathPrefix ?? '',
    includeRequestHeaders: lowerCase([...(settings.includeRequestHeadersInCheck ?? []), ...(settings.includeHeadersInCheck ?? [])]),
    headersToUpstream: lowerCase(settings.headersToUpstreamOnAllow ?? []),
    headersToDownstream: lowerCase(settings.headersToDownstreamOnDeny ?? []),
  };
}

/** Istio's `[<namespace>/]<host name>`. An address too, since nodes without Kubernetes have no service names. */
function serviceOf(draft: Draft, written: string, at: FieldPath): string {
  const host = written.slice(written.indexOf('/') + 1);
  const address = canonicalIp(host);
  if (address !== null) return address;
  // A name that ends in a number would be read as an address by some resolvers.
  if (host.length > 253 || !HOST_NAME.test(host) || /(^|\.)(\d+|0x[0-9a-f]*)\.?$/i.test(host)) {
    draft.fail(at, `${quote(written)} is not a host name or an IP address`, 'write it as authz.shop.svc.cluster.local or 10.0.0.1');
  }
  return host.toLowerCase();
}

function lowerCase(names: readonly string[]): string[] {
  return [...new Set(names.map((name) => name.toLowerCase()))];
}
