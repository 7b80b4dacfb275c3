import { fileURLToPath } from 'node:url';

/** The test applications in test/kit/apps. Each says in its head what it does. */
export type AppName =
  | 'http-server'
  | 'http2-server'
  | 'http2-client'
  | 'https-server'
  | 'websocket-server'
  | 'websocket-client'
  | 'tcp-echo'
  | 'banner-server'
  | 'connections'
  | 'steady-client';

/** The command line of a test application, run by the Node that runs this process. */
export function app(name: AppName, ...args: readonly (string | number)[]): string[] {
  const path = fileURLToPath(new URL(`../apps/${name}.ts`, import.meta.url));
  return [process.execPath, '--disable-warning=ExperimentalWarning', path, ...args.map(String)];
}
