import { hostname } from 'node:os';
import type { Command } from 'commander';
import { DEFAULT_RUN_DIRECTORY, DEFAULT_STATE_DIRECTORY } from '../../model/admin-api.ts';
import { addBundleEndpointOptions, bundleEndpointSettings, type BundleEndpointFlags } from '../bundle-endpoint-flags.ts';
import { absolutePath, hostAndPort, resourceName, secondsAsMs, wholeNumber } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { logLevel, LONGEST_SVID_TTL_SECONDS, nodeName, runAgent, trustDomain } from './agent.ts';
import { loadControl } from './ca-control.ts';
import { readSecret } from './ca-flags.ts';

interface ServeFlags extends BundleEndpointFlags {
  readonly config: string;
  readonly caDir: string;
  readonly caPassphraseFile?: string;
  readonly listen: string;
  readonly caName?: readonly string[];
  readonly runDir: string;
  readonly trustDomain: string;
  readonly nodeName?: string;
  readonly maxTtl: string;
  readonly metrics?: string;
  readonly logLevel: string;
  readonly drainTimeout: string;
}

const LONGEST_DRAIN_SECONDS = 3600;

/** Adds `weft ca serve`. */
export function addCaServeCommand(ca: Command, context: CommandContext): void {
  const serve = ca
    .command('serve')
    .summary('run the certificate authority for the nodes of a trust domain')
    .description(
      'Runs the certificate authority in the foreground, without a data plane: nodes join it with tokens and get their identities from it.',
    )
    .requiredOption('--config <dir>', 'directory of YAML files: which workload runs on which node; it is watched')
    .option('--ca-dir <dir>', 'directory of the authority, made at the first start', `${DEFAULT_STATE_DIRECTORY}/ca`)
    .option('--ca-passphrase-file <file>', 'keep its keys encrypted with the first line of this file')
    .option('--listen <host:port>', 'where nodes reach it', '[::]:15012')
    .option('--ca-name <name...>', 'DNS names of the server, for clients that check them (ztunnel)')
    .option('--run-dir <dir>', 'holds the socket of `weft ca`', DEFAULT_RUN_DIRECTORY)
    .option('--trust-domain <name>', 'the trust domain of all identities', 'cluster.local')
    .option('--node-name <name>', 'the name of this host (default: the host name)')
    .option('--max-ttl <seconds>', 'longest life of the certificates it issues', '86400')
    .option('--metrics <host:port>', 'Prometheus metrics over TCP, open to who can reach it (default: on the socket alone)')
    .option('--log-level <level>', 'its log, on standard error', 'info')
    .option('--drain-timeout <seconds>', 'how long calls may finish after SIGTERM', '5');
  addBundleEndpointOptions(serve)
    .addHelpText(
      'after',
      `
Examples:
  weft ca serve --config /etc/weft
  weft ca serve --config ./mesh --listen 10.0.0.1:15012 --ca-name ca.example --trust-domain prod.example.com

Signals: SIGTERM or SIGINT ends it with exit code 0; nodes go on with what they have. See docs/authority.md.`,
    )
    .action(async (flags: ServeFlags) => {
      const { caPassphraseFile } = flags;
      const options = {
        configDirectory: absolutePath('--config', flags.config),
        authorityDirectory: absolutePath('--ca-dir', flags.caDir),
        trustDomain: trustDomain(flags.trustDomain),
        nodeName: nodeName(flags.nodeName, hostname()),
        listen: hostAndPort('--listen', flags.listen),
        dns: (flags.caName ?? []).map((name) => resourceName('--ca-name', name)),
        maxTtlSeconds: wholeNumber('--max-ttl', flags.maxTtl, 1, LONGEST_SVID_TTL_SECONDS),
        passphrase: caPassphraseFile === undefined ? null : async () => readSecret(caPassphraseFile),
        runDirectory: absolutePath('--run-dir', flags.runDir),
        metrics: flags.metrics === undefined ? null : hostAndPort('--metrics', flags.metrics),
        bundleEndpoint: bundleEndpointSettings(flags, flags.trustDomain, absolutePath),
        logLevel: logLevel(flags.logLevel),
        drainTimeoutMs: secondsAsMs('--drain-timeout', flags.drainTimeout, LONGEST_DRAIN_SECONDS),
      };
      const { serveAuthority } = await loadControl();
      context.exit(await runAgent(() => serveAuthority(options), context.terminal));
    });
}
