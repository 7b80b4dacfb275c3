import type { PolicyRule } from '../../../model/resources.ts';
import type { WrittenField } from './written-field.ts';

/** An AuthorizationPolicy that says what a foreign policy said, or less. */
export interface ImportedPolicy {
  readonly name: string;
  readonly namespace: string;
  readonly action: 'ALLOW' | 'DENY';
  readonly selector: Readonly<Record<string, string>>;
  /** None: an ALLOW of nothing. */
  readonly rules: readonly PolicyRule[];
  /** What it was made from. */
  readonly origin: WrittenField;
}

const PLAIN = /^[A-Za-z/][A-Za-z0-9_./-]*$/;
const KEYWORD = /^(?:true|false|null|yes|no|on|off|y|n|nan|inf)$/i;

function scalar(value: string | number): string {
  // JSON's escapes are YAML's too. Ports are texts in Istio's kind.
  const text = String(value);
  return PLAIN.test(text) && !KEYWORD.test(text) ? text : JSON.stringify(text);
}

function flow(values: readonly (string | number)[]): string {
  return `[${values.map(scalar).join(', ')}]`;
}

/** The lines of a mapping; an entry that is a list of mappings has its lines indented under it. */
function mapping(value: object, indent: string): string[] {
  return Object.entries(value as Record<string, unknown>).flatMap(([key, item]) => {
    if (item === undefined || (Array.isArray(item) && item.length === 0)) return [];
    if (!Array.isArray(item)) return [`${indent}${key}: ${scalar(item as string)}`];
    return [`${indent}${key}: ${flow(item as (string | number)[])}`];
  });
}

function listItem(lines: readonly string[], indent: string): string[] {
  const [first = '', ...rest] = lines;
  return [`${indent}- ${first.trimStart()}`, ...rest];
}

function ruleLines({ from, to, when }: PolicyRule): string[] {
  const lines: string[] = [];
  if (from.length > 0) lines.push('      from:', ...from.flatMap((source) => ['        - source:', ...mapping(source, '            ')]));
  if (to.length > 0) lines.push('      to:', ...to.flatMap((operation) => ['        - operation:', ...mapping(operation, '            ')]));
  if (when.length > 0) lines.push('      when:', ...when.flatMap((condition) => listItem(mapping(condition, '          '), '        ')));
  return lines.length === 0 ? ['    - {}'] : listItem(lines, '    ');
}

/** A policy as YAML, without a document mark. */
export function policyYaml({ name, namespace, action, selector, rules }: ImportedPolicy): string {
  const labels = Object.entries(selector);
  const lines = [
    'apiVersion: security.istio.io/v1',
    'kind: AuthorizationPolicy',
    'metadata:',
    `  name: ${scalar(name)}`,
    `  namespace: ${scalar(namespace)}`,
    'spec:',
    `  action: ${action}`,
    ...(labels.length === 0
      ? []
      : ['  selector:', '    matchLabels:', ...labels.map(([key, value]) => `      ${scalar(key)}: ${scalar(value)}`)]),
    ...(rules.length === 0 ? [] : ['  rules:', ...rules.flatMap(ruleLines)]),
  ];
  return `${lines.join('\n')}\n`;
}
