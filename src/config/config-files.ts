import type { Resource } from '../model/resources.ts';
import type { ConfigProblem } from './config-problem.ts';
import type { ParsedResources } from './parse-resources.ts';
import { resourceKey } from './parse-resources.ts';

/** What is known of one file. */
interface FileState {
  /** What was last read; null when it is of no use. */
  candidate: readonly Resource[] | null;
  /** True when the candidate has no problems. */
  clean: boolean;
  problems: readonly ConfigProblem[];
  /** What of this file is in force: its last good state. Null when it was never good. */
  good: readonly Resource[] | null;
  /** False when `good` is the next best: all of a file, but with single rules refused. Such a state never replaces one without problems. */
  goodIsClean: boolean;
}

/** What all files together say. */
export interface ConfigState {
  readonly resources: readonly Resource[];
  readonly problems: readonly ConfigProblem[];
}

/**
 * The last good state of a set of files. A file counts as a whole: with any problem in it, what it said before stays in force, and nothing of the new
 * text does. A file that was never good contributes nothing; a file that is gone takes its resources with it.
 *
 * One exception: where all problems concern single rules (each has a `consequence`, and fails closed), and there is no good state to keep, the
 * file is in force without those rules, until there is a good one.
 *
 * Invariant: no two resources in force share kind, namespace and name. A file whose new text would break this keeps its last good state, and
 * is tried again whenever any file changes. Of several such files the first by name wins.
 */
export class ConfigFiles {
  readonly #files = new Map<string, FileState>();
  #state: ConfigState = { resources: [], problems: [] };

  /** What is in force, as of the last settle(). */
  get state(): ConfigState {
    return this.#state;
  }

  /** The file was read and parsed. */
  parsed(file: string, { resources, problems }: ParsedResources): void {
    const known = this.#files.get(file);
    const good = known?.good ?? null;
    const goodIsClean = known?.goodIsClean ?? false;
    const clean = problems.length === 0;
    const usable = clean || (!goodIsClean && problems.every(({ consequence }) => consequence !== undefined));
    this.#files.set(file, { candidate: usable ? resources : null, clean, problems, good, goodIsClean });
  }

  /** The file is gone. */
  removed(file: string): void {
    this.#files.delete(file);
  }

  /**
   * Puts in force what was reported since the last call, all at once. Returns whether anything changed.
   *
   * @param general problems of no single file, reported before the others
   */
  settle(general: readonly ConfigProblem[]): boolean {
    const names = [...this.#files.keys()].toSorted();
    const { chosen, clashes } = this.#choose(names);
    const problems = [...general];
    const parts: Resource[] = [];
    for (const name of names) {
      const file = this.#files.get(name) as FileState;
      const resources = chosen.get(name) ?? null;
      const isNew = resources !== null && resources === file.candidate;
      if (isNew) file.goodIsClean = file.clean;
      // What a problem says of the text is not true of an older one that stays in force.
      problems.push(...(isNew ? file.problems : file.problems.map(withoutConsequence)));
      const clash = clashes.get(name);
      if (clash !== undefined) problems.push(clash);
      file.good = resources;
      for (const resource of resources ?? []) parts.push(resource);
    }
    const before = this.#state;
    const same =
      parts.length === before.resources.length &&
      parts.every((resource, index) => resource === before.resources[index]) &&
      JSON.stringify(problems) === JSON.stringify(before.problems);
    if (!same) this.#state = { resources: parts, problems };
    return !same;
  }

  /** Picks new or last good text for each file. Files that stay as they are cannot clash: they are part of what was in force. */
  #choose(names: readonly string[]): { chosen: Map<string, readonly Resource[] | null>; clashes: Map<string, ConfigProblem> } {
    const clashes = new Map<string, ConfigProblem>();
    for (;;) {
      const chosen = new Map<string, readonly Resource[] | null>();
      const owners = new Map<string, Resource>();
      const isNew = (name: string): boolean => {
        const file = this.#files.get(name) as FileState;
        return file.candidate !== null && file.candidate !== file.good && !clashes.has(name);
      };
      for (const name of names) {
        if (isNew(name)) continue;
        const { good } = this.#files.get(name) as FileState;
        chosen.set(name, good);
        claim(owners, good ?? []);
      }
      let again = false;
      for (const name of names) {
        if (!isNew(name)) continue;
        const { candidate, good } = this.#files.get(name) as FileState;
        const resources = candidate ?? [];
        const taken = resources.find((resource) => owners.has(resourceKey(resource)));
        if (taken === undefined) {
          chosen.set(name, resources);
          claim(owners, resources);
          continue;
        }
        clashes.set(name, clashProblem(taken, owners.get(resourceKey(taken)) as Resource));
        chosen.set(name, good);
        // Its old text may hold what a file before it has just been given: decide again, with this one fixed.
        if (good?.some((resource) => owners.has(resourceKey(resource))) === true) {
          again = true;
          break;
        }
        claim(owners, good ?? []);
      }
      if (!again) return { chosen, clashes };
    }
  }
}

function withoutConsequence({ file, line, column, field, message, nextStep, code }: ConfigProblem): ConfigProblem {
  return { file, line, column, field, message, nextStep, code };
}

function claim(owners: Map<string, Resource>, resources: readonly Resource[]): void {
  for (const resource of resources) owners.set(resourceKey(resource), resource);
}

function clashProblem(resource: Resource, owner: Resource): ConfigProblem {
  const { file, line } = resource.location;
  return {
    file,
    line,
    column: 1,
    field: 'metadata.name',
    message: `${resourceKey(resource)} is already at ${owner.location.file}:${owner.location.line}`,
    nextStep: 'remove or rename one of the two',
    code: 'WEFT_CONFIG_DUPLICATE_RESOURCE',
  };
}
