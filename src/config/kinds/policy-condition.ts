import type { PolicyCondition } from '../../model/resources.ts';
import type { FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';
import type { Draft } from './draft.ts';
import type { ReadValue } from './policy-values.ts';
import { block, pattern, port, principal, serviceAccount } from './policy-values.ts';

/** An entry of `when` that has passed the schema. */
export interface WrittenCondition {
  readonly key: string;
  readonly values?: readonly (string | number)[];
  readonly notValues?: readonly (string | number)[];
}

/** Istio's keys without brackets, and how their values are read. */
const KEYS: ReadonlyMap<string, ReadValue> = new Map([
  ['source.ip', block],
  ['remote.ip', block],
  ['source.namespace', pattern],
  ['source.serviceAccount', serviceAccount],
  ['source.trustDomain', pattern],
  ['source.principal', principal],
  ['request.auth.principal', pattern],
  ['request.auth.audiences', pattern],
  ['request.auth.presenter', pattern],
  ['destination.ip', block],
  ['destination.port', port],
  ['connection.sni', pattern],
]);

const HEADER = /^request\.headers\[([^[\]]+)\]$/;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** What a request has that is no header, and Envoy shows as one. */
const PSEUDO_HEADERS: ReadonlySet<string> = new Set([':method', ':authority']);
const CLAIMS = /^request\.auth\.claims((?:\[[^[\]]+\])+)$/;
const MAX_CLAIM_DEPTH = 16;

/** An entry of `when` to the model: values canonical, header names in lower case. */
export function toCondition(draft: Draft, written: WrittenCondition, at: FieldPath): PolicyCondition {
  const { key, readValue } = readKey(draft, written.key, [...at, 'key']);
  if (written.values === undefined && written.notValues === undefined) {
    draft.fail(at, 'a condition needs values or notValues', 'add one of the two', 'WEFT_CONFIG_MISSING_FIELD');
  }
  const result: { key: string; values?: readonly string[]; notValues?: readonly string[] } = { key };
  for (const field of ['values', 'notValues'] as const) {
    const values = written[field];
    if (values !== undefined) result[field] = values.map((value, index) => readValue(draft, String(value), [...at, field, index]));
  }
  return result;
}

function readKey(draft: Draft, key: string, at: FieldPath): { key: string; readValue: ReadValue } {
  const known = KEYS.get(key);
  if (known !== undefined) return { key, readValue: known };
  const header = HEADER.exec(key)?.[1];
  if (header?.startsWith(':') === true && !PSEUDO_HEADERS.has(header.toLowerCase())) {
    draft.fail(
      at,
      `${quote(header)} is not a header`,
      'use paths of an operation: they are compared as the application gets them',
      'WEFT_CONFIG_UNSUPPORTED',
    );
  } else if (header !== undefined) {
    if (!TOKEN.test(header.replace(/^:/, '')))
      draft.fail(at, `${quote(header)} is not the name of a header`, 'write it as request.headers[x-version]');
  } else if (key.startsWith('request.headers')) {
    draft.fail(at, `${quote(key)} names no header`, 'write it as request.headers[x-version]');
  } else if (key.startsWith('experimental.envoy.filters.')) {
    draft.fail(
      at,
      `${quote(key)} asks for metadata of an Envoy filter, and there is no Envoy`,
      'remove the rule',
      'WEFT_CONFIG_UNSUPPORTED',
    );
  } else {
    const claims = CLAIMS.exec(key)?.[1];
    if (claims === undefined) {
      const all = [...KEYS.keys(), 'request.headers[name]', 'request.auth.claims[name]'];
      const like = all.find((name) => name.toLowerCase() === key.toLowerCase());
      draft.fail(at, `there is no attribute ${quote(key)}`, like === undefined ? `use one of ${all.join(', ')}` : `did you mean ${like}?`);
    } else if (claims.split('[').length - 1 > MAX_CLAIM_DEPTH) {
      draft.fail(at, `${quote(key)} goes deeper than ${MAX_CLAIM_DEPTH} levels`, 'shorten it');
    }
  }
  return { key: header === undefined ? key : `request.headers[${header.toLowerCase()}]`, readValue: pattern };
}

/** What is known only after the provider of a CUSTOM policy was asked. */
export function isDecidedAfterCustom(key: string): boolean {
  return (
    key.startsWith('request.auth.') || ['source.principal', 'source.namespace', 'source.serviceAccount', 'source.trustDomain'].includes(key)
  );
}
