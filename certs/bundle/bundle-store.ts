import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText } from '../../src/model/errors.ts';
import { CertsError } from '../errors.ts';
import { putWholeFile } from '../whole-file.ts';
import { MAX_BUNDLE_LENGTH, parseBundle } from './bundle-format.ts';
import type { SpiffeBundle } from './trust-state.ts';

/** The last good bundle of a trust domain, as it outlives a restart. */
export interface StoredBundle {
  readonly bundle: SpiffeBundle;
  /** As it was fetched. */
  readonly text: string;
  /** Milliseconds since the epoch. */
  readonly fetchedAt: number;
  /** What the relationship started from when it was fetched. With another start, another operator's decision, it counts for nothing. */
  readonly startedFrom: string;
}

/** Longer names would leave no room for a suffix: file systems stop at 255. */
const MAX_NAME_LENGTH = 200;

/** Keeps the last good bundle of each federated trust domain in a directory, one file for each. Bundles are public; who may write the directory is trusted. */
export class BundleStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /**
   * What is stored for a trust domain; null when there is nothing.
   * @throws CertsError WEFT_CERTS_BUNDLE_STORE when there is something, and it cannot be used
   */
  async read(trustDomain: string): Promise<StoredBundle | null> {
    const path = this.#pathOf(trustDomain);
    try {
      const content = await readFile(path, 'utf8');
      if (content.length > 2 * MAX_BUNDLE_LENGTH) throw new Error('it is too long');
      const stored = JSON.parse(content) as Record<string, unknown>;
      const { text, fetchedAt, startedFrom } = stored;
      if (
        stored['trustDomain'] !== trustDomain ||
        typeof text !== 'string' ||
        typeof fetchedAt !== 'number' ||
        typeof startedFrom !== 'string'
      ) {
        throw new Error('it is not what was written');
      }
      return { bundle: parseBundle(text, trustDomain), text, fetchedAt, startedFrom };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw failure(`the stored bundle ${path} is left out: ${errorText(error)}`, error);
    }
  }

  /**
   * Stores a bundle, whole or not at all.
   * @throws CertsError WEFT_CERTS_BUNDLE_STORE
   */
  async write({ bundle: { trustDomain }, text, fetchedAt, startedFrom }: StoredBundle): Promise<void> {
    const path = this.#pathOf(trustDomain);
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      await putWholeFile(path, JSON.stringify({ trustDomain, fetchedAt, startedFrom, text }), rename);
    } catch (error) {
      throw failure(`the bundle of ${trustDomain} is not kept for the next start: ${errorText(error)}`, error);
    }
  }

  /** Forgets a trust domain (SPIFFE_Federation.md section 6.3). @throws CertsError WEFT_CERTS_BUNDLE_STORE */
  async delete(trustDomain: string): Promise<void> {
    try {
      await unlink(this.#pathOf(trustDomain));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        throw failure(`the bundle of ${trustDomain} stays stored: ${errorText(error)}`, error);
    }
  }

  /** No trust domain has a `~` or a `/` in it, so no two share a file, and none leaves the directory. */
  #pathOf(trustDomain: string): string {
    const name = trustDomain.length > MAX_NAME_LENGTH ? `~${createHash('sha256').update(trustDomain).digest('hex')}` : trustDomain;
    return join(this.#directory, `${name}.json`);
  }
}

function failure(message: string, cause: unknown): CertsError {
  return new CertsError('WEFT_CERTS_BUNDLE_STORE', message, { nextStep: 'check the directory `bundles` in the state directory', cause });
}
