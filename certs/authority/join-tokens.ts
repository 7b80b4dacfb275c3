import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CertsError } from '../errors.ts';
import { createPrivateFile, readPrivateFile } from '../private-file.ts';
import { checkNodeName } from './node-records.ts';

export interface TokenRequest {
  /** The only node that may join with it. */
  readonly node: string;
  readonly ttlSeconds: number;
  /** Namespaces that the node may ask identities for beyond those of workloads it is known to run. Default: none. */
  readonly namespaces?: readonly string[];
  /** Good until it expires instead of once. Default: false. */
  readonly reusable?: boolean;
}

/** What a token grants. Without the secret. */
export interface TokenGrant {
  /** First characters of the hash of its secret: how to name it. */
  readonly id: string;
  readonly node: string;
  readonly namespaces: readonly string[];
  readonly reusable: boolean;
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
}

export interface JoinTokensOptions {
  /** Null: in memory. */
  readonly directory: string | null;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** The roots of the trust domain now, DER. */
  readonly roots: () => readonly Uint8Array[];
  /** Before a token is used up: what it throws leaves the token as it is. */
  readonly onRedeem: (grant: TokenGrant) => void;
  readonly onRedeemed: (grant: TokenGrant) => void;
}

/** A token as the joining node reads it. */
export interface ParsedToken {
  /** The token as it is to be sent. A secret. */
  readonly token: string;
  readonly secret: Uint8Array;
  /** SHA-256 over the roots of the trust domain when the token was made: `rootsPin`. */
  readonly rootsPin: Uint8Array;
}

const MAKE_ONE = 'make a new one: `weft ca token`';
const PREFIX = 'weft-join-1.';
const TOKEN = /^weft-join-1\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$/;
const ID_LENGTH = 16;
const MAX_TOKENS = 1000;
const MAX_TTL_SECONDS = 30 * 24 * 3600;
const MAX_NAMESPACES = 64;
const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** A digest of a set of roots (DER), whatever their order: SHA-256 over their sorted SHA-256. */
export function rootsPin(roots: readonly Uint8Array[]): Uint8Array {
  const digests = roots.map((root) => createHash('sha256').update(root).digest()).toSorted(Buffer.compare);
  return createHash('sha256').update(Buffer.concat(digests)).digest();
}

/** Whether these are exactly the roots that a token was made for. */
export function matchesPin(token: ParsedToken, roots: readonly Uint8Array[]): boolean {
  return timingSafeEqual(token.rootsPin, rootsPin(roots));
}

/**
 * Takes a token apart.
 * @throws CertsError WEFT_CERTS_TOKEN; its text never holds any of the token
 */
export function parseJoinToken(text: string): ParsedToken {
  const token = text.trim();
  const match = TOKEN.exec(token);
  const secret = Buffer.from(match?.[1] ?? '', 'base64url');
  const pin = Buffer.from(match?.[2] ?? '', 'base64url');
  // 43 characters hold two bits more than 32 bytes: one spelling only.
  if (match === null || `${PREFIX}${secret.toString('base64url')}.${pin.toString('base64url')}` !== token) {
    throw tokenError('it is not a join token, perhaps cut short');
  }
  return { token, secret, rootsPin: pin };
}

/**
 * The join tokens of a trust domain: 256 random bits each, of which only the SHA-256 is kept, in a file of its own. A token is used up by
 * removing its file, so of two that come with it at once exactly one gets in.
 */
export class JoinTokens {
  readonly #directory: string | null;
  readonly #now: () => number;
  readonly #roots: () => readonly Uint8Array[];
  readonly #onRedeem: (grant: TokenGrant) => void;
  readonly #onRedeemed: (grant: TokenGrant) => void;
  /** Without a directory. */
  readonly #memory = new Map<string, string>();

  constructor(options: JoinTokensOptions) {
    this.#directory = options.directory;
    this.#now = options.now;
    this.#roots = options.roots;
    this.#onRedeem = options.onRedeem;
    this.#onRedeemed = options.onRedeemed;
  }

  /**
   * Makes a token. It is in nobody's hands but the caller's: it cannot be shown again.
   * @throws CertsError WEFT_CERTS_TOKEN, WEFT_CERTS_NODE_NAME, WEFT_CERTS_TOO_MANY
   */
  async create(request: TokenRequest): Promise<string> {
    const { node, ttlSeconds, namespaces = [], reusable = false } = request;
    checkNodeName(node);
    if (!Number.isFinite(ttlSeconds) || ttlSeconds < 1 || ttlSeconds > MAX_TTL_SECONDS) {
      throw tokenError(`it cannot live for ${ttlSeconds} s`, `ask for 1 to ${MAX_TTL_SECONDS} seconds`);
    }
    if (namespaces.length > MAX_NAMESPACES || !namespaces.every((namespace) => NAMESPACE.test(namespace))) {
      throw tokenError('its namespaces are no names, or too many', `give at most ${MAX_NAMESPACES} names of namespaces`);
    }
    await this.#makeRoom();
    const secret = randomBytes(32);
    const expiresAt = Math.floor(this.#now() + ttlSeconds * 1000);
    await this.#write(fileName(secret), JSON.stringify({ node, namespaces, reusable, expiresAt }));
    return `${PREFIX}${secret.toString('base64url')}.${Buffer.from(rootsPin(this.#roots())).toString('base64url')}`;
  }

  /**
   * What a token grants, which stays as it is. Whoever gets the grant has shown the secret.
   * @throws CertsError WEFT_CERTS_TOKEN: malformed, unknown, used, or expired
   */
  async find(text: string): Promise<TokenGrant> {
    return (await this.#find(text)).grant;
  }

  /**
   * Uses a token up, unless it is reusable.
   * @throws CertsError WEFT_CERTS_TOKEN: malformed, unknown, used, or expired; what `onRedeem` throws
   */
  async redeem(text: string): Promise<TokenGrant> {
    const { name, grant } = await this.#find(text);
    this.#onRedeem(grant);
    if (!grant.reusable && !(await this.#remove(name))) throw unknownToken();
    this.#onRedeemed(grant);
    return grant;
  }

  /** Those that can still be used. */
  async list(): Promise<TokenGrant[]> {
    const grants: TokenGrant[] = [];
    for (const name of await this.#names()) {
      const grant = await this.#read(name);
      if (grant !== null && this.#now() < grant.expiresAt) grants.push(grant);
    }
    return grants;
  }

  /** Makes a token useless. @returns false when there is none of that id */
  async revoke(id: string): Promise<boolean> {
    for (const name of await this.#names()) if (name.slice(0, ID_LENGTH) === id) return this.#remove(name);
    return false;
  }

  /** Makes every token of a node useless. */
  async revokeOf(node: string): Promise<void> {
    for (const name of await this.#names()) if ((await this.#read(name))?.node === node) await this.#remove(name);
  }

  async #find(text: string): Promise<{ readonly name: string; readonly grant: TokenGrant }> {
    // The file is found by the hash of the secret: how long that takes says nothing about secrets that exist.
    const name = fileName(parseJoinToken(text).secret);
    const grant = await this.#read(name);
    if (grant === null) throw unknownToken();
    if (this.#now() < grant.expiresAt) return { name, grant };
    await this.#remove(name);
    throw tokenError('it has expired', MAKE_ONE);
  }

  /** Expired tokens go. */
  async #makeRoom(): Promise<void> {
    const names = await this.#names();
    if (names.length < MAX_TOKENS) return;
    let left = names.length;
    for (const name of names) {
      const grant = await this.#read(name);
      if ((grant === null || this.#now() >= grant.expiresAt) && (await this.#remove(name))) left--;
    }
    if (left >= MAX_TOKENS) throw new CertsError('WEFT_CERTS_TOO_MANY', `there are ${MAX_TOKENS} join tokens`, { nextStep: 'revoke some' });
  }

  async #names(): Promise<string[]> {
    if (this.#directory === null) return [...this.#memory.keys()];
    const files = await readdir(this.#directory).catch(() => [] as string[]);
    return files.filter((name) => /^[0-9a-f]{64}\.json$/.test(name)).map((name) => name.slice(0, 64));
  }

  async #read(name: string): Promise<TokenGrant | null> {
    const text = this.#directory === null ? (this.#memory.get(name) ?? null) : await readPrivateFile(join(this.#directory, `${name}.json`));
    if (text === null) return null;
    try {
      const { node, namespaces, reusable, expiresAt } = JSON.parse(text) as Omit<TokenGrant, 'id'>;
      if (typeof expiresAt !== 'number' || typeof reusable !== 'boolean' || !Array.isArray(namespaces)) return null;
      return { id: name.slice(0, ID_LENGTH), node: checkNodeName(node), namespaces, reusable, expiresAt };
    } catch {
      return null;
    }
  }

  async #write(name: string, content: string): Promise<void> {
    if (this.#directory === null) this.#memory.set(name, content);
    else await createPrivateFile(join(this.#directory, `${name}.json`), content);
  }

  /** True for the one that removed it. */
  async #remove(name: string): Promise<boolean> {
    if (this.#directory === null) return this.#memory.delete(name);
    return unlink(join(this.#directory, `${name}.json`)).then(
      () => true,
      () => false,
    );
  }
}

function fileName(secret: Uint8Array): string {
  return createHash('sha256').update(secret).digest('hex');
}

function unknownToken(): CertsError {
  return tokenError('it is unknown, or was used before', MAKE_ONE);
}

function tokenError(why: string, nextStep = 'copy the whole token that `weft ca token` printed'): CertsError {
  return new CertsError('WEFT_CERTS_TOKEN', `the join token cannot be used: ${why}`, { nextStep });
}
