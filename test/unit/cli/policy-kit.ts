import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { runCli } from '../../../src/cli/program.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

/** A directory of policy files that is gone after the test. */
export class PolicyFolder implements Disposable {
  readonly path: string = mkdtempSync(join(tmpdir(), 'weft-policy-'));

  /** Writes a file and returns its path. */
  write(name: string, text: string): string {
    const path = join(this.path, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}

/** What a command line printed and returned. */
export interface Ran {
  readonly code: number;
  readonly output: string;
  readonly errors: string;
}

/** Runs `weft policy …`. */
export async function weftPolicy(...args: string[]): Promise<Ran> {
  const terminal = new RecordedTerminal();
  const code = await runCli(['policy', ...args], terminal);
  return { code, output: terminal.output, errors: terminal.errors };
}

/** An AuthorizationPolicy of namespace shop; `spec` in YAML's flow style. */
export function authorizationPolicy(name: string, spec: string): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: shop}
spec: ${spec}
---
`;
}
