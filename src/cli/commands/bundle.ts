import { X509Certificate } from 'node:crypto';
import { type Command, Option } from 'commander';
import { type BundleInfo, type BundlesAnswer, DEFAULT_RUN_DIRECTORY } from '../../model/admin-api.ts';
import { AdminClient } from '../admin-client.ts';
import { CliError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import { jsonText } from '../json-text.ts';
import type { CommandContext } from '../command-context.ts';
import { table } from '../table.ts';

/** The commands of `weft bundle`. */
export const BUNDLE_COMMANDS = ['list', 'show'] as const;

const FORMATS = ['text', 'spiffe', 'pem'] as const;

interface ShowFlags {
  readonly trustDomain?: string;
  readonly format: (typeof FORMATS)[number];
  readonly json?: boolean;
  readonly runDir: string;
}

/** Adds `weft bundle`. */
export function addBundleCommand(program: Command, context: CommandContext): void {
  const bundle = program
    .command('bundle')
    .summary('show what trust domains are verified with')
    .description('Shows the trust bundles of this host: of its own trust domain, and of those that it federates with.');
  bundle
    .command('list')
    .summary('one line for each trust domain')
    .description('Lists the trust domains that this host verifies, and how fresh their bundles are.')
    .option('--json', 'what the agent says, as JSON')
    .option('--run-dir <dir>', 'where the agent keeps its admin socket', DEFAULT_RUN_DIRECTORY)
    .action(async ({ json, runDir }: { readonly json?: boolean; readonly runDir: string }) => {
      const answer = await bundlesOf(runDir);
      context.terminal.out(json === true ? jsonText(answer) : bundleListText(answer));
    });
  bundle
    .command('show')
    .summary('the bundle of one trust domain')
    .description('Shows one bundle: for people, in the SPIFFE bundle format (what others federate with), or its roots as PEM.')
    .option('--trust-domain <name>', "whose bundle (default: this host's own)")
    .addOption(new Option('--format <format>', 'how').choices(FORMATS).default('text'))
    .option('--json', 'what the agent says of it, as JSON')
    .option('--run-dir <dir>', 'where the agent keeps its admin socket', DEFAULT_RUN_DIRECTORY)
    .addHelpText(
      'after',
      `
Examples:
  weft bundle show                                         roots and keys of the own trust domain
  weft bundle show --format spiffe > bundle.json           for the other side's trustDomainBundle
  weft bundle show --trust-domain partner.example --format pem`,
    )
    .action(async ({ trustDomain, format, json, runDir }: ShowFlags) => {
      const info = find(await bundlesOf(runDir), trustDomain);
      context.terminal.out(json === true ? jsonText(info) : bundleText(info, format));
    });
}

function bundlesOf(runDirectory: string): Promise<BundlesAnswer> {
  return new AdminClient(absolutePath('--run-dir', runDirectory)).get<BundlesAnswer>('/v1/bundles');
}

function find({ bundles }: BundlesAnswer, trustDomain: string | undefined): BundleInfo {
  const found = bundles.find((info) => (trustDomain === undefined ? info.own : info.trustDomain === trustDomain));
  if (found !== undefined) return found;
  throw new CliError('WEFT_CLI_NO_BUNDLE', `this host does not verify ${trustDomain ?? 'a trust domain of its own'}`, {
    nextStep: 'see `weft bundle list`; a FederatedTrustDomain adds one',
  });
}

/** `weft bundle list`. */
export function bundleListText({ bundles }: BundlesAnswer): string {
  const rows = bundles.map(({ trustDomain, own, document, sequence, x509Authorities, jwtAuthorities, federation }) => [
    own ? `${trustDomain} (own)` : trustDomain,
    document === null ? 'none' : `${x509Authorities} X.509, ${jwtAuthorities} JWT`,
    sequence ?? '-',
    federation?.profile ?? '-',
    federation?.refreshedAt ?? '-',
    federation?.error ?? '-',
  ]);
  return table([['TRUST DOMAIN', 'AUTHORITIES', 'SEQUENCE', 'PROFILE', 'REFRESHED', 'LAST FAILURE'], ...rows]);
}

interface BundleDocument {
  readonly keys: readonly { readonly use: string; readonly kid?: string; readonly kty: string; readonly x5c?: readonly string[] }[];
  readonly spiffe_refresh_hint?: number;
}

/**
 * `weft bundle show`.
 * @throws CliError WEFT_CLI_NO_BUNDLE when there is none yet
 */
export function bundleText(info: BundleInfo, format: (typeof FORMATS)[number]): string {
  const { trustDomain, document, sequence, federation } = info;
  if (document === null) {
    const why = federation === null || federation.error === null ? '' : `: ${federation.error}`;
    throw new CliError('WEFT_CLI_NO_BUNDLE', `there is no bundle of ${trustDomain} yet${why}`, {
      nextStep: 'until there is one, nobody of that trust domain is believed; see `weft bundle list`',
    });
  }
  if (format === 'spiffe') return `${document}\n`;
  const { keys, spiffe_refresh_hint: refreshHint } = JSON.parse(document) as BundleDocument;
  const roots = keys.flatMap(({ x5c = [] }) => x5c.slice(0, 1)).map((encoded) => new X509Certificate(Buffer.from(encoded, 'base64')));
  if (format === 'pem') return roots.map((root) => root.toString()).join('');
  const facts = [
    ['trust domain', trustDomain],
    ['sequence', sequence ?? 'none'],
    ['refresh hint', refreshHint === undefined ? 'none' : `${refreshHint} s`],
    ...(federation === null
      ? []
      : [
          ['endpoint', `${federation.url} (${federation.profile})`],
          ['comes from', federation.source ?? 'nowhere'],
          ['refreshed', federation.refreshedAt ?? 'never'],
          ['next fetch', federation.nextFetch ?? 'now'],
          ['last failure', federation.error ?? 'none'],
        ]),
  ];
  const rows = [
    ...roots.map((root) => ['X.509', root.subject.replaceAll('\n', ', '), `until ${root.validToDate.toISOString()}`, root.fingerprint256]),
    ...keys.filter(({ use }) => use === 'jwt-svid').map(({ kid = '', kty }) => ['JWT', `key ${kid}`, kty, '']),
  ];
  const list =
    rows.length === 0
      ? 'No authority: every identity of the trust domain is revoked.\n'
      : table([['KIND', 'AUTHORITY', '', 'SHA-256'], ...rows]);
  return `${table(facts)}\n${list}`;
}
