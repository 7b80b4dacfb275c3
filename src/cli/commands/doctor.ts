import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { EXIT } from '../cli-error.ts';
import { type Check, doctorChecks, type MachineFacts } from '../doctor-checks.ts';
import { jsonText } from '../json-text.ts';
import type { CommandContext } from '../command-context.ts';
import { table } from '../table.ts';

/** Adds `weft doctor`. */
export function addDoctorCommand(program: Command, context: CommandContext): void {
  program
    .command('doctor')
    .summary('check whether this host can run the mesh')
    .description('Checks whether this host has what the agent needs, and says what to do about what is missing. Changes nothing.')
    .option('--json', 'the checks as JSON')
    .addHelpText(
      'after',
      `
Each line is a check: ok; missing (the agent cannot run without it); off (it can, with less).

Examples:
  weft doctor
  weft doctor --json

Exit code: 1 when something is missing.`,
    )
    .action(async (flags: { readonly json?: true }) => {
      const checks = doctorChecks(await machineFacts());
      context.terminal.out(flags.json === true ? jsonText({ checks }) : doctorText(checks));
      context.exit(checks.some(({ state }) => state === 'missing') ? EXIT.FAILURE : EXIT.OK);
    });
}

/** One line for each check, and a last one that sums up. */
export function doctorText(checks: readonly Check[]): string {
  const lines = table(
    checks.map(({ name, state, detail, nextStep }) => [state, name, nextStep === null ? detail : `${detail} -> ${nextStep}`]),
  );
  const missing = checks.filter(({ state }) => state === 'missing').length;
  const verdict = missing === 0 ? 'This host can run the agent.' : `This host cannot run the agent: ${missing} missing.`;
  return `${lines}${verdict}\n`;
}

const OBJECTS = ['capture.bpf.o', 'inbound.bpf.o'] as const;

async function machineFacts(): Promise<MachineFacts> {
  // Loaded here, as it takes a tenth of a second that other commands need not wait for.
  const { kernelFeatures } = await import('../../../bpf/doctor-probes.ts');
  const objects = new URL('../../../bpf/objects/', import.meta.url);
  return {
    kernelRelease: release(),
    nodeVersion: process.version,
    features: kernelFeatures(),
    objectsMissing: OBJECTS.filter((name) => !existsSync(new URL(name, objects))),
    ipv4: existsSync('/proc/sys/net/ipv4'),
    ipv6: readNumber('/proc/sys/net/ipv6/conf/all/disable_ipv6') === 0,
    bpfJit: readNumber('/proc/sys/net/core/bpf_jit_enable'),
    openFilesLimit: openFilesLimit(),
    clang: findExecutable('clang-19'),
  };
}

function readNumber(path: string): number | null {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch {
    return null;
  }
}

function openFilesLimit(): number {
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return hard === undefined || hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
}

function findExecutable(name: string): string | null {
  for (const directory of (process.env.PATH ?? '').split(':')) {
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return null;
}
