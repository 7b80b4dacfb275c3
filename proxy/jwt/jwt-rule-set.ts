import { hash } from 'node:crypto';
import type { JwtRule } from '../../src/model/resources.ts';
import type { RequestAuthenticationEntry } from '../../src/model/snapshot.ts';
import { foldedName, isChangeable } from '../gate/header-fields.ts';

/** One JWT rule with the RequestAuthentication it belongs to. */
export interface NamedJwtRule {
  /** `namespace/name`. */
  readonly authentication: string;
  readonly rule: JwtRule;
  /** Lower case; null when none is written. */
  readonly payloadHeader: string | null;
  readonly claimHeaders: readonly { readonly header: string; readonly claim: string }[];
}

/** What comes before a token in a header, and the location it makes. */
export interface HeaderForm {
  readonly prefix: string;
  /** `Bearer` is a scheme of RFC 9110 section 11.1, which ignores case; what users write is taken as written. */
  readonly ignoresCase: boolean;
  readonly location: number;
}

/** All RequestAuthentications of a workload, compiled. Immutable; the same object for the same content. */
export interface JwtRuleSet {
  /** Unique in this thread. */
  readonly id: number;
  readonly rules: readonly NamedJwtRule[];
  /** For each location the indexes of the rules whose tokens may be there. */
  readonly locations: readonly (readonly number[])[];
  /** By lower-case name; longer prefixes come first. */
  readonly headers: readonly { readonly name: string; readonly forms: readonly HeaderForm[] }[];
  /** Locations of query parameters and cookies by name. */
  readonly parameters: ReadonlyMap<string, number>;
  readonly cookies: ReadonlyMap<string, number>;
  /** Names of every header that an output writes, as foldedName has them: a client's own are always removed. */
  readonly outputHeaders: ReadonlySet<string>;
}

const MAX_INTERNED = 1024;
const bySource = new WeakMap<readonly RequestAuthenticationEntry[], JwtRuleSet>();
const byContent = new Map<string, JwtRuleSet>();
let lastId = 0;

/**
 * Compiles the RequestAuthentications of a workload; null when there are none. A snapshot brings new objects for what did not change:
 * equal content gets the same set again, so that tokens verified before stay known.
 */
export function compileJwtRules(authentications: readonly RequestAuthenticationEntry[]): JwtRuleSet | null {
  if (authentications.length === 0) return null;
  let set = bySource.get(authentications);
  if (set !== undefined) return set;
  const content = hash('sha256', JSON.stringify(authentications), 'base64');
  set = byContent.get(content);
  if (set === undefined) {
    set = compile(authentications);
    if (byContent.size >= MAX_INTERNED) byContent.delete(byContent.keys().next().value as string);
    byContent.set(content, set);
  }
  bySource.set(authentications, set);
  return set;
}

function compile(authentications: readonly RequestAuthenticationEntry[]): JwtRuleSet {
  const rules: NamedJwtRule[] = [];
  const locations: number[][] = [];
  const headers = new Map<string, HeaderForm[]>();
  const parameters = new Map<string, number>();
  const cookies = new Map<string, number>();
  const outputHeaders = new Set<string>();

  const addHeader = (name: string, prefix: string, ignoresCase: boolean, rule: number): void => {
    const forms = headers.get(name) ?? [];
    headers.set(name, forms);
    let form = forms.find((each) => each.prefix === prefix && each.ignoresCase === ignoresCase);
    if (form === undefined) {
      form = { prefix, ignoresCase, location: locations.push([]) - 1 };
      forms.push(form);
      forms.sort((a, b) => b.prefix.length - a.prefix.length);
    }
    locations[form.location]?.push(rule);
  };
  const addNamed = (places: Map<string, number>, name: string, rule: number): void => {
    const location = places.get(name) ?? locations.push([]) - 1;
    places.set(name, location);
    locations[location]?.push(rule);
  };

  for (const { name, rules: written } of authentications) {
    for (const rule of written) {
      const payloadHeader = changeable(rule.outputPayloadToHeader);
      const claimHeaders = rule.outputClaimToHeaders.flatMap(({ header, claim }) => {
        const lower = changeable(header);
        return lower === null ? [] : [{ header: lower, claim }];
      });
      const index = rules.push({ authentication: name, rule, payloadHeader, claimHeaders }) - 1;
      if (payloadHeader !== null) outputHeaders.add(foldedName(payloadHeader));
      for (const { header } of claimHeaders) outputHeaders.add(foldedName(header));
      if (rule.fromHeaders.length + rule.fromParams.length + rule.fromCookies.length === 0) {
        addHeader('authorization', 'Bearer ', true, index);
        addNamed(parameters, 'access_token', index);
      }
      for (const place of rule.fromHeaders) addHeader(place.name.toLowerCase(), place.prefix, false, index);
      for (const parameter of rule.fromParams) addNamed(parameters, parameter, index);
      for (const cookie of rule.fromCookies) addNamed(cookies, cookie, index);
    }
  }
  return {
    id: ++lastId,
    rules,
    locations,
    headers: [...headers].map(([name, forms]) => ({ name, forms })),
    parameters,
    cookies,
    outputHeaders,
  };
}

/** The name in lower case, or null for one that no output may write (validation refuses it before it comes here). */
function changeable(name: string | null): string | null {
  const lower = name?.toLowerCase() ?? '';
  return isChangeable(lower) ? lower : null;
}
