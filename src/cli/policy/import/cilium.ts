import type { PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../../model/resources.ts';
import type { ImportedPolicy } from './imported-policy.ts';
import { type RegexMeaning, regexMeaning, type RegexSubject, valueRefusal } from './regex-values.ts';
import type { WrittenField } from './written-field.ts';

const NAMESPACE_LABELS: ReadonlySet<string> = new Set([
  'io.kubernetes.pod.namespace',
  'io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name',
]);
const ACCOUNT_LABEL = 'io.cilium.k8s.policy.serviceaccount';
/** A range of more ports is better written by hand. */
const MAX_RANGE = 64;
const ANYBODY: PolicySource = {};

/**
 * CiliumNetworkPolicy (cilium.io/v2): its ingress. Allowed is what any ingress rule allows, so a rule that cannot be said is left out, which allows
 * less; a deny that cannot be said denies everybody on its ports. Nothing ever allows more.
 *
 * Cilium compares peers by labels, Weft by identity. Said otherwise can be: a namespace, a service account, everybody.
 */
export function importCilium(root: WrittenField, namespace: string): ImportedPolicy[] {
  const specs = root.field('specs');
  if (!specs.isAbsent) return (specs.items() ?? []).flatMap((spec, index) => importSpec(root, spec, namespace, `-${index + 1}`));
  return importSpec(root, root.field('spec'), namespace, '');
}

function importSpec(root: WrittenField, spec: WrittenField, namespace: string, suffix: string): ImportedPolicy[] {
  const name = root.field('metadata').field('name').text();
  if (name === null) return [];
  const known = ['endpointSelector', 'ingress', 'ingressDeny', 'egress', 'egressDeny', 'enableDefaultDeny', 'description', 'labels', 'log'];
  // Another field may change whom all of it is about.
  if (!spec.hasOnly(...known)) return [];
  for (const field of ['egress', 'egressDeny']) {
    const egress = spec.field(field);
    if (!egress.isAbsent) egress.leaveOut('egress is not imported: Weft decides at the destination, write a policy there');
  }
  const allows = spec.field('ingress').items() ?? [];
  const denies = spec.field('ingressDeny').items() ?? [];
  if (allows.length === 0 && denies.length === 0) return [];
  const selector = selectorOf(spec.field('endpointSelector'), namespace);
  if (selector === null) return [];
  const policies: ImportedPolicy[] = [];
  if (denies.length > 0) {
    const rules = denies.flatMap((rule) => denyRules(rule, namespace));
    if (rules.length > 0) policies.push({ name: `${name}${suffix}-deny`, namespace, action: 'DENY', selector, rules, origin: root });
  }
  const open = spec.field('enableDefaultDeny').field('ingress');
  if (open.value === false) {
    open.leaveOut('an ALLOW policy always denies what it does not allow: the ingress rules are not imported');
    return policies;
  }
  const rules = allows.flatMap((rule) => allowRules(rule, namespace));
  policies.push({ name: `${name}${suffix}`, namespace, action: 'ALLOW', selector, rules, origin: root });
  return policies;
}

/** Labels without Cilium's source prefix. */
function bareLabel(key: string): string {
  return key.replace(/^(?:k8s|any):/, '');
}

function selectorOf(field: WrittenField, namespace: string): Record<string, string> | null {
  if (field.isAbsent) {
    field.leaveOut('without an endpointSelector nothing can be imported');
    return null;
  }
  if (!onlyLabels(field)) return null;
  const labels = field.field('matchLabels').texts();
  if (labels === null) return null;
  const selector: Record<string, string> = {};
  for (const [written, value] of Object.entries(labels)) {
    const key = bareLabel(written);
    if (NAMESPACE_LABELS.has(key)) {
      if (value === namespace) continue;
      field.leaveOut(`it selects the namespace ${value}, and the policy is in ${namespace}: nothing is selected, nothing imported`);
      return null;
    }
    if (key.includes(':') || key.startsWith('io.cilium.') || key.startsWith('reserved')) {
      field.leaveOut(`workloads cannot be selected by ${written}: the policy is not imported`);
      return null;
    }
    selector[key] = value;
  }
  return selector;
}

/** False, with a remark, for a selector with expressions that are not labels. */
function onlyLabels(field: WrittenField): boolean {
  const expressions = field.field('matchExpressions');
  if (!expressions.isAbsent && (expressions.items() ?? [expressions]).length > 0) {
    expressions.leaveOut('selectors with matchExpressions are not imported: use matchLabels');
    return false;
  }
  return field.hasOnly('matchLabels', 'matchExpressions');
}

const RULE_FIELDS = ['fromEndpoints', 'fromEntities', 'toPorts', 'authentication'] as const;
const PEER_FIELDS = ['fromCIDR', 'fromCIDRSet', 'fromGroups', 'fromNodes'] as const;

function allowRules(rule: WrittenField, namespace: string): PolicyRule[] {
  // An empty rule allows nobody, and still makes the default a denial.
  if (isEmpty(rule)) return [];
  if (!rule.field('icmps').isAbsent) {
    rule.field('icmps').leaveOut('ICMP does not go through the mesh: the rule is left out');
    return [];
  }
  if (!rule.hasOnly(...RULE_FIELDS, ...PEER_FIELDS)) return [];
  const authentication = rule.field('authentication').field('mode').value;
  if (authentication !== undefined && authentication !== 'required' && authentication !== 'disabled') {
    rule.field('authentication').leaveOut('only the modes required and disabled are understood: the rule is left out');
    return [];
  }
  const sources = sourcesOf(rule, namespace);
  if (sources === null || sources.length === 0) return [];
  const proven = authentication === 'required' ? sources.map((source) => (source === ANYBODY ? { principals: ['*'] } : source)) : sources;
  const from = proven.includes(ANYBODY) ? [] : proven;
  const ports = rule.field('toPorts');
  if (ports.isAbsent) return [{ from, to: [], when: [] }];
  return (ports.items() ?? []).flatMap((entry) => portRules(entry, from));
}

function isEmpty({ value }: WrittenField): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

/** Who a rule speaks of; ANYBODY among them: everybody. What cannot be said is left out, and reported. Null: nothing can be said. */
function sourcesOf(rule: WrittenField, namespace: string): PolicySource[] | null {
  for (const field of PEER_FIELDS) {
    const peers = rule.field(field);
    if (peers.isAbsent) continue;
    peers.leaveOut(
      field.startsWith('fromCIDR')
        ? 'a CIDR means addresses outside of the cluster to Cilium, and any peer with such an address to Weft: it would let more in'
        : `${field} is not imported`,
    );
  }
  const named = [...RULE_FIELDS.slice(0, 2), ...PEER_FIELDS].some((field) => !rule.field(field).isAbsent);
  if (!named) return [ANYBODY];
  const endpoints = (rule.field('fromEndpoints').items() ?? []).map((selector) => sourceOf(selector, namespace));
  const entities = (rule.field('fromEntities').items() ?? []).map((entity) => {
    if (entity.value === 'all') return ANYBODY;
    if (entity.value !== 'none') {
      entity.leaveOut(`there is no identity for the entity ${JSON.stringify(entity.value)}: name namespaces or service accounts`);
    }
    return null;
  });
  return [...endpoints, ...entities].filter((source) => source !== null);
}

/** Labels of a peer as an identity: only those that are part of one can be. */
function sourceOf(selector: WrittenField, home: string): PolicySource | null {
  if (!onlyLabels(selector)) return null;
  const labels = selector.field('matchLabels').texts();
  if (labels === null) return null;
  let namespace = home;
  let account: string | null = null;
  for (const [written, value] of Object.entries(labels)) {
    const key = bareLabel(written);
    if (NAMESPACE_LABELS.has(key)) namespace = value;
    else if (key === ACCOUNT_LABEL) account = value;
    else {
      selector.leaveOut(
        `peers are known by their identity, which the label ${written} is no part of: ` +
          'give them a service account of their own and name it in serviceAccounts',
      );
      return null;
    }
  }
  for (const text of [namespace, account ?? 'default']) {
    if (!/^[a-z0-9][-a-z0-9.]*$/.test(text)) {
      selector.leaveOut(`${JSON.stringify(text)} is not one name: the peer is left out`);
      return null;
    }
  }
  return account === null ? { namespaces: [namespace] } : { serviceAccounts: [`${namespace}/${account}`] };
}

interface Ports {
  /** Each once; empty where `all`. */
  readonly ports: readonly number[];
  readonly all: boolean;
  /** False where one was left out that goes through the mesh. */
  readonly complete: boolean;
}

const ALL_PORTS: Ports = { ports: [], all: true, complete: true };

function portsOf(entry: WrittenField): Ports {
  const written = entry.field('ports').items();
  if (written === null) return { ports: [], all: false, complete: false };
  if (written.length === 0) return ALL_PORTS;
  const ports: number[] = [];
  let complete = true;
  for (const item of written) {
    if (!item.hasOnly('port', 'endPort', 'protocol')) {
      complete = false;
      continue;
    }
    const protocol = item.field('protocol').value ?? 'ANY';
    if (protocol !== 'TCP' && protocol !== 'ANY') {
      item.leaveOut(`${JSON.stringify(protocol)} does not go through the mesh: the port is left out`);
      continue;
    }
    const first = portNumber(item.field('port').value);
    const last = item.field('endPort').isAbsent ? first : portNumber(item.field('endPort').value);
    if (first === 0) return ALL_PORTS;
    let wrong: string | null = null;
    if (!Number.isInteger(first) || !Number.isInteger(last) || first < 1 || last > 65_535 || last < first) {
      wrong = 'only port numbers are imported, not names: the port is left out';
    } else if (last - first >= MAX_RANGE) wrong = `a range of more than ${MAX_RANGE} ports is left out`;
    if (wrong === null) for (let port = first; port <= last; port += 1) ports.push(port);
    else {
      item.leaveOut(wrong);
      complete = false;
    }
  }
  return { ports: [...new Set(ports)], all: false, complete };
}

/** NaN for what is no number. */
function portNumber(value: unknown): number {
  return typeof value === 'number' || (typeof value === 'string' && /^\d{1,5}$/.test(value)) ? Number(value) : Number.NaN;
}

function portRules(entry: WrittenField, from: readonly PolicySource[]): PolicyRule[] {
  if (!entry.hasOnly('ports', 'rules')) return [];
  const { ports, all } = portsOf(entry);
  if (!all && ports.length === 0) return [];
  const base: PolicyOperation = all ? {} : { ports };
  const rules = entry.field('rules');
  if (rules.isAbsent) return [{ from, to: all ? [] : [base], when: [] }];
  if (!rules.hasOnly('http')) return [];
  const result: PolicyRule[] = [];
  const plain: PolicyOperation[] = [];
  for (const http of rules.field('http').items() ?? []) {
    const request = requestOf(http, base);
    if (request === null) continue;
    if (request.when.length === 0) plain.push(...request.to);
    else result.push({ from, to: request.to, when: request.when });
  }
  return plain.length === 0 ? result : [{ from, to: plain, when: [] }, ...result];
}

function requestOf(http: WrittenField, base: PolicyOperation): { to: PolicyOperation[]; when: PolicyCondition[] } | null {
  if (!http.hasOnly('method', 'path', 'host', 'headers', 'headerMatches')) return null;
  const when = headersOf(http);
  const method = meaningOf(http.field('method'), 'text');
  const path = meaningOf(http.field('path'), 'path-with-query');
  const host = meaningOf(http.field('host'), 'text');
  if (when === null || method === null || path === null || host === null) return null;
  let operations: PolicyOperation[] = [base];
  operations = withField(operations, method, 'methods', 'notMethods', (value) => value);
  operations = withField(operations, path, 'paths', 'notPaths', (value) => value);
  operations = withField(operations, host, 'hosts', 'notHosts', (value) => value.toLowerCase());
  const asksHttp = [method, path, host].some(({ kind }) => kind === 'groups') || when.length > 0;
  // Any request, but a request: nothing that is not HTTP.
  return { to: asksHttp ? operations : [{ ...base, methods: ['*'] }], when };
}

type Meaning = Exclude<RegexMeaning, { readonly kind: 'refused' }>;

function meaningOf(field: WrittenField, subject: RegexSubject): Meaning | null {
  if (field.isAbsent || field.value === '') return { kind: 'any' };
  const expression = field.text();
  if (expression === null) return null;
  const meaning = regexMeaning(expression, subject);
  if (meaning.kind === 'refused') {
    field.leaveOut(
      `the expression ${JSON.stringify(expression.slice(0, 120))} cannot be said without one: ${meaning.why}; the request is left out`,
    );
    return null;
  }
  if (meaning.kind === 'groups') {
    if (meaning.literalDot) field.note('a dot without \\ is read as a dot: fewer texts match than any character would');
    if (meaning.withoutQuery.length > 0) {
      field.note(`policies compare paths without their query: ${meaning.withoutQuery.join(', ')} is allowed with any query too`);
    }
  }
  return meaning;
}

function withField(
  operations: readonly PolicyOperation[],
  meaning: Meaning,
  field: 'methods' | 'paths' | 'hosts',
  not: 'notMethods' | 'notPaths' | 'notHosts',
  spell: (value: string) => string,
): PolicyOperation[] {
  if (meaning.kind === 'any') return [...operations];
  return operations.flatMap((operation) =>
    meaning.groups.map(({ values, notValues }) => ({
      ...operation,
      [field]: values.map(spell),
      ...(notValues.length === 0 ? {} : { [not]: notValues.map(spell) }),
    })),
  );
}

/** Headers as conditions, all of which must hold. Null: one cannot be said. */
function headersOf(http: WrittenField): PolicyCondition[] | null {
  const conditions: (PolicyCondition | null)[] = [];
  for (const header of http.field('headers').items() ?? []) {
    const text = header.text();
    const [name = '', ...rest] = (text ?? '').split(' ');
    conditions.push(text === null ? null : conditionOf(header, name.replace(/:+$/, ''), rest.length === 0 ? null : rest.join(' ')));
  }
  for (const match of http.field('headerMatches').items() ?? []) {
    const mismatch = match.field('mismatch').value ?? 'FAIL';
    const name = match.field('name').text();
    const value = match.field('value');
    if (!match.hasOnly('name', 'value', 'mismatch') || name === null) conditions.push(null);
    else if (mismatch !== 'FAIL' && mismatch !== '') {
      match.leaveOut(`the mismatch action ${JSON.stringify(mismatch)} changes requests, which policy does not: the request is left out`);
      conditions.push(null);
    } else conditions.push(conditionOf(match, name, value.isAbsent ? null : value.text()));
  }
  return conditions.includes(null) ? null : (conditions as PolicyCondition[]);
}

function conditionOf(field: WrittenField, name: string, value: string | null): PolicyCondition | null {
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) {
    field.leaveOut(`${JSON.stringify(name)} is not the name of a header: the request is left out`);
    return null;
  }
  const wrong = value === null ? null : valueRefusal(value, false);
  if (wrong !== null) {
    field.leaveOut(`the value of ${name} cannot be said: ${wrong}; the request is left out`);
    return null;
  }
  return { key: `request.headers[${name.toLowerCase()}]`, values: [value ?? '*'] };
}

/** A deny that cannot be said denies everybody on its ports. */
function denyRules(rule: WrittenField, namespace: string): PolicyRule[] {
  if (isEmpty(rule)) return [];
  const understood = rule.hasOnly('fromEndpoints', 'fromEntities', 'toPorts', ...PEER_FIELDS);
  const known = understood && PEER_FIELDS.every((field) => rule.field(field).isAbsent);
  const named = (rule.field('fromEndpoints').items() ?? []).length + (rule.field('fromEntities').items() ?? []).length;
  const sources = sourcesOf(rule, namespace) ?? [];
  const isWhole = known && (sources.length === named || sources.includes(ANYBODY));
  if (!isWhole) rule.leaveOut('not everybody whom it denies can be named: it denies everybody, until you write it otherwise');
  if (isWhole && sources.length === 0) return [];
  let from: PolicySource[] = [];
  if (isWhole && !sources.includes(ANYBODY)) {
    rule.note('peers without an identity are denied too: they may be those that it means');
    from = [...sources, { notPrincipals: ['*'] }];
  }
  const entries = rule.field('toPorts');
  if (entries.isAbsent) return [{ from, to: [], when: [] }];
  const to: PolicyOperation[] = [];
  for (const entry of entries.items() ?? [entries]) {
    const { ports, all, complete } = entry.hasOnly('ports') ? portsOf(entry) : { ports: [], all: true, complete: true };
    // All ports, said or not understood: then the others add nothing.
    if (all || !complete) return [{ from, to: [], when: [] }];
    if (ports.length > 0) to.push({ ports });
  }
  return to.length === 0 ? [] : [{ from, to, when: [] }];
}
