import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { AdminClient } from '../../../src/cli/admin-client.ts';
import { runCommand } from '../../../src/cli/commands/run.ts';
import type { RunCgroup } from '../../../src/cli/run-cgroup.ts';
import { showError } from '../../../src/cli/terminal.ts';

/**
 * `weft run` with a cgroup that is a plain file, for tests without privileges:
 *   run-harness.ts RUN_DIRECTORY CGROUP_FILE [--wait] -- COMMAND…
 * The file says `populated` while a test wants the cgroup to have processes; WEFT_TEST_MEMBER stands for membership.
 */
const [runDirectory = '', path = '', ...rest] = process.argv.slice(2);
const wait = rest[0] === '--wait';
const command = rest.slice(rest.indexOf('--') + 1);
const terminal = {
  out: (text: string): void => void process.stdout.write(text),
  err: (text: string): void => void process.stderr.write(text),
};

const cgroup: RunCgroup = {
  path,
  inside(start) {
    process.env.WEFT_TEST_MEMBER = path;
    try {
      return start();
    } finally {
      delete process.env.WEFT_TEST_MEMBER;
    }
  },
  isPopulated: () => existsSync(path) && readFileSync(path, 'utf8') === 'populated',
  processes: () => [4711],
  remove() {
    rmSync(path, { force: true });
    return true;
  },
};

try {
  process.exitCode = await runCommand(
    { namespace: 'shop', serviceAccount: 'cart', name: null, command, wait },
    {
      admin: new AdminClient(runDirectory),
      createCgroup() {
        writeFileSync(path, 'empty');
        return cgroup;
      },
      terminal,
    },
  );
} catch (error) {
  process.exitCode = showError(terminal, error);
}
