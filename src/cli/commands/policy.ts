import type { Command } from 'commander';
import type { CommandContext } from '../command-context.ts';
import { addPolicyExplainCommand } from './policy-explain.ts';
import { addPolicyImportCommand } from './policy-import.ts';
import { addPolicyLintCommand } from './policy-lint.ts';
import { addPolicyTestCommand } from './policy-test.ts';

/** The parts of `weft policy`. */
export const POLICY_COMMANDS: readonly string[] = ['lint', 'explain', 'test', 'import'];

/** Adds `weft policy` and its parts. */
export function addPolicyCommand(program: Command, context: CommandContext): void {
  const policy = program
    .command('policy')
    .summary('check, explain, test and import policy')
    .description('Works on the policies of a mesh: from files, with no agent and no root needed, or those that the agent of this host has.')
    .addHelpText(
      'after',
      `
Examples:
  weft policy lint policies/                                    everything that is wrong or does nothing
  weft policy explain -f policies/ --from none --to shop/web --port 8080 --method GET
  weft policy test decisions.yaml                               expected decisions, for your CI
  weft policy import cilium.yaml > policies/imported.yaml       from Cilium or Linkerd

See docs/policy.md.`,
    );
  addPolicyLintCommand(policy, context);
  addPolicyExplainCommand(policy, context);
  addPolicyTestCommand(policy, context);
  addPolicyImportCommand(policy, context);
}
