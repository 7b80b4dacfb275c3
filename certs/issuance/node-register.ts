import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { BACKDATE_SECONDS } from '../authority/authority-material.ts';
import { checkNodeName } from '../authority/node-records.ts';
import { CertsError } from '../errors.ts';
import { readPrivateFile, replacePrivateFile } from '../private-file.ts';

/** What a node may, beyond what the configuration places on it. */
interface Standing {
  /** Namespaces in which `weft run` there may start workloads. */
  readonly namespaces: readonly string[];
  /** It is refused until it joins again. */
  readonly evicted: boolean;
  /**
   * When it joined again after it was evicted, in whole seconds, as milliseconds since the epoch: SVIDs that it had before stay refused, because
   * whoever stole them has them still. 0: it never was evicted.
   */
  readonly joinedAgainAt: number;
}

/** When a node was heard of last, since this process started. */
export interface Sighting {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** How far its clock is ahead of ours. */
  readonly clockSkewSeconds: number | null;
}

const MAX_NODES = 10_000;
const NOBODY: Standing = { namespaces: [], evicted: false, joinedAgainAt: 0 };
const BACKDATE_MS = BACKDATE_SECONDS * 1000;

/** The nodes that have joined with a token, or were evicted: one small file for each. Without a directory: in memory. */
export class NodeRegister {
  readonly #directory: string | null;
  readonly #standings = new Map<string, Standing>();
  readonly #sightings = new Map<string, Sighting>();

  private constructor(directory: string | null) {
    this.#directory = directory;
  }

  /** @throws CertsError WEFT_CERTS_NODE_REGISTER when a file cannot be read: whoever it evicted would be let in */
  static async open(directory: string | null): Promise<NodeRegister> {
    const register = new NodeRegister(directory);
    const files = directory === null ? [] : await readdir(directory).catch(() => [] as string[]);
    for (const file of files.filter((name) => name.endsWith('.json'))) {
      const path = join(directory as string, file);
      register.#standings.set(checkNodeName(file.slice(0, -'.json'.length)), readStanding(path, await readPrivateFile(path)));
    }
    return register;
  }

  /**
   * A node has joined: what it may is what its token says, and nothing of before.
   * @param now milliseconds since the epoch, of the clock that certificates are made by
   * @throws CertsError WEFT_CERTS_TOO_MANY
   */
  async joined(node: string, namespaces: readonly string[], now: number): Promise<void> {
    const { evicted, namespaces: before, joinedAgainAt } = this.#standing(node);
    if (!evicted && before.join() === namespaces.join()) return;
    await this.#set(node, { namespaces, evicted: false, joinedAgainAt: evicted ? Math.floor(now / 1000) * 1000 : joinedAgainAt });
  }

  /** Refuses a node from now on. @throws CertsError WEFT_CERTS_NODE_NAME, WEFT_CERTS_TOO_MANY */
  async evict(node: string): Promise<void> {
    await this.#set(node, { namespaces: [], evicted: true, joinedAgainAt: 0 });
  }

  isEvicted(node: string): boolean {
    return this.#standing(node).evicted;
  }

  /** Is an SVID of a node, which is valid from then on (milliseconds since the epoch), one that eviction made useless? */
  isRefused(node: string, validFrom: number): boolean {
    const { evicted, joinedAgainAt } = this.#standing(node);
    return evicted || validFrom + BACKDATE_MS < joinedAgainAt;
  }

  /** The names of all that were evicted and have not joined again. */
  evicted(): readonly string[] {
    return [...this.#standings].filter(([, { evicted }]) => evicted).map(([name]) => name);
  }

  /** May workloads of this namespace that no configuration has (`weft run`) get identities on this node? */
  mayRun(node: string, namespace: string): boolean {
    return this.#standing(node).namespaces.includes(namespace);
  }

  seen(node: string, sighting: Sighting): void {
    this.#sightings.delete(node);
    this.#sightings.set(node, sighting);
    const oldest = this.#sightings.keys().next();
    if (this.#sightings.size > MAX_NODES && oldest.done !== true) this.#sightings.delete(oldest.value);
  }

  /** Null: not since this process started. */
  sighting(node: string): Sighting | null {
    return this.#sightings.get(node) ?? null;
  }

  #standing(node: string): Standing {
    return this.#standings.get(node) ?? NOBODY;
  }

  async #set(node: string, standing: Standing): Promise<void> {
    checkNodeName(node);
    if (!this.#standings.has(node) && this.#standings.size >= MAX_NODES) {
      throw new CertsError('WEFT_CERTS_TOO_MANY', `there are ${MAX_NODES} nodes already`, { nextStep: 'find out who makes up nodes' });
    }
    // On disk first: an eviction that a crash undoes would be none.
    if (this.#directory !== null) await replacePrivateFile(join(this.#directory, `${node}.json`), `${JSON.stringify(standing)}\n`);
    this.#standings.set(node, standing);
  }
}

function readStanding(path: string, text: string | null): Standing {
  try {
    const { namespaces, evicted, joinedAgainAt } = JSON.parse(text ?? '') as Standing;
    const areNames = Array.isArray(namespaces) && namespaces.every((name) => typeof name === 'string');
    if (areNames && typeof evicted === 'boolean' && typeof joinedAgainAt === 'number') return { namespaces, evicted, joinedAgainAt };
  } catch {
    // As good as a wrong form.
  }
  throw new CertsError('WEFT_CERTS_NODE_REGISTER', `${path} makes no sense`, {
    nextStep: 'put back a backup of it, or remove it and evict the node again',
  });
}
