import { availableParallelism, constants, hostname } from 'node:os';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import type { startAgent } from '../../agent/main.ts';
import { DEFAULT_BPF_DIRECTORY, DEFAULT_RUN_DIRECTORY, DEFAULT_STATE_DIRECTORY, WORKLOAD_API_SOCKET_NAME } from '../../model/admin-api.ts';
import { errorText, WeftError } from '../../model/errors.ts';
import { checkTrustDomain } from '../../model/identity.ts';
import { findCgroupMount } from '../cgroup-mount.ts';
import { CliError, EXIT, usageError } from '../cli-error.ts';
import { addBundleEndpointOptions, bundleEndpointSettings, type BundleEndpointFlags } from '../bundle-endpoint-flags.ts';
import { absolutePath, hostAndPort, namespaceName, resourceName, secondsAsMs, wholeNumber } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { spireAgent, type SpireFlags } from '../spire-flags.ts';
import { showError, type Terminal } from '../terminal.ts';

type StartAgent = typeof startAgent;
type AgentOptions = Parameters<StartAgent>[0];
type Agent = Awaited<ReturnType<StartAgent>>;

/** The flags of `weft agent` as they were typed. */
export interface AgentFlags extends BundleEndpointFlags, SpireFlags {
  readonly config: string;
  readonly nodeName?: string;
  readonly trustDomain: string;
  readonly stateDir: string;
  readonly runDir: string;
  readonly workloadApi?: string;
  readonly bpfDir: string;
  readonly cgroupRoot?: string;
  readonly caDir?: string;
  readonly caCert?: string;
  readonly caKey?: string;
  readonly caPassphraseFile?: string;
  readonly caListen?: string;
  readonly caName?: readonly string[];
  readonly caServer?: string;
  readonly caTokenFile?: string;
  readonly svidTtl: string;
  readonly workers?: string;
  readonly metrics?: string;
  readonly accessLog: string;
  readonly logLevel: string;
  readonly drainTimeout: string;
  readonly deniedByHeader: boolean;
  readonly rootNamespace: string;
  readonly maxConnections?: string;
}

/** What defaults are made from. */
export interface Machine {
  readonly hostname: string;
  readonly cores: number;
  /** Where the cgroup v2 hierarchy is mounted; null when it is not. */
  readonly cgroupMount: string | null;
  readonly workingDirectory: string;
}

/** As in src/log/log.ts. */
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
/** As in certs/authority/certificate-authority.ts: no SVID lives longer. */
export const LONGEST_SVID_TTL_SECONDS: number = 90 * 24 * 3600;
const MOST_WORKERS = 64;
const DEFAULT_MOST_WORKERS = 4;
const LONGEST_DRAIN_SECONDS = 3600;
const LEAST_CONNECTIONS = 1024;
const MOST_CONNECTIONS = 16 * 1024 * 1024;

/**
 * Checks the flags of `weft agent` and fills in their defaults. Reads nothing but its arguments.
 * @throws CliError WEFT_CLI_USAGE with what to do, WEFT_CLI_NO_CGROUP when there is no cgroup v2 and no flag says where
 */
export function agentOptions(flags: AgentFlags, machine: Machine): AgentOptions {
  const path = (flag: string, text: string): string => absolutePath(flag, text, machine.workingDirectory);
  const stateDirectory = path('--state-dir', flags.stateDir);
  return {
    configDirectory: path('--config', flags.config),
    nodeName: nodeName(flags.nodeName, machine.hostname),
    trustDomain: trustDomain(flags.trustDomain),
    stateDirectory,
    runDirectory: path('--run-dir', flags.runDir),
    workloadApiSocket: workloadApiSocket(flags, path),
    bpfDirectory: path('--bpf-dir', flags.bpfDir),
    cgroupRoot: cgroupRoot(flags.cgroupRoot, machine),
    certificateAuthority: spireAgent(flags, path) ?? certificateAuthority(flags, stateDirectory, path),
    issuance: issuance(flags),
    bundleEndpoint: bundleEndpoint(flags, path),
    svidTtlSeconds: wholeNumber('--svid-ttl', flags.svidTtl, 1, LONGEST_SVID_TTL_SECONDS),
    workers:
      flags.workers === undefined
        ? Math.max(1, Math.min(machine.cores, DEFAULT_MOST_WORKERS))
        : wholeNumber('--workers', flags.workers, 1, MOST_WORKERS),
    metrics: flags.metrics === undefined ? null : hostAndPort('--metrics', flags.metrics),
    accessLog: accessLog(flags.accessLog, path),
    logLevel: logLevel(flags.logLevel),
    drainTimeoutMs: secondsAsMs('--drain-timeout', flags.drainTimeout, LONGEST_DRAIN_SECONDS),
    deniedByHeader: flags.deniedByHeader,
    rootNamespace: namespaceName('--root-namespace', flags.rootNamespace),
    maxConnections:
      flags.maxConnections === undefined
        ? null
        : wholeNumber('--max-connections', flags.maxConnections, LEAST_CONNECTIONS, MOST_CONNECTIONS),
  };
}

export function nodeName(flag: string | undefined, ownHostname: string): string {
  if (flag !== undefined) return resourceName('--node-name', flag);
  try {
    return resourceName('--node-name', ownHostname.toLowerCase());
  } catch (cause) {
    throw new CliError('WEFT_CLI_USAGE', `the host name ${JSON.stringify(ownHostname)} cannot be a node name`, {
      cause,
      exitCode: EXIT.USAGE,
      nextStep: 'name the node with --node-name, as `spec.node` of its workloads has it',
    });
  }
}

export function trustDomain(text: string): string {
  try {
    return checkTrustDomain(text);
  } catch (cause) {
    throw new CliError('WEFT_CLI_USAGE', `--trust-domain cannot be ${JSON.stringify(text.slice(0, 120))}`, {
      cause,
      exitCode: EXIT.USAGE,
      nextStep: 'use lower-case letters, digits, ".", "-" and "_", at most 255, such as prod.example.com',
    });
  }
}

function cgroupRoot(flag: string | undefined, machine: Machine): string {
  if (flag !== undefined) return absolutePath('--cgroup-root', flag, machine.workingDirectory);
  if (machine.cgroupMount !== null) return machine.cgroupMount;
  throw noCgroupMount();
}

/** There is no cgroup v2 mount to find. */
export function noCgroupMount(): CliError {
  return new CliError('WEFT_CLI_NO_CGROUP', 'no cgroup v2 hierarchy is mounted', {
    nextStep: 'mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified',
  });
}

function certificateAuthority(
  flags: AgentFlags,
  stateDirectory: string,
  path: (flag: string, text: string) => string,
): AgentOptions['certificateAuthority'] {
  const { caDir, caCert, caKey, caPassphraseFile, caServer, caTokenFile } = flags;
  if (caServer !== undefined) {
    const own = Object.entries({ '--ca-dir': caDir, '--ca-cert': caCert, '--ca-key': caKey, '--ca-passphrase-file': caPassphraseFile });
    const [both] = own.find(([, value]) => value !== undefined) ?? [];
    if (both !== undefined) throw usageError(`${both} and --ca-server name two authorities`, 'give one of the two');
    const tokenFile = caTokenFile === undefined ? null : path('--ca-token-file', caTokenFile);
    return { kind: 'remote', server: hostAndPort('--ca-server', caServer), tokenFile };
  }
  if (caTokenFile !== undefined) throw usageError('--ca-token-file is for an authority on another host', 'name that with --ca-server');
  const passphraseFile = caPassphraseFile === undefined ? null : path('--ca-passphrase-file', caPassphraseFile);
  if (caCert === undefined && caKey === undefined) {
    return { kind: 'directory', directory: caDir === undefined ? `${stateDirectory}/ca` : path('--ca-dir', caDir), passphraseFile };
  }
  if (caDir !== undefined) {
    throw usageError('--ca-dir and --ca-cert name two authorities', 'give --ca-dir, or --ca-cert with --ca-key');
  }
  if (caCert === undefined || caKey === undefined) {
    throw usageError(
      `${caCert === undefined ? '--ca-key' : '--ca-cert'} is one half of an authority`,
      `give --ca-cert and --ca-key together, or neither`,
    );
  }
  return { kind: 'given', certificateFile: path('--ca-cert', caCert), keyFile: path('--ca-key', caKey), passphraseFile };
}

function issuance({ caListen, caName = [], caServer }: AgentFlags): AgentOptions['issuance'] {
  if (caListen === undefined) {
    if (caName.length > 0) throw usageError('--ca-name is for an authority that serves other nodes', 'give --ca-listen too');
    return null;
  }
  if (caServer !== undefined) throw usageError('--ca-listen serves an authority of this host', 'leave --ca-server or --ca-listen out');
  return { listen: hostAndPort('--ca-listen', caListen), names: caName.map((name) => resourceName('--ca-name', name)) };
}

/** The authority signs the endpoint's SVID: where it is elsewhere, the bundle is published there, or with a certificate of the web. */
function bundleEndpoint(flags: AgentFlags, path: (flag: string, text: string) => string): AgentOptions['bundleEndpoint'] {
  const settings = bundleEndpointSettings(flags, flags.trustDomain, path);
  if (settings?.certificate.kind === 'svid' && (flags.caServer !== undefined || flags.spireSocket !== undefined)) {
    throw usageError(
      '--bundle-endpoint needs the authority in this agent',
      'publish the bundle where the authority is, or give --bundle-endpoint-cert',
    );
  }
  return settings;
}

function workloadApiSocket({ workloadApi, runDir }: AgentFlags, path: (flag: string, text: string) => string): string | null {
  if (workloadApi === 'off') return null;
  return workloadApi === undefined ? join(path('--run-dir', runDir), WORKLOAD_API_SOCKET_NAME) : path('--workload-api', workloadApi);
}

function accessLog(text: string, path: (flag: string, text: string) => string): AgentOptions['accessLog'] {
  if (text === '-') return { kind: 'stdout' };
  if (text === 'off') return { kind: 'off' };
  return { kind: 'file', path: path('--access-log', text) };
}

export function logLevel(text: string): string {
  if (!(LOG_LEVELS as readonly string[]).includes(text)) {
    throw usageError(`--log-level cannot be ${JSON.stringify(text)}`, `use one of ${LOG_LEVELS.join(', ')}`);
  }
  return text;
}

/** Adds `weft agent`. */
export function addAgentCommand(program: Command, context: CommandContext): void {
  const agent = program
    .command('agent')
    .summary('run the node agent of this host')
    .description('Runs the node agent of this host in the foreground: captures the connections of its workloads, and proxies them.')
    .requiredOption('--config <dir>', 'directory of YAML files; it is watched')
    .option('--node-name <name>', 'workloads whose spec.node says this are local (default: the host name)')
    .option('--trust-domain <name>', 'the trust domain of all identities', 'cluster.local')
    .option('--state-dir <dir>', 'what must outlive the agent', DEFAULT_STATE_DIRECTORY)
    .option('--run-dir <dir>', 'holds the admin socket', DEFAULT_RUN_DIRECTORY)
    .option('--workload-api <path>', `socket of the SPIFFE Workload API, or off (default: RUN-DIR/${WORKLOAD_API_SOCKET_NAME})`)
    .option('--bpf-dir <dir>', 'where kernel hooks and maps are pinned', DEFAULT_BPF_DIRECTORY)
    .option('--cgroup-root <dir>', 'processes below this cgroup are seen (default: where cgroup v2 is mounted)')
    .option('--ca-dir <dir>', 'directory of the certificate authority, made at the first start (default: STATE-DIR/ca)')
    .option('--ca-cert <file>', 'PEM certificate of an authority of your own, with the chain to its root')
    .option('--ca-key <file>', 'PEM key of that authority, readable by the agent alone')
    .option('--ca-passphrase-file <file>', 'the passphrase of the keys of --ca-dir or --ca-key, in its first line')
    .option('--ca-listen <host:port>', 'let other nodes get their identities from the authority here, such as [::]:15012')
    .option('--ca-name <name...>', 'DNS names of that server, for clients that check them (ztunnel)')
    .option('--ca-server <host:port>', 'get identities from an authority on another host, in place of an own one')
    .option('--ca-token-file <file>', 'a token of `weft ca token`, to join that authority with: once')
    .option('--spire-socket <file>', "Workload API of this host's SPIRE agent: identities come from there, instead of an authority")
    .option('--spire-broker-socket <file>', 'Broker API of that SPIRE agent, for the identities of workloads')
    .option('--spire-broker-id <id...>', 'SPIFFE IDs that may serve the Broker API (default: the agents of SPIRE)')
    .option('--svid-ttl <seconds>', 'life of the certificates of workloads; renewed at half of it', '86400')
    .option('--workers <n>', `proxy threads (default: one for each core, at most ${DEFAULT_MOST_WORKERS})`)
    .option('--metrics <host:port>', 'also serve Prometheus metrics here, unencrypted (default: admin socket only)')
    .option('--access-log <file>', 'a file, - for standard output, or off', '-')
    .addOption(new Option('--log-level <level>', `the agent's own log, on standard error: ${LOG_LEVELS.join(', ')}`).default('info'))
    .option('--drain-timeout <seconds>', 'how long connections may finish after SIGTERM', '10')
    .option('--no-denied-by-header', 'do not name the policy in the header x-weft-denied-by of refusals')
    .option('--root-namespace <name>', 'policies of this namespace hold for the whole mesh', 'istio-system')
    .option('--max-connections <n>', 'entries of the kernel maps of connections, when they are made (default: 262144)');
  addBundleEndpointOptions(agent)
    .addHelpText(
      'after',
      `
Examples:
  weft agent --config /etc/weft
  weft agent --config ./mesh --node-name node-a --trust-domain prod.example.com --access-log /var/log/weft/access.log
  weft agent --config /etc/weft --metrics '[::1]:9090' --ca-cert ca.pem --ca-key ca.key
  weft agent --config /etc/weft --ca-listen '[::]:15012'                       also the authority of other nodes
  weft agent --config /etc/weft --ca-server ca.example:15012 --ca-token-file node-b.token

Signals: SIGTERM or SIGINT drains and ends it with exit code 0; a second one ends it at once. Hooks stay in the kernel when it ends:
strict workloads are then refused, permissive ones pass. weft uninstall takes them out.`,
    )
    .action(async (flags: AgentFlags) => {
      const options = agentOptions(flags, {
        hostname: hostname(),
        cores: availableParallelism(),
        cgroupMount: findCgroupMount()?.path ?? null,
        workingDirectory: process.cwd(),
      });
      const { startAgent: start } = await import('../../agent/main.ts');
      context.exit(await runAgent(() => start(options), context.terminal));
    });
}

/** Where the signals come from, and how to end at once. */
export interface AgentProcess {
  on(signal: NodeJS.Signals, listener: (signal: NodeJS.Signals) => void): unknown;
  off(signal: NodeJS.Signals, listener: (signal: NodeJS.Signals) => void): unknown;
  exit(code: number): void;
}

const STOPPING = ['SIGTERM', 'SIGINT'] as const;
/** The configuration is watched, so there is nothing to reload; and a closed terminal is no reason to stop. */
const IGNORED = 'SIGHUP';

function ignore(): void {}

/**
 * Runs an agent until it is told to stop. States: starting, running, draining; a stop signal moves to draining as soon as the agent runs,
 * and another one ends the process at once.
 * @returns the exit code
 */
export async function runAgent(start: () => Promise<Agent>, terminal: Terminal, host: AgentProcess = process): Promise<number> {
  const stop = Promise.withResolvers<void>();
  let asked = false;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (asked) host.exit(128 + constants.signals[signal]);
    asked = true;
    stop.resolve();
  };
  for (const signal of STOPPING) host.on(signal, onSignal);
  host.on(IGNORED, ignore);
  try {
    await using agent = await start();
    await stop.promise;
    await agent.drain();
    return EXIT.OK;
  } catch (error) {
    return showError(
      terminal,
      error instanceof WeftError
        ? error
        : new CliError('WEFT_CLI_AGENT_FAILED', errorText(error), { cause: error, nextStep: 'see the log above, and run `weft doctor`' }),
    );
  } finally {
    for (const signal of STOPPING) host.off(signal, onSignal);
    host.off(IGNORED, ignore);
  }
}
