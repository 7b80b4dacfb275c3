import { readdirSync } from 'node:fs';
import { join } from 'node:path';

/** True if kernel hooks are pinned below this directory: they are in force whether or not an agent runs. */
export function hooksArePinned(bpfDirectory: string): boolean {
  try {
    return readdirSync(bpfDirectory, { withFileTypes: true }).some(
      (version) =>
        version.isDirectory() && /^v\d+$/.test(version.name) && readdirSync(join(bpfDirectory, version.name, 'links')).length > 0,
    );
  } catch {
    return false;
  }
}
