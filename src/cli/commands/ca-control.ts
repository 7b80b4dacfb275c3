import type * as Control from '../../control/main.ts';

/** What works on an authority's own directory, in this process. Loaded only by the commands that do: it brings X.509 along. */
export function loadControl(): Promise<typeof Control> {
  return import('../../control/main.ts');
}
