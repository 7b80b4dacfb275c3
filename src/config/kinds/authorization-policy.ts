import type { AuthorizationPolicyResource, PolicyOperation, PolicyRule, PolicySource } from '../../model/resources.ts';
import type { FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';
import { canonicalBlock } from '../ip-address.ts';
import type { Draft } from './draft.ts';
import { selectorOf } from './draft.ts';

interface AuthorizationPolicySpec {
  readonly action?: 'ALLOW' | 'DENY';
  readonly rules?: readonly {
    readonly from?: readonly { readonly source: Written }[];
    readonly to?: readonly { readonly operation: Written }[];
  }[];
}

/** A source or operation as written: lists of strings (ports also of numbers). */
type Written = Readonly<Record<string, readonly (string | number)[]>>;
/** Checks one value and returns it as the model has it. After a reported problem the value returned is not used. */
type ReadValue = (draft: Draft, value: string, path: FieldPath) => string;

const DRY_RUN = 'istio.io/dry-run';
const SERVICE_ACCOUNT =
  /^(?:([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)\/)?([a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*)$/;
const PORT = /^[1-9]\d{0,4}$/;

const SOURCE_FIELDS: Readonly<Record<keyof PolicySource, ReadValue>> = {
  principals: principal,
  notPrincipals: principal,
  namespaces: pattern,
  notNamespaces: pattern,
  serviceAccounts: serviceAccount,
  notServiceAccounts: serviceAccount,
  ipBlocks: block,
  notIpBlocks: block,
};

const OPERATION_FIELDS: Readonly<Record<Exclude<keyof PolicyOperation, 'ports' | 'notPorts'>, ReadValue>> = {
  hosts: pattern,
  notHosts: pattern,
  methods: pattern,
  notMethods: pattern,
  paths: path,
  notPaths: path,
};

/** AuthorizationPolicy to the model. */
export function toAuthorizationPolicy(draft: Draft): AuthorizationPolicyResource {
  const spec = draft.spec as AuthorizationPolicySpec;
  const action = spec.action ?? 'ALLOW';
  const written = spec.rules ?? [];
  if (action === 'DENY' && written.length === 0) {
    draft.fail(
      ['spec', 'rules'],
      'a DENY policy without rules denies nothing',
      'add a rule; one empty rule {} denies everything',
      'WEFT_CONFIG_MISSING_FIELD',
    );
  }
  const dryRun = draft.metadata.annotations[DRY_RUN];
  if (dryRun !== undefined && dryRun !== 'false') {
    const message = 'dry run is not supported yet: the policy would be enforced';
    draft.fail(
      ['metadata', 'annotations', DRY_RUN],
      message,
      'remove the annotation to enforce the policy, or the policy',
      'WEFT_CONFIG_UNSUPPORTED',
    );
  }
  return {
    kind: 'AuthorizationPolicy',
    metadata: draft.metadata,
    location: draft.location,
    spec: {
      action,
      selector: selectorOf(draft),
      rules: written.map((rule, index): PolicyRule => {
        const at = ['spec', 'rules', index];
        return {
          from: (rule.from ?? []).map(({ source }, item) => toSource(draft, source, [...at, 'from', item, 'source'])),
          to: (rule.to ?? []).map(({ operation }, item) => toOperation(draft, operation, [...at, 'to', item, 'operation'])),
        };
      }),
    },
  };
}

function toSource(draft: Draft, written: Written, at: FieldPath): PolicySource {
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
    if (values !== undefined) ports[field] = values.map((value, index) => port(draft, value, [...at, field, index]));
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

/** Exact, prefix*, *suffix or *. Istio takes any other * literally, which is never what the author meant. */
function pattern(draft: Draft, value: string, at: FieldPath): string {
  const inner = value === '*' ? '' : value.startsWith('*') ? value.slice(1) : value.endsWith('*') ? value.slice(0, -1) : value;
  if (inner.includes('*')) draft.fail(at, `${quote(value)} has a * that is not alone at its start or end`, 'use prefix*, *suffix or *');
  return value;
}

function path(draft: Draft, value: string, at: FieldPath): string {
  if (!value.includes('{*}') && !value.includes('{**}')) return pattern(draft, value, at);
  draft.fail(
    at,
    `${quote(value)} is a path template, which is not supported yet`,
    'use exact paths, prefix* or *suffix',
    'WEFT_CONFIG_UNSUPPORTED',
  );
  return value;
}

function principal(draft: Draft, value: string, at: FieldPath): string {
  if (value.startsWith('spiffe://')) {
    draft.fail(
      at,
      `${quote(value)} would never match, because principals are written without spiffe://`,
      `write ${value.slice('spiffe://'.length, 120)}`,
    );
  }
  return pattern(draft, value, at);
}

function serviceAccount(draft: Draft, value: string, at: FieldPath): string {
  const match = SERVICE_ACCOUNT.exec(value);
  if (match === null) {
    draft.fail(
      at,
      `${quote(value)} is not <namespace>/<service account> or <service account>`,
      'write names without wildcards, or use principals',
    );
    return value;
  }
  return match[1] === undefined ? `${draft.metadata.namespace}/${value}` : value;
}

function block(draft: Draft, value: string, at: FieldPath): string {
  const canonical = canonicalBlock(value);
  if (canonical !== null) return canonical;
  draft.fail(
    at,
    `${quote(value)} is not an IP address or CIDR block`,
    'write it as 10.0.0.0/8, 10.0.0.1 or fd00::/8, without leading zeros',
  );
  return value;
}

function port(draft: Draft, value: string | number, at: FieldPath): number {
  const text = String(value);
  if (!PORT.test(text) || Number(text) > 65535)
    draft.fail(at, `${quote(text)} is not a port number from 1 to 65535`, 'write one number, such as "8080"');
  return Number(text);
}
