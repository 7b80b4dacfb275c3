import { createSecureContext, type SecureContext } from 'node:tls';
import { constants, randomBytes } from 'node:crypto';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import type { Log } from '../../src/model/log.ts';
import { callAt, type Clock } from '../clock.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { withPemKey } from '../svid/private-key.ts';
import { TLS_SUITES } from '../svid/tls-contexts.ts';
import { certificatesFromPem, toPem } from '../x509/pem.ts';
import { obtainSvid, rootOfChain } from './issued-chain.ts';
import type { IssuingAuthority } from './issuing-authority.ts';
import { issuanceIdentity } from './node-identity.ts';
import { OwnBundle } from './own-bundle.ts';

export interface ServerIdentityOptions {
  readonly authority: IssuingAuthority;
  /** Names that clients dial, for those that check names (ztunnel's CA_ADDRESS). */
  readonly dns: readonly string[];
  /** Life of each. An old root is kept for as long, so never longer than what others get. */
  readonly ttlSeconds: number;
  readonly log: Log;
  readonly clock: Clock;
}

const RETRY_MS = 5_000;

/**
 * The SVID that the issuance service shows, from its own authority: renewed at half of its life, and at once when the trust state changes,
 * because then another key may sign.
 */
export class ServerIdentity implements Disposable {
  readonly #options: ServerIdentityOptions;
  readonly #verifier: SvidVerifier;
  readonly #unsubscribe: () => void;
  #context: SecureContext | null = null;
  /** Of the trust state that the last one was asked for under, and who signed then. */
  #sequence: bigint | null = null;
  #signer: string | null = null;
  #cancelTimer: () => void = () => {};
  #disposed = false;

  private constructor(options: ServerIdentityOptions) {
    this.#options = options;
    const { authority, clock } = options;
    this.#verifier = new SvidVerifier(new OwnBundle(() => authority.trust()), { now: () => clock.now(), cacheSize: 0 });
    this.#unsubscribe = authority.onChange(() => {
      // It also tells of every node that it hears of.
      if (authority.sequence !== this.#sequence || authority.signer !== this.#signer) void this.#renewLater();
    });
  }

  /** @throws CertsError or IdentityError when the first one cannot be issued */
  static async create(options: ServerIdentityOptions): Promise<ServerIdentity> {
    const identity = new ServerIdentity(options);
    try {
      await identity.#renew();
    } catch (error) {
      identity[Symbol.dispose]();
      throw error;
    }
    return identity;
  }

  /** The TLS context now. */
  get context(): SecureContext {
    if (this.#context === null) throw new Error('there is no server certificate');
    return this.#context;
  }

  async #renew(): Promise<void> {
    const { authority, dns, ttlSeconds, clock } = this.#options;
    const identity = issuanceIdentity(authority.trustDomain).text;
    this.#sequence = authority.sequence;
    this.#signer = authority.signer;
    const svid = await obtainSvid(identity, this.#verifier, async (csr) => {
      return (await authority.issue(csr, { identity, ttlSeconds, dns })).certificateChain;
    });
    if (this.#disposed) return;
    this.#context = serverContext(svid, authority.trust().bundle.x509Authorities);
    const now = clock.now();
    this.#sleepUntil(now + (svid.notAfter - now) / 2);
  }

  /** The old one serves until there is a new one. */
  async #renewLater(): Promise<void> {
    this.#cancelTimer();
    if (this.#disposed) return;
    const { clock, log } = this.#options;
    try {
      await this.#renew();
    } catch (error) {
      log.error({ reason: errorText(error) }, 'the certificate of the issuance service could not be renewed; trying again');
      if (!this.#disposed) this.#sleepUntil(clock.now() + RETRY_MS);
    }
  }

  #sleepUntil(due: number): void {
    this.#cancelTimer();
    this.#cancelTimer = callAt(this.#options.clock, due, () => void this.#renewLater());
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#unsubscribe();
    this.#cancelTimer();
  }
}

function serverContext(svid: SvidMaterial, roots: readonly Uint8Array[]): SecureContext {
  // A node that joins knows the root by its hash alone, so it must see it here.
  const root = rootOfChain(certificatesFromPem(svid.certificateChain), roots);
  return withPemKey(svid.privateKey, (key) =>
    createSecureContext({
      key,
      cert: svid.certificateChain + (root === null ? '' : toPem('CERTIFICATE', root)),
      // Never left out, because then Node would put the web's authorities there.
      ca: roots.map((der) => toPem('CERTIFICATE', der)),
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: TLS_SUITES,
      // No session is kept, so none is resumed: every connection shows its certificates.
      secureOptions: constants.SSL_OP_NO_TICKET,
      // OpenSSL ends the connection of a client that tries to resume where this is missing.
      sessionIdContext: randomBytes(16).toString('hex'),
    }),
  );
}
