import type { FieldPath } from '../../config/config-problem.ts';
import { ProblemList } from '../../config/problem-list.ts';
import { type Position, readYaml } from '../../config/read-yaml.ts';
import type { TextFile } from './policy-files.ts';

/** Where a resource is written, and every field of it. */
export interface ResourcePlace {
  readonly file: string;
  /** @param path from the resource's root, such as `['spec', 'rules', 0]` */
  locate(path: FieldPath): Position;
}

/** One resource as its author wrote it, before anybody has said what its fields mean. */
export interface WrittenResource extends ResourcePlace {
  readonly value: Readonly<Record<string, unknown>>;
}

/** Every mapping of a file that may be a resource: documents, and the items of a List. Those that are no mapping are left out. */
export function* writtenResources(
  { path: file, text }: TextFile,
  problems: ProblemList = new ProblemList(file),
): Generator<WrittenResource> {
  for (const document of readYaml(text, problems)) {
    if (document === null || !isMapping(document.value)) continue;
    const { value } = document;
    const items =
      typeof value['kind'] === 'string' && value['kind'].endsWith('List') && Array.isArray(value['items']) ? value['items'] : null;
    if (items === null) {
      yield { file, value, locate: (path) => document.locate(path) };
      continue;
    }
    for (const [index, item] of (items as unknown[]).entries()) {
      if (isMapping(item)) yield { file, value: item, locate: (path) => document.locate(['items', index, ...path]) };
    }
  }
}

/** The places of all AuthorizationPolicies of some files, by `namespace/name`. */
export function policyPlaces(files: readonly TextFile[]): ReadonlyMap<string, ResourcePlace> {
  const places = new Map<string, ResourcePlace>();
  for (const file of files) {
    for (const resource of writtenResources(file)) {
      const { kind, metadata } = resource.value;
      if (kind !== 'AuthorizationPolicy' || !isMapping(metadata)) continue;
      const key = `${String(metadata['namespace'] ?? 'default')}/${String(metadata['name'])}`;
      if (!places.has(key)) places.set(key, resource);
    }
  }
  return places;
}

/** True for what YAML calls a mapping. */
export function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `to[0].operation.paths` as a path. */
export function fieldPath(field: string): FieldPath {
  const path: (string | number)[] = [];
  for (const [, name, index] of field.matchAll(/([^.[\]]+)|\[(\d+)\]/g)) path.push(name ?? Number(index));
  return path;
}
