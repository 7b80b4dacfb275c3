import { type Command, Option } from 'commander';
import { EXIT } from '../cli-error.ts';
import { namespaceName } from '../flag-values.ts';
import type { CommandContext } from '../command-context.ts';
import { oneLine } from '../terminal.ts';

interface ImportFlags {
  readonly from?: 'cilium' | 'linkerd';
  readonly namespace: string;
}

/** Adds `weft policy import`. */
export function addPolicyImportCommand(policy: Command, context: CommandContext): void {
  policy
    .command('import')
    .summary('make AuthorizationPolicies from policies of Cilium or Linkerd')
    .description(
      'Says CiliumNetworkPolicies (ingress, with http rules) and Linkerd policies as AuthorizationPolicies, on standard output. What cannot ' +
        'be said exactly is left out and reported with its place: the result never allows what the original does not, but for what notes say.',
    )
    .argument('<file...>', 'files, or directories of *.yaml and *.yml; what refers to each other must be given together')
    .addOption(new Option('--from <mesh>', 'import nothing else').choices(['cilium', 'linkerd']))
    .option('-n, --namespace <name>', 'the namespace of resources that name none', 'default')
    .addHelpText(
      'after',
      `
Examples:
  weft policy import cilium/ > policies/imported.yaml
  weft policy import --from linkerd --namespace shop server.yaml routes.yaml
  weft policy import cilium/ > imported.yaml; weft policy lint imported.yaml

Standard error: FILE:LINE:COLUMN: FIELD: not imported: WHY, or note: WHAT DIFFERS

Exit code: 0 when all was imported; 1 when something was left out; 2 wrong usage.`,
    )
    .action(async (paths: readonly string[], flags: ImportFlags) => {
      const namespace = namespaceName('--namespace', flags.namespace);
      const { readFiles } = await import('../policy/policy-files.ts');
      const { importFiles } = await import('../policy/import/import-files.ts');
      const { terminal } = context;
      const { yaml, policies, remarks, problems } = importFiles(readFiles(paths), flags.from ?? null, namespace);
      terminal.out(yaml);
      for (const problem of problems) terminal.err(`${problem}\n`);
      for (const { kind, file, line, column, field, message } of remarks) {
        const what = `${field === '' ? '' : `${field}: `}${kind === 'note' ? 'note' : 'not imported'}: ${message}`;
        terminal.err(`${oneLine(`${file}:${line}:${column}: ${what}`)}\n`);
      }
      const leftOut = remarks.filter(({ kind }) => kind === 'left-out').length + problems.length;
      terminal.err(`${policies} ${policies === 1 ? 'policy' : 'policies'} made; ${leftOut === 0 ? 'nothing' : leftOut} left out\n`);
      context.exit(leftOut === 0 ? EXIT.OK : EXIT.FAILURE);
    });
}
