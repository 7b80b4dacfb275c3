import { lstatSync } from 'node:fs';
import type { Command } from 'commander';
import type { TokenAnswer, TokenRequest, TokensAnswer } from '../../model/authority-api.ts';
import { CliError, usageError } from '../cli-error.ts';
import { absolutePath, namespaceName, resourceName, wholeNumber } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { table } from '../table.ts';
import { writeWholeFile } from '../whole-file.ts';
import { authorityClient, type SocketFlags, withSocketFlags } from './ca-flags.ts';

interface TokenFlags extends SocketFlags {
  readonly node?: string;
  readonly ttl: string;
  readonly reusable?: true;
  readonly allowNamespace: readonly string[];
  readonly out?: string;
  readonly force?: true;
  readonly list?: true;
  readonly revoke?: string;
}

const LONGEST_TTL_SECONDS = 30 * 24 * 3600;

/** Adds `weft ca token`. */
export function addCaTokenCommand(ca: Command, { terminal }: CommandContext): void {
  withSocketFlags(ca.command('token'))
    .summary('make a token with which a node joins')
    .description(
      'Makes a token with which the agent of another host joins the trust domain, and prints it alone on standard output, or writes it to a file that only this user can read.',
    )
    .option('--node <name>', 'the node that may join with it, as `spec.node` of its workloads has it')
    .option('--ttl <seconds>', 'how long it may be used', '3600')
    .option('--reusable', 'not only once: for a ztunnel, which shows it with every request')
    .option('--allow-namespace <name>', '`weft run` on that node may start workloads of this namespace (repeat it)', collect, [])
    .option('--out <file>', 'write the token there, mode 0600, instead of printing it')
    .option('--force', 'replace that file if it exists')
    .option('--list', 'show the tokens that have not been used instead')
    .option('--revoke <id>', 'make a token useless instead')
    .addHelpText(
      'after',
      `
Examples:
  weft ca token --node node-b --out node-b.token      then, on node-b: weft agent --ca-server HOST:15012 --ca-token-file node-b.token …
  weft ca token --node node-b --ttl 600 --allow-namespace batch
  weft ca token --list

The token is a secret until it has been used. It also names the root of the trust domain, so that the node knows the authority by it.`,
    )
    .action(async (flags: TokenFlags) => {
      const authority = authorityClient(flags);
      if (flags.list === true) {
        const { tokens } = await authority.get<TokensAnswer>('/v1/authority/tokens');
        const rows = tokens.map(({ id, node, reusable, expiresAt }) => [id, node, reusable ? 'reusable' : 'once', expiresAt]);
        terminal.out(table([['TOKEN', 'NODE', 'USE', 'EXPIRES'], ...rows]));
        return;
      }
      if (flags.revoke !== undefined) {
        await authority.delete(`/v1/authority/tokens/${encodeURIComponent(flags.revoke)}`);
        return;
      }
      if (flags.node === undefined) throw usageError('--node is missing', 'name the node that may join: --node NAME');
      const request: TokenRequest = {
        node: resourceName('--node', flags.node),
        ttlSeconds: wholeNumber('--ttl', flags.ttl, 1, LONGEST_TTL_SECONDS),
        reusable: flags.reusable === true,
        allowedNamespaces: flags.allowNamespace.map((name) => namespaceName('--allow-namespace', name)),
      };
      const replace = flags.force === true;
      if (replace && flags.out === undefined) throw usageError('--force is for --out', 'name the file: --out FILE');
      const file = flags.out === undefined ? null : absolutePath('--out', flags.out);
      // Before there is a token that nobody has.
      if (file !== null) refuseTaken(file, replace);
      const { token, expiresAt } = await authority.post<TokenAnswer>('/v1/authority/tokens', request);
      if (file === null) terminal.out(`${token}\n`);
      else writeToken(file, token, replace);
      const use = request.reusable ? 'until' : 'once, until';
      terminal.err(
        `works ${use} ${expiresAt}; on ${request.node}: weft agent --ca-server HOST:PORT --ca-token-file ${flags.out ?? 'FILE'}\n`,
      );
    });
}

/** @throws CliError WEFT_CLI_FILE_EXISTS when something is there; with `replace`, when that is no plain file: a device, a directory, a link */
function refuseTaken(path: string, replace: boolean): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found !== undefined && !(replace && found.isFile())) throw taken(path);
}

/** @throws CliError WEFT_CLI_FILE_EXISTS, WEFT_CLI_FILE */
function writeToken(path: string, token: string, replace: boolean): void {
  try {
    writeWholeFile(path, `${token}\n`, { secret: true, replace });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') throw taken(path);
    throw new CliError('WEFT_CLI_FILE', `cannot write ${path}: ${(cause as Error).message}`, {
      cause,
      nextStep: 'name a file that this user may write; the token that was made is lost, and expires by itself',
    });
  }
}

function taken(path: string): CliError {
  return new CliError('WEFT_CLI_FILE_EXISTS', `${path} exists`, { nextStep: 'name another file, or replace a plain file with --force' });
}

function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}
