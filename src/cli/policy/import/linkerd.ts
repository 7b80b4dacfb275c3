import type { PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../model/resources.ts';
import type { ImportedPolicy } from './imported-policy.ts';
import { regexMeaning, valueRefusal } from './regex-values.ts';
import type { WrittenField } from './written-field.ts';

/** A foreign resource with its name. */
export interface LinkerdResource {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly root: WrittenField;
}

/** Kinds that are read together. */
export const LINKERD_KINDS: readonly string[] = [
  'Server',
  'HTTPRoute',
  'GRPCRoute',
  'AuthorizationPolicy',
  'MeshTLSAuthentication',
  'NetworkAuthentication',
];

/** `<account>.<namespace>.serviceaccount.identity.<control plane>.<trust domain>`. */
const IDENTITY = /^([a-z0-9][-a-z0-9]*|\*)\.([a-z0-9][-a-z0-9]*)\.serviceaccount\.identity\.[-a-z0-9]+\.[-.a-z0-9]+$/;

/** One way to be let in: everybody of `sources`; none: everybody. */
interface Grant {
  readonly key: string;
  readonly sources: readonly PolicySource[];
}

/** One match of a route. */
interface Match {
  readonly route: string;
  readonly field: WrittenField;
  readonly path: PathMatch;
  readonly operation: PolicyOperation;
  readonly when: readonly PolicyCondition[];
  readonly hasHosts: boolean;
  /** False where part of it was left out: it may match more than it says. */
  readonly complete: boolean;
}

interface PathMatch {
  readonly type: 'Exact' | 'PathPrefix' | 'RegularExpression';
  readonly value: string;
}

/**
 * Linkerd's policies: one ALLOW policy for each Server. Linkerd only ever allows, so what cannot be said is left out, which allows less.
 *
 * A request goes to its most specific route, and only that route's authorisations count; Weft allows what any rule allows. So a rule of a wider
 * route excludes the paths of narrower ones that are authorised otherwise.
 */
export function importLinkerd(resources: readonly LinkerdResource[]): ImportedPolicy[] {
  const servers = resources.filter(({ kind }) => kind === 'Server');
  const mesh = new LinkerdMesh(resources);
  for (const { kind, namespace, root } of resources) {
    const spec = root.field('spec');
    const has = (target: string, name: unknown): boolean =>
      resources.some((other) => other.kind === target && other.namespace === namespace && other.name === name);
    if (isRoute(kind)) {
      for (const parent of spec.field('parentRefs').items() ?? []) {
        const name = parent.field('name').value;
        if (parent.field('kind').value !== 'Server')
          parent.note('a route that hangs on no Server is routing, not policy: it is not imported');
        else if (!has('Server', name))
          parent.leaveOut(`there is no Server ${namespace}/${String(name)} in these files: nothing is imported for it`);
      }
    } else if (kind === 'AuthorizationPolicy') {
      const target = spec.field('targetRef');
      const [of, name] = [String(target.field('kind').value), target.field('name').value];
      if (of !== 'Namespace' && !((of === 'Server' || isRoute(of)) && has(of, name))) {
        target.leaveOut(`there is no ${of} ${namespace}/${String(name)} in these files: nothing is imported for it`);
      }
    }
  }
  return servers.map((server) => mesh.server(server)).filter((policy) => policy !== null);
}

class LinkerdMesh {
  readonly #resources: readonly LinkerdResource[];
  readonly #byName = new Map<string, LinkerdResource>();
  readonly #grants = new Map<LinkerdResource, Grant | null>();

  constructor(resources: readonly LinkerdResource[]) {
    this.#resources = resources;
    for (const resource of resources) this.#byName.set(`${resource.kind} ${resource.namespace}/${resource.name}`, resource);
  }

  server(server: LinkerdResource): ImportedPolicy | null {
    const spec = server.root.field('spec');
    if (!spec.hasOnly('podSelector', 'port', 'proxyProtocol', 'accessPolicy')) return null;
    const selector = podSelector(spec.field('podSelector'));
    const port = spec.field('port');
    if (selector === null) return null;
    const number = port.value;
    if (typeof number !== 'number' || !Number.isInteger(number) || number < 1 || number > 65_535) {
      port.leaveOut('only port numbers are imported, not names: the Server is left out, and nothing protects its port');
      return null;
    }
    spec.note(
      `Linkerd decides for port ${number} alone. An ALLOW policy speaks for every port of these workloads: the others are denied until a rule allows them`,
    );
    const base: PolicyOperation = { ports: [number] };
    const grants = [...this.#access(spec.field('accessPolicy')), ...this.#granted('Server', server)];
    const rules: PolicyRule[] = [];
    const routes = this.#resources.filter(
      ({ kind, namespace, root }) =>
        isRoute(kind) &&
        namespace === server.namespace &&
        (root.field('spec').field('parentRefs').items() ?? []).some((ref) => isRef(ref, server)),
    );
    if (routes.length === 0) rules.push(...grants.map(({ sources }) => ({ from: sources, to: [base], when: [] })));
    else rules.push(...this.#routeRules(routes, grants, base));
    return { name: server.name, namespace: server.namespace, action: 'ALLOW', selector, rules, origin: server.root };
  }

  #access(field: WrittenField): Grant[] {
    switch (field.value) {
      case undefined:
      case 'deny':
        return [];
      case 'all-unauthenticated':
        return [{ key: 'all-unauthenticated', sources: [] }];
      case 'all-authenticated':
        return [{ key: 'all-authenticated', sources: [{ principals: ['*'] }] }];
      default:
        field.leaveOut(`the access policy ${JSON.stringify(field.value)} cannot be said: nothing is allowed for it`);
        return [];
    }
  }

  /** What AuthorizationPolicies with this target let in; those of a Server's namespace count for the Server. */
  #granted(kind: string, target: LinkerdResource): Grant[] {
    return this.#resources
      .filter((policy) => {
        if (policy.kind !== 'AuthorizationPolicy' || policy.namespace !== target.namespace) return false;
        const ref = policy.root.field('spec').field('targetRef');
        const [refKind, refName] = [ref.field('kind').value, ref.field('name').value];
        if (kind === 'Server' && refKind === 'Namespace') return refName === target.namespace;
        return refKind === kind && refName === target.name;
      })
      .map((policy) => this.#grant(policy))
      .filter((grant) => grant !== null);
  }

  #grant(policy: LinkerdResource): Grant | null {
    let grant = this.#grants.get(policy);
    if (grant === undefined) {
      const spec = policy.root.field('spec');
      const understood =
        spec.hasOnly('targetRef', 'requiredAuthenticationRefs') && spec.field('targetRef').hasOnly('group', 'kind', 'name');
      const sources = understood ? this.#sources(spec.field('requiredAuthenticationRefs'), policy.namespace) : null;
      grant = sources === null ? null : { key: `${policy.namespace}/${policy.name}`, sources };
      this.#grants.set(policy, grant);
    }
    return grant;
  }

  /** All references must hold. Null: nobody is let in. */
  #sources(refs: WrittenField, home: string): readonly PolicySource[] | null {
    let result: readonly PolicySource[] = [];
    const networks = (refs.items() ?? []).filter((ref) => ref.field('kind').value === 'NetworkAuthentication').length;
    if (networks > 1 || (refs.items() ?? []).length - networks > 1) {
      refs.leaveOut('at most one network and one identity can be required together: the authorisation is left out');
      return null;
    }
    for (const ref of refs.items() ?? [refs]) {
      if (!ref.hasOnly('group', 'kind', 'name', 'namespace')) return null;
      const kind = String(ref.field('kind').value);
      const name = String(ref.field('name').value);
      const namespace = String(ref.field('namespace').value ?? home);
      const found = kind === 'ServiceAccount' ? null : this.#byName.get(`${kind} ${namespace}/${name}`);
      let sources: readonly PolicySource[] | null;
      if (kind === 'ServiceAccount') sources = [{ serviceAccounts: [`${namespace}/${name}`] }];
      else if (found === undefined || found === null) {
        ref.leaveOut(`there is no ${kind} ${namespace}/${name} in these files: the authorisation is left out`);
        return null;
      } else if (kind === 'MeshTLSAuthentication') sources = meshSources(found);
      else if (kind === 'NetworkAuthentication') sources = networkSources(found);
      else {
        ref.leaveOut(`a reference to a ${kind} is not understood: the authorisation is left out`);
        return null;
      }
      if (sources.length === 0) return null;
      result = result.length === 0 ? sources : result.flatMap((one) => sources.map((other) => Object.assign({}, one, other)));
    }
    return result;
  }

  #routeRules(routes: readonly LinkerdResource[], inherited: readonly Grant[], base: PolicyOperation): PolicyRule[] {
    const known = routes.map((route) => ({
      grants: [...inherited, ...this.#granted(route.kind, route)],
      matches: matchesOf(route, base),
    }));
    const rules: PolicyRule[] = [];
    for (const { grants, matches } of known) {
      const others = known.filter((other) => keysOf(other.grants) !== keysOf(grants)).flatMap((other) => other.matches);
      for (const match of matches) {
        if (!match.complete) continue;
        const operation = withoutNarrower(match, others);
        if (operation === null) continue;
        for (const { sources } of grants) rules.push({ from: sources, to: [operation], when: match.when });
      }
    }
    return rules;
  }
}

function keysOf(grants: readonly Grant[]): string {
  return grants
    .map(({ key }) => key)
    .toSorted()
    .join(' ');
}

function isRoute(kind: string): boolean {
  return kind === 'HTTPRoute' || kind === 'GRPCRoute';
}

function isRef(ref: WrittenField, server: LinkerdResource): boolean {
  const group = ref.field('group').value;
  return (
    ref.field('kind').value === 'Server' &&
    (group === undefined || group === 'policy.linkerd.io') &&
    ref.field('name').value === server.name
  );
}

function podSelector(field: WrittenField): Record<string, string> | null {
  if (field.isAbsent) {
    field.leaveOut('without a podSelector nothing can be imported');
    return null;
  }
  const expressions = field.field('matchExpressions');
  if (!expressions.isAbsent && (expressions.items() ?? [expressions]).length > 0) {
    expressions.leaveOut('selectors with matchExpressions are not imported: the Server is left out, and nothing protects its port');
    return null;
  }
  if (!field.hasOnly('matchLabels', 'matchExpressions')) return null;
  return field.field('matchLabels').texts();
}

function meshSources(resource: LinkerdResource): PolicySource[] {
  const spec = resource.root.field('spec');
  if (!spec.hasOnly('identities', 'identityRefs')) return [];
  const sources: PolicySource[] = [];
  for (const identity of spec.field('identities').items() ?? []) {
    const text = identity.text();
    const source = text === null ? null : identitySource(text);
    if (source !== null) sources.push(source);
    else if (text !== null)
      identity.leaveOut(`the identity ${JSON.stringify(text)} is not one of a service account or namespace: it is left out`);
  }
  for (const ref of spec.field('identityRefs').items() ?? []) {
    const kind = ref.field('kind').value;
    const name = ref.field('name').value;
    const namespace = ref.field('namespace').value ?? resource.namespace;
    if (kind === 'ServiceAccount' && typeof name === 'string') sources.push({ serviceAccounts: [`${String(namespace)}/${name}`] });
    else if (kind === 'Namespace') sources.push({ namespaces: [String(name ?? namespace)] });
    else ref.leaveOut(`a reference to a ${String(kind)} is not understood: it is left out`);
  }
  return sources;
}

function identitySource(text: string): PolicySource | null {
  if (text === '*') return { principals: ['*'] };
  if (text.startsWith('spiffe://') && !text.includes('*')) return { principals: [text.slice('spiffe://'.length)] };
  const [, account, namespace] = IDENTITY.exec(text) ?? [];
  if (account === undefined || namespace === undefined) return null;
  return account === '*' ? { namespaces: [namespace] } : { serviceAccounts: [`${namespace}/${account}`] };
}

function networkSources(resource: LinkerdResource): PolicySource[] {
  const spec = resource.root.field('spec');
  if (!spec.hasOnly('networks')) return [];
  const sources: PolicySource[] = [];
  for (const network of spec.field('networks').items() ?? []) {
    const cidr = network.hasOnly('cidr', 'except') ? network.field('cidr').text() : null;
    const except = network.field('except');
    const excepted = (typeof except.value === 'string' ? [except] : (except.items() ?? [except])).map((one) => one.text());
    if (cidr === null || excepted.includes(null)) continue;
    sources.push({ ipBlocks: [cidr], ...(excepted.length === 0 ? {} : { notIpBlocks: excepted as string[] }) });
  }
  return sources;
}

/** Everything that a route matches; what cannot be said is there too, as not complete. */
function matchesOf(route: LinkerdResource, base: PolicyOperation): Match[] {
  const spec = route.root.field('spec');
  const understood = spec.hasOnly('parentRefs', 'hostnames', 'rules');
  const hosts = (spec.field('hostnames').items() ?? [spec.field('hostnames')]).flatMap((host) => {
    const text = host.text();
    if (text === null) return [];
    // A wildcard ends in no port; a name with its port is the same host.
    return text.startsWith('*') ? [text] : [text, `${text}:*`];
  });
  const withHosts: PolicyOperation = hosts.length === 0 ? base : { ...base, hosts };
  const key = `${route.namespace}/${route.name}`;
  return (spec.field('rules').items() ?? []).flatMap((rule) => {
    const complete = understood && rule.hasOnly('matches', 'filters', 'timeouts', 'name');
    const filters = rule.field('filters');
    if (!filters.isAbsent) filters.note('filters are not policy: they are not imported');
    const matches = rule.field('matches');
    const written = matches.isAbsent ? [rule] : (matches.items() ?? []);
    return written.map((match) =>
      route.kind === 'GRPCRoute' && !matches.isAbsent
        ? grpcMatchOf(match, key, withHosts, complete)
        : matchOf(match, key, withHosts, complete, matches.isAbsent),
    );
  });
}

function matchOf(field: WrittenField, route: string, base: PolicyOperation, isComplete: boolean, isEverything: boolean): Match {
  const hasHosts = base.hosts !== undefined;
  const everything: PathMatch = { type: 'PathPrefix', value: '/' };
  if (isEverything) {
    return { route, field, path: everything, operation: { ...base, methods: ['*'] }, when: [], hasHosts, complete: isComplete };
  }
  let complete = isComplete && field.hasOnly('path', 'method', 'headers', 'queryParams');
  const query = field.field('queryParams');
  if (!query.isAbsent && (query.items() ?? [query]).length > 0) {
    query.leaveOut('policies do not compare queries: the match is left out');
    complete = false;
  }
  const path = field.field('path');
  const type = path.field('type').value ?? 'PathPrefix';
  const value = path.isAbsent ? '/' : path.field('value').text();
  const paths = value === null ? null : pathValues(path, type, value);
  const when = headerConditions(field.field('headers'));
  const method = field.field('method');
  const known = method.isAbsent || /^[A-Z]+$/.test(String(method.value));
  if (!known) method.leaveOut('it is no method: the match is left out');
  if (paths === null || when === null || !known) complete = false;
  const methods = method.isAbsent ? (paths?.length === 0 ? ['*'] : null) : [String(method.value)];
  return {
    route,
    field,
    path: { type: type === 'Exact' || type === 'RegularExpression' ? type : 'PathPrefix', value: value ?? '/' },
    operation: {
      ...base,
      ...(methods === null ? {} : { methods }),
      ...(paths === null || paths.length === 0 ? {} : { paths }),
    },
    when: when ?? [],
    hasHosts,
    complete,
  };
}

/** gRPC is POST to `/service/method`. */
function grpcMatchOf(field: WrittenField, route: string, base: PolicyOperation, isComplete: boolean): Match {
  const method = field.field('method');
  const service = method.field('service').value;
  const name = method.field('method').value;
  const when = headerConditions(field.field('headers'));
  let complete = isComplete && field.hasOnly('method', 'headers') && when !== null;
  const isExact = method.isAbsent || (method.hasOnly('type', 'service', 'method') && (method.field('type').value ?? 'Exact') === 'Exact');
  const said = method.isAbsent || (typeof service === 'string' && [service, name ?? 'x'].every((text) => /^[\w.-]+$/.test(String(text))));
  if (!isExact || !said) {
    method.leaveOut('only exact services and methods of a service can be said: the match is left out');
    complete = false;
  }
  let path: PathMatch = { type: 'PathPrefix', value: '/' };
  if (isExact && said && service !== undefined) {
    path =
      name === undefined
        ? { type: 'PathPrefix', value: `/${String(service)}` }
        : { type: 'Exact', value: `/${String(service)}/${String(name)}` };
  }
  const paths = path.value === '/' ? {} : { paths: [path.type === 'Exact' ? path.value : `${path.value}/*`] };
  const operation = { ...base, methods: ['POST'], ...paths };
  return { route, field, path, operation, when: when ?? [], hasHosts: base.hosts !== undefined, complete };
}

/** None: every path. Null, with a remark: it cannot be said. */
function pathValues(field: WrittenField, type: unknown, value: string): string[] | null {
  const wrong = valueRefusal(value, true);
  if (type === 'RegularExpression') {
    const meaning = regexMeaning(value, 'path');
    if (meaning.kind === 'any') return [];
    const [only, ...more] = meaning.kind === 'groups' ? meaning.groups : [];
    if (only !== undefined && more.length === 0 && only.notValues.length === 0) {
      if (meaning.kind === 'groups' && meaning.literalDot) field.note('a dot without \\ is read as a dot: fewer texts match');
      return [...only.values];
    }
    const why = meaning.kind === 'refused' ? meaning.why : 'it has .+';
    field.leaveOut(`the expression ${JSON.stringify(value.slice(0, 120))} cannot be said without one: ${why}; the match is left out`);
    return null;
  }
  if ((type !== 'Exact' && type !== 'PathPrefix') || wrong !== null || !value.startsWith('/')) {
    field.leaveOut(
      `the path cannot be said: ${wrong ?? `type ${JSON.stringify(type)}, value ${JSON.stringify(value)}`}; the match is left out`,
    );
    return null;
  }
  if (type === 'Exact') return [value];
  const stem = value.replace(/\/+$/, '');
  return stem === '' ? [] : [stem, `${stem}/*`];
}

function headerConditions(field: WrittenField): PolicyCondition[] | null {
  const conditions: PolicyCondition[] = [];
  for (const header of field.items() ?? [field]) {
    const name = header.field('name').text();
    const value = header.field('value').text();
    if (!header.hasOnly('type', 'name', 'value') || name === null || value === null) return null;
    const isExact = (header.field('type').value ?? 'Exact') === 'Exact';
    const wrong = valueRefusal(value, false);
    const meaning = isExact ? null : regexMeaning(value, 'text');
    const groups = meaning?.kind === 'groups' ? meaning.groups : [];
    if ((isExact && wrong !== null) || (!isExact && (groups.length !== 1 || groups[0]?.notValues.length !== 0))) {
      header.leaveOut(`the value ${JSON.stringify(value.slice(0, 120))} cannot be said: the match is left out`);
      return null;
    }
    conditions.push({ key: `request.headers[${name.toLowerCase()}]`, values: isExact ? [value] : (groups[0]?.values ?? []) });
  }
  return conditions;
}

/** True if no request matches both. */
function areDisjoint(a: Match, b: Match): boolean {
  const [methods, others] = [a.operation.methods?.[0] ?? '*', b.operation.methods?.[0] ?? '*'];
  if (methods !== '*' && others !== '*' && methods !== others) return true;
  if (a.path.type === 'RegularExpression' || b.path.type === 'RegularExpression') return false;
  return !pathHolds(a.path, b.path.value) && !pathHolds(b.path, a.path.value);
}

/** True if a path is matched, or lies below what is matched. */
function pathHolds({ type, value }: PathMatch, path: string): boolean {
  if (type === 'Exact') return path === value;
  const stem = value.replace(/\/+$/, '');
  return path === stem || path.startsWith(`${stem}/`);
}

const RANK = { Exact: 2, RegularExpression: 1, PathPrefix: 0 } as const;

/** True if a request that matches both surely goes to `match` (Gateway API: exact, then the longest prefix). */
function isPreferred(match: Match, other: Match): boolean {
  if (match.hasHosts || other.hasHosts || match.path.type === 'RegularExpression' || other.path.type === 'RegularExpression') return false;
  const difference = RANK[match.path.type] - RANK[other.path.type];
  if (difference !== 0) return difference > 0;
  if (match.path.value === other.path.value) return hasMethod(match) && !hasMethod(other);
  return match.path.type === 'PathPrefix' && match.path.value.replace(/\/+$/, '').length > other.path.value.replace(/\/+$/, '').length;
}

function hasMethod({ operation }: Match): boolean {
  return operation.methods !== undefined && operation.methods[0] !== '*';
}

/** The operation of a match without what other routes may be asked instead. Null, with a remark: they cannot be told apart. */
function withoutNarrower(match: Match, others: readonly Match[]): PolicyOperation | null {
  const notPaths = new Set<string>();
  const notMethods = new Set<string>();
  for (const other of others) {
    if (areDisjoint(match, other) || isPreferred(match, other)) continue;
    const paths = other.operation.paths ?? [];
    const methods = (other.operation.methods ?? []).filter((method) => method !== '*');
    if (methods.length > 0 && coversMatch(other, match) && match.operation.methods?.[0] !== methods[0]) {
      for (const method of methods) notMethods.add(method);
      if (other.when.length > 0 || other.hasHosts) {
        match.field.leaveOut(`the method of the route ${other.route} is left out here, whatever the rest of its match says`);
      }
      continue;
    }
    if (paths.length === 0 || coversMatch(other, match)) {
      match.field.leaveOut(`a request may match the route ${other.route} too, which is authorised otherwise: the match is left out`);
      return null;
    }
    for (const path of paths) notPaths.add(path);
    if (other.operation.methods !== undefined || other.when.length > 0 || other.hasHosts) {
      match.field.leaveOut(`paths of the route ${other.route} are left out here, whatever the rest of its match says`);
    }
  }
  return {
    ...match.operation,
    ...(notPaths.size === 0 ? {} : { notPaths: [...notPaths] }),
    ...(notMethods.size === 0 ? {} : { notMethods: [...notMethods] }),
  };
}

/** True if excluding the other's paths would leave nothing. */
function coversMatch(other: Match, match: Match): boolean {
  return (
    other.path.type !== 'RegularExpression' &&
    pathHolds(other.path, match.path.value) &&
    !(other.path.type === 'Exact' && match.path.type !== 'Exact')
  );
}
