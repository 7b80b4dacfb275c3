import { join } from 'node:path';
import { Authority } from '../../certs/authority/authority.ts';
import { openBundleEndpoint } from '../../certs/bundle/open-bundle-endpoint.ts';
import { publication } from '../../certs/bundle/publication.ts';
import { authoritySource } from '../../certs/issuance/authority-source.ts';
import { IssuanceCounts } from '../../certs/issuance/issuance-counts.ts';
import { NodeRegister } from '../../certs/issuance/node-register.ts';
import { AuthorityProvider } from '../../certs/issuance/authority-provider.ts';
import { IssuanceServer } from '../../certs/issuance/issuance-server.ts';
import { SvidManager } from '../../certs/svid/svid-manager.ts';
import { serveAuthorityMetrics, serveAuthoritySocket } from '../admin/authority-routes.ts';
import { ConfigDirectory } from '../config/config-directory.ts';
import { formatProblem } from '../config/format-problem.ts';
import { ConfiguredPlacements } from '../config/placements.ts';
import { createLog, type Logger } from '../log/log.ts';
import type { BundleEndpointSettings } from '../model/bundle-endpoint.ts';

/** What `weft ca serve` is started with. Paths are absolute. */
export interface AuthorityProcessOptions {
  /** The watched directory of YAML: it says which workload runs on which node. */
  readonly configDirectory: string;
  readonly authorityDirectory: string;
  readonly trustDomain: string;
  readonly nodeName: string;
  readonly listen: { readonly host: string; readonly port: number };
  /** DNS names of the server's certificate. */
  readonly dns: readonly string[];
  /** Longest life of an SVID that it issues. */
  readonly maxTtlSeconds: number;
  /** Asked for once, when the keys are encrypted or are to be; null: they are not. */
  readonly passphrase: (() => Promise<string>) | null;
  /** Holds the authority's socket. */
  readonly runDirectory: string;
  /** Where metrics are served over TCP; null: nowhere but on the authority's socket. */
  readonly metrics: { readonly host: string; readonly port: number } | null;
  /** Where the bundle is published for others to federate with; null: nowhere. */
  readonly bundleEndpoint: BundleEndpointSettings | null;
  readonly logLevel: string;
  readonly drainTimeoutMs: number;
}

/** An authority that runs. */
export interface AuthorityProcess extends AsyncDisposable {
  /** Lets calls under way end (bounded), then stops. */
  drain(): Promise<void>;
}

/**
 * Runs the certificate authority for the nodes of a trust domain, without a data plane.
 * @throws WeftError what keeps it from starting, with the next step
 */
export async function serveAuthority(options: AuthorityProcessOptions): Promise<AuthorityProcess> {
  const { trustDomain, runDirectory } = options;
  await using started = new AsyncDisposableStack();
  const log = createLog(options.logLevel);

  const authority = started.use(
    await Authority.open({
      directory: options.authorityDirectory,
      trustDomain,
      nodeName: options.nodeName,
      passphrase: options.passphrase,
      ...publication(options.bundleEndpoint),
    }),
  );
  const nodes = new NodeRegister(join(options.authorityDirectory, 'joined'));
  const counts = new IssuanceCounts();
  const source = authoritySource(authority, nodes, counts);
  started.use(await serveAuthoritySocket(source, runDirectory, log));
  if (options.metrics !== null) started.use(await serveAuthorityMetrics(source, options.metrics, log));

  const placements = new ConfiguredPlacements(trustDomain);
  started.use(
    await ConfigDirectory.open(options.configDirectory, {
      lastGoodDirectory: join(options.authorityDirectory, 'last-good'),
      onKeepError: (error) => log.warn({ err: error }, 'the last good configuration is not kept for the next start'),
      onChange: (resources, problems) => {
        placements.update(resources);
        for (const problem of problems) log.warn({ problem: formatProblem(problem) }, 'the configuration has a problem');
      },
    }),
  );

  const server = started.use(
    await IssuanceServer.start({
      authority,
      nodes,
      counts,
      placements,
      listen: options.listen,
      dns: options.dns,
      log,
      service: { maxTtlSeconds: options.maxTtlSeconds },
    }),
  );
  if (options.bundleEndpoint !== null) started.use(await publish(authority, options.bundleEndpoint, options.nodeName, log));
  log.info({ trustDomain, port: server.port }, 'the authority runs');

  const owned = started.move();
  return {
    async drain() {
      log.info({ deadlineMs: options.drainTimeoutMs }, 'draining');
      await server.drain(options.drainTimeoutMs);
      await owned.disposeAsync();
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The bundle endpoint, with an SVID of its own kept fresh. */
async function publish(authority: Authority, settings: BundleEndpointSettings, nodeName: string, log: Logger): Promise<AsyncDisposable> {
  await using opened = new AsyncDisposableStack();
  const provider = opened.use(new AuthorityProvider({ authority, nodeName, from: 'this process' }));
  const svids = opened.use(new SvidManager({ obtain: (identity, ttlSeconds) => provider.x509Svid(identity, ttlSeconds) }));
  const follow = (): void => void svids.setBundles(authority.trust(), []);
  opened.defer(authority.onChange(follow));
  follow();
  opened.use(
    await openBundleEndpoint({
      settings,
      source: { bundle: () => authority.trust().bundle },
      svids,
      onError: (error) => log.warn({ err: error }, 'the bundle endpoint has a problem'),
    }),
  );
  return opened.move();
}
