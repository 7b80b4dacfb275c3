import type { RequestHead } from '../../src/model/request-gate.ts';
import type { JwtRuleSet } from './jwt-rule-set.ts';

/** A token in a request, and where it is. */
export interface FoundToken {
  readonly token: string;
  /** Index into JwtRuleSet.locations. */
  readonly location: number;
  readonly kind: 'header' | 'parameter' | 'cookie';
  readonly name: string;
  /** Headers only: which of its fields. */
  readonly field: number;
}

/**
 * The token of a request: null when there is none. Istio leaves undefined what several mean; here they are refused, since the application
 * might read another one than was verified. Of one field with prefixes that all fit, the longest counts.
 */
export function findToken(head: RequestHead, rules: JwtRuleSet): FoundToken | 'several-tokens' | null {
  let found: FoundToken | null = null;
  for (const { name, forms } of rules.headers) {
    const values = head.header(name);
    for (let field = 0; field < values.length; field++) {
      const value = values[field] as string;
      for (const { prefix, ignoresCase, location } of forms) {
        if (!hasPrefix(value, prefix, ignoresCase)) continue;
        const token = value.slice(prefix.length).trim();
        if (token === '') continue;
        if (found !== null) return 'several-tokens';
        found = { token, location, kind: 'header', name, field };
        break;
      }
    }
  }
  if (rules.parameters.size > 0 && head.query !== '') {
    for (const [name, token] of parametersOf(head.query)) {
      const location = rules.parameters.get(name);
      if (location === undefined || token === '') continue;
      if (found !== null) return 'several-tokens';
      found = { token, location, kind: 'parameter', name, field: 0 };
    }
  }
  if (rules.cookies.size > 0) {
    for (const field of head.header('cookie')) {
      for (const [name, token] of cookiesOf(field)) {
        const location = rules.cookies.get(name);
        if (location === undefined || token === '') continue;
        if (found !== null) return 'several-tokens';
        found = { token, location, kind: 'cookie', name, field: 0 };
      }
    }
  }
  return found;
}

function hasPrefix(value: string, prefix: string, ignoresCase: boolean): boolean {
  if (value.startsWith(prefix)) return true;
  return ignoresCase && value.slice(0, prefix.length).toLowerCase() === prefix.toLowerCase();
}

/** Names and values of a query, decoded once. What cannot be decoded stays as it is: no token looks like that. */
function* parametersOf(query: string): Generator<readonly [string, string]> {
  for (let at = 0; at <= query.length; ) {
    let end = query.indexOf('&', at);
    if (end === -1) end = query.length;
    let equals = query.indexOf('=', at);
    if (equals === -1 || equals > end) equals = end;
    if (equals > at) yield [decode(query.slice(at, equals)), decode(query.slice(equals + 1, end))];
    at = end + 1;
  }
}

function decode(text: string): string {
  if (!text.includes('%')) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Names and values of a Cookie field (RFC 6265 section 4.2.1), quotes around a value left out. */
function* cookiesOf(field: string): Generator<readonly [string, string]> {
  for (const part of field.split(';')) {
    const equals = part.indexOf('=');
    if (equals === -1) continue;
    const value = part.slice(equals + 1).trim();
    const quoted = value.length >= 2 && value.startsWith('"') && value.endsWith('"');
    yield [part.slice(0, equals).trim(), quoted ? value.slice(1, -1) : value];
  }
}

/** The cookies of a request without those of one name, as one field; '' when none is left. */
export function withoutCookie(fields: readonly string[], name: string): string {
  return fields
    .flatMap((field) => field.split(';'))
    .map((part) => part.trim())
    .filter((part) => part !== '' && part.split('=', 1)[0]?.trim() !== name)
    .join('; ');
}
