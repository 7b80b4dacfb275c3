import { BlockList, isIPv6 } from 'node:net';
import type { ConnectionAttributes, JwtIdentity, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyAction, PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../src/model/resources.ts';
import type { PolicyEntry } from '../../../src/model/snapshot.ts';

/**
 * Policy as the reference words it, read off one sentence at a time, with no thought of speed and no code of the room under test. For
 * valid content only. The mesh's trust domain is `td`, with the alias `old`.
 */
const DOMAINS = ['td', 'old'];

export function valueMatches(value: string, text: string): boolean {
  if (text === '') return false;
  if (value === '*') return true;
  if (value.startsWith('*')) return text.endsWith(value.slice(1));
  if (value.endsWith('*')) return text.startsWith(value.slice(0, -1));
  return value === text;
}

function holds(values: readonly string[] | undefined, notValues: readonly string[] | undefined, test: (value: string) => boolean): boolean {
  return (values === undefined || values.some(test)) && (notValues === undefined || !notValues.some(test));
}

function inBlock(block: string, address: string): boolean {
  const [base = '', length] = block.split('/');
  const family = isIPv6(base) ? 'ipv6' : 'ipv4';
  // A BlockList takes an IPv4 address for its mapped form; Envoy and ztunnel keep the families apart.
  if (isIPv6(address) !== isIPv6(base)) return false;
  const list = new BlockList();
  list.addSubnet(base, Number(length ?? (family === 'ipv6' ? 128 : 32)), family);
  return list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}

/** `refuses`: a match of the value leads to a refusal. */
export function pathMatches(value: string, path: string, refuses: boolean): boolean {
  if (!value.includes('{*}') && !value.includes('{**}')) return valueMatches(value, path);
  const segment = refuses ? '[^/]' : "[a-zA-Z0-9._~%!$&'()+,;:@=-]";
  const rest = refuses ? '[^]*' : "[a-zA-Z0-9._~%!$&'()+,;:@=/-]*";
  const pattern = value
    .split(/(\{\*\*?\})/)
    .map((part) => (part === '{*}' ? `${segment}+` : part === '{**}' ? rest : part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')))
    .join('');
  return new RegExp(`^${pattern}$`).test(path);
}

function principalMatches(value: string, principal: string): boolean {
  const [domain = '', ...parts] = value.split('/');
  const known = parts.length === 4 && (domain === 'cluster.local' || DOMAINS.some((one) => valueMatches(domain, one)));
  if (!known || domain === '*') return valueMatches(value, principal);
  return DOMAINS.some((one) => valueMatches(`${valueMatches(domain, one) ? domain : one}/${parts.join('/')}`, principal));
}

function requestPrincipalMatches(value: string, jwt: JwtIdentity | null): boolean {
  if (jwt === null || jwt.subject === null) return false;
  const slash = value.lastIndexOf('/');
  const [issuer, subject] = slash === -1 ? [value, null] : [value.slice(0, slash), value.slice(slash + 1)];
  if (value === '*') return jwt.issuer !== '' && jwt.subject !== '';
  if (subject === null) {
    if (value.startsWith('*')) return jwt.issuer !== '' && jwt.subject.endsWith(value.slice(1));
    if (value.endsWith('*')) return jwt.issuer.startsWith(value.slice(0, -1)) && jwt.subject !== '';
    return jwt.issuer === value && jwt.subject === '';
  }
  if (value.startsWith('*')) return valueMatches(issuer, jwt.issuer) && jwt.subject === subject;
  if (value.endsWith('*')) return jwt.issuer === issuer && valueMatches(subject, jwt.subject);
  return jwt.issuer === issuer && jwt.subject === subject;
}

const HTTP_FIELDS = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths'] as const;

/** `request` null: not HTTP, and fields that only HTTP answers are left out. */
function sourceHolds(source: PolicySource, peer: ConnectionAttributes, request: RequestAttributes | null): boolean {
  const identity = peer.sourceIdentity;
  const principal = identity === null ? '' : identity.text.replace(/^spiffe:\/\//, '');
  const namespace = identity?.namespace ?? '';
  const account = identity?.serviceAccount ?? '';
  const remote = request === null ? peer.sourceAddress : request.remoteAddress;
  return (
    holds(source.principals, source.notPrincipals, (value) => principalMatches(value, principal)) &&
    holds(source.namespaces, source.notNamespaces, (value) => valueMatches(value, namespace)) &&
    holds(source.serviceAccounts, source.notServiceAccounts, (value) => namespace !== '' && value === `${namespace}/${account}`) &&
    holds(source.ipBlocks, source.notIpBlocks, (value) => inBlock(value, peer.sourceAddress)) &&
    holds(source.remoteIpBlocks, source.notRemoteIpBlocks, (value) => inBlock(value, remote)) &&
    (request === null ||
      holds(source.requestPrincipals, source.notRequestPrincipals, (value) => requestPrincipalMatches(value, request.jwt)))
  );
}

function operationHolds(operation: PolicyOperation, port: number, request: RequestAttributes | null, refuses: boolean): boolean {
  const ports = operation.ports?.map(String);
  const notPorts = operation.notPorts?.map(String);
  if (!holds(ports, notPorts, (value) => value === String(port))) return false;
  return (
    request === null ||
    (holds(operation.hosts, operation.notHosts, (value) => valueMatches(value.toLowerCase(), request.host)) &&
      holds(operation.methods, operation.notMethods, (value) => valueMatches(value, request.method)) &&
      (operation.paths === undefined || operation.paths.some((value) => pathMatches(value, request.path, refuses))) &&
      !operation.notPaths?.some((value) => pathMatches(value, request.path, !refuses)))
  );
}

function texts(claim: unknown): string[] {
  return (Array.isArray(claim) ? claim : [claim]).filter((one) => typeof one === 'string');
}

function conditionHolds(
  { key, values, notValues }: PolicyCondition,
  peer: ConnectionAttributes,
  request: RequestAttributes | null,
): boolean {
  const identity = peer.sourceIdentity;
  const any = (candidates: readonly string[]): boolean =>
    holds(values, notValues, (value) => candidates.some((text) => valueMatches(value, text)));
  const address = (text: string): boolean => holds(values, notValues, (value) => inBlock(value, text));
  const bracket = /^request\.(headers|auth\.claims)\[(.*)\]$/.exec(key);
  if (key.startsWith('request.') && request === null) return true;
  if (bracket?.[1] === 'headers') {
    const found = (request as RequestAttributes).header((bracket[2] as string).toLowerCase());
    return holds(values, notValues, (value) => (value === '*' ? found.length > 0 : found.some((text) => valueMatches(value, text))));
  }
  if (bracket?.[1] === 'auth.claims') {
    let claim: unknown = request?.jwt?.claims;
    for (const name of (bracket[2] as string).split('][')) claim = (claim as Record<string, unknown> | undefined)?.[name];
    return any(texts(claim));
  }
  switch (key) {
    case 'source.ip':
      return address(peer.sourceAddress);
    case 'destination.ip':
      return address(peer.destinationAddress);
    case 'remote.ip':
      return address(request?.remoteAddress ?? peer.sourceAddress);
    case 'source.namespace':
      return any([identity?.namespace ?? '']);
    case 'source.serviceAccount':
      return holds(
        values,
        notValues,
        (value) => identity?.namespace !== null && value === `${identity?.namespace}/${identity?.serviceAccount}`,
      );
    case 'source.principal':
      return holds(values, notValues, (value) => principalMatches(value, identity?.text.replace(/^spiffe:\/\//, '') ?? ''));
    case 'source.trustDomain':
      return holds(values, notValues, (value) =>
        (DOMAINS.includes(value) ? DOMAINS : [value]).some((domain) => valueMatches(domain, identity?.trustDomain ?? '')),
      );
    case 'destination.port':
      return holds(values, notValues, (value) => value === String(peer.destinationPort));
    case 'connection.sni':
      return any([peer.serverName ?? '']);
    case 'request.auth.principal':
      return holds(values, notValues, (value) => requestPrincipalMatches(value, request?.jwt ?? null));
    case 'request.auth.audiences':
      return any(request?.jwt?.audiences ?? []);
    case 'request.auth.presenter':
      return any([request?.jwt?.presenter ?? '']);
    default:
      throw new Error(`the plain evaluator does not know ${key}`);
  }
}

/** `request` null: not HTTP. */
export function ruleHolds(rule: PolicyRule, action: PolicyAction, peer: ConnectionAttributes, request: RequestAttributes | null): boolean {
  const isHttp =
    rule.to.some((operation) => HTTP_FIELDS.some((field) => operation[field] !== undefined)) ||
    rule.from.some((source) => source.requestPrincipals !== undefined || source.notRequestPrincipals !== undefined) ||
    rule.when.some(({ key }) => key.startsWith('request.'));
  if (request === null && action === 'ALLOW' && isHttp) return false;
  const refuses = action !== 'ALLOW';
  return (
    (rule.from.length === 0 || rule.from.some((source) => sourceHolds(source, peer, request))) &&
    (rule.to.length === 0 || rule.to.some((operation) => operationHolds(operation, peer.destinationPort, request, refuses))) &&
    rule.when.every((condition) => conditionHolds(condition, peer, request))
  );
}

function firstRule(policy: PolicyEntry, peer: ConnectionAttributes, request: RequestAttributes | null): number {
  return policy.rules.findIndex((rule) => ruleHolds(rule, policy.action, peer, request));
}

/** CUSTOM aside, unless it cannot be asked. */
export function naiveVerdict(
  policies: readonly PolicyEntry[],
  peer: ConnectionAttributes,
  request: RequestAttributes | null,
): 'allow' | 'deny' {
  const enforced = policies.filter((policy) => !policy.dryRun);
  const matches = (action: PolicyAction): boolean =>
    enforced.some((policy) => policy.action === action && firstRule(policy, peer, request) !== -1);
  const providers = new Set(enforced.filter(({ action }) => action === 'CUSTOM').map(({ provider }) => provider));
  if (matches('CUSTOM') && (request === null || providers.size > 1)) return 'deny';
  if (matches('DENY')) return 'deny';
  if (!enforced.some(({ action }) => action === 'ALLOW')) return 'allow';
  return matches('ALLOW') ? 'allow' : 'deny';
}

/** The provider that is asked first, and whether in earnest. */
export function naiveCustom(policies: readonly PolicyEntry[], peer: ConnectionAttributes, request: RequestAttributes): string | null {
  const matching = policies.filter((policy) => policy.action === 'CUSTOM' && firstRule(policy, peer, request) !== -1);
  const enforced = policies.filter(({ action, dryRun }) => action === 'CUSTOM' && !dryRun);
  const isUsable = new Set(enforced.map(({ provider }) => provider)).size === 1;
  const inEarnest = isUsable ? matching.find(({ dryRun }) => !dryRun) : undefined;
  if (inEarnest !== undefined) return `${inEarnest.provider}`;
  return matching.some(({ dryRun }) => dryRun) ? 'dry run' : null;
}

/** `effect policy rule` of each, in the order of the policies; the missing ALLOW last. */
export function naiveShadow(policies: readonly PolicyEntry[], peer: ConnectionAttributes, request: RequestAttributes | null): string[] {
  const found: string[] = [];
  for (const policy of policies) {
    if (policy.action !== 'AUDIT' && !(policy.action === 'DENY' && policy.dryRun)) continue;
    if (firstRule(policy, peer, request) !== -1) found.push(`${policy.action === 'AUDIT' ? 'audit' : 'deny'} ${policy.name}`);
  }
  const allows = policies.filter(({ action }) => action === 'ALLOW');
  const wouldDeny = allows.length > 0 && allows.every((policy) => policy.dryRun && firstRule(policy, peer, request) === -1);
  if (wouldDeny) found.push(`deny ${allows.map(({ name }) => name).join(', ')}`);
  return found;
}
