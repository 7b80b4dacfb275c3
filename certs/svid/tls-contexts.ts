import { createHash } from 'node:crypto';
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

interface CachedContext {
  readonly svid: SvidMaterial;
  readonly bundleVersion: number;
  readonly context: SecureContext;
}

/**
 * One SecureContext per identity, made when first asked for (0.4 ms) and made anew when its SVID or a bundle changed. Session tickets are
 * sealed with a key inside the context, so none outlives the SVID and the bundles under which it was given.
 */
export class SvidTlsContexts implements TlsContexts, Disposable {
  readonly #source: VersionedIdentitySource;
  readonly #contexts = new Map<string, CachedContext>();
  /** Kept as long as a connection has the context. */
  readonly #chains = new WeakMap<SecureContext, readonly Uint8Array[]>();
  readonly #unsubscribe: () => void;

  constructor(source: VersionedIdentitySource) {
    this.#source = source;
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
          // None: OpenSSL knows no trust domains, so that its opinion of a chain decides nothing and only costs time (about a fifth of a
          // handshake). The PeerVerifier decides. Never left out, because then Node would put the web's authorities there.
          ca: [],
          minVersion: 'TLSv1.3',
          maxVersion: 'TLSv1.3',
          ciphers: TLS_SUITES,
          sessionTimeout: SESSION_LIFE_SECONDS,
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

  #prune(): void {
    for (const identity of this.#contexts.keys()) if (this.#source.current(identity) === null) this.#contexts.delete(identity);
  }
}
