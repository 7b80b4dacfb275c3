import type { JwtRule } from '../../src/model/resources.ts';
import type { KeySet } from '../../src/jose/key-set.ts';

/** Where a thread gets the keys of issuers from. */
export interface KeySource {
  /** The keys in force, or null when there are none. The same object until they change. */
  keys(rule: JwtRule): KeySet | null;
  /** Asks for newer keys: settles (never rejects) when it is worth looking again. null: there will be no newer ones for now. */
  refresh(rule: JwtRule): Promise<void> | null;
}
