import { readdir, rm, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CertsError } from '../errors.ts';
import { createPrivateFile, readPrivateFile } from '../private-file.ts';

/** One saved state, as text. */
export interface SavedState {
  readonly number: number;
  readonly text: string;
  readonly path: string;
  /** When the file came to be where it is (ctime), in milliseconds since the epoch. No copy and no restore can set it back. */
  readonly placedAt: number;
}

/** Where the state of an authority is kept. */
export interface AuthorityStore {
  /** The number of the newest state; 0: there is none. */
  newest(): Promise<number>;
  /** @throws CertsError WEFT_CERTS_KEY_FILE */
  load(): Promise<SavedState | null>;
  /**
   * Saves a state as the one after `previous`. Of several processes that try at once exactly one succeeds.
   * @returns false when another process has saved one since
   */
  replace(previous: number, text: string): Promise<boolean>;
}

const STATE_FILE = /^authority-([0-9]{6,12})\.json$/;
const TEMPORARY_FILE = /^authority-[0-9]{6,12}\.json\..*\.tmp$/;
/** A temporary file that is older was left by a process that died. */
const TEMPORARY_MS = 60_000;
const ATTEMPTS = 20;

/**
 * The state of an authority in a directory that several processes may share: one file `authority-NNNNNN.json`, mode 0600; the highest number
 * counts. A change is a new file with the next number, made by link(2), which refuses a name that exists: that is the compare-and-swap.
 * Whoever made it then looks whether a higher one is there (it could have overslept a whole change with its removal of the old file) and has
 * lost if so. The highest file is never removed, so there is always a state.
 */
export class AuthorityDirectory implements AuthorityStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async newest(): Promise<number> {
    return Math.max(0, ...(await this.#list()).map((file) => file.number));
  }

  async load(): Promise<SavedState | null> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const number = await this.newest();
      if (number === 0) return null;
      const path = this.#path(number);
      const text = await readPrivateFile(path);
      // Null: replaced between the two calls. Look again.
      if (text === null) continue;
      const placedAt = await stat(path).then(
        (stats) => stats.ctimeMs,
        () => 0,
      );
      return { number, text, path, placedAt };
    }
    throw new CertsError('WEFT_CERTS_DIRECTORY', `the state in ${this.#directory} changes faster than it can be read`, {
      nextStep: 'find out which process writes there',
    });
  }

  async replace(previous: number, text: string): Promise<boolean> {
    if ((await this.newest()) !== previous) return false;
    const number = previous + 1;
    if (!(await createPrivateFile(this.#path(number), text))) return false;
    if ((await this.newest()) !== number) return false;
    await this.#removeBefore(number);
    return true;
  }

  #path(number: number): string {
    return join(this.#directory, `authority-${String(number).padStart(6, '0')}.json`);
  }

  async #list(): Promise<{ readonly name: string; readonly number: number }[]> {
    const files: { name: string; number: number }[] = [];
    for (const name of await this.#names()) {
      const number = Number(STATE_FILE.exec(name)?.[1] ?? 0);
      if (number > 0) files.push({ name, number });
    }
    return files;
  }

  async #names(): Promise<string[]> {
    try {
      return await readdir(this.#directory);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw new CertsError('WEFT_CERTS_DIRECTORY', `cannot read ${this.#directory}: ${(error as Error).message}`, {
        nextStep: "give the agent a directory of its own for the authority's state",
        cause: error,
      });
    }
  }

  /** Old states hold keys that may have been given up since: they must not lie around. */
  async #removeBefore(number: number): Promise<void> {
    for (const file of await this.#list()) {
      if (file.number < number) await rm(join(this.#directory, file.name), { force: true });
    }
    for (const name of await this.#names()) {
      if (!TEMPORARY_FILE.test(name)) continue;
      const path = join(this.#directory, name);
      const left = await stat(path).catch(() => null);
      if (left !== null && Date.now() - left.mtimeMs > TEMPORARY_MS) await unlink(path).catch(() => undefined);
    }
  }
}

/** A state that lives as long as the process. */
export class AuthorityMemory implements AuthorityStore {
  #saved: SavedState | null = null;

  newest(): Promise<number> {
    return Promise.resolve(this.#saved?.number ?? 0);
  }

  load(): Promise<SavedState | null> {
    return Promise.resolve(this.#saved);
  }

  replace(previous: number, text: string): Promise<boolean> {
    if ((this.#saved?.number ?? 0) !== previous) return Promise.resolve(false);
    this.#saved = { number: previous + 1, text, path: 'memory', placedAt: 0 };
    return Promise.resolve(true);
  }
}
