import { dirname, isAbsolute, join } from 'node:path';
import type { ConfigProblem } from '../../config/config-problem.ts';
import { fieldText } from '../../config/config-problem.ts';
import { MAX_PROBLEMS_PER_FILE } from '../../config/limits.ts';
import { ProblemList } from '../../config/problem-list.ts';
import { readYaml, type YamlDocument } from '../../config/read-yaml.ts';
import type { JsonSchema } from '../../config/schema/json-schema.ts';
import { SchemaValidator } from '../../config/validate-schema.ts';
import { checkTrustDomain } from '../../model/identity.ts';
import { CliError } from '../cli-error.ts';
import { DEFAULT_MESH_NAMES, type MeshNames } from './mesh-of-files.ts';
import type { TextFile } from './policy-files.ts';
import { type Question, readQuestion, type WrittenQuestion } from './question.ts';

/** One row: a question, and what its answer must be. */
export interface PolicyCase {
  readonly name: string;
  /** Where it is written. */
  readonly line: number;
  readonly question: Question;
  readonly expect: 'allow' | 'deny';
  /** `namespace/name` that must have decided; null: any. */
  readonly policy: string | null;
}

/** A table of expected decisions. */
export interface CaseTable {
  /** Files and directories, relative to the working directory. */
  readonly policies: readonly string[];
  readonly names: MeshNames;
  readonly cases: readonly PolicyCase[];
}

const TEXT: JsonSchema = { type: 'string', minLength: 1, maxLength: 4096 };
const TEXTS: JsonSchema = { type: 'object', additionalProperties: { type: 'string' } };

const CASE: JsonSchema = {
  type: 'object',
  required: ['name', 'from', 'to', 'port', 'expect'],
  additionalProperties: false,
  properties: {
    name: { ...TEXT, description: 'What the case shows.' },
    from: { ...TEXT, description: "The peer's SPIFFE ID, or none for a plaintext peer." },
    to: { ...TEXT, description: 'The workload: NAMESPACE/NAME.' },
    labels: { ...TEXTS, description: 'Its labels; replace those in the files.' },
    port: { type: 'integer', minimum: 1, maximum: 65_535, weftForm: 'a port number from 1 to 65535' },
    method: { ...TEXT, description: 'Not given: a connection that is not HTTP.' },
    path: TEXT,
    host: TEXT,
    headers: {
      type: 'object',
      additionalProperties: { type: ['string', 'array'], items: { type: 'string' } },
      description: 'Name to value, or to a list of values: one header for each.',
    },
    claims: { type: 'object', description: 'The claims of a valid token.' },
    sourceIp: TEXT,
    sni: { ...TEXT, description: 'The server name of TLS that is passed through.' },
    expect: { type: 'string', enum: ['allow', 'deny'] },
    policy: { ...TEXT, description: 'namespace/name of the policy that must decide.' },
  },
};

/** The whole file. */
const TABLE: JsonSchema = {
  type: 'object',
  required: ['policies', 'cases'],
  additionalProperties: false,
  properties: {
    policies: { type: 'array', minItems: 1, items: TEXT, description: 'Files or directories, relative to the table.' },
    trustDomain: { ...TEXT, description: 'Default: cluster.local.' },
    rootNamespace: { ...TEXT, description: 'Default: istio-system.' },
    cases: { type: 'array', minItems: 1, items: CASE },
  },
};

interface WrittenCase {
  readonly name: string;
  readonly from: string;
  readonly to: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly port: number;
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly sourceIp?: string;
  readonly sni?: string;
  readonly expect: 'allow' | 'deny';
  readonly policy?: string;
}

interface WrittenTable {
  readonly policies: readonly string[];
  readonly trustDomain?: string;
  readonly rootNamespace?: string;
  readonly cases: readonly WrittenCase[];
}

const PARTS: Readonly<Record<keyof WrittenQuestion, string>> = {
  from: 'from',
  to: 'to',
  labels: 'labels',
  port: 'port',
  method: 'method',
  path: 'path',
  host: 'host',
  headers: 'headers',
  claims: 'claims',
  sourceIp: 'sourceIp',
  serverName: 'sni',
};

/**
 * Reads a table. Either a table, or what is wrong with it: nothing is ignored, and no half of a table is used.
 */
export function readCaseTable({ path, text }: TextFile): { readonly table: CaseTable | null; readonly problems: readonly ConfigProblem[] } {
  const problems = new ProblemList(path);
  const documents = [...readYaml(text, problems)].filter((document): document is YamlDocument => document !== null);
  const [document, second] = documents;
  if (document === undefined && problems.count === 0) {
    problems.add('WEFT_CONFIG_EMPTY_FILE', 0, 0, '', 'the file has no table', 'write policies and cases');
  }
  if (second !== undefined) {
    const { line, column } = second.locate([]);
    problems.add('WEFT_CONFIG_INVALID_VALUE', line, column, '', 'a second document in a table of decisions', 'use one file for each table');
  }
  const table = document === undefined || problems.count > 0 ? null : readTable(document, path, problems);
  return { table: problems.count > 0 ? null : table, problems: problems.finish() };
}

function readTable(document: YamlDocument, file: string, problems: ProblemList): CaseTable | null {
  const fail = (path: readonly (string | number)[], message: string, nextStep: string): void => {
    const { line, column } = document.locate(path);
    problems.add('WEFT_CONFIG_INVALID_VALUE', line, column, fieldText(path), message, nextStep);
  };
  for (const { path, code, message, nextStep } of new SchemaValidator(TABLE).check(document.value, MAX_PROBLEMS_PER_FILE)) {
    const { line, column } = document.locate(path, code === 'WEFT_CONFIG_UNKNOWN_FIELD');
    problems.add(code, line, column, fieldText(path), message, nextStep);
  }
  if (problems.count > 0) return null;
  const written = document.value as WrittenTable;
  const { trustDomain = DEFAULT_MESH_NAMES.trustDomain, rootNamespace = DEFAULT_MESH_NAMES.rootNamespace } = written;
  try {
    checkTrustDomain(trustDomain);
  } catch {
    fail(['trustDomain'], `${JSON.stringify(trustDomain)} is not a trust domain`, 'write one such as cluster.local');
  }
  const cases = written.cases.map((row, index): PolicyCase | null => {
    let asked = '';
    try {
      const question = readQuestion(questionOf(row), (part) => (asked = PARTS[part]));
      const { line } = document.locate(['cases', index]);
      return { name: row.name, line, question, expect: row.expect, policy: row.policy ?? null };
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      fail(['cases', index, asked], error.message, error.nextStep ?? 'correct it');
      return null;
    }
  });
  return {
    policies: written.policies.map((path) => (isAbsolute(path) ? path : join(dirname(file), path))),
    names: { trustDomain, rootNamespace },
    cases: cases.filter((row) => row !== null),
  };
}

function questionOf({ from, to, port, labels, headers, sni, method, path, host, claims, sourceIp }: WrittenCase): WrittenQuestion {
  const fields = Object.entries(headers ?? {}).flatMap(([name, values]) =>
    (typeof values === 'string' ? [values] : values).map((value) => [name, value] as const),
  );
  return {
    from,
    to,
    port: String(port),
    headers: fields,
    ...(labels === undefined ? {} : { labels: Object.entries(labels) }),
    ...(method === undefined ? {} : { method }),
    ...(path === undefined ? {} : { path }),
    ...(host === undefined ? {} : { host }),
    ...(claims === undefined ? {} : { claims }),
    ...(sourceIp === undefined ? {} : { sourceIp }),
    ...(sni === undefined ? {} : { serverName: sni }),
  };
}
