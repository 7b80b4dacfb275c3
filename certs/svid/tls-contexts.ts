import { createHash, hkdfSync } from 'node:crypto';
import { createSecureContext, type SecureContext } from 'node:tls';
import type { SvidMaterial, TlsContexts } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import { IdentityError } from '../../src/model/identity.ts';
import type { VersionedIdentitySource } from './identity-source.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import { withPemKey } from './private-key.ts';

/** The suites that ztunnel offers, in its order. */
export const TLS_SUITES = 'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256';

/** How long after its full handshake a session may be resumed. OpenSSL's 300 are over when an idle tunnel is given up. */
const SESSION_LIFE_SECONDS = 3600;
/** A name, a key for AES and one for HMAC, as node:tls wants them. */
const TICKET_KEYS_BYTES = 48;

interface CachedContext {
  readonly svid: SvidMaterial;
  readonly bundleVersion: number;
  readonly context: SecureContext;
}

export interface SvidTlsContextsOptions {
  /**
   * What the keys for session tickets are derived from: with the same secret, contexts of different threads take each other's tickets.
   * Default: keys of its own for each context.
   */
  readonly ticketSecret?: Uint8Array;
}

/**
 * One SecureContext per identity, made when first asked for (0.4 ms) and made anew when its SVID or a bundle changed. Session tickets are
 * sealed with a key of the SVID and the bundles, so none outlives those under which it was given.
 */
export class SvidTlsContexts implements TlsContexts, Disposable {
  readonly #source: VersionedIdentitySource;
  readonly #ticketSecret: Uint8Array | null;
  readonly #contexts = new Map<string, CachedContext>();
  /** Kept as long as a connection has the context. */
  readonly #chains = new WeakMap<SecureContext, readonly Uint8Array[]>();
  readonly #unsubscribe: () => void;

  constructor(source: VersionedIdentitySource, options: SvidTlsContextsOptions = {}) {
    this.#source = source;
    this.#ticketSecret = options.ticketSecret ?? null;
    this.#unsubscribe = source.onChange(() => this.#prune());
  }

  get generation(): number {
    return this.#source.version;
  }

  context(identity: string): SecureContext | null {
    const svid = this.#source.current(identity);
    if (svid === null) {
      this.#contexts.delete(identity);
      return null;
    }
    const { bundleVersion } = this.#source;
    const cached = this.#contexts.get(identity);
    if (cached !== undefined && cached.svid === svid && cached.bundleVersion === bundleVersion) return cached.context;
    const context = this.#create(svid);
    this.#chains.set(context, certificatesFromPem(svid.certificateChain));
    this.#contexts.set(identity, { svid, bundleVersion, context });
    return context;
  }

  chainOf(context: SecureContext): readonly Uint8Array[] {
    return this.#chains.get(context) ?? [];
  }

  async wait(identity: string, timeoutMs: number): Promise<SecureContext> {
    const now = this.context(identity);
    if (now !== null) return now;
    await this.#source.wait(identity, timeoutMs);
    const context = this.context(identity);
    if (context === null) {
      // It was forgotten between the answer and this turn.
      throw new IdentityError('WEFT_IDENTITY_UNAVAILABLE', `no SVID for ${identity}: it was dropped`, {
        nextStep: 'check that a workload with this identity runs here',
      });
    }
    return context;
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
    this.#contexts.clear();
  }

  #create(svid: SvidMaterial): SecureContext {
    try {
      return withPemKey(svid.privateKey, (key) =>
        createSecureContext({
          key,
          cert: svid.certificateChain,
          // None: OpenSSL knows no trust domains, so that its opinion of a chain decides nothing and only costs time (a quarter to
          // a third of a full handshake's CPU, both ends). The PeerVerifier decides. Never left out, because then Node would put the web's authorities there.
          ca: [],
          minVersion: 'TLSv1.3',
          maxVersion: 'TLSv1.3',
          ciphers: TLS_SUITES,
          sessionTimeout: SESSION_LIFE_SECONDS,
          ...(this.#ticketSecret === null ? {} : { ticketKeys: this.#ticketKeys(this.#ticketSecret, svid) }),
          // OpenSSL refuses to resume a session with a client certificate without this name, and under another one.
          sessionIdContext: createHash('sha256').update(svid.identity).digest('hex').slice(0, 32),
        }),
      );
    } catch (error) {
      throw new IdentityError('WEFT_IDENTITY_TLS_CONTEXT', `cannot use the SVID of ${svid.identity} for TLS: ${errorText(error)}`, {
        nextStep: 'look at what the certificate authority issued',
        cause: error,
      });
    }
  }

  /**
   * Not from the SVID's key: a workload may have that from the Workload API, and with these keys it could make tickets in anybody's name.
   */
  #ticketKeys(secret: Uint8Array, svid: SvidMaterial): Buffer {
    const generation = createHash('sha256').update(svid.certificateChain);
    const bundles = this.#source.bundles().toSorted((a, b) => (a.trustDomain < b.trustDomain ? -1 : 1));
    for (const { trustDomain, sequence, roots, revokedKeys } of bundles) {
      generation.update(JSON.stringify([trustDomain, sequence, revokedKeys]));
      for (const root of roots) generation.update(root);
    }
    return Buffer.from(hkdfSync('sha256', secret, generation.digest(), `weft session tickets of ${svid.identity}`, TICKET_KEYS_BYTES));
  }

  #prune(): void {
    for (const identity of this.#contexts.keys()) if (this.#source.current(identity) === null) this.#contexts.delete(identity);
  }
}
