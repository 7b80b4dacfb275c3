import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CACHE = join(ROOT, 'node_modules/.cache/weft');
const BINARY = join(CACHE, 'spiffe-go');

/** The stock go-spiffe client of test/conformance/spiffe-go, built once (half a minute when nothing is cached). */
export function spiffeGo(): string {
  // Where setup.sh puts a toolchain when the machine's own is missing or too old.
  const own = join(CACHE, 'go/bin/go');
  execFileSync(existsSync(own) ? own : 'go', ['build', '-o', BINARY, '.'], {
    cwd: join(ROOT, 'test/conformance/spiffe-go'),
    env: { ...process.env, CGO_ENABLED: '0', GOTOOLCHAIN: 'auto', GOFLAGS: '-mod=readonly' },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return BINARY;
}
