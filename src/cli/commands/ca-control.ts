import type * as control from '../../control/main.ts';

/** What works on an authority's own directory, in this process. Loaded only by the commands that do: it brings X.509 along. */
export function loadControl(): Promise<typeof control> {
  return import('../../control/main.ts');
}
