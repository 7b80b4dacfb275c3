import type { AuthorizationPolicyResource, PolicyAction, PolicyOperation, PolicyRule, PolicySource } from '../../model/resources.ts';
import type { FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';
import type { Draft } from './draft.ts';
import { selectorOf } from './draft.ts';
import type { WrittenCondition } from './policy-condition.ts';
import { isDecidedAfterCustom, toCondition } from './policy-condition.ts';
import type { ReadValue } from './policy-values.ts';
import { block, path, pattern, port, principal, serviceAccount } from './policy-values.ts';

interface AuthorizationPolicySpec {
  readonly action?: PolicyAction;
  readonly mode?: 'enforce' | 'audit';
  readonly provider?: { readonly name: string };
  readonly rules?: readonly WrittenRule[];
}

interface WrittenRule {
  readonly from?: readonly { readonly source: Written }[];
  readonly to?: readonly { readonly operation: Written }[];
  readonly when?: readonly WrittenCondition[];
}

/** A source or operation as written: lists of strings (ports also of numbers). */
type Written = Readonly<Record<string, readonly (string | number)[]>>;

/** Stands for a refused rule of a DENY or CUSTOM policy. */
export const ALWAYS_MATCHES: PolicyRule = { from: [], to: [], when: [] };

/**
 * Stands for a refused rule of an ALLOW or AUDIT policy, so that the rules after it keep their numbers: a peer with an identity and without one.
 */
export const NEVER_MATCHES: PolicyRule = { from: [{ principals: ['*'], notPrincipals: ['*'] }], to: [], when: [] };

const DRY_RUN = 'istio.io/dry-run';
/** What Istio (Go's strconv.ParseBool) reads. */
const TRUE: ReadonlySet<string> = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const FALSE: ReadonlySet<string> = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);

const SOURCE_FIELDS: Readonly<Record<keyof PolicySource, ReadValue>> = {
  principals: principal,
  notPrincipals: principal,
  requestPrincipals: pattern,
  notRequestPrincipals: pattern,
  namespaces: pattern,
  notNamespaces: pattern,
  serviceAccounts: serviceAccount,
  notServiceAccounts: serviceAccount,
  ipBlocks: block,
  notIpBlocks: block,
  remoteIpBlocks: block,
  notRemoteIpBlocks: block,
};

/** Istio's validation: a CUSTOM policy is asked before tokens are looked at, and its rules are shown to Envoy before identities are. */
const NOT_IN_CUSTOM: readonly string[] = [
  'principals',
  'notPrincipals',
  'requestPrincipals',
  'notRequestPrincipals',
  'namespaces',
  'notNamespaces',
  'serviceAccounts',
  'notServiceAccounts',
];

const OPERATION_FIELDS: Readonly<Record<Exclude<keyof PolicyOperation, 'ports' | 'notPorts'>, ReadValue>> = {
  hosts: pattern,
  notHosts: pattern,
  methods: pattern,
  notMethods: pattern,
  paths: path,
  notPaths: path,
};

/** What is in force in place of a rule that was refused: never more access than the rule as its author may have meant it. */
export function ruleConsequence(action: unknown): string {
  switch (action) {
    case 'DENY':
      return 'the rule denies everything';
    case 'CUSTOM':
      return 'the rule asks the provider about everything';
    case 'AUDIT':
      return 'the rule matches nothing';
    default:
      return 'the rule allows nothing';
  }
}

/** AuthorizationPolicy to the model. A rule that cannot be read is reported, and ALWAYS_MATCHES or NEVER_MATCHES stands in its place. */
export function toAuthorizationPolicy(draft: Draft): AuthorizationPolicyResource {
  const spec = draft.spec as AuthorizationPolicySpec;
  const action = spec.action ?? 'ALLOW';
  const written = spec.rules ?? [];
  if ((action === 'DENY' || action === 'CUSTOM') && written.length === 0) {
    draft.fail(
      ['spec', 'rules'],
      action === 'DENY' ? 'a DENY policy without rules denies nothing' : 'a CUSTOM policy without rules never asks its provider',
      `add a rule; one empty rule {} ${action === 'DENY' ? 'denies everything' : 'asks about every request'}`,
      'WEFT_CONFIG_MISSING_FIELD',
    );
  }
  return {
    kind: 'AuthorizationPolicy',
    metadata: draft.metadata,
    location: draft.location,
    spec: {
      action,
      selector: selectorOf(draft),
      rules: written.map((rule, index) => toRule(draft, rule, index, action)),
      provider: providerOf(draft, spec, action),
      dryRun: dryRunOf(draft, spec),
    },
  };
}

function providerOf(draft: Draft, { provider }: AuthorizationPolicySpec, action: PolicyAction): string | null {
  if (action === 'CUSTOM' && provider === undefined) {
    draft.fail(
      ['spec', 'provider'],
      'a CUSTOM policy needs the provider that it asks',
      'add provider.name, an extension provider of the MeshConfig',
      'WEFT_CONFIG_MISSING_FIELD',
    );
  }
  if (action !== 'CUSTOM' && provider !== undefined) {
    draft.fail(['spec', 'provider'], `only CUSTOM policies have a provider, and this is ${action}`, 'remove it, or write action: CUSTOM');
  }
  return provider?.name ?? null;
}

/** As Istio has it, an annotation that cannot be read does not turn enforcement off. */
function dryRunOf(draft: Draft, { mode }: AuthorizationPolicySpec): boolean {
  const annotation = draft.metadata.annotations[DRY_RUN];
  const at = ['metadata', 'annotations', DRY_RUN];
  if (mode !== undefined && draft.apiVersion !== 'weft.dev/v1') {
    draft.fail(
      ['spec', 'mode'],
      `there is no field "mode" under ${draft.apiVersion}`,
      `write apiVersion: weft.dev/v1, or the annotation ${DRY_RUN}: "true"`,
      'WEFT_CONFIG_UNKNOWN_FIELD',
    );
  }
  if (annotation === undefined) return mode === 'audit';
  const annotated = TRUE.has(annotation);
  if (!annotated && !FALSE.has(annotation)) {
    draft.contain('the policy is enforced', at, `${quote(annotation)} is not "true" or "false"`, 'write "true" or "false"');
    return false;
  }
  if (mode !== undefined && annotated !== (mode === 'audit')) {
    draft.contain(
      'the policy is enforced',
      at,
      `the annotation says ${quote(annotation)}, and spec.mode ${mode}`,
      'leave one of the two out',
    );
    return false;
  }
  return annotated;
}

function toRule(draft: Draft, rule: WrittenRule, index: number, action: PolicyAction): PolicyRule {
  const at = ['spec', 'rules', index];
  let refused = draft.refusedItems.has(index);
  const ruleDraft: Draft = {
    ...draft,
    fail: (...problem) => {
      refused = true;
      draft.contain(ruleConsequence(action), ...problem);
    },
  };
  const result: PolicyRule = {
    from: (rule.from ?? []).map(({ source }, item) => toSource(ruleDraft, source, [...at, 'from', item, 'source'], action)),
    to: (rule.to ?? []).map(({ operation }, item) => toOperation(ruleDraft, operation, [...at, 'to', item, 'operation'])),
    when: (rule.when ?? []).map((condition, item) => {
      const path = [...at, 'when', item];
      if (action === 'CUSTOM' && isDecidedAfterCustom(condition.key)) {
        ruleDraft.fail(
          [...path, 'key'],
          `${condition.key} cannot be used in a CUSTOM policy`,
          'let the provider decide it, or use another action',
        );
      }
      return toCondition(ruleDraft, condition, path);
    }),
  };
  if (!refused) return result;
  return action === 'DENY' || action === 'CUSTOM' ? ALWAYS_MATCHES : NEVER_MATCHES;
}

function toSource(draft: Draft, written: Written, at: FieldPath, action: PolicyAction): PolicySource {
  if (action === 'CUSTOM') {
    for (const field of NOT_IN_CUSTOM) {
      if (written[field] === undefined) continue;
      draft.fail([...at, field], `${field} cannot be used in a CUSTOM policy`, 'let the provider decide it, or use another action');
    }
  }
  const accounts = written['serviceAccounts'] ?? written['notServiceAccounts'];
  const names = ['principals', 'notPrincipals', 'namespaces', 'notNamespaces'].find((field) => written[field] !== undefined);
  if (accounts !== undefined && names !== undefined) {
    draft.fail([...at, names], `${names} cannot be used together with service accounts`, 'put them into two sources, or leave one out');
  }
  return readFields(draft, written, at, SOURCE_FIELDS);
}

function toOperation(draft: Draft, written: Written, at: FieldPath): PolicyOperation {
  const operation: PolicyOperation = readFields(draft, written, at, OPERATION_FIELDS);
  const ports: { ports?: readonly number[]; notPorts?: readonly number[] } = {};
  for (const field of ['ports', 'notPorts'] as const) {
    const values = written[field];
    if (values !== undefined) ports[field] = values.map((value, index) => Number(port(draft, String(value), [...at, field, index])));
  }
  return { ...operation, ...ports };
}

function readFields<Field extends string>(
  draft: Draft,
  written: Written,
  at: FieldPath,
  fields: Readonly<Record<Field, ReadValue>>,
): Partial<Record<Field, string[]>> {
  const result: Partial<Record<Field, string[]>> = {};
  for (const field of Object.keys(fields) as Field[]) {
    const values = written[field];
    if (values !== undefined) result[field] = values.map((value, index) => fields[field](draft, String(value), [...at, field, index]));
  }
  return result;
}
