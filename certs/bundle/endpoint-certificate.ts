import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { errorText } from '../../src/model/errors.ts';
import type { IdentitySource } from '../../src/model/data-plane.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { type Clock, systemClock } from '../clock.ts';
import { CertsError } from '../errors.ts';
import { withPemKey } from '../svid/private-key.ts';
import type { EndpointCertificate } from './bundle-endpoint.ts';

/** https_spiffe: the SVID of an identity that the source keeps fresh. */
export function svidCertificate(source: Pick<IdentitySource, 'current' | 'onChange'>, identity: string): EndpointCertificate {
  return {
    lend(use) {
      const svid = source.current(identity);
      if (svid === null) return false;
      withPemKey(svid.privateKey, (key) => use({ cert: svid.certificateChain, key }));
      return true;
    },
    onChange: (listener) => source.onChange(listener),
  };
}

/** How often the files are looked at. */
const LOOK_MS = 10_000;

interface Pair {
  readonly cert: string;
  readonly key: string;
}

export interface CertificateFilesOptions {
  /** PEM chain, leaf first. */
  readonly certificateFile: string;
  /** PEM key. */
  readonly keyFile: string;
  /** Told once of each problem with changed files; the pair before stays in use. */
  readonly onError: (error: CertsError) => void;
  readonly clock?: Clock;
}

/** https_web: the operator's own certificate and key, read again when the files change. */
export class CertificateFiles implements EndpointCertificate, Disposable {
  readonly #options: CertificateFilesOptions;
  readonly #clock: Clock;
  readonly #notifier = new ChangeNotifier();
  #pair: Pair;
  #problem: string | null = null;
  #cancelTimer: (() => void) | null = null;
  #disposed = false;

  private constructor(options: CertificateFilesOptions, pair: Pair) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#pair = pair;
    this.#lookLater();
  }

  /** @throws CertsError WEFT_CERTS_BUNDLE_CERTIFICATE when there is no pair that can be used */
  static async open(options: CertificateFilesOptions): Promise<CertificateFiles> {
    return new CertificateFiles(options, await readPair(options));
  }

  lend(use: (pair: Pair) => void): boolean {
    use(this.#pair);
    return true;
  }

  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#cancelTimer?.();
    this.#notifier[Symbol.dispose]();
  }

  #lookLater(): void {
    this.#cancelTimer = this.#clock.after(LOOK_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    try {
      const pair = await readPair(this.#options);
      this.#problem = null;
      if (pair.cert !== this.#pair.cert || pair.key !== this.#pair.key) {
        this.#pair = pair;
        this.#notifier.changed();
      }
    } catch (error) {
      // Also the moment in which one of two files is new, and the other not yet.
      if (errorText(error) !== this.#problem) this.#options.onError(error as CertsError);
      this.#problem = errorText(error);
    }
    if (!this.#disposed) this.#lookLater();
  }
}

async function readPair({ certificateFile, keyFile }: CertificateFilesOptions): Promise<Pair> {
  try {
    const [cert, key] = await Promise.all([readFile(certificateFile, 'utf8'), readFile(keyFile, 'utf8')]);
    if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) throw new Error('the key is not that of the certificate');
    return { cert, key };
  } catch (error) {
    throw new CertsError('WEFT_CERTS_BUNDLE_CERTIFICATE', `cannot use ${certificateFile} with ${keyFile}: ${errorText(error)}`, {
      nextStep: 'give a PEM chain, leaf first, and its unencrypted PEM key',
      cause: error,
    });
  }
}
