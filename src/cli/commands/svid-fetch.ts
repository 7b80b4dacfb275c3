import type { Command } from 'commander';
import { defaultSvid, type ReceivedSvid } from '../../../certs/workload-api/received-svid.ts';
import type { WorkloadApiClient } from '../../../certs/workload-api/workload-api-client.ts';
import { workloadApiFailure } from '../../../certs/workload-api/workload-api-failure.ts';
import { certificatesToPem, toPem } from '../../../certs/x509/pem.ts';
import { usageError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import { jsonText } from '../json-text.ts';
import type { CommandContext } from '../command-context.ts';
import { SVID_FILE, type SvidFile, writeSvidFiles } from '../svid-directory.ts';
import { table } from '../table.ts';
import type { Terminal } from '../terminal.ts';
import { endpointAddress, withWorkloadApi } from '../workload-api.ts';

interface FetchFlags {
  readonly socket?: string;
  readonly write?: string;
  readonly force?: true;
  readonly jwt?: true;
  readonly audience?: readonly string[];
  readonly watch?: true;
  readonly json?: true;
}

/** Adds `weft svid fetch`. */
export function addSvidFetchCommand(svid: Command, context: CommandContext): void {
  svid
    .command('fetch')
    .summary('the SVID of the calling process')
    .description('Fetches the SVID of the workload that this process is part of from the SPIFFE Workload API, and shows or writes it.')
    .option('--socket <address>', 'unix:///path or tcp://IP:port (default: SPIFFE_ENDPOINT_SOCKET, else that of the agent)')
    .option('--write <dir>', 'write svid.pem, svid.key (mode 0600) and bundle.pem there')
    .option('--force', 'overwrite files that are of somebody else')
    .option('--watch', 'go on: show or write each renewal, until SIGINT or SIGTERM')
    .option('--jwt', 'print a JWT-SVID instead, a bearer token')
    .option('--audience <name...>', 'who the token is for')
    .option('--json', 'as JSON; without keys')
    .addHelpText(
      'after',
      `
Examples:
  weft svid fetch
  weft run -n shop -s cart -- weft svid fetch --write /run/cart --watch
  curl -H "Authorization: Bearer $(weft svid fetch --jwt --audience db)" http://db.shop/

Keys go to files only. Files are replaced each as a whole, svid.pem last; those of another identity only with --force.
Exit code: 1 when this process has no identity, or nobody serves the Workload API.`,
    )
    .action(async (flags: FetchFlags) => {
      checkFlags(flags);
      const address = endpointAddress(flags.socket, process.env);
      await withWorkloadApi(address, (client) =>
        flags.jwt === true ? fetchJwt(client, flags, context.terminal) : fetchX509(client, flags, context.terminal),
      );
    });
}

function checkFlags({ jwt, audience, write, watch }: FetchFlags): void {
  if (jwt === true && audience === undefined) throw usageError('--jwt needs an audience', 'say who the token is for with --audience');
  if (jwt !== true && audience !== undefined) throw usageError('--audience is of tokens', 'add --jwt');
  if (jwt === true && (write !== undefined || watch === true))
    throw usageError('--jwt goes to standard output, once', 'leave out --write and --watch');
}

async function fetchJwt(client: WorkloadApiClient, { audience = [], json }: FetchFlags, terminal: Terminal): Promise<void> {
  const { svids } = await client.jwtSvids({ audience, spiffeId: '' });
  if (json === true) terminal.out(jsonText({ svids: svids.map(({ spiffeId, svid }) => ({ spiffeId, svid })) }));
  else terminal.out(`${svids[0]?.svid ?? ''}\n`);
}

async function fetchX509(client: WorkloadApiClient, flags: FetchFlags, terminal: Terminal): Promise<void> {
  const directory = flags.write === undefined ? null : absolutePath('--write', flags.write);
  const take = (svid: ReceivedSvid): void => {
    if (directory !== null) writeSvidFiles(directory, pemFiles(svid), svid.id, flags.force === true);
    terminal.out(flags.json === true ? jsonText(svidJson(svid)) : svidText(svid));
  };
  if (flags.watch !== true) return take(defaultSvid(await client.currentX509Svids()));
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal);
  try {
    const onRetry = (error: Error, afterMs: number): void =>
      terminal.err(`weft: ${workloadApiFailure(error)?.message ?? error.message}; trying again in ${Math.ceil(afterMs / 1000)} s\n`);
    for await (const response of client.watchX509Svids({ signal: stop.signal, onRetry })) take(defaultSvid(response));
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
}

/** svid.pem last: who watches it finds the others there. */
export function pemFiles(svid: ReceivedSvid): SvidFile[] {
  return [
    { name: 'bundle.pem', content: certificatesToPem(svid.bundle), secret: false },
    { name: 'svid.key', content: toPem('PRIVATE KEY', svid.privateKey), secret: true },
    { name: SVID_FILE, content: certificatesToPem(svid.chain), secret: false },
  ];
}

function svidText(svid: ReceivedSvid): string {
  return table([
    ['identity', svid.id],
    ['valid', `${new Date(svid.notBefore).toISOString()} to ${new Date(svid.notAfter).toISOString()}`],
    ['serial', svid.serial],
    ['roots', String(svid.bundle.length)],
    ...[...svid.federated].map(([trustDomain, roots]) => ['federated', `${trustDomain}, roots: ${roots.length}`]),
  ]);
}

function svidJson(svid: ReceivedSvid): object {
  return {
    spiffeId: svid.id,
    notBefore: new Date(svid.notBefore).toISOString(),
    notAfter: new Date(svid.notAfter).toISOString(),
    serial: svid.serial,
    certificates: certificatesToPem(svid.chain),
    bundle: certificatesToPem(svid.bundle),
    federatedBundles: Object.fromEntries([...svid.federated].map(([trustDomain, roots]) => [trustDomain, certificatesToPem(roots)])),
  };
}
