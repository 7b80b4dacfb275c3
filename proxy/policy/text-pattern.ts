import { type PathTemplate, parsePathTemplate } from './path-template.ts';

/**
 * One value of a policy field, taken apart: exact, `prefix*`, `*suffix`, `*` (present and not empty), or a path template. Only a first or
 * last `*` is special, and a first one wins: `*a*` is "ends with `a*`".
 */
export type TextPattern =
  | { readonly kind: 'exact'; readonly text: string }
  | { readonly kind: 'prefix'; readonly text: string }
  | { readonly kind: 'suffix'; readonly text: string }
  | { readonly kind: 'any' }
  | { readonly kind: 'template'; readonly template: PathTemplate };

/** Takes a value of any field but paths apart. */
export function parseTextPattern(value: string): TextPattern {
  if (value === '*') return { kind: 'any' };
  if (value.startsWith('*')) return { kind: 'suffix', text: value.slice(1) };
  if (value.endsWith('*')) return { kind: 'prefix', text: value.slice(0, -1) };
  return { kind: 'exact', text: value };
}

/**
 * Takes a value of `paths` or `notPaths` apart.
 * @param wide see PathTemplate
 * @throws PolicyError WEFT_POLICY_TEMPLATE
 */
export function parsePathPattern(field: string, value: string, wide: boolean): TextPattern {
  if (!value.includes('{*}') && !value.includes('{**}')) return parseTextPattern(value);
  return { kind: 'template', template: parsePathTemplate(field, value, wide) };
}
