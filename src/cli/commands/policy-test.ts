import { type Command, Option } from 'commander';
import { CliError, EXIT } from '../cli-error.ts';
import type { CaseResult } from '../policy/run-cases.ts';
import type { CommandContext } from '../command-context.ts';
import { oneLine } from '../terminal.ts';

/** Adds `weft policy test`. */
export function addPolicyTestCommand(policy: Command, context: CommandContext): void {
  policy
    .command('test')
    .summary('compare decisions with a table of expected ones')
    .description('Decides every case of a table as `weft policy explain` would, and compares: a test of your policies for your own CI.')
    .argument('<file>', 'the table, as YAML')
    .addOption(new Option('--output <format>', 'text, or json for scripts').choices(['text', 'json']).default('text'))
    .addHelpText(
      'after',
      `
Examples:
  weft policy test decisions.yaml
  weft policy test --output json decisions.yaml | jq '.cases[] | select(.passed | not)'

A table:
  policies: [policies/]                # files or directories, relative to the table
  cases:
    - name: web reads the catalog
      from: spiffe://cluster.local/ns/shop/sa/web     # or none: a plaintext peer
      to: shop/catalog
      labels: {app: catalog}
      port: 8080
      method: GET                      # without it: a connection that is not HTTP
      path: /products/7                # also host, headers, claims, sourceIp, sni
      expect: allow                    # or deny
      policy: shop/catalog-read        # optional: who must have decided

Exit code: 0 when every case is as expected; 1 when one is not, or files have problems; 2 wrong usage.`,
    )
    .action(async (file: string, { output }: { readonly output: 'text' | 'json' }) => {
      const { loadPolicies, problemText, readFile, requireUsable } = await import('../policy/policy-files.ts');
      const { readCaseTable } = await import('../policy/case-table.ts');
      const { runCases } = await import('../policy/run-cases.ts');
      const { answerJson } = await import('../policy/decide.ts');
      const { terminal } = context;
      const source = readFile(file);
      const { table, problems } = readCaseTable(source);
      for (const problem of problems) terminal.err(problemText(problem, [source]));
      if (table === null) {
        throw new CliError('WEFT_CLI_POLICY_FILES', `the table ${file} has problems: no case was run`, { nextStep: 'correct them' });
      }
      const loaded = loadPolicies(table.policies);
      for (const problem of loaded.problems) terminal.err(problemText(problem, loaded.files));
      requireUsable(loaded, false);
      const results = runCases(table, loaded.resources);
      const failed = results.filter(({ passed }) => !passed).length;
      if (output === 'json') {
        const cases = results.map(({ row, answer, passed }) => ({
          name: row.name,
          file,
          line: row.line,
          passed,
          expect: row.expect,
          expectPolicy: row.policy,
          ...answerJson(answer),
        }));
        terminal.out(`${JSON.stringify({ passed: results.length - failed, failed, cases })}\n`);
      } else {
        for (const result of results) terminal.out(caseText(result, file));
        terminal.out(
          `${results.length} ${results.length === 1 ? 'case' : 'cases'}, ${failed === 0 ? 'all as expected' : `${failed} not as expected`}\n`,
        );
      }
      context.exit(failed === 0 ? EXIT.OK : EXIT.FAILURE);
    });
}

function caseText({ row, answer, passed }: CaseResult, file: string): string {
  if (passed) return `ok    ${oneLine(row.name)}\n`;
  const { verdict, policy, rule, reason } = answer.decision;
  const by = policy === null ? '' : ` by ${policy}${rule === null ? '' : ` rule ${rule}`}`;
  const lines = [
    `FAIL  ${row.name} (${file}:${row.line})`,
    `      expected ${row.expect}${row.policy === null ? '' : ` by ${row.policy}`}, got ${verdict}${by}: ${reason}`,
    ...answer.notes.map((note) => `      note: ${note}`),
  ];
  return lines.map((line) => `${oneLine(line)}\n`).join('');
}
