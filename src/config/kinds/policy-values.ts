import type { FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';
import { canonicalBlock } from '../ip-address.ts';
import { refusedTemplate } from '../path-template.ts';
import type { Draft } from './draft.ts';

/** Checks one value of a rule and returns it as the model has it. After a reported problem the value returned is not used. */
export type ReadValue = (draft: Draft, value: string, path: FieldPath) => string;

const SERVICE_ACCOUNT =
  /^(?:([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)\/)?([a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*)$/;
const PORT = /^[1-9]\d{0,4}$/;

/** Exact, prefix*, *suffix or *. Istio takes any other * literally, which is never what the author meant. */
export function pattern(draft: Draft, value: string, at: FieldPath): string {
  const inner = value === '*' ? '' : value.startsWith('*') ? value.slice(1) : value.endsWith('*') ? value.slice(0, -1) : value;
  if (inner.includes('*')) draft.fail(at, `${quote(value)} has a * that is not alone at its start or end`, 'use prefix*, *suffix or *');
  return value;
}

/** A pattern, or a path template. */
export function path(draft: Draft, value: string, at: FieldPath): string {
  if (!value.includes('{') && !value.includes('}')) return pattern(draft, value, at);
  const why = refusedTemplate(value);
  if (why !== null)
    draft.fail(at, `${quote(value)} ${why}`, 'write it as /users/{*}/photos or /files/{**}, with %7B and %7D for literal braces');
  return value;
}

/** A pattern for identities, without their scheme. */
export function principal(draft: Draft, value: string, at: FieldPath): string {
  if (value.startsWith('spiffe://')) {
    draft.fail(
      at,
      `${quote(value)} would never match, because principals are written without spiffe://`,
      `write ${value.slice('spiffe://'.length, 120)}`,
    );
  }
  return pattern(draft, value, at);
}

/** `<namespace>/<service account>`, completed with the policy's namespace. */
export function serviceAccount(draft: Draft, value: string, at: FieldPath): string {
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

/** A CIDR block or address, as canonical CIDR text. */
export function block(draft: Draft, value: string, at: FieldPath): string {
  const canonical = canonicalBlock(value);
  if (canonical !== null) return canonical;
  draft.fail(
    at,
    `${quote(value)} is not an IP address or CIDR block`,
    'write it as 10.0.0.0/8, 10.0.0.1 or fd00::/8, without leading zeros',
  );
  return value;
}

/** A port number, as decimal text. */
export function port(draft: Draft, value: string, at: FieldPath): string {
  if (!PORT.test(value) || Number(value) > 65535)
    draft.fail(at, `${quote(value)} is not a port number from 1 to 65535`, 'write one number, such as "8080"');
  return value;
}
