import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { CliError, EXIT } from './cli-error.ts';
import type { CommandContext } from './command-context.ts';
import { addAgentCommand } from './commands/agent.ts';
import { addBundleCommand, BUNDLE_COMMANDS } from './commands/bundle.ts';
import { addCaCommand, CA_COMMANDS } from './commands/ca.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addPolicyCommand, POLICY_COMMANDS } from './commands/policy.ts';
import { addRunCommand } from './commands/run.ts';
import { addStatusCommand } from './commands/status.ts';
import { addSvidCommand, SVID_COMMANDS } from './commands/svid.ts';
import { addUninstallCommand } from './commands/uninstall.ts';
import { showError, type Terminal } from './terminal.ts';

/** The version of this checkout. */
export function weftVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  return version;
}

/** Runs one command line (without `node` and the script) and returns the exit code. Errors are shown, not thrown. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  let exitCode: number = EXIT.OK;
  const program = createProgram({
    terminal,
    exit(code) {
      exitCode = code;
    },
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) return showError(terminal, error);
    // Help and version were asked for, and shown.
    if (error.exitCode === 0) return EXIT.OK;
    // No command was given, and the help is shown already.
    if (error.code === 'commander.help') return EXIT.USAGE;
    return showError(terminal, asUsageError(error, args));
  }
}

function createProgram(context: CommandContext): Command {
  const { terminal } = context;
  const program = new Command('weft')
    .description('A service mesh without sidecars: transparent mTLS and HTTP policy for the workloads of this host.')
    .version(weftVersion(), '--version', 'show the version')
    .helpOption('-h, --help', 'show this help')
    .helpCommand('help [command]', 'show the help of a command')
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({ writeOut: (text) => terminal.out(text), writeErr: (text) => terminal.err(text), outputError: () => {} })
    .exitOverride()
    .enablePositionalOptions()
    .showSuggestionAfterError(true)
    .addHelpText(
      'after',
      `
Examples:
  weft doctor                                                   can this host run the mesh?
  weft agent --config /etc/weft                                 the agent of this host
  weft run --namespace shop --service-account cart -- ./cart    a command as a workload
  weft status                                                   what the mesh does here
  weft svid fetch                                               who is this process in the mesh?
  weft policy lint policies/                                    is the policy what it should be?
  weft ca status                                                the authority of the trust domain, and its nodes

Exit codes: 0 well, 1 failure, 2 wrong usage; weft run passes on its command's own, 128 + n when signal n ended it.
Every error is a line "weft: CODE: message" and a line "next: what to do"; docs/errors.md lists the codes.`,
    );
  addAgentCommand(program, context);
  addRunCommand(program, context);
  addStatusCommand(program, context);
  addSvidCommand(program, context);
  addPolicyCommand(program, context);
  addBundleCommand(program, context);
  addCaCommand(program, context);
  addDoctorCommand(program, context);
  addUninstallCommand(program, context);
  return program;
}

/** Every command, with the names of its parts. */
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  agent: [],
  run: [],
  status: [],
  svid: SVID_COMMANDS,
  policy: POLICY_COMMANDS,
  bundle: BUNDLE_COMMANDS,
  ca: CA_COMMANDS,
  doctor: [],
  uninstall: [],
};

/** Commander's own complaints in our form. */
function asUsageError(error: CommanderError, args: readonly string[]): CliError {
  const known = Object.keys(COMMANDS).find((name) => name === args[0]);
  const parts = known === undefined ? [] : (COMMANDS[known] as readonly string[]);
  const part = parts.find((name) => name === args[1]);
  return new CliError('WEFT_CLI_USAGE', error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' '), {
    exitCode: EXIT.USAGE,
    nextStep: `see weft ${[known, part]
      .filter((name) => name !== undefined)
      .map((name) => `${name} `)
      .join('')}--help`,
  });
}
