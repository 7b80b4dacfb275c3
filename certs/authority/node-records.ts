import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { constants } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { CertsError } from '../errors.ts';

/** What is known of one node of the trust domain. */
export interface NodeRecord {
  readonly name: string;
  /** The newest trust state that all of it verifies with; null: none yet. */
  readonly acknowledged: bigint | null;
  /** It counts until then, in milliseconds since the epoch: that long it may verify peers, and show SVIDs. */
  readonly liveUntil: number;
}

/** At most 200 characters: file names have 255, and a node that could join under a name for which there is no file could not be evicted. */
const NAME = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?$/;
export const MAX_NODES = 10_000;
/** A directory that changed within this may change again without showing it. */
const COARSE_TIME_MS = 2000;
const MAX_FILE_BYTES = 16 * 1024;

/** @throws CertsError WEFT_CERTS_NODE_NAME: a name is a file name and a segment of a SPIFFE ID, so that it can be neither `..` nor a path */
export function checkNodeName(name: string): string {
  if (NAME.test(name)) return name;
  throw new CertsError('WEFT_CERTS_NODE_NAME', `not a node name: ${JSON.stringify(name.slice(0, 80))}`, {
    nextStep: 'use a host name: letters, digits, dots and dashes, 200 at most',
  });
}

/**
 * The nodes of a trust domain, one small file for each in a directory that several processes may share. Without a directory: in memory.
 * Bounded: at MAX_NODES a node that is not live any more makes room for a new one, or the new one is refused.
 */
export class NodeRecords {
  readonly #directory: string | null;
  readonly #records = new Map<string, NodeRecord>();
  /** Writes of one node happen one after another. */
  readonly #writes = new Map<string, Promise<void>>();
  #readAt = -1;

  constructor(directory: string | null) {
    this.#directory = directory;
  }

  all(): readonly NodeRecord[] {
    return [...this.#records.values()];
  }

  get(name: string): NodeRecord | null {
    return this.#records.get(name) ?? null;
  }

  /**
   * Remembers a node. The file follows.
   * @throws CertsError WEFT_CERTS_NODE_NAME, WEFT_CERTS_TOO_MANY
   */
  set(record: NodeRecord, now: number): void {
    checkNodeName(record.name);
    this.makeRoom(record.name, now);
    this.#records.set(record.name, record);
    this.#save(record.name);
  }

  /** Makes sure that a node can be remembered. @throws CertsError WEFT_CERTS_TOO_MANY */
  makeRoom(name: string, now: number): void {
    if (this.#records.has(name) || this.#records.size < MAX_NODES) return;
    for (const record of this.#records.values()) {
      if (record.liveUntil >= now) continue;
      this.delete(record.name);
      return;
    }
    throw new CertsError('WEFT_CERTS_TOO_MANY', `there are ${MAX_NODES} live nodes already`, { nextStep: 'find out who makes up nodes' });
  }

  delete(name: string): void {
    this.#records.delete(name);
    this.#save(name);
  }

  /** Takes up what other processes wrote. Files that make no sense are left out: a node without a record is one that is not waited for. */
  async refresh(): Promise<void> {
    if (this.#directory === null) return;
    const changedAt = await stat(this.#directory).then(
      (stats) => stats.mtimeMs,
      () => null,
    );
    // Every write renames a file into the directory, which changes its time.
    if (changedAt === null || changedAt === this.#readAt) return;
    const found = new Map<string, NodeRecord>();
    for (const name of await readdir(this.#directory)) {
      if (found.size >= MAX_NODES) break;
      const node = name.endsWith('.json') ? name.slice(0, -5) : '';
      if (!NAME.test(node)) continue;
      const record = await this.#read(node);
      if (record !== null) found.set(node, record);
    }
    for (const name of this.#records.keys()) if (!found.has(name) && !this.#writes.has(name)) this.#records.delete(name);
    for (const [name, record] of found) if (!this.#writes.has(name)) this.#records.set(name, record);
    // A directory's time has the kernel's coarse ticks: what is written just after us may not change it.
    this.#readAt = Date.now() - changedAt > COARSE_TIME_MS ? changedAt : -1;
  }

  /** After every write so far. */
  async settled(): Promise<void> {
    await Promise.all(this.#writes.values());
  }

  #save(name: string): void {
    if (this.#directory === null) return;
    const write = (this.#writes.get(name) ?? Promise.resolve()).then(() => this.#write(name)).catch(() => undefined);
    this.#writes.set(name, write);
    void write.then(() => {
      if (this.#writes.get(name) === write) this.#writes.delete(name);
    });
  }

  async #write(name: string): Promise<void> {
    const directory = this.#directory as string;
    const path = join(directory, `${name}.json`);
    const record = this.#records.get(name);
    if (record === undefined) {
      await rm(path, { force: true });
      return;
    }
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const temporary = join(directory, `.${name}.${process.pid}.${randomBytes(6).toString('hex')}`);
    const content = JSON.stringify({ ...record, acknowledged: record.acknowledged?.toString() ?? null });
    {
      await using file = await open(temporary, 'wx', 0o600);
      await file.writeFile(content);
    }
    await rename(temporary, path);
  }

  async #read(name: string): Promise<NodeRecord | null> {
    try {
      await using file = await open(
        join(this.#directory as string, `${name}.json`),
        constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      );
      if ((await file.stat()).size > MAX_FILE_BYTES) return null;
      const { acknowledged, liveUntil } = JSON.parse(await readFile(file, 'utf8')) as Readonly<Record<string, unknown>>;
      if (typeof liveUntil !== 'number' || !Number.isFinite(liveUntil)) return null;
      if (acknowledged !== null && (typeof acknowledged !== 'string' || !/^[0-9]{1,19}$/.test(acknowledged))) return null;
      return { name, acknowledged: acknowledged === null ? null : BigInt(acknowledged), liveUntil };
    } catch {
      return null;
    }
  }
}
