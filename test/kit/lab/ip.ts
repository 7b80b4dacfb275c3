import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { exec } from '../child.ts';
import { LabError } from './errors.ts';

/** Where iproute2 keeps named network namespaces. */
export const NETNS_DIRECTORY = '/run/netns';

/**
 * Runs iproute2 commands as one batch, in the host's network namespace or in a named one.
 * @throws LabError WEFT_LAB_NETWORK with the line that failed
 */
export async function ipBatch(commands: readonly string[], namespace: string | null = null): Promise<void> {
  const prefix = namespace === null ? ['ip'] : ['ip', '-n', namespace];
  const result = await exec([...prefix, '-batch', '-'], { input: `${commands.join('\n')}\n` });
  if (result.code === 0) return;
  const failed = /Command failed -:(\d+)/.exec(result.stderr);
  const line = failed === null ? commands.join('; ') : commands[Number(failed[1]) - 1];
  throw new LabError('WEFT_LAB_NETWORK', `ip ${line}: ${result.stderr.trim().split('\n')[0] ?? `exit ${result.code}`}`, {
    nextStep: 'run as root on a kernel with network namespaces, veth and IPv6',
  });
}

/** The named network namespaces whose name starts with `prefix`. */
export function namespacesWithPrefix(prefix: string): string[] {
  if (!existsSync(NETNS_DIRECTORY)) return [];
  return readdirSync(NETNS_DIRECTORY).filter((name) => name.startsWith(prefix));
}

/** Removes named network namespaces; their veth pairs go with them. Those that are gone already are no error. */
export function deleteNamespaces(names: readonly string[]): void {
  if (names.length === 0) return;
  const input = names.map((name) => `netns del ${name}\n`).join('');
  try {
    execFileSync('ip', ['-force', '-batch', '-'], { input, stdio: ['pipe', 'ignore', 'pipe'] });
  } catch (cause) {
    const left = names.filter((name) => existsSync(`${NETNS_DIRECTORY}/${name}`));
    if (left.length > 0) throw new LabError('WEFT_LAB_NETWORK', `cannot delete network namespaces ${left.join(', ')}`, { cause });
  }
}
