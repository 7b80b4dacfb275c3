import type { Socket } from 'node:net';
import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { HeaderChange, RequestHead } from '../../src/model/request-gate.ts';
import type { ExtensionProvider } from '../../src/model/resources.ts';
import { HeaderDraft } from '../gate/header-draft.ts';
import { isChangeable } from '../gate/header-fields.ts';
import type { CheckAnswer } from './check-messages.ts';
import type { Authorisation, ExternalAuthorisers } from './external-authorisers.ts';
import { GrpcAuthoriser } from './grpc-authoriser.ts';
import { HttpAuthoriser } from './http-authoriser.ts';

/** Checks that may be under way with one provider; more requests are decided as if it had failed. */
const MAX_IN_FLIGHT = 1_000;
const MAX_TIMEOUT_MS = 60_000;

/** Headers that a client sends for itself although an authoriser may write them: they stay when it does not. */
const CLIENTS_OWN: ReadonlySet<string> = new Set(['authorization', 'cookie']);

export interface MeshAuthorisersOptions {
  /**
   * A connecting socket to a provider. In this release it goes out from the agent's own network namespace, not the workload's: a provider must
   * be reachable from the node, and sees the node's address.
   */
  readonly dial: (service: string, port: number) => Socket;
  /** Told once for each check: for counters. */
  readonly count?: (provider: string, event: 'allowed' | 'denied' | 'failed' | 'overload') => void;
  readonly maxInFlight?: number;
}

interface Asked {
  /** As the latest snapshot has it. */
  provider: ExtensionProvider;
  readonly authoriser: HttpAuthoriser | GrpcAuthoriser;
  inFlight: number;
}

/** The external authorisers of the mesh, one set of connections for each provider in a thread. */
export class MeshAuthorisers implements ExternalAuthorisers, Disposable {
  readonly #options: MeshAuthorisersOptions;
  readonly #byName = new Map<string, Asked>();

  constructor(options: MeshAuthorisersOptions) {
    this.#options = options;
  }

  async check(provider: ExtensionProvider, head: RequestHead, connection: ConnectionAttributes): Promise<Authorisation> {
    const { maxInFlight = MAX_IN_FLIGHT, count } = this.#options;
    const asked = this.#asked(provider);
    if (asked.inFlight >= maxInFlight) {
      count?.(provider.name, 'overload');
      return failed(provider, 'too many requests wait for the external authoriser');
    }
    asked.inFlight++;
    try {
      const timeoutMs = Math.min(provider.timeoutMs, MAX_TIMEOUT_MS);
      const { authoriser } = asked;
      const answer = await (authoriser instanceof GrpcAuthoriser
        ? authoriser.check(head, connection, timeoutMs)
        : within(timeoutMs, (signal) => authoriser.check(head, signal)));
      count?.(provider.name, answer.allow ? 'allowed' : 'denied');
      return authorisationOf(provider, answer);
    } catch {
      count?.(provider.name, 'failed');
      return failed(provider, 'the external authoriser could not be asked');
    } finally {
      asked.inFlight--;
    }
  }

  #asked(provider: ExtensionProvider): Asked {
    const known = this.#byName.get(provider.name);
    if (known !== undefined) {
      if (known.provider === provider) return known;
      if (JSON.stringify(known.provider) === JSON.stringify(provider)) {
        known.provider = provider;
        return known;
      }
      // Checks under way end by their own timeout at the latest.
      known.authoriser[Symbol.dispose]();
    }
    const dial = (): Socket => this.#options.dial(provider.service, provider.port);
    const authoriser = provider.protocol === 'grpc' ? new GrpcAuthoriser(provider, dial) : new HttpAuthoriser(provider, dial);
    const asked: Asked = { provider, authoriser, inFlight: 0 };
    this.#byName.set(provider.name, asked);
    return asked;
  }

  /** Forgets providers that are not among these any more, with their connections. */
  retain(providers: readonly ExtensionProvider[]): void {
    const names = new Set(providers.map(({ name }) => name));
    for (const [name, { authoriser }] of this.#byName) {
      if (names.has(name)) continue;
      authoriser[Symbol.dispose]();
      this.#byName.delete(name);
    }
  }

  [Symbol.dispose](): void {
    this.retain([]);
  }
}

/** Runs with a deadline that its signal tells of; the timer is gone afterwards. */
async function within<Value>(millis: number, run: (signal: AbortSignal) => Promise<Value>): Promise<Value> {
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(), millis);
  try {
    return await run(deadline.signal);
  } finally {
    clearTimeout(timer);
  }
}

function authorisationOf(provider: ExtensionProvider, answer: CheckAnswer): Authorisation {
  if (!answer.allow) {
    return { allow: false, failed: false, reason: 'the external authoriser denied it', change: null, refusal: answer.refusal };
  }
  return {
    allow: true,
    failed: false,
    reason: 'the external authoriser allowed it',
    change: withoutClaims(provider, answer.change),
    refusal: null,
  };
}

function failed(provider: ExtensionProvider, reason: string): Authorisation {
  const { failOpen } = provider;
  return { allow: failOpen, failed: true, reason, change: failOpen ? withoutClaims(provider, null) : null, refusal: null };
}

/**
 * A header that only the provider may write, and that it was not even shown, was never checked by anybody: the client's own is removed, or it
 * could say of itself what the provider should.
 */
function withoutClaims(provider: ExtensionProvider, change: HeaderChange | null): HeaderChange | null {
  if (provider.protocol === 'grpc' || provider.headersToUpstream.length === 0) return change;
  const shown = new Set(provider.includeRequestHeaders.map((name) => name.toLowerCase()));
  const draft = new HeaderDraft();
  for (const name of provider.headersToUpstream) {
    const lower = name.toLowerCase();
    if (isChangeable(lower) && !shown.has(lower) && !CLIENTS_OWN.has(lower)) draft.drop(lower);
  }
  if (change !== null) draft.merge(change);
  return draft.remove.length + draft.set.length === 0 ? null : draft;
}
