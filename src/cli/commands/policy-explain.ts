import { type Command, Option } from 'commander';
import { DEFAULT_RUN_DIRECTORY } from '../../model/admin-api.ts';
import { checkTrustDomain } from '../../model/identity.ts';
import type { MeshSnapshot } from '../../model/snapshot.ts';
import { AdminClient } from '../admin-client.ts';
import { usageError } from '../cli-error.ts';
import { absolutePath, namespaceName } from '../flag-values.ts';
import type { MeshNames } from '../policy/mesh-of-files.ts';
import type { Naming, Question, WrittenQuestion } from '../policy/question.ts';
import type { CommandContext } from '../command-context.ts';
import { oneLine, type Terminal } from '../terminal.ts';

interface ExplainFlags {
  readonly file?: readonly string[];
  readonly from: string;
  readonly to: string;
  readonly labels?: string;
  readonly port: string;
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly header?: readonly string[];
  readonly sourceIp?: string;
  readonly sni?: string;
  readonly claim?: readonly string[];
  readonly jwtClaims?: string;
  readonly trustDomain?: string;
  readonly rootNamespace?: string;
  readonly runDir: string;
  readonly output: 'text' | 'json';
}

const FLAGS: Readonly<Record<keyof WrittenQuestion, string>> = {
  from: '--from',
  to: '--to',
  labels: '--labels',
  port: '--port',
  method: '--method',
  path: '--path',
  host: '--host',
  headers: '--header',
  claims: '--claim',
  sourceIp: '--source-ip',
  serverName: '--sni',
};
const naming: Naming = (part) => FLAGS[part];

/** Adds `weft policy explain`. */
export function addPolicyExplainCommand(policy: Command, context: CommandContext): void {
  policy
    .command('explain')
    .summary('what would be decided, and what makes it so')
    .description('Decides one request or connection as the proxy in front of the workload would, and says which mode, policy and rule did.')
    .option('-f, --file <path...>', 'files or directories of YAML; without it the agent of this host is asked for its policies')
    .requiredOption('--from <identity>', "the peer's SPIFFE ID, or none for a plaintext peer")
    .requiredOption('--to <namespace/name>', 'the workload; one that the files do not have is made up')
    .option('--labels <labels>', 'its labels, such as app=web,version=v2; replace those in the files')
    .requiredOption('--port <number>', "the workload's own port")
    .option('--method <method>', 'the HTTP method; without it this is a connection that is not HTTP')
    .option('--path <path>', 'the path as sent, with its query (default: /)')
    .option('--host <host>', 'the Host, with its port if it has one (default: NAME.NAMESPACE)')
    .option('--header <name=value>', 'a header; may be given several times', collect)
    .option('--source-ip <address>', "the peer's address (default: that of the one workload with its identity)")
    .option('--sni <name>', 'the server name of TLS that is passed through')
    .option(
      '--claim <name=value>',
      'a claim of a valid token, as text; iss and sub make its principal; may be given several times',
      collect,
    )
    .option('--jwt-claims <file>', "the claims of a valid token: a JSON file, such as a token's payload")
    .option('--trust-domain <name>', 'the trust domain of the mesh, with -f (default: cluster.local)')
    .option('--root-namespace <name>', 'policies of this namespace hold for the whole mesh, with -f (default: istio-system)')
    .option('--run-dir <dir>', 'where the agent keeps its admin socket, without -f', DEFAULT_RUN_DIRECTORY)
    .addOption(new Option('--output <format>', 'text, or json for scripts').choices(['text', 'json']).default('text'))
    .addHelpText(
      'after',
      `
Examples:
  weft policy explain -f policies/ --from spiffe://cluster.local/ns/shop/sa/web --to shop/catalog \\
      --labels app=catalog --port 8080 --method GET --path /products/7
  weft policy explain -f policies/ --from none --to shop/catalog --port 5432      a plaintext connection, not HTTP
  weft policy explain --from spiffe://cluster.local/ns/shop/sa/web --to shop/catalog --port 8080 --method GET
                                                                                  with the policies of this node
JSON: {"decision":"allow|deny","policy":…,"rule":…,"reason":…,"dryRun":[…]}; notes are on standard error.

Exit code: 0 when a decision was made, whatever it is; 1 when none could be made; 2 wrong usage.`,
    )
    .action(async (flags: ExplainFlags) => {
      const { readQuestion } = await import('../policy/question.ts');
      const question = readQuestion(await writtenQuestion(flags), naming);
      const snapshot = await snapshotFor(flags, question, context.terminal);
      const { answerJson, Decider } = await import('../policy/decide.ts');
      const answer = new Decider(snapshot).decide(question);
      if (flags.output === 'json') {
        for (const note of answer.notes) context.terminal.err(`note: ${oneLine(note)}\n`);
        context.terminal.out(`${JSON.stringify(answerJson(answer))}\n`);
        return;
      }
      const { answerText } = await import('../policy/answer-text.ts');
      context.terminal.out(answerText(question, answer));
    });
}

function collect(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

async function writtenQuestion(flags: ExplainFlags): Promise<WrittenQuestion> {
  const claims = await claimsOf(flags);
  return {
    from: flags.from,
    to: flags.to,
    port: flags.port,
    headers: (flags.header ?? []).map((text) => pair('--header', text)),
    ...(flags.labels === undefined ? {} : { labels: flags.labels.split(',').map((text) => pair('--labels', text)) }),
    ...(flags.method === undefined ? {} : { method: flags.method }),
    ...(flags.path === undefined ? {} : { path: flags.path }),
    ...(flags.host === undefined ? {} : { host: flags.host }),
    ...(flags.sourceIp === undefined ? {} : { sourceIp: flags.sourceIp }),
    ...(flags.sni === undefined ? {} : { serverName: flags.sni }),
    ...(claims === null ? {} : { claims }),
  };
}

/** `name=value`; the value may hold more of them. @throws CliError WEFT_CLI_USAGE */
function pair(flag: string, text: string): [name: string, value: string] {
  const equals = text.indexOf('=');
  if (equals < 1) throw usageError(`${flag} cannot have ${JSON.stringify(text)}`, `write ${flag} NAME=VALUE`);
  return [text.slice(0, equals).trim(), text.slice(equals + 1)];
}

async function claimsOf({ claim, jwtClaims }: ExplainFlags): Promise<Record<string, unknown> | null> {
  if (claim === undefined && jwtClaims === undefined) return null;
  const claims: Record<string, unknown> = {};
  if (jwtClaims !== undefined) {
    const { readFile } = await import('../policy/policy-files.ts');
    let value: unknown;
    try {
      value = JSON.parse(readFile(jwtClaims).text);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw usageError(`--jwt-claims: ${jwtClaims} does not hold a JSON object`, "write the token's payload as JSON");
    }
    Object.assign(claims, value);
  }
  const seen = new Map<string, string[]>();
  for (const text of claim ?? []) {
    const [name, value] = pair('--claim', text);
    seen.set(name, [...(seen.get(name) ?? []), value]);
  }
  for (const [name, values] of seen) {
    Object.defineProperty(claims, name, { value: values.length === 1 ? values[0] : values, enumerable: true, configurable: true });
  }
  return claims;
}

async function snapshotFor(flags: ExplainFlags, question: Question, terminal: Terminal): Promise<MeshSnapshot> {
  if (flags.file === undefined) {
    if (question.labels !== null) throw usageError('--labels are for workloads of files', 'give the files with -f, or leave --labels out');
    if (flags.trustDomain !== undefined) throw usageError('--trust-domain is for files: an agent knows its own', 'leave it out');
    if (flags.rootNamespace !== undefined) throw usageError('--root-namespace is for files: an agent knows its own', 'leave it out');
    return new AdminClient(absolutePath('--run-dir', flags.runDir)).get<MeshSnapshot>('/v1/snapshot');
  }
  const { loadPolicies, problemText, requireUsable } = await import('../policy/policy-files.ts');
  const { meshOf } = await import('../policy/mesh-of-files.ts');
  const loaded = loadPolicies(flags.file);
  for (const problem of loaded.problems) terminal.err(problemText(problem, loaded.files));
  requireUsable(loaded, true);
  return meshOf(loaded.resources, meshNames(flags), question);
}

/** The flags that say what files do not. @throws CliError WEFT_CLI_USAGE */
export function meshNames(flags: { readonly trustDomain?: string; readonly rootNamespace?: string }): MeshNames {
  const { trustDomain = 'cluster.local', rootNamespace = 'istio-system' } = flags;
  try {
    checkTrustDomain(trustDomain);
  } catch {
    throw usageError(
      `--trust-domain cannot be ${JSON.stringify(trustDomain.slice(0, 120))}`,
      'write a trust domain, such as cluster.local',
    );
  }
  return { trustDomain, rootNamespace: namespaceName('--root-namespace', rootNamespace) };
}
