import assert from 'node:assert/strict';
import type { ConfigProblem } from '../../../src/config/config-problem.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';
import type { PolicyRule, Resource } from '../../../src/model/resources.ts';

/** The resources of a text that must be in order. */
export function parsed(text: string): Resource[] {
  const { resources, problems } = parseResources(text, 'test.yaml');
  assert.deepEqual(problems, []);
  return resources;
}

/** The one resource of a text, of the kind that the caller asks for. */
export function one<Kind extends Resource['kind']>(kind: Kind, text: string): Extract<Resource, { kind: Kind }> {
  const [resource, ...rest] = parsed(text);
  assert.equal(rest.length, 0);
  assert.equal(resource?.kind, kind);
  return resource as Extract<Resource, { kind: Kind }>;
}

/** The problems of a text, which must have none of its resources left. */
export function refused(text: string): ConfigProblem[] {
  const { resources, problems } = parseResources(text, 'test.yaml');
  assert.notEqual(problems.length, 0, 'there must be a problem');
  assert.deepEqual(resources, []);
  return problems;
}

/** The problems of a policy with refused rules, none of which costs more than its rule, and its rules as they are in force. */
export function ruleProblems(text: string): { problems: ConfigProblem[]; rules: readonly PolicyRule[] } {
  const { resources, problems } = parseResources(text, 'test.yaml');
  assert.notEqual(problems.length, 0, 'there must be a problem');
  assert.ok(problems.every(({ consequence }) => consequence !== undefined));
  const [policy, ...rest] = resources;
  assert.deepEqual(rest, []);
  assert.equal(policy?.kind, 'AuthorizationPolicy');
  return { problems, rules: policy?.kind === 'AuthorizationPolicy' ? policy.spec.rules : [] };
}

/** Problems as `line:column CODE field`, the part that tools rely on. */
export function places(problems: readonly ConfigProblem[]): string[] {
  return problems.map(({ line, column, code, field }) => `${line}:${column} ${code.replace('WEFT_CONFIG_', '')} ${field}`.trimEnd());
}

/** An AuthorizationPolicy in namespace `shop` with this spec, in flow style. */
export function policy(spec: string): string {
  return `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: ${spec}\n`;
}

export function peerAuthentication(name: string, namespace: string, spec: string, created?: string): string {
  const time = created === undefined ? '' : `, creationTimestamp: "${created}"`;
  return `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: ${name}, namespace: ${namespace}${time}}\nspec: ${spec}\n`;
}

/** A resource of `security.istio.io/v1` in namespace `shop`. */
export function requestAuthentication(spec: string): string {
  return `apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: shop}\nspec: ${spec}\n`;
}

export function meshConfig(spec: string, name = 'mesh', namespace = 'istio-system'): string {
  return `---\napiVersion: weft.dev/v1\nkind: MeshConfig\nmetadata: {name: ${name}, namespace: ${namespace}}\nspec: ${spec}\n`;
}

export function namespace(name: string, mode?: string): string {
  return `---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ${name}${mode === undefined ? '' : `, labels: {weft.dev/mode: "${mode}"}`}}\n`;
}

export function workload(name: string, options: { labels?: string; spec?: string; namespace?: string } = {}): string {
  const { labels = '{}', spec = '{node: node-a}', namespace = 'shop' } = options;
  return `---\napiVersion: weft.dev/v1\nkind: Workload\nmetadata: {name: ${name}, namespace: ${namespace}, labels: ${labels}}\nspec: ${spec}\n`;
}

export function service(name: string, spec: string): string {
  return `---\napiVersion: v1\nkind: Service\nmetadata: {name: ${name}, namespace: shop}\nspec: ${spec}\n`;
}

/** CPU time of this process while `work` runs, in milliseconds. */
export function cpuMilliseconds(work: () => void): number {
  const start = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}
