import { PolicyError } from './policy-error.ts';

/** Characters of literals, and of what an operator takes in a narrow template: RFC 3986 pchar without `*`, `%` standing for itself. */
const PATH_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()+,;:@=";
const SLASH = 0x2f;

const IS_PATH_CHARACTER = new Uint8Array(256);
for (const character of PATH_CHARACTERS) IS_PATH_CHARACTER[character.charCodeAt(0)] = 1;

/** True for a character that a narrow template's operator takes, a slash aside. */
export function isPathCharacter(code: number): boolean {
  return code < 256 && IS_PATH_CHARACTER[code] === 1;
}

/** An operator of a template: `{*}` is one segment that is not empty, `{**}` any number of segments, also none. */
export type TemplateOperator = 'segment' | 'rest';

/**
 * A path template (Istio 1.22). Literals include their slashes, so that the template reads from left to right.
 *
 * Envoy's operators take only the characters that a literal may have, so a request could get around a DENY by a `*` or a quote in its path.
 * A `wide` template, for where a match refuses, takes any character but a slash; a narrow one, for where a match allows, is Envoy's.
 */
export interface PathTemplate {
  readonly items: readonly (string | TemplateOperatorItem)[];
  readonly wide: boolean;
}

export interface TemplateOperatorItem {
  readonly operator: TemplateOperator;
}

const SEGMENT: TemplateOperatorItem = { operator: 'segment' };
const REST: TemplateOperatorItem = { operator: 'rest' };

function bad(field: string, text: string, why: string): PolicyError {
  return new PolicyError(
    'WEFT_POLICY_TEMPLATE',
    `${field} has a path template that cannot be read, ${why}: ${JSON.stringify(text.slice(0, 80))}`,
    { nextStep: 'write whole segments: literals, {*}, and at most one {**} as the last operator' },
  );
}

/**
 * Reads a path template.
 * @throws PolicyError WEFT_POLICY_TEMPLATE
 */
export function parsePathTemplate(field: string, text: string, wide: boolean): PathTemplate {
  if (!text.startsWith('/')) throw bad(field, text, 'it does not begin with a slash');
  const items: (string | TemplateOperatorItem)[] = [];
  let literal = '';
  let restSeen = false;
  for (const segment of text.slice(1).split('/')) {
    literal += '/';
    if (segment === '{*}' || segment === '{**}') {
      if (restSeen) throw bad(field, text, 'an operator follows {**}');
      restSeen = segment === '{**}';
      items.push(literal, restSeen ? REST : SEGMENT);
      literal = '';
      continue;
    }
    for (let i = 0; i < segment.length; i++) {
      if (!isPathCharacter(segment.charCodeAt(i))) {
        throw bad(field, text, `${JSON.stringify(segment[i])} may not be in a literal, and operators stand for whole segments`);
      }
    }
    literal += segment;
  }
  if (literal !== '') items.push(literal);
  return { items, wide };
}

function taken(code: number, wide: boolean): boolean {
  return wide ? code !== SLASH : isPathCharacter(code);
}

/** Matches from left to right, without going back: a segment ends at its slash, and after `{**}` only a literal follows. Allocates nothing. */
export function templateMatches(template: PathTemplate, path: string): boolean {
  const { items, wide } = template;
  let at = 0;
  for (let i = 0; i < items.length; i++) {
    const item = items[i] as string | TemplateOperatorItem;
    if (typeof item === 'string') {
      if (!path.startsWith(item, at)) return false;
      at += item.length;
    } else if (item.operator === 'segment') {
      const begin = at;
      while (at < path.length && taken(path.charCodeAt(at), wide)) at++;
      if (at === begin) return false;
    } else {
      const tail = items[i + 1] as string | undefined;
      const end = path.length - (tail === undefined ? 0 : tail.length);
      if (end < at || (tail !== undefined && !path.endsWith(tail))) return false;
      if (wide) return true;
      for (; at < end; at++) {
        const code = path.charCodeAt(at);
        if (code !== SLASH && !isPathCharacter(code)) return false;
      }
      return true;
    }
  }
  return at === path.length;
}
