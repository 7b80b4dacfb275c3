import type { JwtIdentity } from '../../src/model/policy.ts';

const NONE: readonly string[] = [];
/** Claims that hold several values in one text (RFC 8693 section 4.2; Istio treats `permission` alike). */
const SPACE_DELIMITED: ReadonlySet<string> = new Set(['scope', 'permission']);

/**
 * The texts of a claim: of a string claim it, of a list its strings; a number, a boolean or an object has none. The texts of `scope` and
 * `permission` are taken apart at spaces. Only a claim's own members count, never what objects inherit.
 */
export function claimValues(jwt: JwtIdentity | null, path: readonly string[]): readonly string[] {
  let value: unknown = jwt === null ? undefined : jwt.claims;
  for (const name of path) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, name)) return NONE;
    value = (value as Readonly<Record<string, unknown>>)[name];
  }
  if (typeof value === 'string') {
    return path.length === 1 && SPACE_DELIMITED.has(path[0] as string) ? value.split(' ') : [value];
  }
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : NONE;
}
