import { randomBytes } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText } from '../../src/model/errors.ts';
import { BACKDATE_SECONDS } from '../authority/authority-material.ts';
import { checkNodeName } from '../authority/node-records.ts';
import { CertsError } from '../errors.ts';
import { readPrivateFile, replacePrivateFile } from '../private-file.ts';

/** What a node may, beyond what the configuration places on it. */
export interface Standing {
  readonly node: string;
  /** Namespaces in which `weft run` there may start workloads. */
  readonly namespaces: readonly string[];
  /** It is refused until it joins again. */
  readonly evicted: boolean;
  /**
   * When it joined again after it was evicted, in whole seconds, as milliseconds since the epoch: SVIDs that it had before stay refused, because
   * whoever stole them has them still. 0: it never was evicted.
   */
  readonly joinedAgainAt: number;
  /** The last eviction, by which a join says that it came after it; null: there was none. */
  readonly eviction: string | null;
}

/** What is kept of a join. The files of earlier versions name no eviction, and say `evicted` themselves. */
type Join = Omit<Standing, 'node'>;

/** When a node was heard of last, since this process started. */
export interface Sighting {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** How far its clock is ahead of ours. */
  readonly clockSkewSeconds: number | null;
}

const MAX_SIGHTINGS = 10_000;
const BACKDATE_MS = BACKDATE_SECONDS * 1000;
const JOIN = '.json';
const EVICTION = '.evicted';
const NO_JOIN: Join = { namespaces: [], evicted: false, joinedAgainAt: 0, eviction: null };

/** Is an SVID of a node, which is valid from then on (milliseconds since the epoch), one that eviction made useless? */
export function isRefused({ evicted, joinedAgainAt }: Standing, validFrom: number): boolean {
  return evicted || validFrom + BACKDATE_MS < joinedAgainAt;
}

/**
 * The nodes that have joined with a token, or were evicted, in a directory that several processes may share. It is read anew for every decision,
 * so that each process honours at once what another has written.
 *
 * A join and an eviction are files of their own, `<node>.json` and `<node>.evicted`, and a join counts only if it names the last eviction. So no
 * write can undo an eviction that its writer did not know of, whatever the order in which they come.
 */
export class NodeRegister {
  readonly #directory: string;
  readonly #sightings = new Map<string, Sighting>();
  #directorySeen = false;

  /** @param directory made when there is something to write */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** @throws CertsError WEFT_CERTS_NODE_REGISTER when it cannot be known: whoever was evicted would be let in. WEFT_CERTS_NODE_NAME */
  async standing(node: string): Promise<Standing> {
    checkNodeName(node);
    try {
      const [evictionText, joinText] = await Promise.all([this.#read(node + EVICTION), this.#read(node + JOIN)]);
      // No file says that nothing is known of the node. No directory, where there was one, says that nothing is known at all.
      if (evictionText === null && joinText === null) await this.#checkDirectory();
      const eviction = evictionText === null ? null : readEviction(evictionText);
      const join = joinText === null ? NO_JOIN : readJoin(joinText);
      const evicted = join.evicted || join.eviction !== eviction;
      return { node, namespaces: evicted ? [] : join.namespaces, evicted, joinedAgainAt: join.joinedAgainAt, eviction };
    } catch (cause) {
      throw new CertsError('WEFT_CERTS_NODE_REGISTER', `cannot tell whether ${node} was evicted: ${errorText(cause)}`, {
        cause,
        nextStep: `put back a backup of ${this.#directory}, or evict the node, and let it join with a new token`,
      });
    }
  }

  /**
   * A node has joined: what it may is what its token says, and nothing of before.
   * @param before its standing before the token was used up: an eviction since then stands
   * @param now milliseconds since the epoch, of the clock that certificates are made by
   * @throws CertsError WEFT_CERTS_DIRECTORY
   */
  async joined(before: Standing, namespaces: readonly string[], now: number): Promise<void> {
    const { node, eviction, evicted } = before;
    if (!evicted && before.namespaces.join() === namespaces.join()) return;
    const joinedAgainAt = evicted ? Math.floor(now / 1000) * 1000 : before.joinedAgainAt;
    const content: Join = { namespaces, evicted: false, joinedAgainAt, eviction };
    await this.#write(node + JOIN, content);
  }

  /**
   * Refuses a node from now on.
   * @throws CertsError WEFT_CERTS_NODE_NAME, WEFT_CERTS_DIRECTORY
   */
  async evict(node: string): Promise<void> {
    await this.#write(checkNodeName(node) + EVICTION, { eviction: randomBytes(16).toString('hex') });
    // It counts no more. If it made no sense, the node can join again.
    await rm(join(this.#directory, node + JOIN), { force: true });
  }

  /** The names of all that are refused until they join again, and what is wrong with the files. */
  async evicted(): Promise<{ readonly names: ReadonlySet<string>; readonly problems: readonly string[] }> {
    const names = new Set<string>();
    const problems: string[] = [];
    let files: readonly string[] = [];
    try {
      files = (await this.#checkDirectory()) ? await readdir(this.#directory) : [];
    } catch (error) {
      problems.push(errorText(error));
    }
    const nodes = files.flatMap((file) => /^([^.].*)\.(?:json|evicted)$/.exec(file)?.[1] ?? []);
    for (const node of new Set(nodes)) {
      try {
        if ((await this.standing(node)).evicted) names.add(node);
      } catch (error) {
        names.add(node);
        problems.push(errorText(error));
      }
    }
    return { names, problems };
  }

  seen(node: string, sighting: Sighting): void {
    this.#sightings.delete(node);
    this.#sightings.set(node, sighting);
    const oldest = this.#sightings.keys().next();
    if (this.#sightings.size > MAX_SIGHTINGS && oldest.done !== true) this.#sightings.delete(oldest.value);
  }

  /** Null: not since this process started. */
  sighting(node: string): Sighting | null {
    return this.#sightings.get(node) ?? null;
  }

  async #read(file: string): Promise<string | null> {
    const text = await readPrivateFile(join(this.#directory, file));
    this.#directorySeen ||= text !== null;
    return text;
  }

  async #write(file: string, content: object): Promise<void> {
    await replacePrivateFile(join(this.#directory, file), `${JSON.stringify(content)}\n`);
    this.#directorySeen = true;
  }

  /** False: there is none yet. @throws when it is gone, or cannot be looked at */
  async #checkDirectory(): Promise<boolean> {
    try {
      await stat(this.#directory);
      this.#directorySeen = true;
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT' && !this.#directorySeen) return false;
      throw error;
    }
  }
}

function readEviction(text: string): string {
  const { eviction } = parse(text);
  if (typeof eviction === 'string') return eviction;
  throw new Error('its eviction makes no sense');
}

function readJoin(text: string): Join {
  const { namespaces, joinedAgainAt, eviction = null, evicted = false } = parse(text);
  const areNames = Array.isArray(namespaces) && namespaces.every((name) => typeof name === 'string');
  const isEviction = eviction === null || typeof eviction === 'string';
  if (areNames && isEviction && typeof evicted === 'boolean' && typeof joinedAgainAt === 'number') {
    return { namespaces, evicted, joinedAgainAt, eviction };
  }
  throw new Error('its join makes no sense');
}

function parse(text: string): Readonly<Record<string, unknown>> {
  return (JSON.parse(text) ?? {}) as Readonly<Record<string, unknown>>;
}
