import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ConfigFiles } from '../../config/config-files.ts';
import type { ConfigProblem } from '../../config/config-problem.ts';
import { formatProblem } from '../../config/format-problem.ts';
import { MAX_FILE_BYTES, MAX_FILES } from '../../config/limits.ts';
import { parseResources } from '../../config/parse-resources.ts';
import type { Resource } from '../../model/resources.ts';
import { CliError, usageError } from '../cli-error.ts';

/** One file of a user's, as text. */
export interface TextFile {
  /** As the user wrote it: it is what messages name. */
  readonly path: string;
  readonly text: string;
}

/** What files say together, as an agent would take them from a directory that it has not seen before. */
export interface LoadedPolicies {
  readonly files: readonly TextFile[];
  /** What would be in force. */
  readonly resources: readonly Resource[];
  readonly problems: readonly ConfigProblem[];
}

const YAML_NAME = /^[^.].*\.ya?ml$/;

/**
 * The files that paths stand for: a directory for its `*.yaml` and `*.yml`, as the agent reads it.
 * @throws CliError WEFT_CLI_FILE
 */
export function readFiles(paths: readonly string[]): TextFile[] {
  const files = new Map<string, TextFile>();
  for (const path of paths) {
    for (const name of filesOf(path)) if (!files.has(name)) files.set(name, readFile(name));
    if (files.size > MAX_FILES) throw fileError(path, `more than ${MAX_FILES} files`, 'name fewer files');
  }
  if (files.size === 0) throw fileError(paths.join(', '), 'there is no *.yaml or *.yml in it', 'name a directory that has some, or a file');
  return [...files.values()];
}

function filesOf(path: string): string[] {
  if (path === '' || path.includes('\0')) throw usageError('a file cannot be named with an empty text', 'name a file or a directory');
  try {
    if (!statSync(path).isDirectory()) return [path];
    return readdirSync(path)
      .filter((name) => YAML_NAME.test(name))
      .toSorted()
      .map((name) => join(path, name));
  } catch (cause) {
    throw fileError(path, (cause as Error).message, 'check its name and permissions', cause);
  }
}

/** One file. @throws CliError WEFT_CLI_FILE */
export function readFile(path: string): TextFile {
  return { path, text: readText(path) };
}

function readText(path: string): string {
  let bytes: Buffer;
  try {
    const stat = statSync(path);
    if (!stat.isFile()) throw new Error('it is not a regular file');
    if (stat.size > MAX_FILE_BYTES) throw new Error(`it is larger than ${MAX_FILE_BYTES} bytes`);
    bytes = readFileSync(path);
  } catch (cause) {
    throw fileError(path, (cause as Error).message, 'check its name and permissions', cause);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw fileError(path, 'it is not UTF-8 text', 'save it as UTF-8', cause);
  }
}

function fileError(path: string, why: string, nextStep: string, cause?: unknown): CliError {
  return new CliError('WEFT_CLI_FILE', `${path} cannot be read: ${why}`, { nextStep, cause });
}

/** Reads resources from files. What is wrong with their content is in `problems`, not thrown. @throws CliError WEFT_CLI_FILE */
export function loadPolicies(paths: readonly string[]): LoadedPolicies {
  const files = readFiles(paths);
  const config = new ConfigFiles();
  for (const { path, text } of files) config.parsed(path, parseResources(text, path));
  config.settle([]);
  const { resources, problems } = config.state;
  return { files, resources, problems };
}

/** A problem with the line it is on, for a terminal. Ends with a newline. */
export function problemText(problem: ConfigProblem, files: readonly TextFile[]): string {
  return `${formatProblem(problem, files.find(({ path }) => path === problem.file)?.text)}\n`;
}

/**
 * Refuses to decide by files that are not in order.
 * @param lenient leaves problems of single rules be: something stricter is in force in their place
 * @throws CliError WEFT_CLI_POLICY_FILES
 */
export function requireUsable({ problems }: LoadedPolicies, lenient: boolean): void {
  const count = problems.filter(({ consequence }) => !lenient || consequence === undefined).length;
  if (count === 0) return;
  throw new CliError('WEFT_CLI_POLICY_FILES', `the files have ${count} ${count === 1 ? 'problem' : 'problems'}`, {
    nextStep: 'correct them: `weft policy lint FILE…` shows each with its line',
  });
}
