import { ProblemList } from '../../../config/problem-list.ts';
import { formatProblem } from '../../../config/format-problem.ts';
import { parseResources } from '../../../config/parse-resources.ts';
import { oneLine } from '../../terminal.ts';
import type { TextFile } from '../policy-files.ts';
import { isMapping, type WrittenResource, writtenResources } from '../policy-places.ts';
import { importCilium } from './cilium.ts';
import { ImportLog, type ImportRemark } from './import-log.ts';
import { type ImportedPolicy, policyYaml } from './imported-policy.ts';
import { importLinkerd, LINKERD_KINDS, type LinkerdResource } from './linkerd.ts';
import { WrittenField } from './written-field.ts';

/** Whose policies are imported. */
export type ImportSource = 'cilium' | 'linkerd';

/** What became of some files. */
export interface Imported {
  /** AuthorizationPolicies, with a comment for each that says what it was made from. */
  readonly yaml: string;
  readonly policies: number;
  readonly remarks: readonly ImportRemark[];
  /** What is not YAML: `file:line:column: message`. */
  readonly problems: readonly string[];
}

/**
 * Reads foreign policies and says them as AuthorizationPolicies, so that nothing is allowed that was not. What cannot be said is left out, and
 * reported: never guessed.
 * @param namespace of resources that name none
 */
export function importFiles(files: readonly TextFile[], only: ImportSource | null, namespace: string): Imported {
  const log = new ImportLog();
  const problems: string[] = [];
  const cilium: LinkerdResource[] = [];
  const linkerd: LinkerdResource[] = [];
  for (const file of files) {
    const list = new ProblemList(file.path);
    for (const resource of writtenResources(file, list)) {
      const root = WrittenField.root(resource, log);
      const source = sourceOf(resource);
      if (source === null || (only !== null && source !== only)) {
        root.leaveOut(`${describe(resource)} is not imported`);
        continue;
      }
      const named = nameOf(resource, root, namespace);
      if (named !== null) (source === 'cilium' ? cilium : linkerd).push(named);
    }
    problems.push(...list.finish().map((problem) => formatProblem(problem, file.text)));
  }
  const policies = [...cilium.flatMap(({ root, namespace: home }) => importCilium(root, home)), ...importLinkerd(linkerd)];
  const texts = withOwnNames(policies)
    .map((policy) => checked(policy))
    .filter((text) => text !== null);
  return { yaml: texts.join('---\n'), policies: texts.length, remarks: log.remarks, problems };
}

function sourceOf({ value }: WrittenResource): ImportSource | null {
  const { apiVersion, kind } = value;
  if (apiVersion === 'cilium.io/v2' && kind === 'CiliumNetworkPolicy') return 'cilium';
  const group = String(apiVersion).split('/')[0];
  if (group === 'policy.linkerd.io' && LINKERD_KINDS.includes(String(kind))) return 'linkerd';
  return group === 'gateway.networking.k8s.io' && (kind === 'HTTPRoute' || kind === 'GRPCRoute') ? 'linkerd' : null;
}

function describe({ value }: WrittenResource): string {
  return `${String(value['kind'])} (${String(value['apiVersion'])})`.slice(0, 200);
}

function nameOf({ value }: WrittenResource, root: WrittenField, namespace: string): LinkerdResource | null {
  const { metadata } = value;
  const name = root.field('metadata').field('name').text();
  if (name === null) return null;
  const home = isMapping(metadata) ? (metadata['namespace'] ?? namespace) : namespace;
  return { kind: String(value['kind']), namespace: String(home), name, root };
}

/** Two meshes may have used one name. */
function withOwnNames(policies: readonly ImportedPolicy[]): ImportedPolicy[] {
  const taken = new Set<string>();
  return policies.map((policy) => {
    let { name } = policy;
    for (let number = 2; taken.has(`${policy.namespace}/${name}`); number += 1) name = `${policy.name}-${number}`;
    taken.add(`${policy.namespace}/${name}`);
    return name === policy.name ? policy : { ...policy, name };
  });
}

/** The policy as the agent will read it; what it would refuse is a part that was not imported. */
function checked(policy: ImportedPolicy): string | null {
  const text = policyYaml(policy);
  const { problems } = parseResources(text, 'imported');
  for (const { field, message, consequence } of problems) {
    policy.origin.leaveOut(`${field}: ${message}; ${consequence ?? 'the policy is not imported'}`);
  }
  if (problems.some(({ consequence }) => consequence === undefined)) return null;
  const kept = policy.rules.length === 0 ? '; it allows nothing' : '';
  return `# made from ${oneLine(policy.origin.place)}${kept}\n${text}`;
}
