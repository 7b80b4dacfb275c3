import { type Command, Option } from 'commander';
import { EXIT } from '../cli-error.ts';
import type { LintLine } from '../policy/lint-files.ts';
import type { CommandContext } from '../command-context.ts';
import { oneLine } from '../terminal.ts';
import { meshNames } from './policy-explain.ts';

interface LintFlags {
  readonly strict?: true;
  readonly trustDomain?: string;
  readonly rootNamespace?: string;
  readonly output: 'text' | 'json';
}

/** Adds `weft policy lint`. */
export function addPolicyLintCommand(policy: Command, context: CommandContext): void {
  policy
    .command('lint')
    .summary('everything that is wrong with files, or does nothing')
    .description(
      'Reads files as the agent would and shows every problem with its place; and what is valid and still not what its author meant: ' +
        'rules that can never match, that another one makes needless, or that mean something else on connections that are not HTTP.',
    )
    .argument('<file...>', 'files, or directories of *.yaml and *.yml; best the whole mesh: Services and MeshConfig are compared too')
    .option('--strict', 'fail for warnings too')
    .option('--trust-domain <name>', 'the trust domain of the mesh (default: cluster.local)')
    .option('--root-namespace <name>', 'policies of this namespace hold for the whole mesh (default: istio-system)')
    .addOption(new Option('--output <format>', 'text, or json for scripts').choices(['text', 'json']).default('text'))
    .addHelpText(
      'after',
      `
Examples:
  weft policy lint /etc/weft
  weft policy lint --strict policies/ mesh.yaml
  weft policy lint --output json policies/ | jq '.findings[] | select(.severity == "error")'

Text: FILE:LINE:COLUMN: FIELD: MESSAGE (what to do)
JSON: {"errors":N,"warnings":N,"findings":[{severity, code, file, line, column, field, message, nextStep, policy, rule}]}

Exit code: 0 without errors; 1 with errors, or with warnings and --strict; 2 wrong usage.`,
    )
    .action(async (paths: readonly string[], flags: LintFlags) => {
      const names = meshNames(flags);
      const { loadPolicies } = await import('../policy/policy-files.ts');
      const { lintFiles } = await import('../policy/lint-files.ts');
      const { terminal } = context;
      const loaded = loadPolicies(paths);
      const findings = lintFiles(loaded, names);
      const errors = findings.filter(({ severity }) => severity === 'error').length;
      const warnings = findings.length - errors;
      if (flags.output === 'json') terminal.out(`${JSON.stringify({ errors, warnings, findings })}\n`);
      else {
        for (const finding of findings) terminal.out(lineText(finding));
        const policies = loaded.resources.filter(({ kind }) => kind === 'AuthorizationPolicy').length;
        const counts = [count(errors, 'error'), count(warnings, 'warning')].join(', ');
        terminal.out(`${count(loaded.files.length, 'file')}, ${count(policies, 'policy', 'policies')}: ${counts}\n`);
      }
      context.exit(errors > 0 || (flags.strict === true && warnings > 0) ? EXIT.FAILURE : EXIT.OK);
    });
}

function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}

function lineText({ severity, file, line, column, field, message, nextStep }: LintLine): string {
  const place = line === 0 ? file : `${file}:${line}:${column}`;
  const what = `${field === '' ? '' : `${field}: `}${severity === 'warning' ? 'warning: ' : ''}${message}`;
  return `${oneLine(`${place}: ${what}${nextStep === null ? '' : ` (${nextStep})`}`)}\n`;
}
