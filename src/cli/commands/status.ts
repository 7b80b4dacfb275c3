import { Argument, type Command } from 'commander';
import {
  type ConnectionsAnswer,
  type CountersAnswer,
  DEFAULT_BPF_DIRECTORY,
  DEFAULT_RUN_DIRECTORY,
  type ReadyAnswer,
  type StateAnswer,
  type SvidsAnswer,
} from '../../model/admin-api.ts';
import { AdminClient } from '../admin-client.ts';
import { CliError } from '../cli-error.ts';
import { absolutePath } from '../flag-values.ts';
import { jsonText } from '../json-text.ts';
import { hooksArePinned } from '../pinned-hooks.ts';
import type { CommandContext } from '../command-context.ts';
import { connectionsText, countersText, summaryText, svidsText } from '../status-text.ts';

const SUBJECTS = ['connections', 'svids', 'counters'] as const;
type Subject = (typeof SUBJECTS)[number];

interface StatusFlags {
  readonly json?: true;
  readonly runDir: string;
  readonly bpfDir: string;
}

/** Adds `weft status`. */
export function addStatusCommand(program: Command, context: CommandContext): void {
  program
    .command('status')
    .summary('show what the mesh does on this host')
    .description('Shows what the agent of this host does: namespaces and modes, workloads and their identities, refusals, problems.')
    .addArgument(new Argument('[subject]', 'one thing in detail').choices(SUBJECTS))
    .option('--json', 'what the agent says, as JSON')
    .option('--run-dir <dir>', 'where the agent keeps its admin socket', DEFAULT_RUN_DIRECTORY)
    .option('--bpf-dir <dir>', 'where hooks are pinned; looked at when there is no agent', DEFAULT_BPF_DIRECTORY)
    .addHelpText(
      'after',
      `
Examples:
  weft status                       one screen
  weft status connections           open connections, with both identities
  weft status svids                 certificates, and when they are renewed
  weft status counters --json       every counter

Exit code: 1 when no agent answers.`,
    )
    .action(async (subject: Subject | undefined, flags: StatusFlags) => {
      const admin = new AdminClient(absolutePath('--run-dir', flags.runDir));
      try {
        context.terminal.out(await statusText(admin, subject, flags.json === true));
      } catch (error) {
        throw withHooks(error, absolutePath('--bpf-dir', flags.bpfDir));
      }
    });
}

/**
 * What `weft status` prints.
 * @throws CliError as AdminClient does
 */
export async function statusText(admin: AdminClient, subject: Subject | undefined, json: boolean): Promise<string> {
  switch (subject) {
    case 'connections': {
      const answer = await admin.get<ConnectionsAnswer>('/v1/connections');
      return json ? jsonText(answer) : connectionsText(answer);
    }
    case 'svids': {
      const answer = await admin.get<SvidsAnswer>('/v1/svids');
      return json ? jsonText(answer) : svidsText(answer);
    }
    case 'counters': {
      const answer = await admin.get<CountersAnswer>('/v1/counters');
      return json ? jsonText(answer) : countersText(answer);
    }
    case undefined: {
      const ready = await admin.get<ReadyAnswer>('/ready');
      const [state, counters] = await Promise.all([admin.get<StateAnswer>('/v1/state'), admin.get<CountersAnswer>('/v1/counters')]);
      return json ? jsonText({ ready, state, counters }) : summaryText({ ready, state, counters });
    }
  }
}

/** Without an agent it matters whether its hooks are still there. */
function withHooks(error: unknown, bpfDirectory: string): unknown {
  if (!(error instanceof CliError) || error.code !== 'WEFT_CLI_NO_AGENT') return error;
  if (!hooksArePinned(bpfDirectory))
    return new CliError(error.code, `${error.message}; no hooks are pinned in ${bpfDirectory}`, keep(error));
  return new CliError(
    error.code,
    `${error.message}, but its hooks are still pinned in ${bpfDirectory}: new connections of strict workloads are refused, ` +
      'those of permissive ones pass without mTLS or policy',
    { ...keep(error), nextStep: 'start the agent again, or take the hooks out with `weft uninstall`' },
  );
}

function keep(error: CliError): { cause: unknown; nextStep?: string } {
  return error.nextStep === null ? { cause: error.cause } : { cause: error.cause, nextStep: error.nextStep };
}
