import type { BundleEndpointSettings } from '../../src/model/bundle-endpoint.ts';
import type { CertsError } from '../errors.ts';
import type { SvidManager } from '../svid/svid-manager.ts';
import { BundleEndpoint, type PublishedBundle } from './bundle-endpoint.ts';
import { CertificateFiles, svidCertificate } from './endpoint-certificate.ts';

export interface OpenBundleEndpointOptions {
  readonly settings: BundleEndpointSettings;
  readonly source: PublishedBundle;
  /** Keeps the endpoint's SVID fresh, where it has one. */
  readonly svids: Pick<SvidManager, 'ensure' | 'forget' | 'current' | 'onChange'>;
  readonly onError: (error: CertsError) => void;
}

/**
 * Opens the bundle endpoint as an operator has configured it.
 * @returns what closes it, with all that it needed
 * @throws CertsError WEFT_CERTS_BUNDLE_LISTEN or WEFT_CERTS_BUNDLE_CERTIFICATE
 */
export async function openBundleEndpoint({ settings, source, svids, onError }: OpenBundleEndpointOptions): Promise<AsyncDisposable> {
  await using opened = new AsyncDisposableStack();
  const { host, port, path, refreshHintSeconds, certificate: from } = settings;
  if (from.kind === 'svid') {
    svids.ensure(from.identity);
    opened.defer(() => svids.forget(from.identity));
  }
  const certificate =
    from.kind === 'svid'
      ? svidCertificate(svids, from.identity)
      : opened.use(await CertificateFiles.open({ certificateFile: from.certificateFile, keyFile: from.keyFile, onError }));
  opened.use(await BundleEndpoint.listen({ host, port, path, source, certificate, refreshHintSeconds, onError }));
  return opened.move();
}
