import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Authority } from '../../certs/authority/authority.ts';
import { publication } from '../../certs/bundle/publication.ts';
import type { IdentityProvider } from '../../certs/identity-provider.ts';
import { AuthorityProvider } from '../../certs/issuance/authority-provider.ts';
import { authoritySource } from '../../certs/issuance/authority-source.ts';
import { IssuanceCounts } from '../../certs/issuance/issuance-counts.ts';
import { IssuanceServer } from '../../certs/issuance/issuance-server.ts';
import { NodeRegister } from '../../certs/issuance/node-register.ts';
import { RemoteProvider } from '../../certs/issuance/remote-provider.ts';
import { readPrivateFile } from '../../certs/private-file.ts';
import { SpireProvider } from '../../certs/spire/spire-provider.ts';
import type { WorkloadProcesses } from '../../certs/spire/workload-processes.ts';
import { serveAuthoritySocket } from '../admin/authority-routes.ts';
import type { Logger } from '../log/log.ts';
import { authorityMetrics } from '../metrics/authority-metrics.ts';
import type { AuthoritySource } from '../model/authority-api.ts';
import type { MetricFamily } from '../model/metrics.ts';
import type { Placements } from '../model/placements.ts';
import { AgentError } from './agent-error.ts';
import type { AgentOptions } from './agent-options.ts';

export interface IdentityProviderParts {
  /** Which identities other nodes may have, when this agent issues for them. */
  readonly placements: Placements;
  /** The processes of the local workloads: SPIRE's Broker API wants to know. */
  readonly processes: WorkloadProcesses;
  readonly log: Logger;
  /** Owns what is opened. */
  readonly owner: AsyncDisposableStack;
}

/** What this node gets its identities from. */
export interface OpenedIdentityProvider {
  readonly provider: IdentityProvider;
  /** Of the authority that this process holds; none when another has it. */
  readonly metrics: () => Promise<readonly MetricFamily[]>;
}

/**
 * Opens what this node gets its identities from. When that is an authority of its own, also the authority's socket, and the issuance service
 * for other nodes if asked for.
 * @throws WeftError why there is none, with the next step
 */
export async function openIdentityProvider(options: AgentOptions, parts: IdentityProviderParts): Promise<OpenedIdentityProvider> {
  const { certificateAuthority: chosen, nodeName, trustDomain, stateDirectory } = options;
  const { owner, log, processes } = parts;
  if (chosen.kind === 'spire') {
    const { socketPath, broker } = chosen;
    return {
      provider: owner.use(new SpireProvider({ trustDomain, socketPath, broker: broker === null ? null : { ...broker, processes } })),
      metrics: async () => [],
    };
  }
  if (chosen.kind === 'remote') {
    const { server, tokenFile } = chosen;
    const directory = join(stateDirectory, 'node');
    return {
      provider: owner.use(await RemoteProvider.open({ server, trustDomain, nodeName, stateDirectory: directory, tokenFile, log })),
      metrics: async () => [],
    };
  }
  const authority = owner.use(await openAuthority(options, chosen));
  const source = await serveAuthority(authority, options, chosen, parts);
  const from = chosen.kind === 'directory' ? chosen.directory : chosen.certificateFile;
  return {
    provider: owner.use(new AuthorityProvider({ authority, nodeName, from })),
    metrics: async () => authorityMetrics(await source.status(), Date.now()),
  };
}

type OwnAuthority = Extract<AgentOptions['certificateAuthority'], { readonly kind: 'directory' | 'given' }>;

async function openAuthority({ trustDomain, nodeName, bundleEndpoint }: AgentOptions, chosen: OwnAuthority): Promise<Authority> {
  const { passphraseFile } = chosen;
  if (chosen.kind === 'directory') {
    const passphrase = passphraseFile === null ? null : () => readPassphrase(passphraseFile);
    return Authority.open({ directory: chosen.directory, trustDomain, nodeName, passphrase, ...publication(bundleEndpoint) });
  }
  const key = await readPrivateFile(chosen.keyFile);
  if (key === null) {
    throw new AgentError('WEFT_AGENT_AUTHORITY', `there is no key file ${chosen.keyFile}`, { nextStep: 'correct --ca-key' });
  }
  const passphrase = passphraseFile === null ? {} : { passphrase: await readPassphrase(passphraseFile) };
  return Authority.given({ certificate: readFileSync(chosen.certificateFile, 'utf8'), key, ...passphrase, trustDomain, nodeName });
}

/** The first line. */
async function readPassphrase(path: string): Promise<string> {
  const text = await readPrivateFile(path);
  if (text !== null) return text.split(/\r?\n/, 1)[0] as string;
  throw new AgentError('WEFT_AGENT_AUTHORITY', `there is no file ${path}`, { nextStep: 'correct --ca-passphrase-file' });
}

async function serveAuthority(
  authority: Authority,
  { issuance, runDirectory, stateDirectory }: AgentOptions,
  chosen: OwnAuthority,
  { placements, log, owner }: IdentityProviderParts,
): Promise<AuthoritySource> {
  // An authority that was given has no directory: where the agent would keep one, evictions outlast the process.
  const directory = chosen.kind === 'directory' ? chosen.directory : join(stateDirectory, 'ca');
  const nodes = new NodeRegister(join(directory, 'joined'));
  const counts = new IssuanceCounts();
  const source = authoritySource(authority, nodes, counts);
  owner.use(await serveAuthoritySocket(source, runDirectory, log));
  if (issuance === null) return source;
  const { listen, names: dns } = issuance;
  const server = owner.use(await IssuanceServer.start({ authority, nodes, counts, placements, listen, dns, log }));
  log.info({ port: server.port }, 'other nodes get their identities here');
  return source;
}
