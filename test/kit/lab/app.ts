import { fileURLToPath } from 'node:url';

/** The test applications in test/kit/apps. Each says in its head what it does. */
export type AppName = 'http-server' | 'http2-server' | 'tcp-echo' | 'banner-server' | 'connections';

/** The command line of a test application, run by the Node that runs this process. */
export function app(name: AppName, ...args: readonly (string | number)[]): string[] {
  const path = fileURLToPath(new URL(`../apps/${name}.ts`, import.meta.url));
  return [process.execPath, '--disable-warning=ExperimentalWarning', path, ...args.map(String)];
}
