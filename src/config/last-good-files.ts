import { hash } from 'node:crypto';
import { chmod, mkdir, open, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { MAX_FILE_BYTES } from './limits.ts';

/** The first line of a kept file, as JSON. */
interface Header {
  /** The absolute path of the file whose text this is. */
  readonly file: string;
  /** When the text was kept: ISO 8601. */
  readonly time: string;
  /** SHA-256 of the text, in hex. */
  readonly digest: string;
}

/** The text of a configuration file as it was when it was last good. */
export interface LastGoodText {
  readonly bytes: Uint8Array;
  /** When it was kept: ISO 8601. */
  readonly time: string;
}

/** A path has at most 4096 bytes; JSON may write each as six. */
const MAX_HEADER_BYTES = 32 * 1024;
const LINE_FEED = 0x0a;

/**
 * The texts of configuration files that were good, kept across restarts of the agent: one file each, for root only, replaced at once. The name
 * is a hash of the configuration file's path, so that no name can lead elsewhere. What is torn, altered or of another file counts as not there.
 */
export class LastGoodFiles {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** Makes the directory, for its owner only. @throws what the file system refuses */
  static async open(directory: string): Promise<LastGoodFiles> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    // It may have been there, open to others.
    await chmod(directory, 0o700);
    return new LastGoodFiles(directory);
  }

  /** What was kept for a file; null when there is nothing, or nothing to rely on. Never rejects. */
  async load(file: string): Promise<LastGoodText | null> {
    try {
      await using handle = await open(this.#pathOf(file));
      const status = await handle.stat();
      if (!status.isFile() || status.size > MAX_FILE_BYTES + MAX_HEADER_BYTES) return null;
      const content = await handle.readFile();
      const end = content.indexOf(LINE_FEED);
      if (end === -1) return null;
      const header = JSON.parse(content.toString('utf8', 0, end)) as Partial<Header> | null;
      const bytes = content.subarray(end + 1);
      if (header?.file !== resolve(file) || typeof header.time !== 'string' || header.digest !== hash('sha256', bytes)) return null;
      return { bytes, time: header.time };
    } catch {
      return null;
    }
  }

  /** Keeps a text; one that is kept already stays, with its time. @throws what the file system refuses */
  async keep(file: string, bytes: Uint8Array): Promise<void> {
    const known = await this.load(file);
    if (known !== null && Buffer.compare(known.bytes, bytes) === 0) return;
    const header: Header = { file: resolve(file), time: new Date().toISOString(), digest: hash('sha256', bytes) };
    const path = this.#pathOf(file);
    const temporary = `${path}.new`;
    await writeFile(temporary, [`${JSON.stringify(header)}\n`, bytes], { mode: 0o600, flush: true });
    await rename(temporary, path);
  }

  /** Forgets a file that was deleted. @throws what the file system refuses */
  async forget(file: string): Promise<void> {
    await rm(this.#pathOf(file), { force: true });
  }

  /** Forgets all but these files, and what a keep() that was cut short left behind. @throws what the file system refuses */
  async forgetOthers(files: Iterable<string>): Promise<void> {
    const paths = new Set(Array.from(files, (file) => this.#pathOf(file)));
    for (const name of await readdir(this.#directory)) {
      const path = join(this.#directory, name);
      if (!paths.has(path)) await rm(path, { force: true });
    }
  }

  #pathOf(file: string): string {
    return join(this.#directory, hash('sha256', resolve(file)));
  }
}
