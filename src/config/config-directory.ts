import { hash } from 'node:crypto';
import { constants, watch } from 'node:fs';
import type { BigIntStats, FSWatcher } from 'node:fs';
import { open, readdir, readlink, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Resource } from '../model/resources.ts';
import { ConfigError } from './config-error.ts';
import { ConfigFiles } from './config-files.ts';
import type { ConfigProblem, ConfigProblemCode } from './config-problem.ts';
import { LastGoodFiles } from './last-good-files.ts';
import { MAX_FILE_BYTES, MAX_FILES } from './limits.ts';
import type { ParsedResources } from './parse-resources.ts';
import { parseInSteps } from './parse-resources.ts';

export interface ConfigDirectoryOptions {
  /**
   * Called with all that is in force and all that is wrong: once before open() returns, then after each change of either. Calls do not
   * overlap. What it throws is not caught here: it surfaces as an uncaught exception.
   */
  readonly onChange: (resources: readonly Resource[], problems: readonly ConfigProblem[]) => void;
  /** How long the directory must be quiet before it is read again. Default: 100 milliseconds. */
  readonly debounceMs?: number;
  /** How often it is looked through even without an event: a safety net where events get lost. Default: 5000 milliseconds. */
  readonly rescanMs?: number;
  /** Where the last good text of each file is kept, so that a file that is broken at the next start begins from it. Default: nowhere. */
  readonly lastGoodDirectory?: string | null;
  /** Told why a last good text could not be kept. Default: nobody is told. */
  readonly onKeepError?: (error: unknown) => void;
}

/**
 * - `idle`: what is in force is what the directory held when last read.
 * - `waiting`: something changed; the debounce timer runs.
 * - `scanning`: the directory is being read.
 * - `stale`: it is being read, and something changed since: it will be read again.
 * - `closed`: for good.
 *
 * Invariants: at most one scan at a time; the timer runs in `waiting` only; `closed` is left by nothing, and after it onChange is not called.
 */
type State = 'idle' | 'waiting' | 'scanning' | 'stale' | 'closed';
type Event = 'change' | 'quiet' | 'scanned' | 'close';

function nextState(state: State, event: Event): State {
  if (state === 'closed' || event === 'close') return 'closed';
  switch (event) {
    case 'change':
      return state === 'idle' || state === 'waiting' ? 'waiting' : 'stale';
    case 'quiet':
      return state === 'waiting' ? 'scanning' : state;
    case 'scanned':
      return state === 'stale' ? 'waiting' : 'idle';
  }
}

const DEFAULT_DEBOUNCE_MS = 100;
const DEFAULT_RESCAN_MS = 5000;
/** A directory that never gets quiet is read all the same after this many debounce times. */
const MAX_DEBOUNCES = 10;
/** A directory that changes during every scan is put in force all the same after this many scans. */
const MAX_STALE_SCANS = 5;
/** How soon a directory that is gone is looked for again. */
const GONE_RETRY_MS = 250;
/** How long parsing may hold the event loop, where it can stop at all. */
const PARSE_SLICE_MS = 8;

interface KnownFile {
  /** Device, inode, size, times: when it is the same, the file is not read. */
  signature: string;
  /** Of the content: when it is the same, the file is not parsed. Empty when nothing was read. */
  digest: string;
}

/**
 * A watched directory of YAML files: `*.yaml` and `*.yml`, not hidden, not in subdirectories, in the order of their names. Symbolic links are
 * followed, so that a mounted ConfigMap (links into `..data`, swapped as a whole) works.
 *
 * A change is put in force as a whole once the directory was quiet for `debounceMs`. A file with a problem keeps its last good state: see
 * ConfigFiles. The same holds for a file that is suddenly empty, unreadable or too large, and for all files while the directory itself is gone.
 * With a `lastGoodDirectory` the last good state outlives the process: what is broken at the start begins from its kept text.
 *
 * Write files elsewhere and rename them into place: a file written slowly in place may be read half, and half a file can be valid.
 */
export class ConfigDirectory implements AsyncDisposable {
  readonly #directory: string;
  readonly #options: Required<ConfigDirectoryOptions>;
  readonly #files = new ConfigFiles();
  readonly #known = new Map<string, KnownFile>();
  #state: State = 'idle';
  #waitingSince = 0;
  #staleScans = 0;
  #timer: NodeJS.Timeout | null = null;
  #rescan: NodeJS.Timeout | null = null;
  #watcher: FSWatcher | null = null;
  /** Which directory the last scan saw and the watcher watches: the name may have come to mean another. */
  #seen = '';
  #watched = '';
  #scan: Promise<void> = Promise.resolve();
  #lastGood: LastGoodFiles | null = null;
  /** False when nothing is kept: not asked for, or not possible. */
  #keeps: boolean;
  /** Files that were good, or whose kept text was looked for: what `#files` knows of them counts. */
  readonly #begun = new Set<string>();
  /** Files that were bad when first read: what they said. */
  readonly #toBegin = new Map<string, ParsedResources>();
  /** Files that are bad and in force as they were kept, with the time of that. */
  readonly #restored = new Map<string, string>();
  /** Files that changed or went, whose kept text does not follow yet: with the text, or null when it is to be read again. */
  readonly #toKeep = new Map<string, Uint8Array | null>();
  /** Bytes of the texts that wait to be kept. */
  #waitingBytes = 0;
  /** One change of the kept texts after the other. Never rejects. */
  #keeping: Promise<void> = Promise.resolve();
  #keepError = '';

  /**
   * Reads the directory and starts to watch it. Bad files are reported to onChange and do not fail it.
   * @throws ConfigError WEFT_CONFIG_DIRECTORY when it is missing, not a directory or not readable
   */
  static async open(directory: string, options: ConfigDirectoryOptions): Promise<ConfigDirectory> {
    const opened = new ConfigDirectory(directory, options);
    try {
      await opened.#start();
    } catch (error) {
      await opened[Symbol.asyncDispose]();
      throw error;
    }
    return opened;
  }

  private constructor(directory: string, options: ConfigDirectoryOptions) {
    this.#directory = directory;
    this.#options = {
      debounceMs: DEFAULT_DEBOUNCE_MS,
      rescanMs: DEFAULT_RESCAN_MS,
      lastGoodDirectory: null,
      onKeepError: () => {},
      ...options,
    };
    this.#keeps = this.#options.lastGoodDirectory !== null;
  }

  /** What is in force. */
  get resources(): readonly Resource[] {
    return this.#files.state.resources;
  }

  /** What is wrong with the directory and its files as they are now. */
  get problems(): readonly ConfigProblem[] {
    return this.#files.state.problems;
  }

  /** False when the kernel gives no events (inotify limits): changes are then noticed within `rescanMs`. */
  get watching(): boolean {
    return this.#watcher !== null;
  }

  /** Has the directory read again after the debounce time, as if it had changed. */
  refresh(): void {
    this.#apply('change');
  }

  /** Stops watching. A scan that is under way is waited for, and changes nothing any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#apply('close');
    await this.#scan;
    await this.#keeping;
  }

  async #start(): Promise<void> {
    this.#state = 'scanning';
    const problem = await this.#read();
    if (problem !== null) {
      const { message, nextStep } = problem;
      throw new ConfigError('WEFT_CONFIG_DIRECTORY', `${this.#directory}: ${message}`, { nextStep });
    }
    await this.#openLastGood();
    await this.#settle([]);
    this.#rescan = setInterval(() => this.#apply('change'), this.#options.rescanMs);
    this.#options.onChange(this.resources, this.problems);
    this.#apply('scanned');
  }

  /** The one place where the state changes, and what belongs to a state starts and ends. */
  #apply(event: Event, delayMs: number = this.#options.debounceMs): void {
    const before = this.#state;
    this.#state = nextState(before, event);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    switch (this.#state) {
      case 'waiting': {
        const now = performance.now();
        if (before !== 'waiting') this.#waitingSince = now;
        const latest = this.#waitingSince + Math.max(delayMs, this.#options.debounceMs * MAX_DEBOUNCES);
        this.#timer = setTimeout(() => this.#apply('quiet'), Math.min(delayMs, Math.max(0, latest - now)));
        break;
      }
      case 'scanning':
        if (before === 'waiting') this.#scan = this.#scanOnce();
        break;
      case 'closed':
        if (this.#rescan !== null) clearInterval(this.#rescan);
        this.#watcher?.close();
        this.#watcher = null;
        break;
      case 'idle':
      case 'stale':
        break;
    }
  }

  /** Never rejects. */
  async #scanOnce(): Promise<void> {
    const problem = await this.#read();
    if (this.#isClosed()) return;
    this.#staleScans = this.#state === 'stale' ? this.#staleScans + 1 : 0;
    // A scan during which the directory changed may have seen half of the change.
    if (this.#staleScans === 0 || this.#staleScans >= MAX_STALE_SCANS) {
      this.#staleScans = 0;
      const changed = await this.#settle(problem === null ? [] : [problem]);
      if (this.#isClosed()) return;
      if (changed) this.#notify();
    }
    this.#apply('scanned');
    if (problem !== null) this.#apply('change', GONE_RETRY_MS);
  }

  #notify(): void {
    try {
      this.#options.onChange(this.resources, this.problems);
    } catch (error) {
      // The owner's mistake must not stop the watching, nor go unseen.
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  /** Reads what changed into `#files`. Returns why the directory itself could not be read; everything known then stays as it is. */
  async #read(): Promise<ConfigProblem | null> {
    let names: string[];
    let data: string;
    try {
      const { dev, ino, birthtimeNs } = await stat(this.#directory, { bigint: true });
      // Inode numbers are used again, often at once.
      const identity = `${dev}:${ino}:${birthtimeNs}`;
      // A new directory may still be being filled: what it holds counts once it was quiet under our eyes.
      if (this.#seen !== '' && this.#seen !== identity) this.#apply('change');
      this.#seen = identity;
      this.#watch(identity);
      data = await this.#dataLink();
      const entries = await readdir(this.#directory);
      names = entries.filter((name) => !name.startsWith('.') && /\.ya?ml$/.test(name)).toSorted();
    } catch (error) {
      const why = errorCode(error) === 'ENOENT' ? 'the directory does not exist' : `the directory cannot be read: ${errorCode(error)}`;
      return this.#problem(this.#directory, 'WEFT_CONFIG_DIRECTORY', why, 'create it, or correct the path and its permissions');
    }
    if (names.length > MAX_FILES) {
      return this.#problem(
        this.#directory,
        'WEFT_CONFIG_TOO_LARGE',
        `the directory has more than ${MAX_FILES} YAML files`,
        'join some of them',
      );
    }
    for (const name of names) {
      await this.#readFile(join(this.#directory, name));
      if (this.#isClosed()) return null;
    }
    const present = new Set(names.map((name) => join(this.#directory, name)));
    for (const file of this.#known.keys()) {
      if (present.has(file)) continue;
      this.#known.delete(file);
      this.#files.removed(file);
      this.#begun.delete(file);
      this.#toBegin.delete(file);
      this.#restored.delete(file);
      this.#setToKeep(file, null);
    }
    if (data !== (await this.#dataLink())) this.#apply('change');
    return null;
  }

  /** Where the `..data` link of a mounted ConfigMap leads; empty elsewhere. */
  async #dataLink(): Promise<string> {
    try {
      return await readlink(join(this.#directory, '..data'));
    } catch {
      return '';
    }
  }

  #watch(identity: string): void {
    if (this.#isClosed() || (this.#watcher !== null && this.#watched === identity)) return;
    this.#watcher?.close();
    this.#watcher = null;
    this.#watched = identity;
    try {
      const watcher = watch(this.#directory, () => this.#apply('change'));
      watcher.on('error', () => {
        watcher.close();
        if (this.#watcher === watcher) this.#watcher = null;
      });
      this.#watcher = watcher;
    } catch {
      // No events, such as with too few inotify watches: the rescan sees changes, only later, and tries to watch again.
    }
  }

  async #readFile(file: string): Promise<void> {
    const known = this.#known.get(file) ?? { signature: '', digest: '' };
    try {
      const status = await stat(file, { bigint: true });
      const signature = signatureOf(status);
      if (signature === known.signature) return;
      this.#known.set(file, { signature, digest: '' });
      const refused = this.#refuse(file, status);
      if (refused !== null) {
        this.#parsed(file, { resources: [], problems: [refused] });
        return;
      }
      const bytes = await readWhole(file, signature);
      if (bytes === null) {
        // Somebody is writing it: look again soon.
        this.#known.set(file, known);
        this.#apply('change');
        return;
      }
      const digest = hash('sha256', bytes);
      if (digest !== known.digest) this.#parsed(file, await parseGently(bytes, file), bytes);
      this.#known.set(file, { signature, digest });
    } catch (error) {
      this.#known.set(file, { signature: '', digest: '' });
      const message =
        errorCode(error) === 'ENOENT' ? 'the file, or what it links to, is gone' : `the file cannot be read: ${errorCode(error)}`;
      const problem = this.#problem(file, 'WEFT_CONFIG_UNREADABLE', message, 'correct its permissions or its link, or remove it');
      this.#parsed(file, { resources: [], problems: [problem] });
    }
  }

  #parsed(file: string, parsed: ParsedResources, bytes: Uint8Array | null = null): void {
    if (parsed.problems.length === 0) {
      this.#restored.delete(file);
      this.#toBegin.delete(file);
      this.#begun.add(file);
      this.#setToKeep(file, bytes);
    } else if (!this.#begun.has(file)) this.#toBegin.set(file, parsed);
    const since = this.#restored.get(file);
    this.#files.parsed(file, since === undefined ? parsed : this.#withRestored(file, parsed, since));
  }

  /** Holds a text that is to be kept, in bounded memory: the file may be broken before the text is written. */
  #setToKeep(file: string, bytes: Uint8Array | null): void {
    if (!this.#keeps) return;
    this.#waitingBytes -= this.#toKeep.get(file)?.length ?? 0;
    const held = bytes !== null && this.#waitingBytes + bytes.length <= MAX_FILE_BYTES ? bytes : null;
    this.#waitingBytes += held?.length ?? 0;
    this.#toKeep.set(file, held);
  }

  #withRestored(file: string, { resources, problems }: ParsedResources, since: string): ParsedResources {
    const message = `the last good state of ${since} is in force, from before the agent started`;
    const nextStep = 'repair the file, or remove it if its resources shall go';
    return { resources, problems: [...problems, this.#problem(file, 'WEFT_CONFIG_LAST_GOOD', message, nextStep)] };
  }

  async #openLastGood(): Promise<void> {
    const { lastGoodDirectory, onKeepError } = this.#options;
    if (lastGoodDirectory === null) return;
    try {
      this.#lastGood = await LastGoodFiles.open(lastGoodDirectory);
      // What went while no agent ran was deleted on purpose.
      await this.#lastGood.forgetOthers(this.#known.keys());
    } catch (error) {
      onKeepError(error);
      if (this.#lastGood !== null) return;
      this.#keeps = false;
      this.#toKeep.clear();
    }
  }

  /** Puts in force what was read. Returns whether anything changed. */
  async #settle(general: readonly ConfigProblem[]): Promise<boolean> {
    const begun = await this.#begin();
    let changed = false;
    if (begun.size > 0) {
      // First as they were, then as they are: a bad text keeps what is in force.
      changed = this.#files.settle(general);
      const refused = new Set(this.problems.map(({ file }) => file));
      for (const [file, { parsed, time }] of begun) {
        if (!refused.has(file)) this.#restored.set(file, time);
        this.#parsed(file, parsed);
      }
    }
    changed = this.#files.settle(general) || changed;
    this.#keepAll();
    return changed;
  }

  /** Gives files that were bad from the start what was kept of them. Returns those that had something, with what they say now. */
  async #begin(): Promise<Map<string, { readonly parsed: ParsedResources; readonly time: string }>> {
    const begun = new Map<string, { readonly parsed: ParsedResources; readonly time: string }>();
    const bad = [...this.#toBegin];
    this.#toBegin.clear();
    if (this.#lastGood === null || bad.length === 0) return begun;
    await this.#keeping;
    for (const [file, parsed] of bad) {
      this.#begun.add(file);
      const kept = await this.#lastGood.load(file);
      if (kept === null) continue;
      const good = await parseGently(kept.bytes, file);
      if (good.problems.length > 0) continue;
      this.#files.parsed(file, good);
      begun.set(file, { parsed, time: kept.time });
    }
    return begun;
  }

  /** Has the kept texts follow what is in force. A file that is good, but may not be in force beside another one, is kept once it is. */
  #keepAll(): void {
    const lastGood = this.#lastGood;
    if (lastGood === null || this.#toKeep.size === 0) return;
    const refused = new Set(this.problems.map(({ file }) => file));
    const changes: { readonly file: string; readonly digest: string | null; readonly bytes: Uint8Array | null }[] = [];
    for (const [file, bytes] of this.#toKeep) {
      if (refused.has(file)) continue;
      this.#toKeep.delete(file);
      changes.push({ file, digest: this.#known.get(file)?.digest ?? null, bytes });
    }
    this.#keeping = this.#keeping.then(async () => {
      for (const { file, digest, bytes } of changes) {
        try {
          await keepOne(lastGood, file, digest, bytes);
          this.#keepError = '';
        } catch (error) {
          if (!this.#toKeep.has(file)) this.#toKeep.set(file, null);
          if (errorCode(error) !== this.#keepError) this.#options.onKeepError(error);
          this.#keepError = errorCode(error);
        }
        this.#waitingBytes -= bytes?.length ?? 0;
      }
    });
  }

  /** Why a file is not even opened. */
  #refuse(file: string, status: BigIntStats): ConfigProblem | null {
    if (!status.isFile())
      return this.#problem(file, 'WEFT_CONFIG_UNREADABLE', 'it is not a regular file', 'remove it, or put a file in its place');
    if (status.size > BigInt(MAX_FILE_BYTES)) {
      const message = `the file has ${status.size} bytes, and ${MAX_FILE_BYTES} are the limit`;
      return this.#problem(file, 'WEFT_CONFIG_TOO_LARGE', message, 'split it into several files');
    }
    if (status.size === 0n) {
      return this.#problem(
        file,
        'WEFT_CONFIG_EMPTY_FILE',
        'the file is empty',
        'remove the file if its resources shall go, or write a comment into it',
      );
    }
    return null;
  }

  #problem(file: string, code: ConfigProblemCode, message: string, nextStep: string): ConfigProblem {
    return { file, line: 0, column: 0, field: '', message, nextStep, code };
  }
}

function signatureOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
}

/** The bytes of a file that is, before and after, the one of `signature` (null: any that is not too large); null when it changed meanwhile. */
async function readWhole(file: string, signature: string | null): Promise<Uint8Array | null> {
  // Not blocking: the file may have become a pipe since it was looked at.
  await using handle: FileHandle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  const before = await handle.stat({ bigint: true });
  if (signature !== null && signatureOf(before) !== signature) return null;
  if (!before.isFile() || before.size > BigInt(MAX_FILE_BYTES)) return null;
  const bytes = Buffer.alloc(Number(before.size));
  let length = 0;
  while (length < bytes.length) {
    const { bytesRead } = await handle.read(bytes, length, bytes.length - length, length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  const after = await handle.stat({ bigint: true });
  return length === bytes.length && signatureOf(after) === signatureOf(before) ? bytes : null;
}

/** @param digest of the text that was good; null when the file was deleted */
async function keepOne(lastGood: LastGoodFiles, file: string, digest: string | null, held: Uint8Array | null): Promise<void> {
  if (digest === null) return lastGood.forget(file);
  const bytes = held ?? (await readWhole(file, null).catch(() => null));
  // When it has changed again meanwhile, it is read again, and kept then if it is good.
  if (bytes !== null && (held !== null || hash('sha256', bytes) === digest)) await lastGood.keep(file, bytes);
}

async function parseGently(bytes: Uint8Array, file: string): Promise<ParsedResources> {
  const steps = parseInSteps(bytes, file);
  let since = performance.now();
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    if (performance.now() - since < PARSE_SLICE_MS) continue;
    await nextTurn();
    since = performance.now();
  }
}

function errorCode(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return typeof code === 'string' ? code : 'unknown error';
}
