import type { Command } from 'commander';
import type { BundleEndpointSettings } from '../model/bundle-endpoint.ts';
import { errorText } from '../model/errors.ts';
import { parseSpiffeId } from '../model/identity.ts';
import { usageError } from './cli-error.ts';
import { hostAndPort, wholeNumber } from './flag-values.ts';

/** The flags of the bundle endpoint as they were typed. */
export interface BundleEndpointFlags {
  readonly bundleEndpoint?: string;
  readonly bundleEndpointPath?: string;
  readonly bundleEndpointIdentity?: string;
  readonly bundleEndpointCert?: string;
  readonly bundleEndpointKey?: string;
  readonly bundleRefreshHint?: string;
}

const LONGEST_REFRESH_HINT_SECONDS = 30 * 24 * 3600;
const PATH = /^\/[!-"$->@-~]*$/;

/** Adds the flags by which a command publishes the bundle. */
export function addBundleEndpointOptions(command: Command): Command {
  return command
    .option('--bundle-endpoint <host:port>', "publish the trust domain's bundle here for others to federate with, by https")
    .option('--bundle-endpoint-path <path>', 'the path of its URL (default: /)')
    .option('--bundle-endpoint-identity <id>', 'profile https_spiffe: its SPIFFE ID (default: spiffe://TRUST-DOMAIN/bundle-endpoint)')
    .option(
      '--bundle-endpoint-cert <file>',
      'profile https_web: PEM certificate for the name in the URL, with its chain; read again when it changes',
    )
    .option('--bundle-endpoint-key <file>', 'PEM key of that certificate')
    .option('--bundle-refresh-hint <seconds>', 'how often others should fetch the bundle');
}

/**
 * Checks the flags; null when the bundle is not published.
 * @param path makes a path absolute
 * @throws CliError WEFT_CLI_USAGE
 */
export function bundleEndpointSettings(
  flags: BundleEndpointFlags,
  trustDomain: string,
  path: (flag: string, text: string) => string,
): BundleEndpointSettings | null {
  const { bundleEndpoint, bundleEndpointPath = '/', bundleRefreshHint } = flags;
  if (bundleEndpoint === undefined) {
    const [name] = Object.entries(flags).find(([flag, value]) => flag.startsWith('bundle') && value !== undefined) ?? [];
    if (name === undefined) return null;
    throw usageError(`${flagOf(name)} says how a bundle is published that is not`, 'give --bundle-endpoint HOST:PORT too');
  }
  if (!PATH.test(bundleEndpointPath)) {
    throw usageError(
      `--bundle-endpoint-path cannot be ${JSON.stringify(bundleEndpointPath)}`,
      'write a path such as /bundle.json, without ? and #',
    );
  }
  return {
    ...hostAndPort('--bundle-endpoint', bundleEndpoint),
    path: bundleEndpointPath,
    certificate: certificateOf(flags, trustDomain, path),
    refreshHintSeconds:
      bundleRefreshHint === undefined ? null : wholeNumber('--bundle-refresh-hint', bundleRefreshHint, 1, LONGEST_REFRESH_HINT_SECONDS),
  };
}

function certificateOf(
  { bundleEndpointIdentity: identity, bundleEndpointCert: certificate, bundleEndpointKey: key }: BundleEndpointFlags,
  trustDomain: string,
  path: (flag: string, text: string) => string,
): BundleEndpointSettings['certificate'] {
  if (certificate === undefined && key === undefined) {
    return {
      kind: 'svid',
      identity: identity === undefined ? `spiffe://${trustDomain}/bundle-endpoint` : endpointIdentity(identity, trustDomain),
    };
  }
  if (identity !== undefined) {
    throw usageError('--bundle-endpoint-identity and --bundle-endpoint-cert are of two profiles', 'give one of them');
  }
  if (certificate === undefined || key === undefined) {
    const given = certificate === undefined ? '--bundle-endpoint-key' : '--bundle-endpoint-cert';
    throw usageError(`${given} is one half of a pair`, 'give --bundle-endpoint-cert and --bundle-endpoint-key together, or neither');
  }
  return { kind: 'files', certificateFile: path('--bundle-endpoint-cert', certificate), keyFile: path('--bundle-endpoint-key', key) };
}

/** The authority signs for its own trust domain alone. */
function endpointIdentity(text: string, trustDomain: string): string {
  const nextStep = `use a SPIFFE ID of this trust domain, such as spiffe://${trustDomain}/bundle-endpoint`;
  try {
    const id = parseSpiffeId(text);
    if (id.trustDomain === trustDomain && id.path !== '') return id.text;
  } catch (error) {
    throw usageError(`--bundle-endpoint-identity cannot be ${JSON.stringify(text.slice(0, 120))}: ${errorText(error)}`, nextStep);
  }
  throw usageError(`--bundle-endpoint-identity cannot be ${JSON.stringify(text.slice(0, 120))}`, nextStep);
}

function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
