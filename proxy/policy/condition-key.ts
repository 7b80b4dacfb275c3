import { PolicyError } from './policy-error.ts';

/** Keys of `when` without brackets, by what answers them. */
const PLAIN_KEYS = [
  'source.ip',
  'source.namespace',
  'source.principal',
  'source.serviceAccount',
  'source.trustDomain',
  'destination.ip',
  'destination.port',
  'connection.sni',
  'remote.ip',
  'request.auth.principal',
  'request.auth.audiences',
  'request.auth.presenter',
] as const;

/** A key of `when`, taken apart. */
export type ConditionKey =
  | { readonly kind: (typeof PLAIN_KEYS)[number] }
  /** `request.headers[name]`: in lower case. */
  | { readonly kind: 'request.headers'; readonly name: string }
  /** `request.auth.claims[a][b]`. */
  | { readonly kind: 'request.auth.claims'; readonly path: readonly string[] };

const HEADER_NAME = /^:?[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Pseudo-headers that a rule can ask for by other fields; the others would have to be compared with what is not kept. */
const PSEUDO_HEADERS: ReadonlySet<string> = new Set([':method', ':authority']);
const MAX_CLAIM_DEPTH = 16;

function unknown(key: string, why: string): PolicyError {
  return new PolicyError(
    'WEFT_POLICY_CONDITION',
    `a condition has a key that cannot be evaluated, ${why}: ${JSON.stringify(key.slice(0, 80))}`,
    {
      nextStep: "use one of Istio's keys, such as source.namespace, request.headers[name] or request.auth.claims[name]",
    },
  );
}

/** `[a][b]` as a list; null if it is not of that form. */
function bracketed(text: string): string[] | null {
  if (!text.startsWith('[') || !text.endsWith(']')) return null;
  const names = text.slice(1, -1).split('][');
  return names.some((name) => name === '' || name.includes('[') || name.includes(']')) ? null : names;
}

/**
 * Reads the key of a condition.
 * @throws PolicyError WEFT_POLICY_CONDITION
 */
export function parseConditionKey(key: unknown): ConditionKey {
  if (typeof key !== 'string') throw unknown(String(key), 'it is no text');
  const plain = PLAIN_KEYS.find((known) => known === key);
  if (plain !== undefined) return { kind: plain };
  const bracket = key.indexOf('[');
  const names = bracket === -1 ? null : bracketed(key.slice(bracket));
  const stem = bracket === -1 ? key : key.slice(0, bracket);
  if (stem === 'request.headers') {
    const [name] = names ?? [];
    if (names?.length !== 1 || name === undefined || !HEADER_NAME.test(name)) throw unknown(key, 'it names no header');
    const lower = name.toLowerCase();
    if (lower.startsWith(':') && !PSEUDO_HEADERS.has(lower)) throw unknown(key, 'use paths or ports instead');
    return { kind: 'request.headers', name: lower };
  }
  if (stem === 'request.auth.claims') {
    if (names === null || names.length > MAX_CLAIM_DEPTH) throw unknown(key, 'it names no claim');
    return { kind: 'request.auth.claims', path: names };
  }
  throw unknown(key, 'it is not known');
}

/** True for keys that only an HTTP request can answer: on other connections they make an ALLOW rule void, and a DENY rule does without them. */
export function isHttpOnly(key: ConditionKey): boolean {
  return key.kind.startsWith('request.');
}
