import { direct } from './direct.ts';
import type { Peer } from './peer.ts';
import { weft } from './weft.ts';

/** All that is measured, in the order of the tables. `direct` comes first: ratios are to it. */
export const PEERS: readonly Peer[] = [direct, weft];
