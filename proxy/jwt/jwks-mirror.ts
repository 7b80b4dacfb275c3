import type { JwtRule } from '../../src/model/resources.ts';
import type { JwksDocument, JwksUpdate } from '../../src/model/worker-messages.ts';
import { KeySet } from '../../src/jose/key-set.ts';
import type { KeySource } from './key-source.ts';

/** How long requests wait for keys that were asked for. */
const WAIT_MS = 6_000;
/** Not sooner is the main thread asked again about one URI: unknown key ids are a client's to invent. */
const ASK_AGAIN_MS = 30_000;
/** Requests that wait for one URI; more are refused at once. */
const MAX_WAITING = 1_000;

interface Mirrored {
  readonly document: JwksDocument;
  /** null when the text is no JWK Set. */
  readonly keys: KeySet | null;
}

interface Waiting {
  readonly promise: Promise<void>;
  readonly settle: () => void;
  count: number;
}

export interface JwksMirrorOptions {
  /** Asks the main thread for newer keys of a URI; the answer comes by `apply`. */
  readonly request: (uri: string) => void;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly waitMs?: number;
}

/** A worker thread's copy of what the main thread's JwksStore fetched, and the sets that rules bring with them. */
export class JwksMirror implements KeySource {
  readonly #request: (uri: string) => void;
  readonly #now: () => number;
  readonly #waitMs: number;
  readonly #inline = new WeakMap<JwtRule, KeySet | null>();
  #documents: ReadonlyMap<string, Mirrored> = new Map();
  readonly #waiting = new Map<string, Waiting>();
  readonly #askedAt = new Map<string, number>();

  constructor({ request, now = Date.now, waitMs = WAIT_MS }: JwksMirrorOptions) {
    this.#request = request;
    this.#now = now;
    this.#waitMs = waitMs;
  }

  keys(rule: JwtRule): KeySet | null {
    if (rule.jwks !== null) {
      let keys = this.#inline.get(rule);
      if (keys === undefined) {
        keys = parseOrNull(rule.jwks);
        this.#inline.set(rule, keys);
      }
      return keys;
    }
    const mirrored = rule.jwksUri === null ? undefined : this.#documents.get(rule.jwksUri);
    return mirrored === undefined || this.#now() >= mirrored.document.validUntil ? null : mirrored.keys;
  }

  refresh(rule: JwtRule): Promise<void> | null {
    const uri = rule.jwks === null ? rule.jwksUri : null;
    if (uri === null) return null;
    let waiting = this.#waiting.get(uri);
    if (waiting === undefined) {
      if (this.#now() < (this.#askedAt.get(uri) ?? Number.NEGATIVE_INFINITY) + ASK_AGAIN_MS) return null;
      this.#askedAt.set(uri, this.#now());
      waiting = this.#wait(uri);
      this.#request(uri);
    }
    if (waiting.count >= MAX_WAITING) return null;
    waiting.count++;
    return waiting.promise;
  }

  #wait(uri: string): Waiting {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => this.#settle(uri), this.#waitMs);
    const settle = (): void => {
      clearTimeout(timer);
      resolve();
    };
    const waiting: Waiting = { promise, settle, count: 0 };
    this.#waiting.set(uri, waiting);
    return waiting;
  }

  #settle(uri: string): void {
    const waiting = this.#waiting.get(uri);
    this.#waiting.delete(uri);
    waiting?.settle();
  }

  /** Takes the main thread's state. A set whose text did not change stays the same object, so that tokens verified by it stay verified. */
  apply({ documents, settled }: JwksUpdate): void {
    const before = this.#documents;
    const after = new Map<string, Mirrored>();
    const changed: string[] = [];
    for (const document of documents) {
      const old = before.get(document.uri);
      const same = old?.document.text === document.text;
      after.set(document.uri, { document, keys: same ? old.keys : parseOrNull(document.text) });
      if (!same) changed.push(document.uri);
    }
    this.#documents = after;
    for (const uri of [...settled, ...changed]) this.#settle(uri);
    for (const [uri, askedAt] of this.#askedAt) if (this.#now() >= askedAt + ASK_AGAIN_MS) this.#askedAt.delete(uri);
  }
}

function parseOrNull(text: string): KeySet | null {
  try {
    return KeySet.parse(text);
  } catch {
    // No keys: tokens of this issuer are refused. Who fetched or validated it has said why.
    return null;
  }
}
