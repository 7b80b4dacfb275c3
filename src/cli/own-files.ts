import { lstatSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ADMIN_SOCKET_NAME, WORKLOAD_API_SOCKET_NAME } from '../model/admin-api.ts';
import { AUTHORITY_SOCKET_NAME } from '../model/authority-api.ts';

/** What Weft writes into a directory: files, by their names, and directories of its own below it. */
export interface OwnFiles {
  readonly files: RegExp;
  readonly directories?: Readonly<Record<string, OwnFiles>>;
}

/** What a file is written as until it is whole, as an interrupted process leaves it. */
const TEMPORARY = String.raw`(?:\.\d+\.[0-9a-f]{12}\.tmp)?`;
const JSON_FILES = new RegExp(String.raw`^[^.].*\.json${TEMPORARY}$`);
const NO_FILES = /(?!)/;
/** Configuration files as they were when they were last good: the names are hashes. */
const LAST_GOOD: OwnFiles = { files: /^[0-9a-f]{64}(?:\.new)?$/ };

/** In the run directory. */
export const RUN_FILES: OwnFiles = {
  files: namesOf(ADMIN_SOCKET_NAME, AUTHORITY_SOCKET_NAME),
  directories: { [dirname(WORKLOAD_API_SOCKET_NAME)]: { files: namesOf(basename(WORKLOAD_API_SOCKET_NAME)) } },
};

/** In the directory of the certificate authority; `ca.pem` is of earlier versions. */
export const AUTHORITY_FILES: OwnFiles = {
  files: new RegExp(String.raw`^(?:authority-\d{6,12}\.json${TEMPORARY}|ca\.pem)$`),
  directories: {
    // Its temporary files are `.<node>.<pid>.<random>`.
    nodes: { files: /^(?:[^.].*\.json|\..+\.\d+\.[0-9a-f]{12})$/ },
    tokens: { files: new RegExp(String.raw`^[0-9a-f]{64}\.json${TEMPORARY}$`) },
    joined: { files: new RegExp(String.raw`^[^.].*\.(?:json|evicted)${TEMPORARY}$`) },
    'last-good': LAST_GOOD,
  },
};

/** In the directory `node` of the state directory: the SVID and key of a node that joined an authority elsewhere. */
export const NODE_FILES: OwnFiles = { files: new RegExp(String.raw`^node\.json${TEMPORARY}$`) };

/** In the state directory, without the authority. */
export const STATE_FILES: OwnFiles = {
  files: NO_FILES,
  directories: {
    node: NODE_FILES,
    bundles: { files: JSON_FILES },
    'last-good': LAST_GOOD,
  },
};

/**
 * Removes those files, and then each of the directories that this leaves empty.
 * @returns the paths of what was removed
 * @throws what the file system refuses
 */
export function removeOwnFiles(directory: string, { files, directories = {} }: OwnFiles): string[] {
  const removed: string[] = [];
  for (const [name, own] of Object.entries(directories)) {
    const path = join(directory, name);
    // Not through a symbolic link: what lies behind it is not where Weft writes.
    if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true) removed.push(...removeOwnFiles(path, own));
  }
  for (const path of ownFiles(directory, files)) {
    rmSync(path);
    removed.push(path);
  }
  if (removeEmptyDirectory(directory)) removed.push(directory);
  return removed;
}

/** The paths of files of such names in a directory; none where there is no directory. @throws what the file system refuses */
export function ownFiles(directory: string, files: RegExp): string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true });
    return entries.filter((entry) => !entry.isDirectory() && files.test(entry.name)).map(({ name }) => join(directory, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** @returns false when it is not empty, in use, no directory, or not there */
export function removeEmptyDirectory(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (['ENOTEMPTY', 'EEXIST', 'EBUSY', 'ENOENT', 'ENOTDIR'].includes(code)) return false;
    throw error;
  }
}

function namesOf(...names: readonly string[]): RegExp {
  return new RegExp(`^(?:${names.map((name) => RegExp.escape(name)).join('|')})$`);
}
