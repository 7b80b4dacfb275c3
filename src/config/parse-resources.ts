import { isUtf8 } from 'node:buffer';
import { errorText } from '../model/errors.ts';
import type { Metadata, Resource } from '../model/resources.ts';
import { Admitter } from './admit.ts';
import type { ConfigProblem, ConfigProblemCode, FieldPath } from './config-problem.ts';
import { fieldText, quote } from './config-problem.ts';
import type { Draft } from './kinds/draft.ts';
import { ruleConsequence, toAuthorizationPolicy } from './kinds/authorization-policy.ts';
import { toFederatedTrustDomain } from './kinds/federated-trust-domain.ts';
import { toMeshConfig } from './kinds/mesh-config.ts';
import { toNamespace } from './kinds/namespace.ts';
import { toPeerAuthentication } from './kinds/peer-authentication.ts';
import { toRequestAuthentication } from './kinds/request-authentication.ts';
import { toService } from './kinds/service.ts';
import { toWorkload } from './kinds/workload.ts';
import { MAX_FILE_BYTES, MAX_PROBLEMS_PER_FILE } from './limits.ts';
import { ProblemList } from './problem-list.ts';
import type { YamlDocument } from './read-yaml.ts';
import { readYaml } from './read-yaml.ts';
import { KINDS, UNSUPPORTED_KINDS } from './schema/kinds.ts';
import type { KindSchema } from './schema/resource-schema.ts';

export type { ConfigProblem, ConfigProblemCode } from './config-problem.ts';

/** What one file holds. */
export interface ParsedResources {
  /**
   * The resources that are valid, in file order, and those whose problems each have a `consequence`, which then is part of them. With any
   * other problem this is not the whole file: see ConfigDirectory.
   */
  readonly resources: Resource[];
  /** Empty exactly when the whole file is in order. */
  readonly problems: ConfigProblem[];
}

const CONVERTERS: Readonly<Record<Resource['kind'], (draft: Draft) => Resource>> = {
  Namespace: toNamespace,
  Workload: toWorkload,
  Service: toService,
  PeerAuthentication: toPeerAuthentication,
  AuthorizationPolicy: toAuthorizationPolicy,
  RequestAuthentication: toRequestAuthentication,
  MeshConfig: toMeshConfig,
  FederatedTrustDomain: toFederatedTrustDomain,
};

interface KnownKind extends KindSchema {
  readonly admitter: Admitter;
  readonly convert: (draft: Draft) => Resource;
}

const BY_NAME: ReadonlyMap<string, KnownKind> = new Map(
  KINDS.map((kind) => [
    kind.kind,
    { ...kind, admitter: new Admitter(kind), convert: CONVERTERS[(kind.readAs ?? kind.kind) as Resource['kind']] },
  ]),
);

/**
 * Reads the resources of one YAML file: any number of documents, each a resource or a `kind: List` of them. What is not understood is a problem:
 * nothing is ignored, repaired or guessed. Never throws for what is in the file.
 *
 * @param content the file's text, or its bytes (then UTF-8 is checked too)
 * @param file its name, for messages
 */
export function parseResources(content: string | Uint8Array, file: string): ParsedResources {
  const steps = parseInSteps(content, file);
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
}

/** The same in small steps of at most some milliseconds (a single document is composed in one), so that a large file does not hold the event loop. */
export function* parseInSteps(content: string | Uint8Array, file: string): Generator<void, ParsedResources> {
  const problems = new ProblemList(file);
  const resources: Resource[] = [];
  const text = decode(content, problems);
  if (text === null) return { resources, problems: problems.finish() };
  const seen = new Map<string, number>();
  try {
    for (const document of readYaml(text, problems)) {
      yield;
      if (document === null) continue;
      for (const entry of entriesOf(document, problems)) {
        const resource = readResource(document, entry, problems);
        if (resource !== null && isFirst(resource, seen, document, entry.base, problems)) resources.push(resource);
      }
    }
  } catch (error) {
    // A mistake of ours or of the YAML library must cost this file only.
    problems.add('WEFT_CONFIG_YAML', 0, 0, '', `reading the file failed: ${errorText(error)}`, 'report this as a bug, with the file');
  }
  return { resources, problems: problems.finish() };
}

function decode(content: string | Uint8Array, problems: ProblemList): string | null {
  if (content.length > MAX_FILE_BYTES) {
    problems.add('WEFT_CONFIG_TOO_LARGE', 0, 0, '', `the file is larger than ${MAX_FILE_BYTES} bytes`, 'split it into several files');
    return null;
  }
  if (typeof content === 'string') return content;
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(content);
  } catch {
    const line = lineThatIsNotUtf8(content);
    problems.add('WEFT_CONFIG_ENCODING', line, 1, '', 'this line is not UTF-8 text', 'save the file as UTF-8');
    return null;
  }
}

/** A line feed is no part of any other character in UTF-8: lines can be looked at one by one. */
function lineThatIsNotUtf8(bytes: Uint8Array): number {
  let line = 1;
  let start = 0;
  for (;;) {
    const end = bytes.indexOf(0x0a, start);
    if (end === -1 || !isUtf8(bytes.subarray(start, end))) return line;
    start = end + 1;
    line += 1;
  }
}

/** A resource inside a document: at its root, or an item of a List. */
interface Entry {
  readonly base: FieldPath;
  readonly value: unknown;
}

function entriesOf(document: YamlDocument, problems: ProblemList): Entry[] {
  const { value } = document;
  if (!isObject(value) || value['kind'] !== 'List') return [{ base: [], value }];
  const report = reporter(document, [], problems);
  const before = problems.count;
  if (value['apiVersion'] !== 'v1')
    report(['apiVersion'], `a List has apiVersion v1, not ${quote(value['apiVersion'])}`, 'write v1', 'WEFT_CONFIG_UNKNOWN_KIND');
  for (const field of Object.keys(value)) {
    if (!['apiVersion', 'kind', 'metadata', 'items'].includes(field))
      report([field], `there is no field ${quote(field)} in a List`, 'remove it', 'WEFT_CONFIG_UNKNOWN_FIELD');
  }
  const { items } = value;
  if (!Array.isArray(items)) {
    report(['items'], 'must be a list of resources', 'write items: [] if there are none');
    return [];
  }
  return problems.count > before ? [] : items.map((item: unknown, index) => ({ base: ['items', index], value: item }));
}

type Report = (path: FieldPath, message: string, nextStep: string, code?: ConfigProblemCode, consequence?: string | null) => void;

function reporter(document: YamlDocument, base: FieldPath, problems: ProblemList): Report {
  return (path, message, nextStep, code = 'WEFT_CONFIG_INVALID_VALUE', consequence = null) => {
    const full = [...base, ...path];
    const { line, column } = document.locate(full, code === 'WEFT_CONFIG_UNKNOWN_FIELD');
    problems.add(code, line, column, fieldText(full), message, nextStep, consequence);
  };
}

function readResource(document: YamlDocument, entry: Entry, problems: ProblemList): Resource | null {
  const report = reporter(document, entry.base, problems);
  const { value } = entry;
  if (!isObject(value)) {
    report([], 'must be a resource: a mapping with apiVersion, kind and metadata', 'correct or remove the document');
    return null;
  }
  const kind = findKind(value, report);
  if (kind === null) return null;
  const before = problems.fatal;
  const { findings, itemFindings, refusedItems, spec } = kind.admitter.check(value, MAX_PROBLEMS_PER_FILE);
  for (const { path, message, nextStep, code } of findings) report(path, message, nextStep, code);
  const consequence = findings.length > 0 ? null : ruleConsequence(spec['action']);
  for (const { path, message, nextStep, code } of itemFindings) report(path, message, nextStep, code, consequence);
  if (problems.fatal > before) return null;
  const metadata = metadataOf(value['metadata'] as WrittenMetadata, kind.namespaced);
  if (metadata.creationTimestamp !== '' && Number.isNaN(Date.parse(metadata.creationTimestamp))) {
    report(['metadata', 'creationTimestamp'], `${quote(metadata.creationTimestamp)} is not a time`, 'write it as 2026-01-31T12:00:00Z');
  }
  const resource = kind.convert({
    apiVersion: value['apiVersion'] as string,
    metadata,
    location: { file: problems.file, line: document.locate(entry.base).line },
    spec,
    refusedItems,
    fail: report,
    contain: (consequence, path, message, nextStep, code) => report(path, message, nextStep, code, consequence),
  });
  return problems.fatal > before ? null : resource;
}

function findKind(value: Readonly<Record<string, unknown>>, report: Report): KnownKind | null {
  const { kind: name, apiVersion } = value;
  for (const field of ['apiVersion', 'kind'] as const) {
    if (value[field] === undefined) report([field], 'is required', `add ${field}`, 'WEFT_CONFIG_MISSING_FIELD');
    else if (typeof value[field] !== 'string') report([field], 'must be a string', 'correct the value');
  }
  if (typeof name !== 'string' || typeof apiVersion !== 'string') return null;
  const kind = BY_NAME.get(name);
  if (kind?.apiVersions.includes(apiVersion) === true) return kind;
  if (kind !== undefined) {
    const versions = kind.apiVersions.join(' or ');
    report(['apiVersion'], `${name} is not read under apiVersion ${quote(apiVersion)}`, `write ${versions}`, 'WEFT_CONFIG_UNKNOWN_KIND');
  } else if (Object.hasOwn(UNSUPPORTED_KINDS, name)) {
    report(
      ['kind'],
      `${name} is not supported yet: ${UNSUPPORTED_KINDS[name]}`,
      'remove the resource from this directory',
      'WEFT_CONFIG_UNSUPPORTED',
    );
  } else if (name === 'List') {
    report(['kind'], 'a List inside a List is not read', 'put its items into the outer List', 'WEFT_CONFIG_UNKNOWN_KIND');
  } else {
    report(['kind'], `there is no kind ${quote(name)}`, `use one of ${[...BY_NAME.keys()].join(', ')}`, 'WEFT_CONFIG_UNKNOWN_KIND');
  }
  return null;
}

interface WrittenMetadata {
  readonly name: string;
  readonly namespace?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly creationTimestamp?: string | null;
}

function metadataOf(written: WrittenMetadata, namespaced: boolean): Metadata {
  return {
    name: written.name,
    namespace: namespaced ? (written.namespace ?? 'default') : '',
    labels: { ...written.labels },
    annotations: { ...written.annotations },
    creationTimestamp: written.creationTimestamp ?? '',
  };
}

/** What makes a resource the same as another one. The API group does not: two groups name one policy. A MeshConfig is the only one whatever its name. */
export function resourceKey(resource: Resource): string {
  if (resource.kind === 'MeshConfig') return resource.kind;
  return `${resource.kind} ${resource.metadata.namespace === '' ? '' : `${resource.metadata.namespace}/`}${resource.metadata.name}`;
}

function isFirst(resource: Resource, seen: Map<string, number>, document: YamlDocument, base: FieldPath, problems: ProblemList): boolean {
  const key = resourceKey(resource);
  const line = seen.get(key);
  if (line === undefined) {
    seen.set(key, resource.location.line);
    return true;
  }
  const report = reporter(document, base, problems);
  report(
    ['metadata', 'name'],
    `${key} is already on line ${line} of this file`,
    'remove or rename one of the two',
    'WEFT_CONFIG_DUPLICATE_RESOURCE',
  );
  return false;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
