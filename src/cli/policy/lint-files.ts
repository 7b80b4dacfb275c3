import { lintPolicies, type LintFinding } from '../../../proxy/policy/lint.ts';
import { customProvider } from '../../../proxy/policy/workload-policy.ts';
import { fieldText } from '../../config/config-problem.ts';
import { ALWAYS_MATCHES, NEVER_MATCHES } from '../../config/kinds/authorization-policy.ts';
import type { AuthorizationPolicyResource, DeclaredProtocol, Resource, ServiceResource } from '../../model/resources.ts';
import type { MeshSnapshot, PolicyEntry } from '../../model/snapshot.ts';
import { type MeshNames, snapshotOf } from './mesh-of-files.ts';
import type { LoadedPolicies } from './policy-files.ts';
import { fieldPath, policyPlaces, type ResourcePlace } from './policy-places.ts';

/** One line of `weft policy lint`. */
export interface LintLine {
  /** `error`: something is refused, or can only be a mistake. */
  readonly severity: 'error' | 'warning';
  readonly code: string;
  readonly file: string;
  /** Count from 1; 0 when it is the file as a whole. */
  readonly line: number;
  readonly column: number;
  readonly field: string;
  readonly message: string;
  readonly nextStep: string | null;
  /** `namespace/name`, where a policy is at fault. */
  readonly policy: string | null;
  readonly rule: number | null;
}

/** Valid policies that can only be a mistake. */
const ERRORS: ReadonlySet<string> = new Set(['WEFT_POLICY_LINT_INVALID', 'WEFT_POLICY_LINT_NEVER', 'WEFT_POLICY_LINT_UNSATISFIABLE']);

/**
 * Everything that is wrong with files, or does less or more than its author may think, in the order of files and lines. A mesh's files are
 * best given all together: what Services declare and what the MeshConfig has is compared with the policies.
 */
export function lintFiles(loaded: LoadedPolicies, names: MeshNames): LintLine[] {
  const lines = loaded.problems.map((problem): LintLine => {
    const { file, line, column, field, message, nextStep, code, consequence } = problem;
    const full = consequence === undefined ? message : `${message}; until then ${consequence}`;
    return { severity: 'error', code, file, line, column, field, message: full, nextStep, policy: null, rule: null };
  });
  const { snapshot, warnings, federatedTrustDomains } = snapshotOf(loaded.resources, names);
  const federated = federatedTrustDomains.map(({ trustDomain }) => trustDomain);
  const hasMeshConfig = loaded.resources.some(({ kind }) => kind === 'MeshConfig');
  const places = policyPlaces(loaded.files);
  const add = (finding: LintFinding): void => {
    const place = places.get(finding.policy);
    if (place !== undefined) lines.push(toLine(finding, place, hasMeshConfig));
  };
  const policies = loaded.resources.filter((resource) => resource.kind === 'AuthorizationPolicy');
  for (const [index, policy] of policies.entries()) {
    const entry = snapshot.policies[index] as PolicyEntry;
    for (const finding of lintPolicy(entry, policy, loaded.resources, snapshot, federated, names)) add(finding);
  }
  for (const finding of providersTogether(snapshot)) add(finding);
  for (const { resource, location, message } of warnings) {
    // The linter says the same of a provider, with its field.
    if (message.startsWith('asks the extension provider')) continue;
    lines.push({
      severity: 'warning',
      code: 'WEFT_POLICY_LINT_CONFIGURATION',
      ...location,
      column: 1,
      field: '',
      message: `${resource}: ${message}`,
      nextStep: null,
      policy: null,
      rule: null,
    });
  }
  const order = new Map(loaded.files.map(({ path }, index) => [path, index]));
  const rank = (line: LintLine): number => order.get(line.file) ?? -1;
  return lines.toSorted((a, b) => rank(a) - rank(b) || a.line - b.line || a.column - b.column);
}

function toLine({ policy, rule, field, code, message }: LintFinding, place: ResourcePlace, hasMeshConfig: boolean): LintLine {
  const path = rule === null ? ['spec', ...fieldPath(field)] : ['spec', 'rules', rule, ...fieldPath(field)];
  // Without the MeshConfig among the files it may well have the provider.
  const isError = code === 'WEFT_POLICY_LINT_PROVIDER' ? hasMeshConfig : ERRORS.has(code);
  return {
    severity: isError ? 'error' : 'warning',
    code,
    file: place.file,
    ...place.locate(path),
    field: fieldText(path),
    message,
    nextStep: null,
    policy,
    rule,
  };
}

function lintPolicy(
  entry: PolicyEntry,
  policy: AuthorizationPolicyResource,
  resources: readonly Resource[],
  { settings, trustDomain }: MeshSnapshot,
  federatedTrustDomains: readonly string[],
  { rootNamespace }: MeshNames,
): LintFinding[] {
  const findings = lintPolicies([entry], {
    trustDomain,
    trustDomainAliases: settings.trustDomainAliases,
    providers: settings.extensionProviders.map(({ name }) => name),
    declaredProtocols: protocolsOf(policy, resources, rootNamespace),
    federatedTrustDomains,
  });
  // A rule that was refused is a problem already; what stands in its place is none of its author's.
  const refusesAll = entry.rules.indexOf(ALWAYS_MATCHES);
  return findings.filter(({ rule, code }) => {
    if (rule === null) return true;
    const written = entry.rules[rule];
    if (written === ALWAYS_MATCHES || written === NEVER_MATCHES) return false;
    return !(code === 'WEFT_POLICY_LINT_SHADOWED' && refusesAll !== -1 && refusesAll < rule);
  });
}

/** What Services declare for the ports of workloads that the policy selects, as far as selectors show it; they must agree. */
function protocolsOf(
  { metadata, spec }: AuthorizationPolicyResource,
  resources: readonly Resource[],
  rootNamespace: string,
): Map<number, DeclaredProtocol> {
  const protocols = new Map<number, DeclaredProtocol>();
  const selector = spec.selector ?? {};
  const applies = (service: ServiceResource): boolean => {
    if (metadata.namespace !== rootNamespace && metadata.namespace !== service.metadata.namespace) return false;
    return isWithin(selector, service.spec.selector) || isWithin(service.spec.selector, selector);
  };
  for (const resource of resources) {
    if (resource.kind !== 'Service' || Object.keys(resource.spec.selector).length === 0 || !applies(resource)) continue;
    for (const { targetPort, protocol } of resource.spec.ports) {
      const before = protocols.get(targetPort);
      protocols.set(targetPort, before === undefined || before === protocol ? protocol : 'auto');
    }
  }
  return protocols;
}

/** True if whatever the narrow selector picks, the wide one does. */
function isWithin(wide: Readonly<Record<string, string>>, narrow: Readonly<Record<string, string>>): boolean {
  return Object.entries(wide).every(([key, value]) => narrow[key] === value);
}

/** CUSTOM policies of one workload that name several providers: then none is asked, and what they match is denied. */
function* providersTogether({ workloads, policies, settings }: MeshSnapshot): Generator<LintFinding> {
  const known = settings.extensionProviders.map(({ name }) => name);
  const seen = new Set<string>();
  for (const workload of workloads) {
    const custom = workload.policies
      .map((index) => policies[index])
      .filter((policy): policy is PolicyEntry => policy?.action === 'CUSTOM' && !policy.dryRun);
    const last = custom.at(-1);
    const key = custom.map(({ name }) => name).join(' ');
    if (last === undefined || seen.has(key) || new Set(custom.map(({ provider }) => provider)).size < 2) continue;
    seen.add(key);
    const error = customProvider(custom, known);
    if (error instanceof Error) {
      const message = `${error.message}: what they match is denied`;
      yield { policy: last.name, rule: null, field: 'provider', code: 'WEFT_POLICY_LINT_PROVIDER', message };
    }
  }
}
